"""`raymask vote`, and the steps of the vote: decided on out-of-fold predictions, used on the test set and on people held out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raymask.config.schema import ENSEMBLE
from raymask.config.vote import VoteConfig
from raymask.core.columns import label_column, true_labels
from raymask.core.console import Display
from raymask.core.errors import BEGINS_ANEW, InputError
from raymask.core.paths import absolute, check_writable
from raymask.core.tasks import JOINT, LabelSpace, heads_of
from raymask.data.test_sets import TestSet
from raymask.inference.group_tables import voted_by_group
from raymask.inference.submission import submission_table
from raymask.inference.voting_runs import VotingRun, by_round, judged_images, reserved_images, validated_images, voting_runs
from raymask.io.atomic import write_table
from raymask.io.checked import DamagedFileError, damaged
from raymask.io.hashing import file_digest, fingerprint, text_digest
from raymask.metrics.bootstrap import compare, group_numbers, interval, of_new_groups, parse_metric
from raymask.metrics.scores import Scores, score_heads, score_joint
from raymask.report.summary import summarise
from raymask.runs.configs import save_run_config, settled_config
from raymask.runs.directory import Run, read_ensemble
from raymask.runs.identity import without_places
from raymask.runs.outputs import check_output
from raymask.runs.predictions import check_complete, prediction_table
from raymask.runs.schemas import ENSEMBLE_FORMAT, Ensemble, Grouped, Groups, Reserve, WrittenMember, write_run_file
from raymask.runs.tables import read_ensemble_predictions, read_manifest
from raymask.runs.timings import add_timing
from raymask.runs.uncertainty_schemas import WrittenSets, read_doubt, read_sets, sets_alone, sets_by_group
from raymask.voting.fixed_weights import fixed_weights
from raymask.voting.group_choice import GroupChoice
from raymask.voting.group_choice import summary as group_summary
from raymask.voting.grouping import ALONE, Grouping, pooled
from raymask.voting.reading import read_grouping, read_vote
from raymask.voting.selection import Candidate
from raymask.voting.vote import AUTO, Decision, Vote, decide, estimate_caveat, summary
from raymask.workflows.context import Result, RunContext, run_context
from raymask.workflows.group_vote import (
    check_group_tasks,
    decide_grouping,
    grouping_line,
    mistaken,
    say_of_test,
    told_gain,
)
from raymask.workflows.oof import collect_members, read_evidence
from raymask.workflows.predictions import fold_model_predictions
from raymask.workflows.setup import PreparedRun, drawn_data, read_test_set
from raymask.workflows.uncertainty import decide_doubt, sets_line, sets_on_reserve, unusual_line

MAX_ROWS = 8


@dataclass(frozen=True, eq=False)
class DecidedVote:
    """A vote, the runs whose members have it, and the scores that it was chosen by."""

    runs: Sequence[VotingRun]
    vote: Vote
    scores: Scores
    """Out of fold, by member (and `ensemble`) and target; each image voted on alone."""
    grouping: Grouping
    """Which tasks are voted over all images of a group, where images come with groups."""
    sets: WrittenSets | None = None


def decide_vote(context: RunContext, runs: Sequence[VotingRun]) -> DecidedVote:
    """Decides the vote, scores it, and keeps both in `ensemble.json`; what is decided already for the same is read there.

    Raises:
        InputError: a member lacks predictions of some images, or the config names what there is not.
    """
    validated = validated_images(runs[0])
    collect_members(context, runs, validated["image_id"])
    images = judged_images(runs)
    source = _fingerprint(runs, context.config.vote, context.config.seed)
    if known := _decided(context, source, images["image_id"], runs[0].space):
        return DecidedVote(runs, *known)
    began = time.monotonic()
    config, display = context.config, context.display
    check_group_tasks(config.vote, images, runs[0].space)
    decision = decide(read_evidence(runs, images), config.vote, config.seed)
    grouping = decide_grouping(decision, images, config.vote, config.seed)
    more = {
        **decide_doubt(decision, images, grouping.chosen if grouping else ALONE, config.vote, config.seed),
        "fingerprint": source,
        "estimate_of": estimate_caveat(max(voting_run.rounds for voting_run in runs), len(images), len(validated)),
    }
    written = _write_decision(context.run, runs, validated, images, decision, grouping, more)
    add_timing(context.run, "vote", time.monotonic() - began)
    _show(written, decision.vote, display)
    for sentence in mistaken(images, runs[0].space) if config.vote.groups == AUTO else []:
        display.warn(sentence)
    sets = read_sets(context.run.ensemble, written.sets, runs[0].space)
    if told := sets_line(sets):
        display.line("vote", told)
    return DecidedVote(runs, decision.vote, written.oof, grouping.chosen if grouping else ALONE, sets)


def check_weights(prepared: PreparedRun) -> None:
    """Refuses fixed weights that are not those of a run's members, before these are trained.

    Raises:
        InputError: names the member.
    """
    heads = {member.name: heads_of(member.task, prepared.space) for member in prepared.members}
    fixed_weights(prepared.space, prepared.config.vote, heads)


def _write_decision(
    into: Run,
    runs: Sequence[VotingRun],
    validated: pd.DataFrame,
    images: pd.DataFrame,
    decision: Decision,
    grouping: GroupChoice | None,
    more: Mapping[str, Any],
) -> Ensemble:
    """Writes the out-of-fold predictions of the ensemble, and `ensemble.json`, which it returns.

    Args:
        into: the run that is voted in.
        runs: those whose members vote.
        validated: images that any fold leaves out.
        images: those of them that all members have predicted, on which it was decided.
        decision: the vote, and what speaks for it.
        grouping: the same of the vote by group.
        more: what else `ensemble.json` holds: the fingerprint of what was decided on, and what was found beside the vote.
    """
    space, ids = runs[0].space, images["image_id"]
    truth = true_labels(images, space)
    scores = {name: score_heads(space, heads, truth) for name, heads in decision.members.items()}
    scores[ENSEMBLE] = score_joint(space, decision.joint.argmax(axis=1), truth)
    write_table(into.oof_ensemble, prediction_table(ids, pd.Series("", index=ids.index), decision.joint, space))
    members = {
        name: WrittenMember(run=str(voting_run.run.root), member=of_run)
        for voting_run in runs
        for name, of_run in voting_run.names.items()
    }
    prior = np.bincount(validated[label_column(JOINT)], minlength=space.joint_size) / len(validated)
    written = Ensemble(
        format=ENSEMBLE_FORMAT,
        images=len(ids),
        groups=int(images["group"].nunique()),
        members=members,
        prior=prior.tolist(),
        **summary(decision),
        by_group=Groups.model_validate(group_summary(grouping, decision.choice.optimism)) if grouping else None,
        **more,
        oof=scores,
    )
    write_run_file(into.ensemble, written)
    return written


def _decided(
    context: RunContext, source: str, ids: pd.Series, space: LabelSpace
) -> tuple[Vote, Scores, Grouping, WrittenSets | None] | None:
    """The vote that is decided already for the same, its scores and grouping; what is damaged is decided again."""
    into = context.run
    if not (into.ensemble.exists() and into.oof_ensemble.exists()):
        return None
    try:
        known = read_ensemble(into)
        if known.fingerprint != source:
            return None
        known = read_ensemble(into, "vote", "members", "prior", "metric", "estimate", "rules", "oof")
        vote = read_vote(into.ensemble, known.vote or {}, space, context.config.vote.rule)
        grouping, sets = read_grouping(into.ensemble, known.by_group, space), read_sets(into.ensemble, known.sets, space)
        if set(read_ensemble_predictions(into.oof_ensemble, space)["image_id"]) != set(ids):
            raise damaged(into.oof_ensemble, "it holds other images")
    except DamagedFileError as error:
        context.display.warn(f"{error.fault}; the vote is decided again")
        return None
    context.display.line("vote", f"decided already: {vote.fitted.candidate}, views {vote.views}")
    return vote, known.oof, grouping, sets


def _show(ensemble: Ensemble, vote: Vote, display: Display) -> None:
    rows, metric = ensemble.rules, ensemble.metric
    sentence = f"{vote.fitted.candidate}, views {vote.views}: {metric} of {ensemble.estimate} is expected on new people"
    display.line("vote", sentence)
    if ensemble.estimate_of:
        display.line("vote", ensemble.estimate_of)
    if told := grouping_line(ensemble.by_group, metric):
        display.line("vote", told)
    shown = [row for rank, row in enumerate(rows) if rank < MAX_ROWS or row.chosen or (row.rule, row.adjust) == ("soft", "none")]
    table = [
        [
            str(Candidate(row.rule, row.level, row.adjust)),
            *(f"{value:.4f}" for value in (row.score, row.low, row.high)),
            f"{row.behind:.4f} ± {row.behind_se:.4f}",
            "chosen" if row.chosen else "",
        ]
        for row in shown
    ]
    if len(rows) > 1:
        title = f"{len(rows)} ways to vote, by {metric}"
        display.table(title, ["", "score", "95% from", "to", "behind the best", ""], table)


def _fingerprint(runs: Sequence[VotingRun], config: VoteConfig, seed: int) -> str:
    parts = [repr((ENSEMBLE_FORMAT, config.model_dump_json(), seed))]
    for voting_run in runs:
        parts.append(fingerprint(without_places(read_manifest(voting_run.run, voting_run.space))))
        for name, of_run in voting_run.names.items():
            parts += [name, file_digest(voting_run.oof(of_run))]
    return text_digest(*parts)[:16]


def predict_test_set(context: RunContext, decided: DecidedVote, test: TestSet | None) -> None:
    """Predicts the test set and writes predictions.parquet and submission.csv."""
    display, into, vote = context.display, context.run, decided.vote
    if test is None:
        display.line("predict", "there is no test set (data.test), so there is no submission")
        return
    ids = test.images["image_id"].tolist()
    predicted = [fold_model_predictions(context, run, test.images, "test", vote.views) for run in decided.runs]
    for table in predicted:
        check_complete("the predictions of the test set", table["image_id"].tolist(), ids)
    joint, doubt = vote.with_doubt(by_round(decided.runs, predicted))
    broken = (predicted[0]["problem"] != "").to_numpy()
    if broken.any():
        joint[broken] = read_ensemble(into, "prior").prior
        display.warn(
            f"{broken.sum()} test images cannot be read and get the classes' frequencies, see `problem` in {into.predictions}"
        )
    table = prediction_table(
        predicted[0]["image_id"], predicted[0]["problem"], joint, vote.space, sets_alone(decided.sets, vote.space)
    )
    known = read_ensemble(into)
    if reference := read_doubt(into.ensemble, known.doubt):
        table.insert(2, "unusual", np.where(broken, np.float32(1), reference.places(doubt)))
        if told := unusual_line(table["unusual"], into.predictions):
            display.line("predict", told)
    say_of_test(known, "group" in test.images, display)
    if "group" in test.images:
        groups = test.images.set_index("image_id")["group"].loc[table["image_id"]].to_numpy(np.int64)
        table = voted_by_group(table, groups, decided.grouping, vote.space, sets_by_group(decided.sets, vote.space))
    write_table(into.predictions, table)
    write_table(into.submission, submission_table(test, table, vote.space), test.line_end)


def score_reserve(context: RunContext, decided: DecidedVote) -> None:
    """Scores the ensemble and its members on the people held out, where there are any, and keeps that in `ensemble.json`.

    Members are scored by the mean of their fold models.
    """
    first, vote = decided.runs[0].run, decided.vote
    if not first.reserve.exists():
        return
    held_out, space = reserved_images(first), vote.space
    predicted = [fold_model_predictions(context, run, held_out, "reserve", vote.views) for run in decided.runs]
    truth = true_labels(held_out, space)
    rounds = by_round(decided.runs, predicted)
    scores: Scores = {
        name: score_heads(
            space, {head: np.mean([members[name][head] for members in rounds], axis=0) for head in rounds[0][name]}, truth
        )
        for name in rounds[0]
    }
    joint = vote.over_rounds(rounds)
    labels = joint.argmax(axis=1)
    scores[ENSEMBLE] = score_joint(space, labels, truth)
    known = read_ensemble(context.run, "metric", "estimate", "groups")
    metric = parse_metric(known.metric, space)
    groups = group_numbers(held_out["group"])
    grouped = pooled(space, joint, groups, decided.grouping, (predicted[0]["problem"] == "").to_numpy()).argmax(axis=1)
    found, resampled = compare(metric, space, truth[JOINT], [labels, grouped], groups, context.config.seed)
    by_group = Grouped.model_validate(
        {
            **interval(float(found[1]), resampled[1]),
            "gain": interval(float(found[1] - found[0]), resampled[1] - resampled[0]),
        }
    )
    whole = Reserve(
        images=len(held_out),
        groups=int(groups.max()) + 1,
        **interval(float(found[0]), resampled[0]),
        grouped=by_group if decided.grouping.tasks else None,
        scores=scores,
    )
    doubt = sets_on_reserve(context.run.ensemble, known, space, joint, held_out, context.config.seed)
    write_run_file(context.run.ensemble, known.model_copy(update={"reserve": whole, **doubt}))
    assert known.estimate is not None
    of = " of one fold's models" if len(rounds) > 1 else ""
    low, high = of_new_groups(known.estimate.score, known.estimate.se, known.groups, whole.groups)
    expected = f"{known.estimate.score:.4f} was expected{of}, and of so many groups {low:.4f} to {high:.4f}"
    context.display.line("vote", f"on {whole.groups} groups held out from everything {metric} is {whole}; {expected}")
    if whole.grouped:
        context.display.line("vote", f"and voted by group there {whole.grouped}, {told_gain(whole.grouped.gain)}")


def vote(
    folders: Sequence[Path],
    into: Path | None = None,
    settings: Sequence[str] = (),
    predict: bool = False,
    display: Display | None = None,
) -> Result:
    """Decides the vote anew, from out-of-fold predictions alone, of the members of one run or of several together.

    Args:
        folders: directories of the runs.
        into: where the result is written; needed with several runs, and with one it is its own directory by default.
        settings: `vote.key=value` or `seed=value`, in place of what the first run's config says.
        predict: whether test images are predicted where the decided views need it; else what is there is used.
        display: what shows progress.

    Raises:
        InputError: a run is not trained, the runs do not fit together, or a prediction is missing.
    """
    display, began = display or Display(), time.monotonic()
    runs = [Run(absolute(folder)) for folder in folders]
    if into is None and len(runs) > 1:
        raise InputError("several runs vote into a folder of their own; name it by --into.")
    target = Run(absolute(into)) if into else runs[0]
    if [run.root for run in runs] != [target.root]:
        check_output(target.root, "--into", own="ensemble.json", begun=("oof", "voters"))
    config = settled_config(runs[0], settings, {"runs": target.root.parent, "name": target.name})
    check_writable(target.root, "--into")
    voting = voting_runs(runs, target)
    space = voting[0].space
    with run_context(target, config, display, may_predict=predict, again=BEGINS_ANEW) as context:
        decided = decide_vote(context, voting)
        test, _ = read_test_set(config, drawn_data(config, display), display)
        predict_test_set(context, decided, test)
        score_reserve(context, decided)
    save_run_config(target, config)
    if target.root != runs[0].root:
        write_table(target.manifest, read_manifest(runs[0], space))
    summarise(target, space, decided.scores, time.monotonic() - began, display)
    return Result(target, decided.scores)
