"""Which views: sets of test-time augmentations compared on out-of-fold predictions, and the fewest good ones taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raymask.core.tasks import LabelSpace
from raymask.core.types import ByHead, Labels
from raymask.metrics.bootstrap import Counts, Interval, Metric, count, interval, resample, score_counts, unit_weights
from raymask.transforms.tta import MERGES, VIEW_SETS, ViewPlan, even, merge_views
from raymask.voting.ballots import joint_ballots
from raymask.voting.combine import soft_vote
from raymask.voting.selection import difference_errors, simplest

ORIGINAL = "original"
MAX_PICKS = 6

ByView = Mapping[str, npt.NDArray[np.floating]]
"""(W, N, C) probabilities by head, under each of W views."""


@dataclass(frozen=True, eq=False)
class OofByView:
    """Out-of-fold predictions of the members under every view, and the truth."""

    space: LabelSpace
    members: Mapping[str, ByView]
    views: tuple[str, ...]
    """Names of the W views."""
    truth: Labels
    """(N,) joint labels."""
    groups: Labels
    """(N,) numbers of groups from 0 on."""
    folds: Labels
    """(N,) folds that the members' models left out."""


@dataclass(frozen=True)
class ViewRow:
    """How one set of views did."""

    plan: ViewPlan
    score: Interval
    gain: Interval
    """Score less that of the original alone, on the same resamples."""


@dataclass(frozen=True)
class Views:
    """The chosen views and all that speaks for them."""

    chosen: ViewPlan
    rows: tuple[ViewRow, ...]
    """All sets that were compared, the best first."""


def merged(member: ByView, names: Sequence[str], plan: ViewPlan) -> ByHead:
    """One member's (N, C) probabilities by head under a plan; `names` are those of its W views."""
    places = [list(names).index(name) for name in plan.names]
    return {head: merge_views(probabilities[places], plan.weights, plan.merge) for head, probabilities in member.items()}


@dataclass(frozen=True, eq=False)
class _Scorer:
    """Scores sets of views by the soft vote of all members, each set once."""

    oof: OofByView
    metric: Metric
    known: dict[ViewPlan, Counts]

    def counts(self, plan: ViewPlan) -> Counts:
        if plan not in self.known:
            space = self.oof.space
            members = {name: merged(member, self.oof.views, plan) for name, member in self.oof.members.items()}
            predicted = soft_vote(np.stack(list(joint_ballots(space, members).values()))).argmax(axis=1)
            self.known[plan] = count(self.metric, space, self.oof.truth, predicted, self.oof.groups)
        return self.known[plan]

    def scores(self, plan: ViewPlan, weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        return score_counts(self.metric, self.counts(plan), weights)


def choose_views(oof: OofByView, parts: Labels, metric: Metric, seed: int, merges: Sequence[str] = MERGES.names) -> Views:
    """Compares sets of views by the score of the members' soft vote, and takes the fewest within one standard error of the best.

    Sets are the original alone and with each other view, the families of `VIEW_SETS`, all views by each merge, and the views and
    weights that greedy selection with replacement picks, which are scored by what is picked on other parts.

    Args:
        oof: out-of-fold predictions under every view.
        parts: (N,) parts for cross-fitting the greedy selection, no group in two.
        metric: the metric to maximise.
        seed: decides the resamples.
        merges: merges to compare.
    """
    scorer = _Scorer(oof, metric, {})
    number = int(oof.groups.max()) + 1
    all_of_them, weights = unit_weights(number), resample(number, seed)
    plans, counts = _sets(oof.views, merges), {}
    if (picked := _pick(scorer, all_of_them, merges[0])) not in plans:
        plans.append(picked)
        counts[picked] = _honest_counts(scorer, parts, merges[0])  # it was picked by its score, which therefore flatters
    counts = {plan: counts.get(plan, scorer.counts(plan)) for plan in plans}
    scores = np.array([score_counts(metric, counts[plan], all_of_them)[0] for plan in plans])
    resampled = np.stack([score_counts(metric, counts[plan], weights) for plan in plans])
    index = int(simplest(scores[:, None], difference_errors(resampled), np.array([plan.complexity for plan in plans]))[0])
    rows = [
        ViewRow(plan, interval(float(score), drawn), interval(float(score - scores[0]), drawn - resampled[0]))
        for plan, score, drawn in zip(plans, scores, resampled, strict=True)
    ]
    ranked = tuple(sorted(rows, key=lambda row: (-row.score["score"], row.plan.complexity)))
    return Views(plans[index], ranked)


def _sets(names: Sequence[str], merges: Sequence[str]) -> list[ViewPlan]:
    """The original alone comes first."""
    others = [name for name in names if name != ORIGINAL]
    families = [[ORIGINAL, *(name for name in family if name in others)] for family in VIEW_SETS.values()]
    sets = [[ORIGINAL], *([ORIGINAL, other] for other in others), *(family for family in families if len(family) > 1)]
    plans = [even(names_of_set, merges[0]) for names_of_set in sets]
    return list(dict.fromkeys([*plans, *(even([ORIGINAL, *others], merge) for merge in merges if others)]))


def _pick(scorer: _Scorer, weights: npt.NDArray[np.float32], merge: str) -> ViewPlan:
    """Greedy selection with replacement, from the original on: views are added as long as the score rises."""
    counts = {ORIGINAL: 1.0}
    best = scorer.scores(_plan_of(counts, scorer.oof.views, merge), weights)[0]
    for _ in range(MAX_PICKS):
        tried = {name: _plan_of({**counts, name: counts.get(name, 0) + 1}, scorer.oof.views, merge) for name in scorer.oof.views}
        scores = {name: float(scorer.scores(plan, weights)[0]) for name, plan in tried.items()}
        name = max(scores, key=lambda of_name: scores[of_name])
        if scores[name] <= best + 1e-12:
            break
        counts[name], best = counts.get(name, 0) + 1, scores[name]
    return _plan_of(counts, scorer.oof.views, merge)


def _plan_of(counts: Mapping[str, float], names: Sequence[str], merge: str) -> ViewPlan:
    present = [name for name in names if counts.get(name)]
    least = min(counts[name] for name in present)
    return ViewPlan(tuple(present), tuple(counts[name] / least for name in present), merge)


def _honest_counts(scorer: _Scorer, parts: Labels, merge: str) -> Counts:
    """Counts of greedy selection when each part of the images is seen under the views that were picked on the others."""
    numbers = np.unique(parts)
    groups = int(scorer.oof.groups.max()) + 1
    in_part = np.stack([np.bincount(scorer.oof.groups[parts == part], minlength=groups) > 0 for part in numbers])
    others = [~own if len(numbers) > 1 else own for own in in_part]
    plans = [_pick(scorer, kept[None].astype(np.float32), merge) for kept in others]
    # Counts are by group and no group lies in two parts, so that parts of different plans can be put together.
    return np.asarray(np.sum([scorer.counts(plan) * own[:, None] for plan, own in zip(plans, in_part, strict=True)], axis=0))
