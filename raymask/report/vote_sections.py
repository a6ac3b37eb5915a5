"""The report's sections on the vote, made of `ensemble.json` alone: what was chosen and against what, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from raymask.core.tasks import JOINT, MEAN, LabelSpace
from raymask.metrics.bootstrap import of_new_groups, parse_metric
from raymask.metrics.scores import SCORE_KINDS
from raymask.report.plots import plot_calibration
from raymask.runs.schemas import BeforeAfter, Bin, Ensemble, Estimate, Grouped, Groups, Interval, Reserve, RuleRow, ViewsRow
from raymask.transforms.tta import ViewPlan
from raymask.voting.ballots import voter_names
from raymask.voting.grouping import POOLS
from raymask.voting.rules import RULES, rule_in_words
from raymask.voting.selection import Candidate
from raymask.voting.thresholds import ADJUSTMENTS
from raymask.voting.vote import Vote

MAX_WAYS = 20
MAX_VOTERS = 24
MAX_FACTORS = 20
MAX_PLOTS = 8
MIN_SHARE = 0.01
"""Of all images, that a bin of confidence holds to be drawn."""

Section = dict[str, Any] | None


def vote_line(vote: Vote | None, configured: str) -> str:
    """The vote in a few words; what the config says of it where it is not decided yet."""
    if vote is None:
        return "not decided yet" if configured == "auto" else configured
    return f"{candidate_words(vote.fitted.candidate, vote.space)}; {views_words(vote.views)}"


def candidate_words(candidate: Candidate, space: LabelSpace) -> str:
    """Rule, level and adjustment in a few words; the level goes without saying where there is one task."""
    return ", ".join(filter(None, [f"{candidate.rule} {level_words(candidate, space)}".strip(), _adjusted(candidate)]))


def level_words(candidate: Candidate, space: LabelSpace) -> str:
    """What is voted on; "" where there is one task."""
    return {"joint": "of the joint label", "task": "task by task"}[candidate.level] if len(space.names) > 1 else ""


def _adjusted(candidate: Candidate) -> str:
    return "" if candidate.adjust == "none" else candidate.adjust


def views_words(views: ViewPlan) -> str:
    """Views and how they are merged."""
    return f"{'views' if len(views.names) > 1 else 'view'} {views}"


def counts_votes(vote: Vote | None, configured: str) -> bool:
    """Whether confidences are shares of ballots."""
    rule = RULES.components.get(vote.fitted.candidate.rule if vote else configured)
    return rule is not None and rule.counts_votes


def target_of(name: str, space: LabelSpace) -> str:
    """A target's name; the joint label of one task is that task."""
    return space.names[0] if name == JOINT and len(space.names) == 1 else name


def vote_section(ensemble: Ensemble, vote: Vote | None) -> Section:
    """What was chosen among which candidates, what is expected of it, and how it did on the groups held out."""
    if vote is None or ensemble.estimate is None:
        return None
    candidate, space = vote.fitted.candidate, vote.space
    level = {"joint": "over joint classes", "task": "task by task"}[candidate.level] if len(space.names) > 1 else ""
    return {
        "words": f"{rule_in_words(candidate.rule)} {level}".strip(),
        "adjust": ADJUSTMENTS.get(candidate.adjust).words,
        "views": views_words(vote.views),
        "metric": metric_words(ensemble.metric, space),
        "new": "groups" if ensemble.groups < ensemble.images else "images",
        "estimate_of": ensemble.estimate_of,
        "outcome": outcome(ensemble.estimate, ensemble.reserve, ensemble.groups),
        "groups": group_section(ensemble.by_group, ensemble.reserve),
        "ways": compared_candidates(ensemble.rules, space),
        "weights": weights_table(vote),
        "factors": [factor_table(name, of.tolist(), space) for name, of in vote.fitted.factors.items() if of is not None],
        "view_sets": view_sets(ensemble.views),
    }


def metric_words(metric: str, space: LabelSpace) -> str:
    """A metric such as `joint.f1` in words."""
    target, kind = (parsed := parse_metric(metric, space)).target, SCORE_KINDS[parsed.kind].words
    if target == MEAN:
        return f"mean {kind} over the tasks"
    return kind if len(space.names) == 1 else f"{kind} of {'the joint label' if target == JOINT else target}"


