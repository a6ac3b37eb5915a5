"""How long a pack's training still takes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import fmean as mean
from statistics import median

Clock = Callable[[], float]


class Pace:
    """Forecasts the rest of a training from the epochs before, without what the first one alone pays, such as warming up.

    Args:
        steps: batches to an epoch.
        epochs: in all.
        views: under which the own folds are predicted at the end, each of which takes as long as the scoring of an epoch.
        clock: seconds.
    """

    def __init__(self, steps: int, epochs: int, views: int, clock: Clock = time.monotonic) -> None:
        self.steps, self.epochs, self.views, self.clock = steps, epochs, views, clock
        self._intervals: list[float] = []
        """Between the steps of this epoch."""
        self._last: float | None = None
        self._epochs = 0
        """Those that are behind it."""
        self._step_seconds = self._scoring = self._after_steps = 0.0

    def step(self) -> None:
        """A batch is learned."""
        now = self.clock()
        if self._last is not None:
            self._intervals.append(now - self._last)
        self._last = now

    def end_epoch(self, scoring: float) -> None:
        """All is done that belongs to an epoch.

        Args:
            scoring: seconds of it that predicting the own folds has taken.
        """
        now, intervals = self.clock(), self._intervals or [0.0]  # of a first epoch of one batch the step's time is not known
        self._step_seconds = mean(intervals) if self._epochs else median(intervals)
        self._scoring, self._after_steps = scoring, now - (self._last or now)
        self._intervals, self._last, self._epochs = [], now, self._epochs + 1

    def seconds_left(self, done: float) -> float | None:
        """Seconds to the end of the training and of the own folds' prediction, None in the first epoch.

        Args:
            done: epochs that are finished, and the share of the next.
        """
        if not self._epochs:
            return None
        left, here = self.epochs - done, len(self._intervals)
        # The further this epoch is, the more its own steps count, as other work of the machine comes and goes; and alone where
        # they are known beside those of the first epoch, which may all have been slow.
        others = 0 if here and self._epochs == 1 else self.steps - here
        seconds = (sum(self._intervals) + others * self._step_seconds) / (here + others)
        return left * self.steps * seconds + math.ceil(left - 1e-9) * self._after_steps + self.views * self._scoring
