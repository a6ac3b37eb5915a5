"""Columns of the training table that give a label away, though no image of a new person would have them."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import pandas as pd

from raymask.core.columns import label_column
from raymask.core.spelling import canonical, mapped
from raymask.core.tasks import LabelSpace
from raymask.core.types import Labels

TOLD = 0.9
"""Of the way from chance to always right, from which on a column is told of."""
MIN_GROUPS = 20
"""Groups that the rule is judged on; with fewer whose values others have too a column is not judged."""
MAX_VALUES = 1000
"""A column of more values is one of ids or measurements."""
PARTS = 5


def given_away(values: npt.NDArray[np.generic], labels: Labels, groups: npt.NDArray[np.generic]) -> float:
    """How well a column alone tells the labels of groups that the rule was not learned from: 0 for chance, 1 for always.

    The rule is the label that most of the other groups with the same value have, which a value that no other has lacks.
    Balanced accuracy, each group counting once by value and class, is put on a scale from chance to 1.

    Args:
        values: (N,) of the column.
        labels: (N,) labels.
        groups: (N,) what tells groups apart.

    Example:
        >>> labels = np.arange(40) % 2
        >>> given_away(labels + 7, labels, np.arange(40)), given_away(np.arange(40), labels, np.arange(40))
        (1.0, 0.0)
    """
    coded = [pd.factorize(of)[0] for of in (values, labels, groups)]
    value, label, group = np.unique(np.stack(coded), axis=1)
    seen, classes, part = int(value.max()) + 1, int(label.max()) + 1, group % PARTS
    if seen > MAX_VALUES or classes < 2:
        return 0.0
    counts = np.zeros((PARTS, seen, classes))
    np.add.at(counts, (part, value, label), 1)
    votes = counts.sum(axis=0)[value] - counts[part, value]
    known = votes.sum(axis=1) > 0
    if len(np.unique(group[known])) < MIN_GROUPS:
        return 0.0
    right = known & (votes.argmax(axis=1) == label)
    balanced = float(np.mean(np.bincount(label, right, classes) / np.bincount(label, minlength=classes)))
    return max(0.0, (balanced - 1 / classes) / (1 - 1 / classes))


def leaks(
    table: pd.DataFrame, image_ids: pd.Series, images: pd.DataFrame, space: LabelSpace, left_out: Collection[str | None]
) -> list[str]:
    """Sentences on columns that give a task's label away.

    Columns that labels are made of, that name images, and those of paths or ids are not looked at.

    Args:
        table: the columns of the training table.
        image_ids: of its rows.
        images: those that are usable: image_id, group and labels.
        space: the label space.
        left_out: columns that the config names for something.
    """
    first = pd.Series(np.arange(len(table)), index=image_ids.to_numpy())
    rows = first[~first.index.duplicated()].loc[images["image_id"].to_numpy()].to_numpy()
    groups, used, sentences = images["group"].to_numpy(), {*left_out, *(task.column for task in space.tasks)}, list[str]()
    for name in table.columns:
        if name in used:
            continue
        values = mapped(table[name].iloc[rows], canonical).to_numpy()
        if _names_files(values):
            continue
        for task in space.tasks:
            if given_away(values, images[label_column(task.name)].to_numpy(np.int64), groups) >= TOLD:
                sentences.append(
                    f"the column '{name}' nearly gives {task.name} away: if images carry it too, such as in a mark or their "
                    "size, scores say nothing of images without it"
                )
    return sentences


def _names_files(values: npt.NDArray[np.generic]) -> bool:
    """Whether values are paths, which hold the class's name in a layout of folders."""
    texts = [str(value) for value in values[:100]]
    return bool(texts) and sum("/" in text or "\\" in text for text in texts) > len(texts) / 2
