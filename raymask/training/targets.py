"""What the rows of a batch are to be learned as: class indices, or probabilities of a teacher."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from raymask.core.columns import joint_columns, label_column, targets_of, train_label_column, true_labels, value_column
from raymask.core.tasks import JOINT, UNLABELLED, LabelSpace, Scale
from raymask.core.types import Labels, Probabilities
from raymask.runs.directory import ANY_FOLD


@dataclass(frozen=True)
class LabelTable:
    """Labels and folds of every row of the manifest."""

    space: LabelSpace
    fold: npt.NDArray[np.int64]
    """(N,)."""
    truth: Mapping[str, npt.NDArray[np.int64]]
    """(N,) by task and joint: what scores are made of."""
    train: Mapping[str, npt.NDArray[np.int64] | npt.NDArray[np.float32]]
    """By task and joint what the loss is made of: (N,) int64 labels, or (N, C) float32 probabilities of the classes."""
    trains: npt.NDArray[np.bool_] | None = None
    """(N,) which rows may be learned from; None for all."""
    numbers: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    """(N,) number behind the label, by task with edges; NaN where it is not known."""
    taught: npt.NDArray[np.bool_] | None = None
    """(N,) which rows have a teacher's target in place of their label; None for none."""
    groups: npt.NDArray[np.int64] | None = None
    """(N,) numbers of the people, whose images go together; None where each image is a person."""

    def learned(self, fold: int) -> npt.NDArray[np.bool_]:
        """(N,) which rows the model of a fold learns from: those of other folds that may be learned from."""
        others = np.not_equal(self.fold, fold)
        return others if self.trains is None else np.logical_and(others, self.trains)

    def left_out(self, head: str) -> npt.NDArray[np.bool_]:
        """(N,) which rows a head does not learn from, since the number behind their label is left out; of joint heads any."""
        left_out = np.zeros(len(self.fold), bool)
        for task in self.space.tasks:
            if task.leave_out and head in (task.name, JOINT):
                left_out |= np.isin(self.numbers[task.name], task.leave_out)
        return left_out

    def numbers_to_learn(self, task: str) -> npt.NDArray[np.float64]:
        """(N,) numbers behind the labels of a task, NaN where a teacher's target stands in for it."""
        numbers = self.numbers[task]
        return numbers if self.taught is None else np.where(self.taught, np.nan, numbers)

    def scales(self, heads: Collection[str]) -> dict[str, Scale]:
        """The numbers behind the bands of those of these heads whose tasks have edges."""
        known = {name: numbers[np.isfinite(numbers)] for name, numbers in self.numbers.items() if name in heads}
        return {
            name: Scale(self.space[name].edges, float(numbers.min()), float(numbers.max())) for name, numbers in known.items()
        }

    def counts(self, head: str, classes: int, fold: int) -> npt.NDArray[np.float64]:
        """(C,) images of each class that the model of a fold learns from; of soft labels their sums."""
        learned = self.train[head][self.learned(fold) & ~self.left_out(head)]
        if learned.ndim == 1:
            return np.bincount(learned.astype(np.int64), minlength=classes).astype(np.float64)
        return np.asarray(learned.sum(axis=0, dtype=np.float64))

    def rare_rows(self, rare: Mapping[str, Sequence[str]]) -> npt.NDArray[np.bool_]:
        """(N,) which rows are learned as one of some classes; of soft labels the likeliest counts.

        Args:
            rare: names of these classes by task, all of them the label space's.
        """
        rows = np.zeros(len(self.fold), bool)
        for task, names in rare.items():
            labels = self.train[task]
            if labels.ndim == 2:
                labels = np.where(labels.any(axis=1), labels.argmax(axis=1), UNLABELLED)
            classes = self.space.classes(task)
            rows |= np.isin(labels, [classes.index(name) for name in names])
        return rows


def label_table(manifest: pd.DataFrame, space: LabelSpace) -> LabelTable:
    """The labels and folds of a manifest as the engine takes them; unlabelled images are not learned from."""
    return LabelTable(
        space=space,
        fold=manifest["fold"].to_numpy(np.int64),
        truth=true_labels(manifest, space),
        train={target: manifest[train_label_column(target)].to_numpy(np.int64) for target in targets_of(space)},
        trains=manifest[label_column(JOINT)].to_numpy(np.int64) != UNLABELLED,
        groups=pd.factorize(manifest["group"], sort=True)[0].astype(np.int64),
        numbers={
            task.name: manifest[value_column(task.name)].to_numpy(np.float64)
            for task in space.tasks
            if task.edges and value_column(task.name) in manifest  # runs of before there were such columns need none
        },
    )


def teach(labels: LabelTable, image_ids: pd.Series, targets: pd.DataFrame | None, fold: int) -> LabelTable:
    """The labels that the model of a fold learns from: a teacher's targets in place of the manifest's where it has any.

    Images without a target keep their label, and are not learned from where they have none. As long as each target names one
    class for sure, labels stay labels; else all of them become probabilities.

    Args:
        labels: those of the manifest.
        image_ids: (N,) ids of the manifest's rows.
        targets: `image_id`, `fold` (of the models that a target is for, or `ANY_FOLD`; one for the fold itself goes first) and
            `joint:CLASS` for each joint class; None where there is no teacher.
        fold: the model's.
    """
    if targets is None:
        return labels
    of_fold = targets[targets["fold"] == fold]
    of_any = targets[(targets["fold"] == ANY_FOLD) & ~targets["image_id"].isin(of_fold["image_id"])]
    applying = pd.concat([of_fold, of_any])
    index = pd.Index(applying["image_id"]).get_indexer(image_ids.to_numpy())
    rows, space = np.flatnonzero(index >= 0), labels.space
    joint = applying[joint_columns(space)].to_numpy(np.float64)[index[rows]]
    heads = {**{name: space.marginal(joint, name) for name in space.names}, JOINT: joint}
    trains = np.ones(len(image_ids), bool) if labels.trains is None else labels.trains.copy()
    trains[rows] = True
    put = _with_labels if (joint.max(axis=1, initial=0) == 1).all() else _with_probabilities
    train = {head: put(labels.train[head].astype(np.int64), rows, taught) for head, taught in heads.items()}
    with_target = np.zeros(len(image_ids), bool)
    with_target[rows] = True
    return replace(labels, train=train, trains=trains, taught=with_target)


def _with_labels(labels: Labels, rows: Labels, taught: Probabilities) -> Labels:
    put = labels.copy()
    put[rows] = taught.argmax(axis=1)
    return put


def _with_probabilities(labels: Labels, rows: Labels, taught: Probabilities) -> npt.NDArray[np.float32]:
    """(N, C); zeros for unlabelled rows."""
    put = np.equal(labels[:, None], np.arange(taught.shape[1])).astype(np.float32)
    put[rows] = taught
    return put
