"""What a leak over folds would make one believe, shown by the nearest neighbour on tiny thumbnails."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from raymask.config.data import FoldsConfig
from raymask.core.columns import true_labels
from raymask.core.errors import InputError
from raymask.core.tasks import LabelSpace
from raymask.data.folds import assign_folds
from raymask.metrics.nearest_neighbour import balanced_accuracy, nearest_in_other_folds, thumbnail_features
from raymask.metrics.scores import macro_f1

MOST_IMAGES = 20_000
"""That are compared with each other; of more, so many are drawn by group."""
BY_IMAGE, BY_GROUP = "stratified", "stratified_group"


@dataclass(frozen=True)
class Believed:
    """Scores of one target by the nearest neighbour."""

    target: str
    f1_by_image: float
    """Macro-F1 when images are divided, so that those of a group lie in several folds."""
    f1_by_group: float
    """Macro-F1 when groups are divided."""
    recall_by_image: float
    """Mean recall of the classes."""
    recall_by_group: float

    @property
    def gap(self) -> float:
        """Macro-F1 that is not there for new groups."""
        return self.f1_by_image - self.f1_by_group


@dataclass(frozen=True)
class Leak:
    """What two kinds of folds say of the same nearest neighbour."""

    images: int
    """That were compared."""
    scores: tuple[Believed, ...]
    """By target, the joint label last; none where there is a problem."""
    problem: str = ""


def measure_leak(
    images: pd.DataFrame, thumbnails: npt.NDArray[np.uint8], config: FoldsConfig, seed: int, space: LabelSpace
) -> Leak:
    """Scores the nearest neighbour under folds by image and under folds by group, both stratified by the joint label.

    Args:
        images: the manifest, sorted by image_id.
        thumbnails: (N, H, W) grey values.
        config: says how many folds.
        seed: decides the folds.
        space: the labels.
    """
    kept = np.flatnonzero(_drawn(images["group"], seed))
    images = images.iloc[kept].reset_index(drop=True)
    try:
        folds = [assign_folds(images, config.model_copy(update={"scheme": scheme}), seed) for scheme in (BY_IMAGE, BY_GROUP)]
    except InputError as error:
        return Leak(len(images), (), str(error))
    nearest = nearest_in_other_folds(thumbnail_features(thumbnails[kept]), folds)
    scores = []
    for target, truth in true_labels(images, space).items():
        classes = len(space.classes(target))
        by_image, by_group = (truth[rows] for rows in nearest)
        scores.append(
            Believed(
                target,
                macro_f1(truth, by_image, classes),
                macro_f1(truth, by_group, classes),
                balanced_accuracy(truth, by_image, classes),
                balanced_accuracy(truth, by_group, classes),
            )
        )
    return Leak(len(images), tuple(scores))


def _drawn(groups: pd.Series, seed: int) -> npt.NDArray[np.bool_]:
    """(N,) which images are compared: all, or those of groups drawn until there are `MOST_IMAGES`."""
    numbers, names = pd.factorize(groups, sort=True)
    if len(numbers) <= MOST_IMAGES:
        return np.ones(len(numbers), bool)
    order = np.random.default_rng(seed).permutation(len(names))
    until = np.cumsum(np.bincount(numbers)[order]) <= MOST_IMAGES
    until[0] = True
    return np.isin(numbers, order[until])
