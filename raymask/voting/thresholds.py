"""Adjustments: factors of the classes that a rule's result is multiplied by, so that rare classes are predicted often enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raymask.core.registry import Registry
from raymask.core.types import Labels, Probabilities, Weights
from raymask.metrics.scores import class_counts, f1_of
from raymask.voting.combine import FLOOR, adjusted
from raymask.voting.evidence import Evidence, score_of


def fit_prior(evidence: Evidence, combined: Probabilities) -> Weights:
    """(C,) factors (1 / frequency)^s of the classes, with the strength s from 0 to 1.5 that scores best, the least of equals.

    This is post-hoc logit adjustment, with its strength fitted.

    Source:
        Menon et al., Long-tail learning via logit adjustment, ICLR 2021.
    """
    frequency = np.bincount(evidence.labels, minlength=combined.shape[1]) / len(evidence.labels)
    inverse = 1 / np.maximum(frequency, 1 / len(evidence.labels))
    strengths = np.linspace(0, 1.5, 31)
    scores = [score_of(evidence, adjusted(combined, inverse**strength)) for strength in strengths]
    return np.asarray(inverse ** strengths[int(np.argmax(scores))])


def fit_thresholds(evidence: Evidence, combined: Probabilities) -> Weights:
    """(C,) factors of the classes, found class by class: dividing each class's probability by its threshold before argmax.

    For one class, an image is predicted as it from the factor on at which it overtakes the best other class; so all factors that
    make a difference are scored in one sweep, and the middle of the best gap is taken.
    """
    logs = np.log(np.maximum(combined, FLOOR))
    shift = np.zeros(combined.shape[1])
    best = score_of(evidence, logs)
    for _ in range(2):
        before = best
        for label in range(len(shift)):
            found, moved = _sweep(evidence, logs + shift, label)
            if found > best + 1e-12:
                best = found
                shift[label] += moved
        if best <= before + 1e-12:
            break
    return np.asarray(np.exp(shift - shift.mean()))


def _sweep(evidence: Evidence, logs: npt.NDArray[np.float64], label: int) -> tuple[float, float]:
    """The best score that a shift of one class's log-probabilities can reach, and that shift."""
    classes = logs.shape[1]
    others = logs.copy()
    others[:, label] = -np.inf
    rival = others.argmax(axis=1)
    needed = np.take_along_axis(others, rival[:, None], axis=1)[:, 0] - logs[:, label]
    order = np.argsort(needed, kind="stable")
    scores = _scores_along(evidence, rival, order, label, classes)
    edges = needed[order]
    scores[1:-1][np.diff(edges) <= 1e-9] = -1  # equal needs are met together
    best = int(np.argmax(scores))
    low = edges[best - 1] if best else edges[0] - 2
    high = edges[best] if best < len(edges) else edges[-1] + 2
    return float(scores[best]), float((low + high) / 2)


def _scores_along(evidence: Evidence, rival: Labels, order: Labels, label: int, classes: int) -> npt.NDArray[np.float64]:
    """(N + 1,) scores when images, predicted as their rivals at first, go over to one class, one after the other in an order."""
    truth, rivals = evidence.labels[order], rival[order]
    hits, true, predicted = class_counts(evidence.labels, rival, classes)
    labelled = true + predicted
    hit_here = np.concatenate([[0], np.cumsum(truth == label)])
    if evidence.aim == "accuracy":
        lost = np.concatenate([[0], np.cumsum(truth == rivals)])
        return np.asarray((hits.sum() + hit_here - lost) / len(order))
    labelled_here = true[label] + np.arange(len(order) + 1)
    total = f1_of(hit_here, labelled_here)
    present = (labelled_here > 0).astype(np.float64)
    for other in range(classes):
        if other == label or not labelled[other]:
            continue
        leaves = rivals == other
        lost = np.concatenate([[0], np.cumsum(truth[leaves] == other)])
        left = labelled[other] - np.arange(len(lost))
        gone = np.concatenate([[0], np.cumsum(leaves)])
        total += f1_of(hits[other] - lost, left)[gone]
        if not left[-1]:
            present -= left[gone] == 0
        present += 1
    return np.asarray(total / np.maximum(present, 1))


@dataclass(frozen=True)
class Adjustment:
    """Something that may be done to a rule's result."""

    words: str
    """What it does to the result: `corrected for the classes' frequencies`."""
    fit: Callable[[Evidence, Probabilities], Weights | None]
    """(C,) factors of the classes from evidence and the rule's (N, C) result; None for nothing."""


ADJUSTMENTS: Registry[Adjustment] = Registry(
    "vote.adjust",
    {
        "none": Adjustment("", lambda evidence, combined: None),
        "prior": Adjustment("corrected for the classes' frequencies", fit_prior),
        "thresholds": Adjustment("with a threshold for each class", fit_thresholds),
    },
    alternative="'auto'",
)
"""Adjustments from the simplest on."""


def fit_adjustment(name: str, evidence: Evidence, combined: Probabilities) -> Weights | None:
    """(C,) factors of the classes, or None.

    Raises:
        InputError: there is no such adjustment.
    """
    return ADJUSTMENTS.get(name).fit(evidence, combined)
