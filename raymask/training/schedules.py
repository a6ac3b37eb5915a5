"""Schedules of the learning rate, by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from raymask.config.components import ScheduleConfig
from raymask.core.registry import Registry

LrFactor = Callable[[int], float]
"""From a step's number to its learning rate over the highest, 0 to 1."""


def build_schedule(config: ScheduleConfig, steps: int) -> LrFactor:
    """The schedule of a recipe.

    Args:
        config: its name and arguments.
        steps: steps of the optimizer in the whole training.
    """
    return SCHEDULES.get(config.name)(config, steps)


def cosine(config: ScheduleConfig, steps: int) -> LrFactor:
    """Linear warm-up over a share of the steps, then a half cosine to 0.

    Source: SGDR, Loshchilov & Hutter 2017 (arXiv:1608.03983), without restarts.

    Example:
        >>> factor = cosine(ScheduleConfig(warmup=0.25), steps=8)
        >>> [round(factor(step), 2) for step in range(9)]
        [0.33, 0.67, 1.0, 0.93, 0.75, 0.5, 0.25, 0.07, 0.0]
    """
    # timm's CosineLRScheduler begins the warm-up of all parameter groups with one rate, where a scaled backbone needs its own;
    # torch's LinearLR and CosineAnnealingLR multiply on from step to step, so that rates differ in their last bits.
    rising = round(steps * config.warmup)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        done = (step - rising) / max(1, steps - rising)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return factor


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scales the highest learning rate of each parameter group, its `base_lr`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


SCHEDULES: Registry[Callable[[ScheduleConfig, int], LrFactor]] = Registry("recipe.schedule.name", {"cosine": cosine})
"""By name: from the arguments and the number of steps to the schedule."""
