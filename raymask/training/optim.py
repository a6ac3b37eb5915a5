"""Optimizer and learning-rate schedule of a replica."""

from __future__ import annotations

import difflib
import inspect
import math

import timm.optim
import torch
from torch import nn

from raymask.config.recipe import Recipe
from raymask.core.errors import InputError
from raymask.models.classifier import Classifier


def build_optimizer(recipe: Recipe, model: Classifier) -> torch.optim.Optimizer:
    """Any optimizer of timm over the trainable weights; no weight decay for norms and biases; the backbone's rate scaled.

    Raises:
        InputError: timm has no optimizer of this name, or it cannot be used here.
    """
    known = timm.optim.list_optimizers()
    if recipe.optimizer not in known:
        near = ", ".join(difflib.get_close_matches(recipe.optimizer, known, n=3)) or ", ".join(known[:5])
        raise InputError(f"recipe.optimizer is '{recipe.optimizer}', which timm does not have; the nearest are {near}.")
    groups = [
        *_parameter_groups(model.backbone, recipe.lr * recipe.backbone_lr_scale, recipe.weight_decay),
        *_parameter_groups(model.heads, recipe.lr, recipe.weight_decay),
    ]
    for group in groups:
        group["base_lr"] = group["lr"]
    try:
        optimizer: torch.optim.Optimizer = timm.optim.create_optimizer_v2(
            groups, opt=recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay, **_quickest(recipe.optimizer)
        )
    except (AssertionError, ImportError) as error:  # those that need a GPU or another package
        raise InputError(f"recipe.optimizer '{recipe.optimizer}' cannot be used here ({error}).") from None
    if getattr(optimizer, "is_second_order", False):
        raise InputError(f"recipe.optimizer '{recipe.optimizer}' needs second derivatives, which are not computed here.")
    return optimizer


def _quickest(name: str) -> dict[str, bool]:
    """Arguments that let an optimizer update all weights by one operator, where it can."""
    kind = timm.optim.get_optimizer_class(name, bind_defaults=False)
    return {"fused": True} if "fused" in inspect.signature(kind).parameters else {}


def _parameter_groups(module: nn.Module, lr: float, weight_decay: float) -> list[dict]:  # type: ignore[type-arg]
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "lr": lr, "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def lr_factor(step: int, steps: int, warmup: float) -> float:
    """Learning rate of a step over its highest: linear warm-up over a share of the steps, then a half cosine to 0.

    Source: SGDR, Loshchilov & Hutter 2017, without restarts.
    """
    rising = round(steps * warmup)
    if step < rising:
        return (step + 1) / (rising + 1)
    done = (step - rising) / max(1, steps - rising)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scales each parameter group's own learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