def outcome(estimate: Estimate, reserve: Reserve | None, known: int) -> dict[str, Any]:
    """What is expected of the vote beside how it did on the groups held out, on one axis.

    Args:
        estimate: what is expected.
        reserve: how it did.
        known: groups that the estimate was made on.
    """
    shown: dict[str, Interval] = {"expected": estimate}
    place, low, high = "", 0.0, 1.0
    if reserve:
        shown["held out"] = reserve
        low, high = of_new_groups(estimate.score, estimate.se, max(1, known), max(1, reserve.groups))
        place = "within" if low <= reserve.score <= high else "below" if reserve.score < low else "above"
    axis = axis_of(shown.values())
    rows = [{**row.model_dump(), "name": name, **placed(row, axis)} for name, row in shown.items()]
    return {"rows": rows, "axis": axis, "place": place, "of_so_many": (low, high), "optimism": estimate.optimism}


def group_section(by_group: Groups | None, reserve: Reserve | None) -> Section:
    """What voting tasks over all images of a group is worth; None where nothing was compared."""
    if by_group is None or by_group.estimate is None:
        return None
    sizes = {f"{row.images} images" if row.images > 1 else "as in training": row for row in by_group.sizes}
    shown: dict[str, Grouped] = {**sizes, "held out": reserve.grouped} if reserve and reserve.grouped else {**sizes}
    axis = axis_of([row.gain for row in shown.values()], 0.0)
    return {
        "candidates": " and ".join(by_group.candidates),
        "tasks": " and ".join(by_group.tasks),
        "pool": POOLS.get(by_group.pool).words,
        "estimate": by_group.estimate,
        "gain": by_group.gain,
        "gains": [{"target": target, **gain.model_dump()} for target, gain in by_group.gains.items() if target in by_group.tasks],
        "optimism": by_group.optimism,
        "usual": by_group.sizes[-1].images if by_group.sizes else 0,
        "held_out": reserve.grouped if reserve else None,
        "rows": [{"name": name, **row.model_dump(), **placed(row.gain, axis)} for name, row in shown.items()],
        "axis": axis,
        "zero": place_on(0.0, axis),
    }


def compared_candidates(rows: Sequence[RuleRow], space: LabelSpace) -> dict[str, Any]:
    """The best candidates, the chosen one and the plain votes, with their intervals on one axis."""
    kept = {
        rank: row
        for rank, row in enumerate(rows, start=1)
        if rank <= MAX_WAYS or row.chosen or (row.rule in ("soft", "hard") and row.adjust == "none")
    }
    axis = axis_of(kept.values())
    shown = [
        {
            **row.model_dump(),
            "rank": rank,
            "name": row.rule,
            "detail": candidate_words(Candidate("", row.level, row.adjust), space),
            **placed(row, axis),
        }
        for rank, row in kept.items()
    ]
    return {
        "rows": shown,
        "axis": axis,
        "all": len(rows),
        "left_out": len(rows) - len(shown),
        "is_best": next(rank for rank, row in kept.items() if row.chosen) == 1,
        "best_place": place_on(rows[0].score, axis),
    }


def weights_table(vote: Vote) -> dict[str, Any]:
    """What each voter weighs in each space that is voted in, the heaviest first; without rows where the rule has no weights."""
    names, space = voter_names(vote.space, {name: list(by_head) for name, by_head in vote.calibrations.items()}), vote.space
    weighed = {
        name: dict(zip(names[name], np.asarray(params["weights"]).tolist(), strict=True))
        for name, params in vote.fitted.params.items()
        if "weights" in params
    }
    voters = list(dict.fromkeys(voter for name in vote.fitted.params for voter in names[name]))
    heaviest = sorted(voters, key=lambda voter: -sum(of_space.get(voter, 0.0) for of_space in weighed.values()))
    return {
        "targets": [target_of(name, space) for name in weighed],
        "rows": [
            {"name": voter, "weights": [of_space.get(voter) for of_space in weighed.values()]} for voter in heaviest[:MAX_VOTERS]
        ]
        if weighed
        else [],
        "most": max((weight for of_space in weighed.values() for weight in of_space.values()), default=1.0) or 1.0,
        "left_out": max(0, len(voters) - MAX_VOTERS),
        "voters": len(voters),
        "alike": vote.fitted.candidate.rule in RULES.names and not RULES.get(vote.fitted.candidate.rule).fits,
    }


