"""The vote read from `ensemble.json`: whatever stands there is checked, and no code is ever taken from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from raymask.config.vote import why_untrusted
from raymask.core.errors import InputError
from raymask.core.tasks import JOINT, LabelSpace
from raymask.io.checked import damaged, first_problem
from raymask.runs.schemas import Groups, Record
from raymask.transforms.tta import VIEWS, ViewPlan
from raymask.voting.ballots import voter_names
from raymask.voting.calibration import Calibration
from raymask.voting.combine import Params
from raymask.voting.grouping import ALONE, POOLS, Grouping
from raymask.voting.rules import RULES
from raymask.voting.selection import LEVELS, Candidate, Fitted, spaces_of
from raymask.voting.thresholds import ADJUSTMENTS
from raymask.voting.vote import Vote


class WrittenCalibration(Record):
    """See `raymask.voting.calibration.Calibration`."""

    scale: list[float]
    bias: list[float]


class WrittenViews(Record):
    """See `raymask.transforms.tta.ViewPlan`."""

    names: list[str]
    weights: list[float]
    merge: Literal["mean", "geometric", "max"]


class WrittenVote(Record):
    """What `raymask.voting.vote.Vote.to_json` gives."""

    rule: str
    level: str
    adjust: str
    voters: dict[str, list[str]]
    params: dict[str, dict[str, Any]]
    factors: dict[str, list[float] | None]
    result: WrittenCalibration
    views: WrittenViews
    calibrations: dict[str, dict[str, WrittenCalibration]]


def read_vote(file: Path, written: Mapping[str, Any], space: LabelSpace, rule: str | None = None) -> Vote:
    """The vote that a run's `ensemble.json` holds, as `Vote.to_json` wrote it.

    Args:
        file: the `ensemble.json`.
        written: its `vote`.
        space: the label space of the run's config.
        rule: the import path of the rule of one's own that the file may name, as the caller gives it.

    Raises:
        InputError: the file names a rule that is code, and the caller does not.
        DamagedFileError: what is written is no vote of this label space.
    """
    name = written.get("rule")
    if isinstance(name, str) and ":" in name and name != rule:
        raise InputError(f"{why_untrusted(name, file)}.")
    try:
        vote = _vote(WrittenVote.model_validate(dict(written), strict=True), space)
    except ValidationError as error:
        raise damaged(file, f"its vote: {first_problem(error)}") from None
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise damaged(file, f"its vote: {error}") from None
    if why := wrong_with_vote(vote):
        raise damaged(file, f"its vote {why}")
    if written["voters"] != vote.to_json()["voters"]:
        raise damaged(file, "its vote names other voters than its members make")
    return vote


def read_grouping(file: Path, written: Groups | None, space: LabelSpace) -> Grouping:
    """Which tasks a run's `ensemble.json` says are voted by group; none where an older raymask wrote it.

    Args:
        file: the `ensemble.json`.
        written: its `by_group`.
        space: the label space of the run's config.

    Raises:
        DamagedFileError: it names a task or a way to pool that there is not.
    """
    if written is None:
        return ALONE
    if wrong := [name for name in written.tasks if name not in space.names or written.tasks.count(name) > 1]:
        raise damaged(file, f"its vote by group names the task '{wrong[0]}', which there is not, or twice")
    if written.pool not in POOLS.names:
        raise damaged(file, f"its vote by group pools by '{written.pool}', which there is not")
    return Grouping(tuple(written.tasks), written.pool)


def _vote(written: WrittenVote, space: LabelSpace) -> Vote:
    candidate, views = Candidate(written.rule, written.level, written.adjust), written.views
    return Vote(
        space=space,
        views=ViewPlan(tuple(views.names), tuple(views.weights), views.merge),
        calibrations={
            name: {head: _calibration(head_probs) for head, head_probs in by_head.items()}
            for name, by_head in written.calibrations.items()
        },
        fitted=Fitted(
            candidate,
            {name: _params(params) for name, params in written.params.items()},
            {name: None if of is None else np.asarray(of, dtype=np.float64) for name, of in written.factors.items()},
        ),
        result=_calibration(written.result),
    )


def _calibration(written: WrittenCalibration) -> Calibration:
    return Calibration(np.asarray(written.scale, dtype=np.float64), np.asarray(written.bias, dtype=np.float64))


def _params(plain: Mapping[str, Any]) -> Params:
    return {name: np.asarray(value) if isinstance(value, list) else value for name, value in plain.items()}


def wrong_with_vote(vote: Vote) -> str:
    """What keeps a vote that was written from being used in its label space; "" for nothing."""
    return (
        _wrong_with_calibrations(vote)
        or _wrong_with_candidate(vote.fitted.candidate)
        or _wrong_with_views(vote.views)
        or _wrong_with_fitted(vote)
    )


def _wrong_with_calibrations(vote: Vote) -> str:
    sizes, by_members = _sizes(vote.space), vote.calibrations.values()
    if not by_members or any(not by_head or not set(by_head) <= set(sizes) for by_head in by_members):
        return "is by members that predict other tasks"
    if any(not _fits(of, sizes[head]) for by_head in by_members for head, of in by_head.items()):
        return "has calibrations of other classes"
    return "" if _fits(vote.result, vote.space.joint_size) else "has a last calibration of other classes"


def _wrong_with_candidate(candidate: Candidate) -> str:
    if candidate.rule not in RULES.names and ":" not in candidate.rule:
        return f"is by the rule '{candidate.rule}', which there is not"
    if candidate.level not in LEVELS or candidate.adjust not in ADJUSTMENTS.names:
        return f"is by '{candidate.level}' with '{candidate.adjust}', which there is not"
    return ""


def _wrong_with_fitted(vote: Vote) -> str:
    """Looks at a candidate that there is: its targets, factors and params."""
    space, candidate = vote.space, vote.fitted.candidate
    targets = set(spaces_of(space, candidate.level))
    if set(vote.fitted.params) != targets or set(vote.fitted.factors) != targets:
        return f"is not of {' and '.join(sorted(targets))}"
    rule, sizes = RULES.components.get(candidate.rule), _sizes(space)
    voters = voter_names(space, {name: list(by_head) for name, by_head in vote.calibrations.items()})
    for target in sorted(targets):
        factors = vote.fitted.factors[target]
        if factors is not None and not (factors.shape == (sizes[target],) and (factors >= 0).all()):
            return f"has factors of other classes than those of '{target}'"
        if rule and (why := rule.wrong(vote.fitted.params[target], len(voters[target]), sizes[target])):
            return f"for '{target}' {why}"
    return ""


def _sizes(space: LabelSpace) -> dict[str, int]:
    """Number of classes by task, and of the joint ones."""
    return {name: len(space.classes(name)) for name in (*space.names, JOINT)}


def _fits(of: Calibration, classes: int) -> bool:
    return of.scale.shape == of.bias.shape == (classes,)


def _wrong_with_views(views: ViewPlan) -> str:
    if unknown := [name for name in views.names if name not in VIEWS]:
        return f"sees images under '{unknown[0]}', which is no view"
    if not views.names or len(views.weights) != len(views.names) or min(views.weights) < 0 or sum(views.weights) <= 0:
        return "has no weight for each of its views"
    return ""
