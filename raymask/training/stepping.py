"""From the losses of batches to steps of the optimizer: accumulated, clipped, at the rate of the schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raymask.config.recipe import Recipe
from raymask.models.classifier import Classifier
from raymask.training.optim import build_optimizer
from raymask.training.schedules import build_schedule, set_lr


class Stepper:
    """Makes one step of the optimizer of each so many batches, and of those that are left at the end of an epoch.

    The gradient of a step is that of one batch of all their rows: each batch's mean loss counts by its rows.

    Args:
        recipe: its optimizer and schedule.
        model: whose weights are trained.
        scaler: of the gradients of low precision.
        batches: batches to an epoch.

    Raises:
        InputError: the optimizer cannot be used.
    """

    def __init__(self, recipe: Recipe, model: Classifier, scaler: torch.amp.GradScaler, batches: int) -> None:
        self.config, self.scaler, self.batches = recipe.optim, scaler, batches
        self.optimizer = build_optimizer(recipe.optim, model)
        self.steps = -(-batches // recipe.optim.accumulate) * recipe.schedule.epochs
        """Of the whole training."""
        self.schedule = build_schedule(recipe.schedule, self.steps)
        self.step = 0
        """Those that are made."""
        self._usual_rows = recipe.batch_size * recipe.optim.accumulate
        self._rows = 0
        """That have been learned from since the last one."""

    @property
    def lr(self) -> float:
        """The heads' learning rate of the last step."""
        return float(self.optimizer.param_groups[-1]["lr"])

    def learn(self, loss: Tensor, rows: int) -> None:
        """Adds the gradients of a batch's mean loss over its rows."""
        if self.config.accumulate > 1:
            # By a share of the usual number, and not by the rows: scaled gradients of half precision have little room.
            loss = loss * (rows / self._usual_rows)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._rows += rows

    def end_batch(self, batch: int) -> bool:
        """Makes a step if one is due after a batch of the epoch, though nothing was learned from that; whether one was due."""
        if batch < self.batches - 1 and (batch + 1) % self.config.accumulate:
            return False
        set_lr(self.optimizer, self.schedule.factor(self.step))
        if self._rows:  # there are none while rows wait for more
            self._update()
        self._rows = 0
        self.step += 1
        return True

    def _update(self) -> None:
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        if self.config.accumulate > 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(self._usual_rows / self._rows)
        if self.config.clip_grad:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """All that is needed to go on from the end of an epoch."""
        return {
            "optimizer_step": self.step,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "schedule": self.schedule.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes back to what `state` gave."""
        self.step = state["optimizer_step"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.schedule.load_state(state["schedule"])
