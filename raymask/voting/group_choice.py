"""Whether tasks are voted by group: groupings are compared on the cross-fitted vote, and the simplest good one is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np

from raymask.config.vote import VoteConfig
from raymask.core.tasks import JOINT
from raymask.core.types import Labels, Probabilities
from raymask.metrics.bootstrap import Interval, Metric, compare, interval, lowered
from raymask.voting.grouping import ALONE, POOLS, Grouping, GroupVote, pooled
from raymask.voting.selection import OofPredictions, difference_errors, selection_optimism, simplest

MAX_TASKS = 4
"""Of more tasks not all subsets are compared, but each task alone, all, and all but one."""
SIZES = (2, 3, 5, 10)
"""Images of a group that a score is told for, where training groups have more."""


@dataclass(frozen=True)
class GroupRow:
    """How one grouping did."""

    grouping: Grouping
    score: Interval
    behind: float
    """Score of the best less this one's."""
    behind_se: float
    """Standard error of that difference."""


@dataclass(frozen=True)
class SizeRow:
    """What the chosen grouping is worth where groups have so many images."""

    images: int
    score: Interval
    gain: Interval


@dataclass(frozen=True, eq=False)
class GroupChoice:
    """The chosen grouping and all that speaks for it; scores are cross-fitted, and flatter by `optimism`."""

    candidates: tuple[str, ...]
    """Tasks whose label never differs within a group."""
    chosen: Grouping
    rows: tuple[GroupRow, ...]
    """All groupings that were compared, the best first."""
    optimism: float
    """By how much the chosen one's gain flatters, since it was chosen among several."""
    gain: Interval | None
    """What the chosen grouping gains of the metric; None where each image is voted on alone."""
    gains: dict[str, Interval]
    """The same by target."""
    sizes: tuple[SizeRow, ...]
    """The metric by images of a group, the last being that of most training images."""

    @property
    def score(self) -> Interval:
        """Of the chosen grouping, as it was found."""
        return next(row.score for row in self.rows if row.grouping == self.chosen)


def groupings(candidates: Sequence[str]) -> list[Grouping]:
    """All that are compared: each image alone, and subsets of the tasks by pools, see `MAX_TASKS`."""
    number = len(candidates)
    sizes = range(1, number + 1) if number <= MAX_TASKS else (1, number - 1, number)
    subsets = [subset for size in sizes for subset in combinations(candidates, size)]
    return [ALONE, *(Grouping(tasks, pool) for tasks, pool in product(subsets, POOLS.names))]


def choose_grouping(
    evidence: OofPredictions, joint: Probabilities, candidates: tuple[str, ...], config: VoteConfig, metric: Metric, seed: int
) -> GroupChoice | None:
    """Compares groupings on the cross-fitted vote and takes the simplest within one standard error of the best.

    Args:
        evidence: the truth and the groups; no group lies in two parts that the vote was cross-fitted over.
        joint: (N, J) cross-fitted probabilities of the vote.
        candidates: tasks whose label never differs within a group.
        config: fixes the tasks, where the user does; they are checked, see `raymask.voting.grouping.check_tasks`.
        metric: the metric to maximise.
        seed: decides resamples, and which images of a group make smaller ones.

    Returns:
        None where there is nothing to compare.
    """
    if config.groups == "none" or not candidates:
        return None
    fixed = () if isinstance(config.groups, str) else config.groups
    tried = [Grouping(fixed, pool) for pool in POOLS.names] if fixed else groupings(candidates)
    space, truth, groups = evidence.space, evidence.truth, evidence.groups
    predicted = [pooled(space, joint, groups, grouping).argmax(axis=1) for grouping in tried]
    scores, resampled = compare(metric, space, truth, predicted, groups, seed)
    errors, complexities = difference_errors(resampled), np.array([grouping.complexity for grouping in tried])
    chosen, best = int(simplest(scores[:, None], errors, complexities)[0]), int(np.argmax(scores))
    rows = [
        GroupRow(grouping, interval(float(score), of_one), float(scores[best] - score), float(errors[best, place]))
        for place, (grouping, score, of_one) in enumerate(zip(tried, scores, resampled, strict=True))
    ]
    return GroupChoice(
        candidates,
        tried[chosen],
        tuple(sorted(rows, key=lambda row: (-row.score["score"], row.grouping.complexity))),
        selection_optimism(evidence, metric, predicted, chosen, errors, complexities, seed),
        *_worth(evidence, joint, tried[chosen], metric, seed),
    )


