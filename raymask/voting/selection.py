"""Which rule: all are compared on out-of-fold predictions by cross-validation over people, and the simplest good one is taken."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from raymask.core.tasks import JOINT, LabelSpace
from raymask.core.types import ByHead, Labels, Probabilities, Weights
from raymask.data.folds import stratified_group_folds
from raymask.metrics.bootstrap import Interval, Metric, compare, count, interval, resample, score_counts, unit_weights
from raymask.voting.ballots import Voters, voters_of
from raymask.voting.calibration import Calibration, fit_calibration
from raymask.voting.combine import Params, adjusted
from raymask.voting.evidence import Evidence
from raymask.voting.rules import find_rule
from raymask.voting.thresholds import ADJUSTMENTS, fit_adjustment

LEVELS = ("joint", "task")
MIN_PARTS = 3
PARTS = 5

Calibrations = Mapping[str, Mapping[str, Calibration]]
"""By member and head."""
Fixed = Mapping[str, Params]
"""What a rule has fitted, by the space that it votes in."""


@dataclass(frozen=True)
class Candidate:
    """A rule, the space that it votes in, and what is done to its result."""

    rule: str
    level: str
    """`joint`: ballots are of joint classes. `task`: each task is voted on alone, and the results are multiplied."""
    adjust: str

    def __str__(self) -> str:
        return f"{self.rule} by {self.level}" + ("" if self.adjust == "none" else f" with {self.adjust}")

    @property
    def complexity(self) -> float:
        """Place among the candidates from the simplest on."""
        return find_rule(self.rule).complexity + 2 * ADJUSTMENTS.names.index(self.adjust) + 0.5 * (self.level == "task")


@dataclass(frozen=True, eq=False)
class Fitted:
    """A candidate that can be used."""

    candidate: Candidate
    params: Mapping[str, Params]
    """What the rule has fitted, by the space that it votes in."""
    factors: Mapping[str, Weights | None]
    """Factors of the classes, by the same."""

    def combine(self, space: LabelSpace, voters: Voters) -> Probabilities:
        """(N, J) joint probabilities from voters' ballots."""
        rule = find_rule(self.candidate.rule)
        combined = {name: rule.combine(voters[name], params) for name, params in self.params.items()}
        return into_joint(space, {name: adjusted(part, self.factors[name]) for name, part in combined.items()})


@dataclass(frozen=True, eq=False)
class OofPredictions:
    """What a choice is made on."""

    space: LabelSpace
    members: Mapping[str, ByHead]
    """Each member's (N, C) probabilities by head."""
    truth: Labels
    """(N,) joint labels."""
    groups: Labels
    """(N,) numbers of groups, such as people, from 0 on."""
    folds: Labels
    """(N,) folds that the members' fold models left out."""

    def labels(self, target: str) -> Labels:
        """(N,) labels of a task or of the joint label."""
        return self.truth if target == JOINT else self.space.split(self.truth)[target]


@dataclass(frozen=True)
class Row:
    """How one candidate did."""

    candidate: Candidate
    score: Interval
    behind: float
    """Score of the best less this one's."""
    behind_se: float
    """Standard error of that difference."""
    seconds: float
    """To fit it once, without what candidates share."""


@dataclass(frozen=True, eq=False)
class Choice:
    """The chosen candidate and all that speaks for it."""

    chosen: Candidate
    rows: tuple[Row, ...]
    """All candidates, the best first."""
    joint: Probabilities
    """(N, J) cross-fitted result of the chosen one: each image by what was fitted without its part."""
    optimism: float
    """By how much the chosen one's score flatters, since it was chosen among many: see `selection_optimism`."""


def into_joint(space: LabelSpace, parts: Mapping[str, Probabilities]) -> Probabilities:
    """(N, J) joint probabilities of a result in the joint space, or by task."""
    return parts[JOINT] if JOINT in parts else space.product(parts)


def spaces_of(space: LabelSpace, level: str) -> tuple[str, ...]:
    """The spaces that a level votes in."""
    return (JOINT,) if level == JOINT else space.names


def candidates(space: LabelSpace, rules: Iterable[str], levels: Sequence[str], adjustments: Sequence[str]) -> list[Candidate]:
    """All that are compared: rules by levels by adjustments, where they make sense; one task needs but one level."""
    several = [level for level in levels if len(space.names) > 1 or level == "joint"] or ["joint"]
    return [
        Candidate(rule, level, adjust)
        for rule, level, adjust in product(rules, several, adjustments)
        if level in find_rule(rule).levels or len(space.names) == 1
    ]


