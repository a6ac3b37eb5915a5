"""What is in batch `step` of epoch `epoch`: the pure part of the stream, the same in any process and any order of work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from raymask.core.registry import Registry
from raymask.core.types import Pixels
from raymask.data.cache import PreparedImages
from raymask.data.specs import StreamSpec
from raymask.transforms.augment import Augmenter


@dataclass(frozen=True)
class Batch:
    """Augmented images of one step, for every fold model that learns from them."""

    images: Pixels
    """(B, H, W, 3) uint8 RGB."""
    rows: npt.NDArray[np.int64]
    """(B,) rows of the manifest."""
    epoch: int
    step: int


Sampler = Callable[[npt.NDArray[np.int64], np.random.Generator], npt.NDArray[np.int64]]
"""From the (N,) fold of every row and an epoch's generator to the (N,) int64 rows in the order of that epoch."""


def shuffle(fold: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Each row once, shuffled so that each fold is spread evenly.

    So every batch holds equally many rows of a fold, give or take one: fold models learn from batches of one size, for which
    their operators are set up but once.
    """
    shuffled = rng.permutation(len(fold))
    number, size = np.unique(fold[shuffled], return_inverse=True, return_counts=True)[1:]
    by_fold = np.argsort(number, kind="stable")
    rank = np.empty(len(number))
    rank[by_fold] = np.arange(len(number)) - np.repeat(np.cumsum(size) - size, size)
    return shuffled[np.argsort((rank + rng.random(len(size))[number]) / size[number], kind="stable")]


SAMPLERS: Registry[Sampler] = Registry("recipe.sampler.name", {"shuffle": shuffle})
"""Samplers by name."""


@dataclass(frozen=True, eq=False)
class BatchSampler:
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
        """(N,) int64 rows in the order of one epoch, drawn by (seed, epoch)."""
        return SAMPLERS.get(self.spec.sampler)(self.fold, np.random.default_rng([self.spec.seed, epoch]))

    def rows(self, epoch: int, step: int) -> npt.NDArray[np.int64]:
        """(B,) int64 rows of one batch."""
        return self.order(epoch)[step * self.spec.batch_size : (step + 1) * self.spec.batch_size]


def make_batch(prepared: PreparedImages, augmenter: Augmenter, sampler: BatchSampler, epoch: int, step: int) -> Batch:
    """One batch, read from the cache and augmented."""
    rows = sampler.rows(epoch, step)
    images = augmenter(prepared.read(rows), sampler.spec.seed, epoch, rows)
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
