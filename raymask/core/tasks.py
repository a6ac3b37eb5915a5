"""The label algebra: table columns -> task labels -> the joint label, and back.

A label is an index into its task's classes. The joint label of tasks with C1, C2, ... classes is their mixed-radix number, the
first task most significant: for mask (3), gender (2) and age (3) it is `mask * 6 + gender * 3 + age`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt
import pandas as pd

from raymask.core.arrays import Array, as_float64
from raymask.core.errors import InputError, shortened
from raymask.core.spelling import MISSING, canonical, loose, mapped, spelling, tidy
from raymask.core.types import Labels

JOINT = "joint"
MULTI = "multi"
MEAN = "mean"
UNLABELLED = -1

TASK_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")
TAKEN = {
    JOINT: "is a kind of member",
    MULTI: "is a kind of member",
    MEAN: "is the mean over tasks in vote.metric",
    "image_id": "is a column of raymask's predictions",
    "problem": "is a column of raymask's predictions",
    "agreement": "is a column of raymask's predictions",
    "unusual": "is a column of raymask's predictions",
    "joint_set": "is a column of raymask's predictions",
}
"""Names that no task may have, and why: predictions have a column TASK and a column TASK_label of each task."""
MAX_CLASSES = 4096
"""Joint classes: every prediction has a column for each, and every vote is counted over all of them."""


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
    leave_out: tuple[float, ...] = ()
    """Numbers of the column that are not learned from: so near an edge that their band is as good as drawn by lot."""

    def labels(self, values: pd.Series) -> Labels:
        """(N,) int64 labels of a column's values; `UNLABELLED` where a value is none of the task's."""
        if self.edges:
            return band(values, self.edges)
        index = {canonical(name): label for label, name in enumerate(self.classes)}
        return mapped(values, canonical).map(lambda name: index.get(name, UNLABELLED)).to_numpy(dtype=np.int64)

    def train_labels(self, values: pd.Series) -> Labels:
        """(N,) int64 labels for the loss: those of `train_edges` where they are set, else those of `labels`."""
        return band(values, self.train_edges) if self.train_edges else self.labels(values)


@dataclass(frozen=True)
class Scale:
    """The number behind a task with edges, such as the age behind `<30`, `30-60` and `>=60`."""

    edges: tuple[float, ...]
    low: float
    """Smallest number of the images."""
    high: float
    """Largest."""

    def bins(self, width: float) -> npt.NDArray[np.float64]:
        """(K,) centres of bins from the smallest number to the largest.

        Example:
            >>> Scale((20.0,), low=18.0, high=21.0).bins(1.0)
            array([18., 19., 20., 21.])
        """
        return self.low + width * np.arange(math.floor((self.high - self.low) / width + 0.5) + 1, dtype=np.float64)

    def bands_without_bins(self, width: float) -> list[int]:
        """The bands that hold no centre of a bin."""
        return sorted({*range(len(self.edges) + 1)} - {*np.searchsorted(self.edges, self.bins(width), side="right").tolist()})


@dataclass(frozen=True)
class LabelSpace:
    """Several tasks and the joint label that they make together.

    Raises:
        InputError: a task's name is taken, see `check_task_names`, or they make more than `MAX_CLASSES` together.
    """

    tasks: tuple[Task, ...]

    def __post_init__(self) -> None:
        check_task_names(self.names)
        if self.joint_size > MAX_CLASSES:
            several = f"their {len(self.tasks)} tasks make" if len(self.tasks) > 1 else f"'{self.names[0]}' has"
            raise InputError(
                f"tasks: {several} {self.joint_size} joint classes, and raymask takes {MAX_CLASSES} at most; give them fewer "
                "classes, or train some of the tasks in another run (tasks.NAME=null drops one here)."
            )

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Number of classes of each task."""
        return tuple(len(task.classes) for task in self.tasks)

    @cached_property
    def joint_size(self) -> int:
        """Number of joint classes: the product of the tasks' numbers."""
        return math.prod(self.shape)

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

    def product(self, probabilities: Mapping[str, Array]) -> Array:
        """(N, J) joint probabilities of independent tasks from each task's (N, C)."""
        joint, *others = (as_float64(probabilities[name]) for name in self.names)
        for of_task in others:
            joint = (joint[:, :, None] * of_task[:, None, :]).reshape(-1, joint.shape[1] * of_task.shape[1])
        return joint

    def marginal(self, joint: Array, name: str) -> Array:
        """(N, C) probabilities of one task from (N, J) joint ones."""
        table = as_float64(joint).reshape(-1, *self.shape)
        others = tuple(axis + 1 for axis, other in enumerate(self.names) if other != name)
        return table.sum(axis=others) if others else table


