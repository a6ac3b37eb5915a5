"""The columns of raymask's tables that are named after tasks, classes and models: named, built and split here alone.

| column | what it holds |
|---|---|
| `label_TARGET` | true label of a task, or of the joint label: what scores are made of |
| `train_label_TARGET` | label that the loss is made of |
| `fold_name` | what the user calls an image's fold, where a column of the table says (`folds.column`) |
| `value_TASK` | number that a task with edges cuts into bands |
| `TASK_label` | predicted label |
| `TARGET_set` | classes that a target may be, with a bar between them |
| `HEAD:CLASS` | probability of one class of a head |
| `MEMBER/PART|HEAD:CLASS` | the same of one model among several |

A class may hold any character and a model may hold a bar (it begins with a run's folder), but no head holds a colon or a bar, so
that every name can be split again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from raymask.core.tasks import JOINT, LabelSpace, heads_of
from raymask.core.types import ByHead, Labels

FOLD_NAME = "fold_name"
LABEL, TRAIN_LABEL, VALUE = "label_", "train_label_", "value_"


def label_column(target: str) -> str:
    """The column of a target's true labels.

    Example:
        >>> label_column("age")
        'label_age'
    """
    return f"{LABEL}{target}"


def train_label_column(target: str) -> str:
    """The column of the labels that a target's loss is made of.

    Example:
        >>> train_label_column("age")
        'train_label_age'
    """
    return f"{TRAIN_LABEL}{target}"


def value_column(task: str) -> str:
    """The column of the numbers behind the labels of a task with edges.

    Example:
        >>> value_column("age")
        'value_age'
    """
    return f"{VALUE}{task}"


def is_label_column(name: str) -> bool:
    """Whether a column holds labels, true ones or those of the loss."""
    return name.startswith((LABEL, TRAIN_LABEL))


def is_value_column(name: str) -> bool:
    """Whether a column holds the numbers behind labels."""
    return name.startswith(VALUE)


def predicted_column(task: str) -> str:
    """The column of a task's predicted labels; the joint label's own name is its column.

    Example:
        >>> predicted_column("age"), predicted_column("joint")
        ('age_label', 'joint')
    """
    return task if task == JOINT else f"{task}_label"


def set_column(target: str) -> str:
    """The column of the classes that a target may be.

    Example:
        >>> set_column("age")
        'age_set'
    """
    return f"{target}_set"


def targets_of(space: LabelSpace) -> tuple[str, ...]:
    """All that has labels: each task, and the joint label last."""
    return (*space.names, JOINT)


def true_labels(images: pd.DataFrame, space: LabelSpace) -> dict[str, Labels]:
    """(N,) int64 true labels by target, from a manifest's columns."""
    return {target: images[label_column(target)].to_numpy(np.int64) for target in targets_of(space)}


def probability_columns(classes: Mapping[str, Sequence[str]], model: str = "") -> list[str]:
    """Columns of the probabilities of one model, head by head.

    Args:
        classes: class names by head, in order.
        model: `MEMBER/PART` where the table holds several models.

    Example:
        >>> probability_columns({"mask": ["worn", "none"], "age": ["<30"]})
        ['mask:worn', 'mask:none', 'age:<30']
        >>> probability_columns({"mask": ["worn"]}, "member/fold-0")
        ['member/fold-0|mask:worn']
    """
    prefix = f"{model}|" if model else ""
    return [f"{prefix}{head}:{name}" for head, names in classes.items() for name in names]


def task_columns(task: str, space: LabelSpace, model: str = "") -> list[str]:
    """Columns of the probabilities of a member's model, by the member's task (`multi` for all of them)."""
    return probability_columns({head: space.classes(head) for head in heads_of(task, space)}, model)


def joint_columns(space: LabelSpace) -> list[str]:
    """Columns of the joint classes' probabilities, in the order of the joint label."""
    return probability_columns({JOINT: space.joint_classes})


def by_column(probabilities: ByHead, space: LabelSpace, model: str = "") -> dict[str, npt.NDArray[np.floating]]:
    """The columns of one model's probabilities, as a data frame takes them.

    Args:
        probabilities: (N, C) by head; the columns keep their dtype.
        space: names the classes.
        model: `MEMBER/PART` where the table holds several models.
    """
    names = probability_columns({head: space.classes(head) for head in probabilities}, model)
    columns = [column for head_probs in probabilities.values() for column in head_probs.T]
    return dict(zip(names, columns, strict=True))


def by_head(table: pd.DataFrame, model: str = "") -> dict[str, npt.NDArray[np.float64]]:
    """(N, C) float64 probabilities by head from a table's columns: the inverse of `by_column`.

    Args:
        table: without `model`, one that holds nothing but probabilities.
        model: `MEMBER/PART` of the model whose columns are read.

    Example:
        >>> table = pd.DataFrame({"m/all|mask:a": [0.5], "m/all|mask:b:c": [0.5], "n/all|mask:a": [1.0]})
        >>> by_head(table, "m/all")
        {'mask': array([[0.5, 0.5]])}
    """
    prefix = f"{model}|" if model else ""
    heads: dict[str, list[str]] = {}
    for column in map(str, table.columns):
        if column.startswith(prefix):
            heads.setdefault(column.removeprefix(prefix).split(":", 1)[0], []).append(column)
    return {head: table[columns].to_numpy(dtype=np.float64) for head, columns in heads.items()}
