"""How sure a score is: bootstrap by group, so that a person's photos stay together (Efron & Tibshirani 1993)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import pandas as pd

from raymask.core.errors import InputError, one_of
from raymask.core.tasks import JOINT, MEAN, LabelSpace
from raymask.core.types import Labels
from raymask.metrics.scores import SCORE_KINDS, Aim, ClassCounts, class_counts

RESAMPLES = 500
Z_95 = 1.96
"""Standard errors of a normal distribution that 95% lie within."""

Counts = npt.NDArray[np.float32]
"""(T, 3, G, C): `ClassCounts` by target and group; classes that a target lacks hold zeros."""


class Interval(TypedDict):
    """A score, its standard error, and the interval that holds it with a probability of 95%."""

    score: float
    se: float
    low: float
    high: float


def group_numbers(groups: pd.Series) -> Labels:
    """(N,) int64 numbers of groups, from 0 to that of the last one, in the order in which they come."""
    return pd.factorize(groups)[0].astype(np.int64)


@dataclass(frozen=True)
class Metric:
    """The metric to maximise: macro-F1 or accuracy of a target, or its mean over all tasks."""

    target: str
    kind: Aim

    def __str__(self) -> str:
        return f"{self.target}.{self.kind}"

    def targets(self, space: LabelSpace) -> tuple[str, ...]:
        """The targets whose scores are averaged."""
        return space.names if self.target == MEAN else (self.target,)


def parse_metric(text: str, space: LabelSpace) -> Metric:
    """The metric of a text such as `joint.f1`, `age.accuracy` or `mean.f1`.

    Raises:
        InputError: it names no target or kind that there is.
    """
    target, _, kind = text.partition(".")
    known = [f"{name}.{how}" for name in (JOINT, MEAN, *space.names) for how in SCORE_KINDS]
    if text not in known:
        raise InputError(f"vote.metric is '{text}'; it may be {one_of(known, text)}.")
    return Metric(target, "f1" if kind == "f1" else "accuracy")


def count(metric: Metric, space: LabelSpace, truth: Labels, predicted: Labels, groups: Labels) -> Counts:
    """Counts of images by group, from which scores are computed.

    Args:
        metric: the metric.
        space: the label space.
        truth: (N,) joint labels.
        predicted: (N,) predicted joint labels.
        groups: (N,) numbers from 0 to that of the last group.
    """
    targets = metric.targets(space)
    true_parts = {**space.split(truth), JOINT: truth}
    predicted_parts = {**space.split(predicted), JOINT: predicted}
    classes = max(len(space.classes(target)) for target in targets)
    number, cells = int(groups.max()) + 1, groups * classes  # each group's classes are counted as classes of their own
    counts = [
        np.stack(class_counts(cells + true_parts[target], cells + predicted_parts[target], number * classes))
        for target in targets
    ]
    return np.stack(counts).astype(np.float32).reshape(len(targets), 3, number, classes)


def score_counts(metric: Metric, counts: Counts, weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(B,) scores of `count` under (B, G) weights of the groups, which are whole numbers."""
    of_counts = SCORE_KINDS[metric.kind].of_counts
    scores = [of_counts(ClassCounts(*(weights @ part for part in of_target))) for of_target in counts.astype(np.float32)]
    return np.asarray(np.mean(scores, axis=0, dtype=np.float64))


def resample(groups: int, seed: int, resamples: int = RESAMPLES) -> npt.NDArray[np.float32]:
    """(B, G) float32: how often each group is drawn in each resample of as many groups, with replacement."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(groups, np.full(groups, 1 / groups), size=resamples).astype(np.float32)


def unit_weights(groups: int) -> npt.NDArray[np.float32]:
    """(1, G) weights under which each group counts once."""
    return np.ones((1, groups), dtype=np.float32)


def interval(score: float, resampled: npt.NDArray[np.floating]) -> Interval:
    """The percentile interval of 95% of (B,) resampled scores."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return {"score": score, "se": float(resampled.std(ddof=1)), "low": float(low), "high": float(high)}


def lowered(score: Interval, by: float) -> Interval:
    """An interval with so much taken off."""
    return {"score": score["score"] - by, "se": score["se"], "low": score["low"] - by, "high": score["high"] - by}


def of_new_groups(score: float, se: float, known: int, new: int) -> tuple[float, float]:
    """The interval that holds the score of so many new groups with a probability of 95%.

    That score has an error of its own, the greater the fewer they are, beside that of what is expected. The variance of both is
    taken to fall with the number of groups, and they add.

    Args:
        score: what is expected of groups in general.
        se: its standard error.
        known: groups that these were found on.
        new: groups that are scored.

    Example:
        >>> of_new_groups(0.5, 0.01, known=300, new=100)
        (0.4608, 0.5392)
    """
    reach = Z_95 * se * math.sqrt(1 + known / new)
    return max(0.0, score - reach), min(1.0, score + reach)


def compare(
    metric: Metric, space: LabelSpace, truth: Labels, predicted: Sequence[Labels], groups: Labels, seed: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Scores of several predictions of the same images, (R,), and on the same resamples of groups, (R, B)."""
    number = int(groups.max()) + 1
    weights = resample(number, seed)
    counts = [count(metric, space, truth, labels, groups) for labels in predicted]
    scores = np.array([score_counts(metric, of_prediction, unit_weights(number))[0] for of_prediction in counts])
    return scores, np.stack([score_counts(metric, of_prediction, weights) for of_prediction in counts])