def check_task_names(names: Collection[str]) -> None:
    """Refuses names that tasks cannot have, with what to do instead.

    Raises:
        InputError: a name is no word of letters, digits and `_`, or raymask's tables have it.
    """
    for name in names:
        if not TASK_NAME.fullmatch(name):
            why = "cannot name a task, which takes a letter and then at most 99 letters, digits and _"
        elif name in TAKEN:
            why = f"{TAKEN[name]} and cannot name a task"
        elif name.endswith("_label") and name.removesuffix("_label") in names:
            why = f"cannot name a task beside '{name.removesuffix('_label')}', whose numbers go by that name in the predictions"
        elif name.endswith("_set") and name.removesuffix("_set") in names:
            why = f"cannot name a task beside '{name.removesuffix('_set')}', whose sets go by that name in the predictions"
        else:
            continue
        word = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")[:50] or "label"
        other = word if TASK_NAME.fullmatch(word) and word != name else f"my_{word}"
        column = name if TASK_NAME.fullmatch(name) else "'{}'".format(tidy(name).replace("'", "''"))
        raise InputError(f"tasks: '{tidy(name)}' {why}; name it otherwise: --set \"tasks={{{other}: {{column: {column}}}}}\".")


def band(values: pd.Series, edges: Sequence[float]) -> Labels:
    """(N,) int64 index of the band that each number falls in; `UNLABELLED` for what is no number."""
    numbers = numbers_of(values)
    labels = np.searchsorted(np.asarray(edges, dtype=np.float64), numbers, side="right").astype(np.int64)
    return np.where(np.isfinite(numbers), labels, UNLABELLED)


def numbers_of(values: pd.Series) -> npt.NDArray[np.float64]:
    """(N,) the values as numbers; NaN for what is no number."""
    return np.asarray(pd.to_numeric(mapped(values, canonical), errors="coerce"), dtype=np.float64)


def band_names(edges: Sequence[float]) -> tuple[str, ...]:
    """Names of the bands between edges: `<30`, `30-60`, `>=60`; different for different edges."""
    shown = [str(int(edge)) if float(edge).is_integer() and abs(edge) < 1e15 else repr(float(edge)) for edge in edges]
    between = [f"{low}-{high}" for low, high in pairwise(shown)]
    return (f"<{shown[0]}", *between, f">={shown[-1]}")


def infer_classes(name: str, values: pd.Series, most: int = 1000, every: bool = False) -> tuple[str, ...]:
    """The distinct values of a column, sorted (numbers by size), as a task's classes.

    Args:
        name: the task.
        values: the column.
        most: classes of a column, which with more of them is likely none of labels.
        every: whether every value is a class, as the name of a folder is: any number of them, and also `None` or `nan`.

    Raises:
        InputError: fewer than two distinct values, or more than `most`.
    """
    forms = mapped(values, canonical)
    here = ~forms.isin([""] if every else list(MISSING))
    classes = {form: spelling(written) for form, written in values[here].groupby(forms[here], sort=False)}
    present = list(classes.values())
    if len(present) < 2:
        only = f"only the value '{present[0]}'" if present else "no value"
        raise InputError(f"task '{name}' has {only} in its column; a task needs at least two classes.")
    if len(present) > most and not every:
        numbers = np.isfinite(numbers_of(pd.Series(present))).all()
        way_out = f"cut the number into bands by tasks.{name}.edges" if numbers else f"list them in tasks.{name}.classes"
        raise InputError(
            f"task '{name}' has {len(present)} distinct values ({shortened(sorted(present), 3)}); if they are no classes, name "
            f"another column, else {way_out}."
        )
    try:
        return tuple(sorted(sorted(present), key=lambda written: float(canonical(written))))
    except ValueError:
        return tuple(sorted(present))


def alike(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Names that differ only in case or in how a number is written, so that they are likely one."""
    by_form: dict[str, list[str]] = {}
    for name in names:
        by_form.setdefault(loose(name), []).append(name)
    return [tuple(same) for same in by_form.values() if len(same) > 1]


def heads_of(task: str, space: LabelSpace) -> dict[str, int]:
    """Classes by head of a member: all tasks for `multi`, else the one task or the joint label."""
    if task == MULTI:
        return dict(zip(space.names, space.shape, strict=True))
    return {task: len(space.classes(task))}