def _worth(
    evidence: OofPredictions, joint: Probabilities, grouping: Grouping, metric: Metric, seed: int
) -> tuple[Interval | None, dict[str, Interval], tuple[SizeRow, ...]]:
    """The gain of the metric, by target, and by images of a group."""
    if not grouping.tasks:
        return None, {}, ()
    space = evidence.space
    both = joint.argmax(axis=1), pooled(space, joint, evidence.groups, grouping).argmax(axis=1)
    targets = (*space.names, JOINT) if len(space.names) > 1 else space.names
    by_target = {target: gain(Metric(target, metric.kind), evidence, both, seed) for target in targets}
    return gain(metric, evidence, both, seed), by_target, _sizes(evidence, joint, grouping, metric, seed)


def gain(metric: Metric, evidence: OofPredictions, before_after: tuple[Labels, Labels], seed: int) -> Interval:
    """What (N,) joint labels gain over those before, with its interval over groups."""
    scores, resampled = compare(metric, evidence.space, evidence.truth, before_after, evidence.groups, seed)
    return interval(float(scores[1] - scores[0]), resampled[1] - resampled[0])


def usual_size(groups: Labels) -> int:
    """Images of the group that the median image lies in.

    Example:
        >>> usual_size(np.array([0, 1, 1, 1, 2, 2, 2]))
        3
    """
    return int(np.median(np.bincount(groups)[groups]))


def pooled_with(evidence: OofPredictions, joint: Probabilities, grouping: Grouping, size: int, seed: int) -> Probabilities:
    """(N, J) probabilities of each image as if it had come with so many of its group, itself among them; or all, if fewer.

    Images of a group stand in a circle, in an order that is drawn, and each is voted on with those that follow it.
    """
    groups = evidence.groups
    drawn = np.random.default_rng(seed).permutation(len(groups))
    order = drawn[np.argsort(groups[drawn], kind="stable")]
    first, members = np.searchsorted(groups[order], groups[order]), np.bincount(groups)[groups[order]]
    place, images = np.arange(len(groups)) - first, np.arange(len(groups))
    vote = GroupVote(evidence.space, grouping, len(groups))
    for step in range(min(size, int(members.max()))):
        vote.add(joint[order[first + (place + step) % members]], order, step < members)
    return vote.put_back(joint, images, np.ones(len(groups), dtype=bool))


def _sizes(evidence: OofPredictions, joint: Probabilities, grouping: Grouping, metric: Metric, seed: int) -> tuple[SizeRow, ...]:
    usual = usual_size(evidence.groups)
    by_size = {size: pooled_with(evidence, joint, grouping, size, seed) for size in SIZES if size < usual}
    by_size[usual] = pooled(evidence.space, joint, evidence.groups, grouping)
    predicted = [of_one.argmax(axis=1) for of_one in (joint, *by_size.values())]
    scores, resampled = compare(metric, evidence.space, evidence.truth, predicted, evidence.groups, seed)
    return tuple(
        SizeRow(size, interval(float(score), of_one), interval(float(score - scores[0]), of_one - resampled[0]))
        for size, score, of_one in zip(by_size, scores[1:], resampled[1:], strict=True)
    )


def summary(choice: GroupChoice, optimism: float) -> dict[str, Any]:
    """What `ensemble.json` keeps of a choice.

    Args:
        choice: of the grouping.
        optimism: of the vote's own choice, which the score of each image alone flatters by.
    """
    return {
        "candidates": list(choice.candidates),
        "tasks": list(choice.chosen.tasks),
        "pool": choice.chosen.pool,
        "estimate": {**lowered(choice.score, optimism + choice.optimism), "optimism": optimism + choice.optimism},
        "optimism": choice.optimism,
        "gain": choice.gain and lowered(choice.gain, choice.optimism),
        "gains": choice.gains,
        "rows": [
            {
                "tasks": list(row.grouping.tasks),
                "pool": row.grouping.pool,
                **row.score,
                "behind": row.behind,
                "behind_se": row.behind_se,
                "chosen": row.grouping == choice.chosen,
            }
            for row in choice.rows
        ],
        "sizes": [
            {
                "images": row.images,
                **lowered(row.score, optimism + choice.optimism),
                "gain": lowered(row.gain, choice.optimism),
            }
            for row in choice.sizes
        ],
    }
