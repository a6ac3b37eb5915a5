"""Macro-F1 and accuracy of predicted labels. All of them are computed from one thing: images counted by class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from raymask.core.tasks import JOINT, LabelSpace
from raymask.core.types import Labels

Aim = Literal["f1", "accuracy"]
Numbers = npt.NDArray[Any]


class Score(TypedDict):
    """Macro-F1 and accuracy, from 0 to 1."""

    f1: float
    accuracy: float


Scores = dict[str, dict[str, Score]]
"""Scores by member (and `ensemble`) and target."""


class ClassCounts(NamedTuple):
    """Images by class, (..., C) each; counts of disjoint groups of images add up to those of all."""

    hits: Numbers
    """Images of the class that are predicted as it."""
    true: Numbers
    """Images of the class."""
    predicted: Numbers
    """Images that are predicted as the class."""

    @property
    def precision(self) -> Numbers:
        """(..., C) share of the images predicted as a class that are of it; 0 without any."""
        return np.asarray(self.hits / np.maximum(self.predicted, 1))

    @property
    def recall(self) -> Numbers:
        """(..., C) share of a class's images that are predicted as it; 0 without any."""
        return np.asarray(self.hits / np.maximum(self.true, 1))

    @property
    def f1(self) -> Numbers:
        """(..., C) F1 by class; 0 for a class that is neither in the truth nor predicted."""
        return f1_of(self.hits, self.true + self.predicted)

    @property
    def macro_f1(self) -> Numbers:
        """(...) mean F1 of the classes that are in the truth or predicted, as scikit-learn's default; 0 without any image."""
        return np.asarray(self.f1.sum(axis=-1) / np.maximum((self.true + self.predicted > 0).sum(axis=-1), 1))

    @property
    def accuracy(self) -> Numbers:
        """(...) share of the images that are predicted right; 0 without any image."""
        return np.asarray(self.hits.sum(axis=-1) / np.maximum(self.true.sum(axis=-1), 1))


def f1_of(hits: Numbers, labelled: Numbers) -> Numbers:
    """F1, the harmonic mean of precision and recall, from counts; 0 where nothing is counted.

    Args:
        hits: images of a class that are predicted as it.
        labelled: images of the class and images that are predicted as it, together; whole numbers of any type.

    Example:
        >>> f1_of(np.array([3, 0, 0]), np.array([8, 2, 0])).tolist()
        [0.75, 0.0, 0.0]
    """
    return np.asarray(2 * hits / np.maximum(labelled, 1))


def class_counts(truth: Labels, predicted: Labels, classes: int) -> ClassCounts:
    """Counts the images of each class.

    Args:
        truth: (N,) true labels.
        predicted: (N,) predicted labels.
        classes: number of classes.
    """
    hits = np.bincount(truth[predicted == truth], minlength=classes)
    return ClassCounts(hits, np.bincount(truth, minlength=classes), np.bincount(predicted, minlength=classes))


def macro_f1(truth: Labels, predicted: Labels, classes: int) -> float:
    """Macro-F1 of (N,) labels: scikit-learn's `f1_score(average="macro")` to the last digit, many times as fast.

    Example:
        >>> macro_f1(np.array([0, 0, 2, 2]), np.array([0, 3, 2, 2]), classes=5)  # the mean of 2/3, 1 and 0
        0.5555555555555555
    """
    hits, true, of_prediction = class_counts(truth, predicted, classes)
    labelled = true + of_prediction
    present = labelled > 0  # absent classes are left out before the mean, which rounds otherwise
    return float(f1_of(hits[present], labelled[present]).mean()) if len(truth) else 0.0


def accuracy(truth: Labels, predicted: Labels) -> float:
    """Share of (N,) labels that are predicted right; 0 without any."""
    return int(np.count_nonzero(truth == predicted)) / max(1, len(truth))


@dataclass(frozen=True)
class ScoreKind:
    """A kind of score: what it is called, and how it is computed from labels and from counts."""

    words: str
    of_labels: Callable[[Labels, Labels, int], float]
    """From (N,) true labels, (N,) predicted ones and the number of classes."""
    of_counts: Callable[[ClassCounts], Numbers]
    """(...) from counts (..., C)."""


SCORE_KINDS: dict[Aim, ScoreKind] = {
    "f1": ScoreKind("macro-F1", macro_f1, lambda counts: counts.macro_f1),
    "accuracy": ScoreKind("accuracy", lambda truth, predicted, _: accuracy(truth, predicted), lambda counts: counts.accuracy),
}


def score(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> Score:
    """Macro-F1 and accuracy of (N,) labels from 0 on.

    Example:
        >>> score([0, 0, 1, 1], [0, 0, 1, 0])
        {'f1': 0.7333333333333334, 'accuracy': 0.75}
    """
    true, guessed = np.asarray(truth, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    classes = 1 + int(max(true.max(initial=0), guessed.max(initial=0)))
    return {"f1": macro_f1(true, guessed, classes), "accuracy": accuracy(true, guessed)}


def score_heads(
    space: LabelSpace, probabilities: Mapping[str, npt.ArrayLike], truth: Mapping[str, npt.ArrayLike]
) -> dict[str, Score]:
    """Scores of a member by target: its tasks, and the joint label where its heads give it.

    Args:
        space: the label space.
        probabilities: (N, C) by head.
        truth: (N,) true labels by task, and the joint.
    """
    if JOINT in probabilities:
        return score_joint(space, np.argmax(probabilities[JOINT], axis=1), truth)
    predicted = {head: np.argmax(head_probs, axis=1) for head, head_probs in probabilities.items()}
    scores = {head: score(truth[head], labels) for head, labels in predicted.items()}
    if set(predicted) == set(space.names):
        scores[JOINT] = score(truth[JOINT], space.join(predicted))
    return scores


def score_joint(space: LabelSpace, predicted: npt.ArrayLike, truth: Mapping[str, npt.ArrayLike]) -> dict[str, Score]:
    """Scores of (N,) predicted joint labels, for each task and for the joint label."""
    scores = {name: score(truth[name], labels) for name, labels in space.split(predicted).items()}
    return {**scores, JOINT: score(truth[JOINT], predicted)}


def cross_entropy(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Mean of -log p of the true class, of (N, C) probabilities and (N,) labels.

    Not by scikit-learn's `log_loss`, which cuts float32 probabilities at 1.2e-7 in place of 1e-12.

    Example:
        >>> round(cross_entropy([[0.5, 0.5], [0.2, 0.8]], [0, 1]), 4)
        0.4581
    """
    of_truth = np.take_along_axis(np.asarray(probabilities), np.asarray(labels)[:, None], axis=1)
    return float(-np.log(np.maximum(of_truth, 1e-12)).mean())
