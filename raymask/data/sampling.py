"""What is in batch `step` of epoch `epoch`: the pure part of the stream, the same in any process and any order of work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from raymask.core.types import Pixels
from raymask.data.cache import PreparedImages
from raymask.data.specs import StreamSpec
from raymask.transforms.augment import Augmenter


@dataclass(frozen=True)
class Batch:
    """Augmented images of one step, for every replica that wants them."""

    images: Pixels
    """(B, H, W, 3) uint8 RGB."""
    rows: npt.NDArray[np.int64]
    """(B,) rows of the manifest."""
    epoch: int
    step: int


@dataclass(frozen=True, eq=False)
class Schedule:
    """Which rows are in which batch."""

    spec: StreamSpec
    fold: npt.NDArray[np.int64]
    """(N,) fold of every row of the manifest."""

    @property
    def steps(self) -> int:
        """Batches to an epoch."""
        return self.spec.steps(len(self.fold))

    @lru_cache(maxsize=2)  # noqa: B019
    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """(N,) int64 rows in the order of one epoch: a shuffle by (seed, epoch) in which each fold is spread evenly.

        So every batch holds equally many rows of a fold, give or take one: replicas learn from batches of one size, for which
        their operators are set up but once.
        """
        rng = np.random.default_rng([self.spec.seed, epoch])
        shuffled = rng.permutation(len(self.fold))
        fold, size = np.unique(self.fold[shuffled], return_inverse=True, return_counts=True)[1:]
        by_fold = np.argsort(fold, kind="stable")
        rank = np.empty(len(fold))
        rank[by_fold] = np.arange(len(fold)) - np.repeat(np.cumsum(size) - size, size)
        return shuffled[np.argsort((rank + rng.random(len(size))[fold]) / size[fold], kind="stable")]

    def rows(self, epoch: int, step: int) -> npt.NDArray[np.int64]:
        """(B,) int64 rows of one batch."""
        return self.order(epoch)[step * self.spec.batch_size : (step + 1) * self.spec.batch_size]


def make_batch(prepared: PreparedImages, augmenter: Augmenter, schedule: Schedule, epoch: int, step: int) -> Batch:
    """One batch, read from the cache and augmented."""
    rows = schedule.rows(epoch, step)
    images = augmenter(prepared.read(rows), schedule.spec.seed, epoch, rows)
    return Batch(images, rows, epoch, step)


def to_columns(batch: Batch) -> dict[str, Any]:
    """A batch as columns of one row an image, as they travel."""
    count = len(batch.rows)
    return {
        "image": batch.images,
        "row": batch.rows,
        "epoch": np.full(count, batch.epoch, dtype=np.int64),
        "step": np.full(count, batch.step, dtype=np.int64),
    }


def from_columns(columns: dict[str, Any]) -> Iterator[Batch]:
    """The batches that several batches' concatenated columns hold, without copying pixels."""
    epochs, steps = columns["epoch"], columns["step"]
    starts = np.flatnonzero(np.diff(epochs, prepend=-1) | np.diff(steps, prepend=-1)).tolist()
    for start, end in zip(starts, [*starts[1:], len(steps)], strict=True):
        yield Batch(columns["image"][start:end], columns["row"][start:end], int(epochs[start]), int(steps[start]))