def parts_of(evidence: OofPredictions, seed: int) -> Labels:
    """(N,) parts of the images, no group in two: the folds themselves, or, where these are few or part groups, five others."""
    groups = int(evidence.groups.max()) + 1
    whole = len(np.unique(np.stack([evidence.groups, evidence.folds]), axis=1).T) == len(np.unique(evidence.groups))
    if whole and len(np.unique(evidence.folds)) >= MIN_PARTS:
        return evidence.folds
    parts = min(PARTS, groups, int(np.bincount(evidence.truth).max()))
    return stratified_group_folds(evidence.truth, evidence.groups, parts, seed) if parts > 1 else evidence.folds


def calibrate(evidence: OofPredictions, method: str, kept: npt.NDArray[np.bool_]) -> Calibrations:
    """Each member's calibration by head, fitted on the kept images."""
    return {
        name: {head: fit_calibration(method, head_probs[kept], evidence.labels(head)[kept]) for head, head_probs in heads.items()}
        for name, heads in evidence.members.items()
    }


def calibrated(members: Mapping[str, ByHead], calibrations: Calibrations) -> dict[str, ByHead]:
    """The members' probabilities, calibrated."""
    return {
        name: {head: calibrations[name][head].apply(head_probs) for head, head_probs in heads.items()}
        for name, heads in members.items()
    }


def fit(
    evidence: OofPredictions, voters: Voters, candidate: Candidate, metric: Metric, seed: int, fixed: Fixed | None = None
) -> Fitted:
    """A candidate fitted on all images; `fixed` is what its rule would have fitted, where the user says so."""
    fitted = fixed or _fit_rule(evidence, voters, candidate.rule, candidate.level, metric, seed, all_rows(evidence))
    rule, factors = find_rule(candidate.rule), {}
    for name, params in fitted.items():
        evidence_of_task = Evidence(voters[name], evidence.labels(name), metric.kind, seed)
        factors[name] = fit_adjustment(candidate.adjust, evidence_of_task, rule.combine(voters[name], params))
    return Fitted(candidate, fitted, factors)


def all_rows(evidence: OofPredictions) -> npt.NDArray[np.bool_]:
    """(N,) all images."""
    return np.ones(len(evidence.truth), dtype=bool)


def _fit_rule(
    evidence: OofPredictions, voters: Voters, rule: str, level: str, metric: Metric, seed: int, kept: npt.NDArray[np.bool_]
) -> dict[str, Params]:
    return {
        name: find_rule(rule).fit(Evidence(voters[name][:, kept], evidence.labels(name)[kept], metric.kind, seed))
        for name in spaces_of(evidence.space, level)
    }


def cross_fit(
    evidence: OofPredictions, tried: Sequence[Candidate], metric: Metric, method: str, seed: int, fixed: Fixed | None = None
) -> tuple[dict[Candidate, npt.NDArray[np.float32]], dict[Candidate, float]]:
    """Each candidate's (N, J) result, every part predicted by what was fitted on the others, and seconds of one fit.

    Everything is fitted so: calibration, weights and factors. A single part is fitted on itself.
    """
    parts = parts_of(evidence, seed)
    numbers = np.unique(parts)
    results = {candidate: np.zeros((len(parts), evidence.space.joint_size), dtype=np.float32) for candidate in tried}
    seconds = dict.fromkeys(tried, 0.0)
    pairs: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for candidate in tried:
        pairs[candidate.rule, candidate.level].append(candidate)
    for part in numbers:
        own = parts == part
        kept = ~own if len(numbers) > 1 else own
        voters = voters_of(evidence.space, calibrated(evidence.members, calibrate(evidence, method, kept)))
        for (rule, level), of_pair in pairs.items():
            began = time.perf_counter()
            params = fixed or _fit_rule(evidence, voters, rule, level, metric, seed, kept)
            combined = {name: find_rule(rule).combine(voters[name], of_space) for name, of_space in params.items()}
            took = time.perf_counter() - began
            for candidate in of_pair:
                began = time.perf_counter()
                adjusted_parts = {}
                for name, of_space in combined.items():
                    kept_evidence = Evidence(voters[name][:, kept], evidence.labels(name)[kept], metric.kind, seed)
                    factors = fit_adjustment(candidate.adjust, kept_evidence, of_space[kept])
                    adjusted_parts[name] = adjusted(of_space[own], factors)
                results[candidate][own] = into_joint(evidence.space, adjusted_parts)
                seconds[candidate] += (took + time.perf_counter() - began) / len(numbers)
    return results, seconds