def factor_table(name: str, factors: Sequence[float], space: LabelSpace) -> dict[str, Any]:
    """Factors of the classes' probabilities, on a logarithmic axis around 1; without rows where classes are many or all alike.

    Since only their ratios matter, factors are shown with a geometric mean of 1.
    """
    classes = list(product(*(task.classes for task in space.tasks))) if name == JOINT else [(c,) for c in space.classes(name)]
    logs = np.log2(np.maximum(np.asarray(factors, dtype=np.float64), 1e-9))
    logs -= logs.mean()
    reach = max(float(np.abs(logs).max()), 1e-9)
    rows = [
        {"name": " · ".join(parts), "factor": 2.0**log, "a": 0.5 + min(log, 0) / reach / 2, "b": 0.5 + max(log, 0) / reach / 2}
        for parts, log in zip(classes, logs.tolist(), strict=True)
    ]
    shown = rows if len(rows) <= MAX_FACTORS and reach > 1e-6 else []
    low, high = (2.0**log for log in (logs.min(), logs.max()))
    return {
        "target": name if len(space.names) > 1 else "",
        "rows": shown,
        "same": reach <= 1e-6,
        "size": len(rows),
        "low": low,
        "high": high,
    }


def view_sets(rows: Sequence[ViewsRow]) -> Section:
    """Sets of views and what they gain over the original alone, on one axis around 0; None where they were given."""
    kept = [row for rank, row in enumerate(rows) if rank < MAX_WAYS or row.chosen or row.views == "original"]
    if not kept:
        return None
    axis = axis_of([row.gain for row in kept], 0.0)
    return {
        "rows": [{**row.model_dump(), **placed(row.gain, axis)} for row in kept],
        "axis": axis,
        "zero": place_on(0.0, axis),
        "left_out": len(rows) - len(kept),
    }


def member_calibration(calibration: Mapping[str, Mapping[str, BeforeAfter]], space: LabelSpace) -> Section:
    """Each member's heads before and after calibration, with plots where these are few."""
    heads = [
        (member, target_of(head, space), quality) for member, by_head in calibration.items() for head, quality in by_head.items()
    ]
    if not heads:
        return None
    plots = []
    if len(heads) <= MAX_PLOTS:
        for member, target, quality in heads:
            before, after = (_bins(each.reliability) for each in (quality.before, quality.after))
            plots.append({"name": member, "target": target, "plot": plot_calibration(before, after)})
    most = max(each.ece for _, _, quality in heads for each in (quality.before, quality.after)) or 1.0
    same = all(quality.before == quality.after for _, _, quality in heads)
    rows = [{"member": member, "target": target, **quality.model_dump()} for member, target, quality in heads]
    return {"rows": rows, "most": most, "same": same, "plots": plots}


def _bins(reliability: Sequence[Bin]) -> pd.DataFrame:
    bins = pd.DataFrame([each.model_dump() for each in reliability])
    return bins[bins["images"] >= MIN_SHARE * bins["images"].sum()]


def axis_of(intervals: Iterable[Interval], *more: float) -> dict[str, Any]:
    """An axis with round ends that holds all intervals: low, high and the ticks between them."""
    values = [value for row in intervals for value in (row.score, row.low, row.high)] + list(more)
    found = np.asarray(MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(min(values), max(values)))
    digits = next((digits for digits in range(6) if np.allclose(found, found.round(digits), rtol=0, atol=1e-9)), 6)
    axis: dict[str, Any] = {"low": float(found[0]), "high": float(found[-1])}
    ticks = [
        {"text": f"{round(tick, digits) + 0.0:.{digits}f}".replace("-", "−"), "v": place_on(tick, axis)}
        for tick in found.tolist()
    ]
    return {**axis, "ticks": ticks}


def placed(row: Interval, axis: Mapping[str, Any]) -> dict[str, float]:
    """Where an interval begins, has its score and ends on an axis, as shares of it."""
    return {name: place_on(value, axis) for name, value in (("a", row.low), ("v", row.score), ("b", row.high))}


def place_on(value: float, axis: Mapping[str, Any]) -> float:
    """A value's place on an axis, from 0 to 1."""
    return float((value - axis["low"]) / (axis["high"] - axis["low"]))
