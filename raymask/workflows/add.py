"""`raymask add`: members that join a finished run, which is voted anew; nothing that it holds is trained or predicted again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raymask.config.members import Member, MemberConfig
from raymask.config.merging import flatten
from raymask.config.messages import explain
from raymask.config.schema import RunConfig, check_member_folds, configured_members, copies_of, resolve_members
from raymask.config.yaml_files import read_yaml
from raymask.core.console import Display
from raymask.core.errors import InputError
from raymask.core.paths import absolute
from raymask.data.folds import replica_folds
from raymask.inference.voting_runs import voting_runs
from raymask.report.summary import summarise
from raymask.runs.directory import cache_root
from raymask.training.backbones import check_backbones, fetch_backbones
from raymask.workflows.context import Result
from raymask.workflows.fold_models import train_fold_models
from raymask.workflows.images import prepare_images
from raymask.workflows.setup import PreparedRun, check_members, check_trained, config_where_it_lies, finished_run, record_run
from raymask.workflows.vote import check_weights, decide_vote, predict_test_set, score_reserve

EXAMPLE = '--member "{task: joint, name: big, recipe: {backbone: resnet18}}"'


def add(
    folder: Path,
    members: Sequence[str],
    display: Display | None = None,
    rule: str | None = None,
    settings: Sequence[str] = (),
) -> Result:
    """Adds members to a finished run: trains their fold models, decides the vote anew, and writes submission and report again.

    A member that is there with the same recipe is left as it is, so that the same command goes on where it was cut off.

    Args:
        folder: directory of the run.
        members: each as YAML, such as `{task: joint, name: big, folds: 2, recipe: {backbone: resnet18}}`.
        display: what shows progress.
        rule: import path of the rule of your own that the run votes by, if it does; a run's files are not believed there.
        settings: `key.path=value` that make no other run, such as `vote.weights.big=2`.

    Raises:
        InputError: the directory holds no finished run, or a member is wrong or there with another recipe; nothing is written.
        RunError: a part failed for good; started again, it goes on with what is unfinished.
    """
    display, began = display or Display(), time.monotonic()
    given = [read_member(text) for text in members]
    config, joining, there = joined(config_where_it_lies(absolute(folder), rule, settings), given)
    check_backbones(member.recipe for member in joining)
    for name in there:
        display.line("add", f"'{name}' is there already")
    wanted = {*there, *(member.name for member in joining)}
    with finished_run(folder, rule, display, settings) as finished:
        prepared = _extended(finished, config, joining, wanted)
        new = [member for member in prepared.members if member.name in wanted]
        images = prepare_images(replace(prepared, members=new))
        train_fold_models(prepared, "add", new, replica_folds(images.manifest["fold"]), images)
        decided = decide_vote(prepared.context, voting_runs([prepared.run]))
        predict_test_set(prepared.context, decided, prepared.test)
        score_reserve(prepared.context, decided)
    summarise(prepared.run, prepared.space, decided.scores, time.monotonic() - began, display)
    return Result(prepared.run, decided.scores)


def read_member(text: str) -> MemberConfig:
    """A member of a command line.

    Raises:
        InputError: it is no YAML, or a key or value of it is wrong.
    """
    values = read_yaml(text, f"--member '{text}'")
    if not isinstance(values, dict):
        raise InputError(f"--member is '{text}'; it must hold keys and values, such as {EXAMPLE}.")
    try:
        member = MemberConfig.model_validate(values)
    except ValidationError as error:
        raise InputError(explain(error, MemberConfig, "--member")) from None
    if weights := member.recipe.get("weights"):  # the run may be gone on with from another folder
        member = member.model_copy(update={"recipe": {**member.recipe, "weights": str(absolute(Path(str(weights))))}})
    return member


def joined(config: RunConfig, given: Sequence[MemberConfig]) -> tuple[RunConfig, list[Member], list[str]]:
    """The config of a run with members that join it; those that join, and the names of those that are there already.

    Args:
        config: that of the run, whose tasks are known.
        given: the members.

    Raises:
        InputError: one is there with another recipe, or is none that the run can have.
    """
    if not given:
        raise InputError(f"no member is to be added; name one by {EXAMPLE}.")
    joining: list[Member] = []
    there: list[str] = []
    for each in given:
        known = {member.name: member for member in resolve_members(config)}
        copies = copies_of(config, each)
        for copy in copies:
            if copy.name in known and known[copy.name] != copy:
                raise InputError(_other(known[copy.name], copy))
        new = [copy for copy in copies if copy.name not in known]
        there += [copy.name for copy in copies if copy.name in known]
        if 0 < len(new) < len(copies):
            raise InputError(
                f"--member: the run has some of its {len(copies)} copies, such as '{there[-1]}'; give it another `name`."
            )
        if new:
            joining += new
            config = config.model_copy(update={"members": (*configured_members(config), each)})
            check_member_folds(config)
    resolve_members(config)
    return config, joining, there


def _other(known: Member, given: Member) -> str:
    """Why a member of a name that is taken cannot join."""
    before, after = _flat(known), _flat(given)
    key = next(key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key))
    return (
        f"--member: the run has a member '{given.name}' whose {key} is {before.get(key)}, not {after.get(key)}; give this one a "
        "`name` of its own."
    )


def _flat(member: Member) -> dict[str, Any]:
    return flatten(member.model_dump(mode="json"))


def _extended(prepared: PreparedRun, config: RunConfig, joining: Sequence[Member], wanted: set[str]) -> PreparedRun:
    """The run with its new members, which is written; where they have joined before, it is as it was.

    Raises:
        InputError: the run is not finished, or a new member does not fit it; nothing is written.
    """
    check_trained(prepared.run, [member for member in prepared.members if member.name not in wanted])
    config = prepared.config.model_copy(update={"members": config.members})
    extended = replace(prepared, context=replace(prepared.context, config=config), members=resolve_members(config))
    for remark in check_members(joining, prepared.source):
        prepared.context.display.warn(remark)
    check_weights(extended)
    if joining:
        prepared.context.session.connect()
        fetch_backbones(joining, cache_root(config) / "backbones")  # one that cannot be had must not join
        record_run(extended)
    return extended
