"""The nearest neighbour of each image in other folds: the plainest classifier, by which a leak over folds can be measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from raymask.core.types import Labels
from raymask.metrics.scores import class_counts

BLOCK = 512
Features = npt.NDArray[np.float32]
"""(N, D)."""


def thumbnail_features(thumbnails: npt.NDArray[np.uint8]) -> Features:
    """(N, D) grey values of thumbnails, of each the mean being 0 and the length 1, so that light decides less.

    Args:
        thumbnails: (N, H, W).
    """
    values = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.maximum(lengths, 1e-6), np.float32)


def nearest_in_other_folds(features: Features, assignments: Sequence[Labels]) -> list[Labels]:
    """(N,) for each assignment of folds the row that is nearest to each row among those of other folds; -1 where there is none.

    Of equally near ones it is the first.

    Args:
        features: compared by their Euclidean distance.
        assignments: (N,) folds each.

    Example:
        >>> features = np.array([[0], [1], [3], [9]], np.float32)
        >>> [nearest.tolist() for nearest in nearest_in_other_folds(features, [np.array([0, 0, 1, 1])])]
        [[2, 2, 1, 1]]
    """
    half_squares = (features.astype(np.float32) ** 2).sum(axis=1) / 2
    found = [np.full(len(features), -1, np.int64) for _ in assignments]
    for start in range(0, len(features), BLOCK):
        rows = slice(start, start + BLOCK)
        nearness = features[rows] @ features.T - half_squares
        for nearest, folds in zip(found, assignments, strict=True):
            same = folds[rows, None] == folds
            best = np.where(same, -np.inf, nearness).argmax(axis=1)
            nearest[rows] = np.where(same.all(axis=1), -1, best)
    return found


def balanced_accuracy(truth: Labels, predicted: Labels, classes: int) -> float:
    """Mean recall of the classes that are in the truth; 0 without any image.

    Args:
        truth: (N,) true labels.
        predicted: (N,) predicted labels, none of them negative.
        classes: number of classes.

    Example:
        >>> balanced_accuracy(np.array([0, 0, 0, 2]), np.array([0, 0, 1, 2]), 4)
        0.8333333333333333
    """
    counts = class_counts(truth, predicted, classes)
    present = counts.true > 0
    return float(counts.recall[present].mean()) if present.any() else 0.0
