"""Schedules of the learning rate, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from raymask.config.components import ScheduleConfig
from raymask.core.registry import Registry

LrFactor = Callable[[int], float]
"""From a step's number to its learning rate over the highest, 0 to 1."""


class Schedule:
    """The learning rate of a whole training, over its highest.

    Args:
        factor: from the number of a step of the optimizer to that.
    """

    def __init__(self, factor: LrFactor) -> None:
        self.factor = factor

    def end_epoch(self, loss: float) -> None:
        """Told after each epoch what its loss was; a schedule that is fixed beforehand needs not know."""

    def state(self) -> dict[str, Any]:
        """What it has learned of losses until now."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes back to what `state` gave."""


def build_schedule(config: ScheduleConfig, steps: int) -> Schedule:
    """The schedule of a recipe.

    Args:
        config: its name and arguments.
        steps: steps of the optimizer in the whole training, as many in each epoch.
    """
    return SCHEDULES.get(config.name)(config, steps)


def cosine(config: ScheduleConfig, steps: int) -> Schedule:
    """Linear warm-up over a share of the steps, then a half cosine to 0.

    Source: SGDR, Loshchilov & Hutter 2017 (arXiv:1608.03983), without restarts.

    Example:
        >>> schedule = cosine(ScheduleConfig(warmup=0.25), steps=8)
        >>> [round(schedule.factor(step), 2) for step in range(9)]
        [0.33, 0.67, 1.0, 0.93, 0.75, 0.5, 0.25, 0.07, 0.0]
    """
    # timm's CosineLRScheduler begins the warm-up of all parameter groups with one rate, where a scaled backbone needs its own;
    # torch's LinearLR and CosineAnnealingLR multiply on from step to step, so that rates differ in their last bits.
    rising = round(steps * config.warmup)

    def factor(step: int) -> float:
        if step < rising:
            return _rise(step, rising)
        done = (step - rising) / max(1, steps - rising)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return Schedule(factor)


def constant(config: ScheduleConfig, steps: int) -> Schedule:
    """Linear warm-up over a share of the steps, then the highest rate to the end."""
    rising = round(steps * config.warmup)
    return Schedule(lambda step: _rise(step, rising))


def step(config: ScheduleConfig, steps: int) -> Schedule:
    """Multiplied by `factor` after every `every` epochs; over the warm-up it rises linearly towards that.

    Example:
        >>> schedule = step(ScheduleConfig(name="step", epochs=4, every=2, factor=0.1, warmup=0.25), steps=8)
        >>> [round(schedule.factor(number), 2) for number in range(8)]
        [0.33, 0.67, 1.0, 1.0, 0.1, 0.1, 0.1, 0.1]
    """
    rising = round(steps * config.warmup)
    period = config.every * max(1, steps // config.epochs)
    return Schedule(lambda number: _rise(number, rising) * config.factor ** (number // period))


def one_cycle(config: ScheduleConfig, steps: int) -> Schedule:
    """Up from 1/25 of the highest rate by a half cosine over the warm-up, then down by another, to 1/10000 of where it began.

    As torch's OneCycleLR with its other arguments as they are, but that momentum is left alone.

    Source: Smith & Topin 2017 (arXiv:1708.07120), with cosines in place of lines.

    Example:
        >>> schedule = one_cycle(ScheduleConfig(name="one_cycle", warmup=0.5), steps=8)
        >>> [round(schedule.factor(step), 3) for step in range(8)]
        [0.04, 0.28, 0.76, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    start = 1 / 25
    end = start / 1e4
    top, last = config.warmup * steps - 1, steps - 1

    def factor(step: int) -> float:
        if step <= top:
            return _half_cosine(start, 1.0, step / top if top > 0 else 1.0)
        return _half_cosine(1.0, end, min(1.0, (step - top) / (last - top)))

    return Schedule(factor)


class Plateau(Schedule):
    """Linear warm-up, then the highest rate, multiplied by `factor` each time that `patience` epochs brought no lower loss.

    As torch's ReduceLROnPlateau: an epoch's loss is lower if it is by more than a ten-thousandth, and the first epoch beyond
    `patience` makes the rate fall. The loss is the mean over the epoch's training batches; with `stop.patience` it is that on the
    images which training is judged on. It is never that on the model's own fold, which must decide nothing of the training.

    Example:
        >>> schedule = Plateau(ScheduleConfig(name="plateau", factor=0.5, patience=1, warmup=0), steps=8)
        >>> for loss in (1.0, 0.9, 0.9, 0.9):
        ...     schedule.end_epoch(loss)
        >>> schedule.factor(5)
        0.5
    """

    THRESHOLD = 1e-4

    def __init__(self, config: ScheduleConfig, steps: int) -> None:
        rising = round(steps * config.warmup)
        super().__init__(lambda step: _rise(step, rising) * self.scale)
        self.config, self.scale, self.best, self.waited = config, 1.0, math.inf, 0

    def end_epoch(self, loss: float) -> None:
        """See `Schedule`."""
        if loss < self.best * (1 - self.THRESHOLD):
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        if self.waited > self.config.patience:
            self.scale, self.waited = self.scale * self.config.factor, 0

    def state(self) -> dict[str, Any]:
        """See `Schedule`."""
        return {"scale": self.scale, "best": self.best, "waited": self.waited}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See `Schedule`."""
        self.scale, self.best, self.waited = state["scale"], state["best"], state["waited"]


def _rise(step: int, rising: int) -> float:
    return (step + 1) / (rising + 1) if step < rising else 1.0


def _half_cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * done))


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scales the highest learning rate of each parameter group, its `base_lr`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


SCHEDULES: Registry[Callable[[ScheduleConfig, int], Schedule]] = Registry(
    "recipe.schedule.name",
    {"cosine": cosine, "constant": constant, "step": step, "one_cycle": one_cycle, "plateau": Plateau},
)
"""By name: from the arguments and the number of steps to the schedule."""
