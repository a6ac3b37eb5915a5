"""What is in batch `step` of epoch `epoch`: the pure part of the stream, the same in any process and any order of work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from raymask.core.types import Labels, Pixels
from raymask.data.cache import PreparedImages
from raymask.data.samplers import FoldRows, count_draws, epoch_order, expected_draws, occurrences, read_sampler, rows_by_fold
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


@dataclass(frozen=True, eq=False)
class BatchSampler:
    """Which rows are in which batch."""

    spec: StreamSpec
    fold: npt.NDArray[np.int64]
    """(N,) fold of every row of the manifest."""
    stratum: npt.NDArray[np.int64] | None = None
    """(N,) label of every row, -1 where it has none, or number of its group; None for a sampler that counts neither."""

    @cached_property
    def images(self) -> int:
        """Images of an epoch, each counted as often as it is drawn."""
        return sum(count_draws(expected_draws(read_sampler(self.spec.sampler), part, 0)) for part in self._parts)

    @property
    def steps(self) -> int:
        """Batches to an epoch."""
        return self.spec.steps(self.images)

    @lru_cache(maxsize=2)  # noqa: B019
    def order(self, epoch: int) -> Labels:
        """(D,) rows in the order of one epoch, drawn by (seed, epoch)."""
        return epoch_order(read_sampler(self.spec.sampler), self._parts, self.spec.seed, epoch)

    def rows(self, epoch: int, step: int) -> Labels:
        """(B,) rows of one batch."""
        return self.order(epoch)[self._of_step(step)]

    def repeats(self, epoch: int, step: int) -> Labels:
        """(B,) how often each row of a batch has come before in its epoch."""
        return self._occurrences(epoch)[self._of_step(step)]

    @cached_property
    def _parts(self) -> tuple[FoldRows, ...]:
        return rows_by_fold(self.fold, self.stratum)

    @lru_cache(maxsize=2)  # noqa: B019
    def _occurrences(self, epoch: int) -> Labels:
        return occurrences(self.order(epoch))

    def _of_step(self, step: int) -> slice:
        return slice(step * self.spec.batch_size, (step + 1) * self.spec.batch_size)


def make_batch(prepared: PreparedImages, augmenter: Augmenter, sampler: BatchSampler, epoch: int, step: int) -> Batch:
    """One batch, read from the cache and augmented."""
    rows = sampler.rows(epoch, step)
    images = augmenter(prepared.read(rows), sampler.spec.seed, epoch, rows, sampler.repeats(epoch, step))
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
