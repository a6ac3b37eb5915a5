"""A share of a run's images (`data.share`): whole groups, of every class as many as the folds need; and of the test images."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from raymask.config.data import FoldsConfig
from raymask.core.columns import label_column
from raymask.core.tasks import JOINT
from raymask.core.types import Labels
from raymask.data.folds import reserved_share
from raymask.data.sources import Source
from raymask.data.test_sets import TestSet

GROUPS_A_FOLD = 2
"""Of a joint class, where there are so many."""
FEWEST_TEST_IMAGES = 16


def sampled_source(source: Source, share: float, folds: FoldsConfig, seed: int) -> Source:
    """A source with a share of its groups, and a remark on it; the very same with a share of 1.

    Images that are set aside stay so, whatever groups they are of.

    Args:
        source: all images.
        share: of the groups, above 0 and up to 1.
        folds: how they will be divided.
        seed: decides which groups are drawn.
    """
    if share == 1:
        return source
    images = source.images
    joint = images[label_column(JOINT)].to_numpy()
    groups, names = pd.factorize(images["group"], sort=True)
    per_class = GROUPS_A_FOLD * folds.k
    in_all = max(per_class, reserved_share(folds).denominator if folds.reserve else 0)
    kept = sample_groups(joint, groups, share, per_class, in_all, seed)
    count = len(np.unique(groups[kept]))
    remark = f"{kept.sum()} of {len(images)} images are used, those of {count} of {len(names)} groups (data.share={share:g})"
    return replace(
        source,
        images=images[kept].reset_index(drop=True),
        remarks=(remark, *source.remarks),
        left_out=int((~kept).sum()),
    )


def sample_groups(joint: Labels, groups: Labels, share: float, per_class: int, in_all: int, seed: int) -> npt.NDArray[np.bool_]:
    """(N,) which images are of the groups drawn: a share of those of each joint class, and of all.

    Classes take their groups in turn, the rarest first; a group that a rarer class has drawn counts for each of its classes.

    Args:
        joint: (N,) joint labels.
        groups: (N,) numbers from 0 to that of the last group.
        share: of the groups.
        per_class: fewest groups of a class, where it has so many.
        in_all: fewest groups in all, where there are so many.
        seed: decides the order in which groups are drawn.

    Example:
        >>> sample_groups(np.array([0, 0, 0, 1]), np.arange(4), share=0.01, per_class=1, in_all=1, seed=0).tolist()
        [False, False, True, True]
    """
    number = int(groups.max()) + 1
    drawn, in_turn = np.zeros(number, bool), np.random.default_rng(seed).permutation(number)
    place = np.argsort(in_turn)
    pairs = np.unique(np.stack([joint, groups]), axis=1)
    of_class = [pairs[1, pairs[0] == label] for label in np.unique(pairs[0])]
    wanted = [(sorted(members, key=place.__getitem__), per_class) for members in sorted(of_class, key=len)]
    for members, fewest in [*wanted, (in_turn.tolist(), in_all)]:
        lacking = min(len(members), max(math.ceil(share * len(members)), fewest)) - int(drawn[members].sum())
        drawn[[group for group in members if not drawn[group]][: max(lacking, 0)]] = True
    return drawn[groups]


def sampled_test(test: TestSet, share: float, seed: int) -> TestSet:
    """A test set with a share of its images, in their order; the very same with a share of 1."""
    if share == 1:
        return test
    images = len(test.images)
    count = min(images, max(math.ceil(share * images), FEWEST_TEST_IMAGES))
    rows = np.sort(np.random.default_rng(seed).choice(images, count, replace=False))
    return replace(
        test,
        images=test.images.iloc[rows].reset_index(drop=True),
        template=None if test.template is None else test.template.iloc[rows].reset_index(drop=True),
        left_out=images - count,
    )
