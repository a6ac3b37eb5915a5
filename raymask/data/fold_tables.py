"""What each scheme of folds makes of a data set: sizes, classes, and groups that lie in several folds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from raymask.config.data import FoldsConfig
from raymask.core.columns import label_column
from raymask.core.errors import InputError
from raymask.core.tasks import JOINT
from raymask.core.types import Labels
from raymask.data.folds import TRAIN_ONLY, assign_folds, reserve_rows

SCHEMES: tuple[str, ...] = get_args(FoldsConfig.model_fields["scheme"].annotation)


@dataclass(frozen=True, eq=False)
class FoldTable:
    """What a scheme makes of the images."""

    scheme: str
    folds: tuple[int, ...]
    """F of them; `TRAIN_ONLY` last."""
    counts: npt.NDArray[np.int64]
    """(F, J) images by fold and joint class."""
    groups: tuple[int, ...]
    """(F,) groups that have images in the fold."""
    split_groups: int
    """Groups that lie in more than one fold."""
    problem: str = ""
    """Why the scheme cannot be had; then there is no fold."""

    @property
    def images(self) -> tuple[int, ...]:
        """(F,) images of each fold."""
        return tuple(self.counts.sum(axis=1).tolist())

    @property
    def unevenness(self) -> tuple[float, ...]:
        """(F,) share of a fold's images that would have to be of other classes for it to be as all images are."""
        whole = self.counts.sum(axis=0) / max(1, self.counts.sum())
        of_fold = self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)
        return tuple((np.abs(of_fold - whole).sum(axis=1) / 2).tolist())

    @property
    def lacking(self) -> tuple[int, ...]:
        """(F,) classes that have images, but none in the fold."""
        return tuple(((self.counts == 0) & (self.counts.sum(axis=0) > 0)).sum(axis=1).tolist())


def fold_table(scheme: str, folds: Labels, images: pd.DataFrame, classes: int) -> FoldTable:
    """The table of given folds.

    Args:
        scheme: its name.
        folds: (N,) fold of each image.
        images: the manifest, of which the groups and joint labels are read.
        classes: joint classes.
    """
    numbers = sorted({*folds.tolist()}, key=lambda fold: (fold == TRAIN_ONLY, fold))
    joint, groups = images[label_column(JOINT)].to_numpy(np.int64), images["group"].to_numpy()
    counts = np.stack([np.bincount(joint[folds == fold], minlength=classes) for fold in numbers])
    per_fold = tuple(len(set(groups[folds == fold].tolist())) for fold in numbers)
    of_group = pd.Series(folds).groupby(groups).nunique()
    return FoldTable(scheme, tuple(numbers), counts, per_fold, int((of_group > 1).sum()))


def fold_tables(images: pd.DataFrame, config: FoldsConfig, seed: int, classes: int) -> list[FoldTable]:
    """A table for every scheme that there is, without the images held out; one that these images do not allow says why."""
    tables = []
    for scheme in SCHEMES:
        try:
            changed = config.model_copy(update={"scheme": scheme})
            divided = images[~reserve_rows(images, changed, seed)].reset_index(drop=True)
            folds = assign_folds(divided, changed, seed)
        except InputError as error:
            tables.append(FoldTable(scheme, (), np.zeros((0, classes), np.int64), (), 0, str(error)))
        else:
            tables.append(fold_table(scheme, folds, divided, classes))
    return tables
