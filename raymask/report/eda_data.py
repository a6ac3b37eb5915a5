"""What the page about a data set is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from raymask.config.schema import RunConfig
from raymask.core.columns import label_column
from raymask.core.tasks import JOINT, LabelSpace
from raymask.core.types import Labels
from raymask.data.fold_leak import Leak
from raymask.data.fold_tables import FoldTable
from raymask.data.near_duplicates import Compared
from raymask.data.survey import Survey

CONSTANT = 5.0
"""Deviation of the grey values, of 255, below which there is next to nothing on an image."""


@dataclass(frozen=True, eq=False)
class Part:
    """Training or test images that can be decoded, and what was measured of them."""

    images: pd.DataFrame
    """image_id and path of each; of training images the manifest."""
    survey: Survey

    def __len__(self) -> int:
        return len(self.images)

    @property
    def nearly_constant(self) -> npt.NDArray[np.bool_]:
        """(N,) on which images there is next to nothing."""
        return self.survey.contrast < CONSTANT


@dataclass(frozen=True, eq=False)
class Explored:
    """A data set as it was found."""

    name: str
    where: str
    """Where it lies."""
    config: RunConfig
    space: LabelSpace
    train: Part
    groups: Labels
    """(N,) numbers of the groups that the data name."""
    test: Part | None
    set_aside: pd.DataFrame
    """image_id and reason of training images that are not used."""
    unreadable_test: pd.DataFrame
    """image_id and reason of test images."""
    most_rejected: float
    """Share of the training images that may be set aside in a run."""
    remarks: tuple[str, ...]
    copies: frozenset[str]
    """Ids of test images that are training images byte for byte."""
    compared: Compared
    folds: tuple[FoldTable, ...]
    leak: Leak
    statistics: tuple[float, ...]
    """Mean and then deviation of each channel; none where a channel has one value everywhere."""
    picture: Callable[[str], bytes]
    """A small JPEG of the image at a path; b"" where there is none."""

    @property
    def joint(self) -> Labels:
        """(N,) joint labels of the training images."""
        return self.labels[JOINT]

    @property
    def labels(self) -> Mapping[str, Labels]:
        """(N,) labels of the training images by target."""
        return {target: self.train.images[label_column(target)].to_numpy(np.int64) for target in (*self.space.names, JOINT)}

    @property
    def grouped(self) -> bool:
        """Whether any group has more than one image."""
        return len(np.unique(self.groups)) < len(self.groups)
