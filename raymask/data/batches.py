"""What is in batch `step` of epoch `epoch`: the pure part of the stream, the same in any process and any order of work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from raymask.data.augment import Augmenter
from raymask.data.cache import PreparedImages
from raymask.data.decode import InputSpec, Pixels


@dataclass(frozen=True)
class Batch:
    """Augmented images of one step, for every replica that wants them."""

    images: Pixels
    """(B, H, W, 3) uint8 RGB."""
    rows: npt.NDArray[np.int64]
    """(B,) rows of the manifest."""
    epoch: int
    step: int


@dataclass(frozen=True)
class StreamSpec:
    """All that decides a stream's pixels and order: replicas with equal ones can share a stream."""

    input: InputSpec
    augment: str
    """Transforms as canonical JSON, so that the spec can be hashed and compared."""
    batch_size: int
    epochs: int
    seed: int

    def steps(self, images: int) -> int:
        """Batches to an epoch; the last may be smaller."""
        return -(-images // self.batch_size)


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, images: int) -> npt.NDArray[np.int64]:
    """(N,) int64 rows of the manifest in the order of one epoch: a perfect shuffle by (seed, epoch)."""
    return np.random.default_rng([seed, epoch]).permutation(images)


def step_rows(spec: StreamSpec, images: int, epoch: int, step: int) -> npt.NDArray[np.int64]:
    """(B,) int64 rows of the manifest in one batch."""
    return epoch_order(spec.seed, epoch, images)[step * spec.batch_size : (step + 1) * spec.batch_size]


def make_batch(prepared: PreparedImages, augmenter: Augmenter, spec: StreamSpec, epoch: int, step: int) -> Batch:
    """One batch, read from the cache and augmented."""
    rows = step_rows(spec, len(prepared.shard_of), epoch, step)
    images = augmenter(prepared.read(rows), spec.seed, epoch, rows)
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
