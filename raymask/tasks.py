"""The label algebra: table columns -> task labels -> the joint label, and back.

A label is an index into its task's classes. The joint label of tasks with C1, C2, ... classes is their mixed-radix number, the
first task most significant: for mask (3), gender (2) and age (3) it is `mask * 6 + gender * 3 + age`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt
import pandas as pd

from raymask.errors import InputError, shortened

JOINT = "joint"
MULTI = "multi"
UNLABELLED = -1

Labels = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Task:
    """One label to predict.

    Either `classes` name the column's values, or `edges` cut a numeric column into bands: with edges (30, 60) the bands are
    x < 30, 30 <= x < 60 and x >= 60. `train_edges` may cut the bands elsewhere for the loss alone; scores use `edges` always.
    """

    name: str
    column: str
    classes: tuple[str, ...]
    edges: tuple[float, ...] = ()
    train_edges: tuple[float, ...] = ()

    def labels(self, values: pd.Series) -> Labels:
        """(N,) int64 labels of a column's values; `UNLABELLED` where a value is none of the task's."""
        if self.edges:
            return band(values, self.edges)
        index = {name: label for label, name in enumerate(self.classes)}
        return values.map(lambda value: index.get(class_name(value), UNLABELLED)).to_numpy(dtype=np.int64)

    def train_labels(self, values: pd.Series) -> Labels:
        """(N,) int64 labels for the loss: those of `train_edges` where they are set, else those of `labels`."""
        return band(values, self.train_edges) if self.train_edges else self.labels(values)


@dataclass(frozen=True)
class LabelSpace:
    """Several tasks and the joint label that they make together."""

    tasks: tuple[Task, ...]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Number of classes of each task."""
        return tuple(len(task.classes) for task in self.tasks)

    @cached_property
    def joint_size(self) -> int:
        """Number of joint classes: the product of the tasks' numbers."""
        return int(np.prod(self.shape))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The tasks' names, in order."""
        return tuple(task.name for task in self.tasks)

    @cached_property
    def joint_classes(self) -> tuple[str, ...]:
        """Names such as `worn male <30`, in the order of the joint label; numbered where they would not differ."""
        names = tuple(" ".join(parts) for parts in product(*(task.classes for task in self.tasks)))
        return names if len(set(names)) == len(names) else tuple(f"{name} ({label})" for label, name in enumerate(names))

    def classes(self, name: str) -> tuple[str, ...]:
        """Class names of a task, or of the joint label."""
        return self.joint_classes if name == JOINT else self[name].classes

    def __getitem__(self, name: str) -> Task:
        return self.tasks[self.names.index(name)]

    def join(self, labels: Mapping[str, npt.ArrayLike]) -> Labels:
        """(N,) int64 joint labels from each task's (N,) labels; `UNLABELLED` where any of them is."""
        columns = np.stack([np.asarray(labels[name], dtype=np.int64) for name in self.names])
        missing = (columns < 0).any(axis=0)
        joint = np.ravel_multi_index(tuple(np.where(missing, 0, columns)), self.shape)
        return np.where(missing, UNLABELLED, joint).astype(np.int64)

    def split(self, joint: npt.ArrayLike) -> dict[str, Labels]:
        """Each task's (N,) int64 labels from (N,) joint labels: the inverse of `join`."""
        codes = np.asarray(joint, dtype=np.int64)
        parts = np.unravel_index(np.maximum(codes, 0), self.shape)
        split = (np.where(codes < 0, UNLABELLED, part) for part in parts)
        return dict(zip(self.names, split, strict=True))

    def product(self, probabilities: Mapping[str, npt.ArrayLike]) -> Probabilities:
        """(N, J) joint probabilities of independent tasks from each task's (N, C)."""
        joint = np.ones((1, 1))
        for name in self.names:
            of_task = np.asarray(probabilities[name], dtype=np.float64)
            joint = (joint[:, :, None] * of_task[:, None, :]).reshape(len(of_task), -1)
        return joint

    def marginal(self, joint: npt.ArrayLike, name: str) -> Probabilities:
        """(N, C) probabilities of one task from (N, J) joint ones."""
        table = np.asarray(joint, dtype=np.float64).reshape(-1, *self.shape)
        others = tuple(axis + 1 for axis, other in enumerate(self.names) if other != name)
        return np.asarray(table.sum(axis=others))


def class_name(value: object) -> str:
    """The name under which a table's value is a class: 1, 1.0 and `1` are the same class."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)
    return str(value).strip()


def band(values: pd.Series, edges: Sequence[float]) -> Labels:
    """(N,) int64 index of the band that each number falls in; `UNLABELLED` for what is no number."""
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64)
    labels = np.searchsorted(np.asarray(edges, dtype=np.float64), numbers, side="right").astype(np.int64)
    return np.where(np.isfinite(numbers), labels, UNLABELLED)


def band_names(edges: Sequence[float]) -> tuple[str, ...]:
    """Names of the bands between edges: `<30`, `30-60`, `>=60`."""
    shown = [f"{edge:g}" for edge in edges]
    between = [f"{low}-{high}" for low, high in pairwise(shown)]
    return (f"<{shown[0]}", *between, f">={shown[-1]}")


def infer_classes(name: str, values: pd.Series, most: int = 1000) -> tuple[str, ...]:
    """The distinct values of a column, sorted (numbers by size), as a task's classes.

    Raises:
        InputError: fewer than two distinct values, or more than `most`.
    """
    present = {class_name(value) for value in values.dropna()} - {""}
    if len(present) < 2:
        only = f"only the value '{next(iter(present))}'" if present else "no value"
        raise InputError(f"task '{name}' has {only} in its column; a task needs at least two classes.")
    if len(present) > most:
        raise InputError(
            f"task '{name}' has {len(present)} distinct values ({shortened(sorted(present), 3)}); "
            "if the column is a number, set the task's edges to cut it into bands."
        )
    try:
        return tuple(sorted(sorted(present), key=float))  # `1` and `1.0`, equal as numbers, in one order always
    except ValueError:
        return tuple(sorted(present))
