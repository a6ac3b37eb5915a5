"""The learning-rate range test: one model is trained while its rate rises from step to step, and its loss tells where to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from raymask.training.inputs import Feed
from raymask.training.learner import Learner
from raymask.training.schedules import Schedule

SMOOTHING = 0.9
"""Weight of the past in the smoothed loss."""
DIVERGED = 4.0
"""The test ends when the smoothed loss is so many times its lowest."""
LEAST_STEPS = 10


@dataclass(frozen=True)
class RangeTest:
    """The rates that were tried, one a step, and the smoothed loss after each."""

    lr: tuple[float, ...]
    loss: tuple[float, ...]

    @property
    def lowest(self) -> float:
        """The rate at which the loss is lowest."""
        return self.lr[int(np.argmin(self.loss))]

    @property
    def suggested(self) -> float:
        """The rate at which the loss falls the most steeply, over the logarithm of the rate, on its way to its lowest.

        Slopes are those of straight lines through an eighth of the steps, since single steps are noisy.
        """
        until = int(np.argmin(self.loss)) + 1
        width = max(3, len(self.loss) // 8)
        if until <= width:
            return self.lr[0]
        logs = np.log(self.lr[:until])
        slopes = [
            np.polyfit(logs[start : start + width], self.loss[start : start + width], 1)[0] for start in range(until - width + 1)
        ]
        return self.lr[int(np.argmin(slopes)) + width // 2]


def rising(low: float, high: float, steps: int, of: float) -> Schedule:
    """The schedule of a range test: from one rate to another by equal factors, as shares of a recipe's rate.

    Example:
        >>> schedule = rising(0.01, 1.0, 3, of=0.1)
        >>> [round(schedule.factor(step), 6) for step in range(3)]
        [0.1, 1.0, 10.0]
    """
    return Schedule(lambda step: low * (high / low) ** (step / (steps - 1)) / of)


def range_test(
    learner: Learner, feed: Feed, low: float, high: float, steps: int, on_step: Callable[[int], None] = lambda step: None
) -> RangeTest:
    """Trains a model at a rising rate until its loss diverges or the highest rate is reached.

    Args:
        learner: at the start of its training; it is of no use afterwards.
        feed: its batches, of at least so many steps.
        low: the first rate of the heads; the backbone's is in proportion, as the recipe has it.
        high: the last one.
        steps: number of steps between them.
        on_step: called with the number of steps that are made.

    Source: Smith 2017, "Cyclical Learning Rates for Training Neural Networks" (arXiv:1506.01186); where to stop and what to
        suggest as in fastai's `lr_find`.
    """
    learner.stepper.schedule = rising(low, high, steps, learner.recipe.optim.lr)
    rates, losses = list[float](), list[float]()
    for inputs in feed.training():
        if learner.learn(inputs, feed):
            rates.append(learner.stepper.lr)
            losses.append(learner.last_loss)
            on_step(len(rates))
        if learner.failure or len(rates) == steps or has_diverged(losses):
            break
    finite = [number for number, loss in enumerate(losses) if math.isfinite(loss)]
    return RangeTest(tuple(rates[number] for number in finite), smoothed([losses[number] for number in finite]))


def smoothed(losses: Sequence[float]) -> tuple[float, ...]:
    """Losses averaged over the past, which counts the less the longer ago it is; corrected for the start, as Adam's moments are.

    Example:
        >>> smoothed([2.0, 2.0, 2.0])
        (2.0, 2.0, 2.0)
    """
    mean, found = 0.0, []
    for step, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        found.append(round(mean / (1 - SMOOTHING**step), 12))
    return tuple(found)


def has_diverged(losses: Sequence[float]) -> bool:
    """Whether a loss has ceased to be a number, or its smoothed course is far above its lowest."""
    if not all(map(math.isfinite, losses[-1:])):
        return True
    course = smoothed(losses)
    return len(course) >= LEAST_STEPS and course[-1] > DIVERGED * min(course)