def choose(
    evidence: OofPredictions,
    tried: Sequence[Candidate],
    metric: Metric,
    method: str,
    seed: int,
    fixed: Fixed | None = None,
) -> Choice:
    """Compares candidates by cross-validation over groups and takes the simplest within one standard error of the best.

    The standard error is that of the difference of the two scores over resamples of groups.

    Args:
        evidence: out-of-fold predictions and the truth.
        tried: the candidates.
        metric: the metric to maximise.
        method: how members are calibrated first.
        seed: decides resamples, bags and parts.
        fixed: what the rule would have fitted by the space that it votes in, where the user says so.
    """
    results, seconds = cross_fit(evidence, tried, metric, method, seed, fixed)
    predicted = [results[candidate].argmax(axis=1) for candidate in tried]
    scores, resampled = compare(metric, evidence.space, evidence.truth, predicted, evidence.groups, seed)
    errors = difference_errors(resampled)
    complexities = np.array([candidate.complexity for candidate in tried])
    chosen = int(simplest(scores[:, None], errors, complexities)[0])
    best = int(np.argmax(scores))
    rows = [
        Row(
            candidate=candidate,
            score=interval(float(scores[index]), resampled[index]),
            behind=float(scores[best] - scores[index]),
            behind_se=float(errors[best, index]),
            seconds=seconds[candidate],
        )
        for index, candidate in enumerate(tried)
    ]
    ranked = tuple(sorted(rows, key=lambda row: (-row.score["score"], row.candidate.complexity)))
    optimism = selection_optimism(evidence, metric, predicted, chosen, errors, complexities, seed)
    return Choice(tried[chosen], ranked, results[tried[chosen]].astype(np.float64), optimism)


def difference_errors(resampled: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """(R, R) standard errors of the differences of (R, B) resampled scores."""
    covariance = np.atleast_2d(np.cov(resampled))
    variance = np.diag(covariance)
    return np.asarray(np.sqrt(np.maximum(variance[:, None] + variance[None, :] - 2 * covariance, 0.0)))


def simplest(
    scores: npt.NDArray[np.floating], errors: npt.NDArray[np.floating], complexities: npt.NDArray[np.floating]
) -> npt.NDArray[np.int64]:
    """(B,) place of the least complex candidate within one standard error of the best, for each column of (R, B) scores.

    The one-standard-error rule (Breiman et al. 1984), on paired differences. Of equally complex ones the better is taken.
    """
    best = scores.argmax(axis=0)
    near = scores.max(axis=0) - scores <= errors[:, best] + 1e-12
    rank = np.where(near, complexities[:, None], np.inf)
    least = rank == rank.min(axis=0)
    return np.asarray(np.where(least, scores, -np.inf).argmax(axis=0))


def selection_optimism(
    evidence: OofPredictions,
    metric: Metric,
    predicted: Sequence[Labels],
    chosen: int,
    errors: npt.NDArray[np.floating],
    complexities: npt.NDArray[np.floating],
    seed: int,
) -> float:
    """How much the chosen candidate's score flatters because it was looked at before choosing; at least 0.

    The choice is repeated on each resample of groups, and what is chosen there compared with its score on all groups: the
    bootstrap estimate of optimism (Efron 1983). What resampling itself does to a score is set off by the chosen candidate's.
    """
    groups = int(evidence.groups.max()) + 1
    weights = resample(groups, seed + 1)
    counts = [count(metric, evidence.space, evidence.truth, labels, evidence.groups) for labels in predicted]
    resampled = np.stack([score_counts(metric, of_one, weights) for of_one in counts])
    whole = np.stack([score_counts(metric, of_one, unit_weights(groups)) for of_one in counts])
    anew = simplest(resampled, errors, complexities)
    column = np.arange(len(anew))
    drop = (resampled - whole)[anew, column] - (resampled - whole)[chosen]
    return max(0.0, float(drop.mean()))
