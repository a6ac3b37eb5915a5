"""Targets that an ensemble teaches: of labelled images, and of those that it labels itself. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from raymask.core.columns import joint_columns
from raymask.core.tasks import LabelSpace
from raymask.core.types import Labels, Probabilities
from raymask.runs.directory import ANY_FOLD

PREFIX = "test/"
"""Before the ids of unlabelled images."""

EVIDENCE = 10
"""Out-of-fold predictions that a least confidence must rest on."""


def least_confidences(joint: Probabilities, truth: Labels, precision: float, evidence: int = EVIDENCE) -> Probabilities:
    """(J,) by class the least confidence from which on predictions of it are right often enough; infinity where there is none.

    Args:
        joint: (N, J) out-of-fold probabilities.
        truth: (N,) joint labels.
        precision: the share that must be right; 0 asks for nothing.
        evidence: predictions of a class, that sure or surer, that there must be.
    """
    classes = joint.shape[1]
    if precision == 0:
        return np.zeros(classes)
    predicted, confidence = joint.argmax(axis=1), joint.max(axis=1)
    of_class = (predicted == label for label in range(classes))
    return np.array([_least(confidence[here], predicted[here] == truth[here], precision, evidence) for here in of_class])


def _least(confidence: Probabilities, right: npt.NDArray[np.bool_], precision: float, evidence: int) -> float:
    order = np.argsort(-confidence, kind="stable")
    falling, number = confidence[order], np.arange(1, len(order) + 1)
    last_of_equals = np.diff(falling, append=-1) < 0
    good = last_of_equals & (number >= evidence) & (np.cumsum(right[order]) / number >= precision)
    return float(falling[good].min(initial=np.inf))


def confident(joint: Probabilities, least: Probabilities) -> npt.NDArray[np.bool_]:
    """(N,) whether the teacher is sure of an image: of (N, J) probabilities the greatest reaches its class's least confidence."""
    return np.asarray(joint.max(axis=1) >= least[joint.argmax(axis=1)], np.bool_)


def labelled_targets(
    image_ids: Sequence[str], labels: Labels, probabilities: Probabilities, truth: float, space: LabelSpace
) -> pd.DataFrame:
    """Targets for every fold model: true labels mixed with the teacher's probabilities; none where the truth alone counts.

    Args:
        image_ids: N ids.
        labels: (N,) joint labels that the loss is made of.
        probabilities: (N, J) out-of-fold probabilities.
        truth: weight of the labels, 0 to 1.
        space: the label space.
    """
    if truth == 1:
        return _table([], ANY_FOLD, np.empty((0, space.joint_size)), space)
    return _table(image_ids, ANY_FOLD, truth * np.eye(space.joint_size)[labels] + (1 - truth) * _shares(probabilities), space)


def unlabelled_targets(
    image_ids: Sequence[str], probabilities: Mapping[int, Probabilities], least: Probabilities, hard: bool, space: LabelSpace
) -> pd.DataFrame:
    """Targets of the images that the teacher is sure of, fold by fold.

    Args:
        image_ids: N ids.
        probabilities: (N, J) probabilities by the fold whose model they are for, see `predictions_by_fold`.
        least: (J,) least confidences.
        hard: whether a target is the predicted class, for sure, in place of the probabilities.
        space: the label space.
    """
    tables = [_table([], ANY_FOLD, np.empty((0, space.joint_size)), space)]
    for fold, joint in probabilities.items():
        here = np.flatnonzero(confident(joint, least))
        target = np.eye(space.joint_size)[joint[here].argmax(axis=1)] if hard else _shares(joint[here])
        tables.append(_table([image_ids[index] for index in here.tolist()], fold, target, space))
    return pd.concat(tables, ignore_index=True)


def _shares(joint: Probabilities) -> Probabilities:
    return np.asarray(joint / joint.sum(axis=1, keepdims=True))


def _table(image_ids: Sequence[str], fold: int, joint: Probabilities, space: LabelSpace) -> pd.DataFrame:
    """One row a target: image_id, fold (int64), and float32 `joint:CLASS`, as `raymask.training.targets.teach` reads them."""
    columns = dict(zip(joint_columns(space), joint.T.astype(np.float32), strict=True))
    ids = np.array(image_ids, dtype=object)
    return pd.DataFrame({"image_id": ids, "fold": np.full(len(ids), fold, np.int64), **columns})
