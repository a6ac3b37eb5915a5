"""The losses of an epoch, and fold models whose numbers cease to be finite: noticed without waiting for a GPU at every step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Failure:
    """A fold model that was given up, and the batch that it was last seen at."""

    found: str
    """What is wrong with it, such as `its loss is not finite`."""
    epoch: int
    """Counted from 1."""
    step: int
    """Batch of the epoch, counted from 1."""
    rows: Rows
    """(B,) rows of the manifest that it learned from in that batch."""


class EpochLosses:
    """The losses of an epoch's batches: their mean, and the first that is not finite."""

    def __init__(self, device: torch.device) -> None:
        self.at_once = device.type == "cpu"
        """Whether reading a number costs nothing; on a GPU it waits for all that was begun, so it is done once an epoch."""
        self._sum = torch.zeros((), device=device)
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=device)
        self._batches: list[tuple[int, Rows]] = []
        self._last = torch.full((), float("nan"), device=device)

    def add(self, loss: Tensor, step: int, rows: Rows) -> None:
        """Takes note of a batch.

        Args:
            loss: its mean loss.
            step: its number in the epoch.
            rows: (B,) of the manifest, that are learned from.
        """
        loss = self._last = loss.detach()
        number = len(self._batches)
        self._first_bad = torch.where((self._first_bad < 0) & ~torch.isfinite(loss), number, self._first_bad)
        self._sum += loss
        self._batches.append((step, rows))

    @property
    def last(self) -> float:
        """Of the last batch; reads from the device."""
        return float(self._last)

    @property
    def mean(self) -> float:
        """Over the batches; reads from the device."""
        return float(self._sum) / len(self._batches)

    def failure(self, epoch: int) -> Failure | None:
        """The first batch whose loss is not finite; reads from the device."""
        number = int(self._first_bad)
        return self.at(number, epoch, "its loss is not finite") if number >= 0 else None

    def at(self, number: int, epoch: int, found: str) -> Failure:
        """A failure that was found after a batch, by its number or counted from the last one, -1."""
        step, rows = self._batches[number]
        return Failure(found, epoch, step + 1, rows)

    def clear(self) -> None:
        """Begins the next epoch."""
        self._sum.zero_()
        self._first_bad.fill_(-1)
        self._batches.clear()
