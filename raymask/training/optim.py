"""The optimizer of a model: any of timm's."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

import timm.optim
import torch
from torch import nn

from raymask.config.components import OptimConfig
from raymask.core.errors import InputError
from raymask.models.classifier import Classifier


def build_optimizer(config: OptimConfig, model: Classifier) -> torch.optim.Optimizer:
    """Any optimizer of timm over the trainable weights; no weight decay for norms and biases; the backbone's rate scaled.

    Raises:
        InputError: timm has no optimizer of this name, or it cannot be used here.
    """
    known = timm.optim.list_optimizers()
    if config.name not in known:
        near = ", ".join(difflib.get_close_matches(config.name, known, n=3) or known[:5])
        raise InputError(f"recipe.optim.name is '{config.name}', which timm does not have; the nearest are {near}.")
    groups = [
        *_parameter_groups(model.backbone, config.lr * config.backbone_lr_scale, config.weight_decay),
        *_parameter_groups(model.heads, config.lr, config.weight_decay),
    ]
    try:
        optimizer: torch.optim.Optimizer = timm.optim.create_optimizer_v2(
            groups, opt=config.name, lr=config.lr, weight_decay=config.weight_decay, **_quickest(config.name)
        )
    except (AssertionError, ImportError) as error:  # those that need a GPU or another package
        raise InputError(f"recipe.optim.name '{config.name}' cannot be used here ({error}).") from None
    if getattr(optimizer, "is_second_order", False):
        raise InputError(f"recipe.optim.name '{config.name}' needs second derivatives, which are not computed here.")
    return optimizer


def _quickest(name: str) -> dict[str, bool]:
    """Arguments that let an optimizer update all weights by one operator, where it can."""
    kind = timm.optim.get_optimizer_class(name, bind_defaults=False)
    return {"fused": True} if "fused" in inspect.signature(kind).parameters else {}


def _parameter_groups(module: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """The weights that decay, and those that do not; `base_lr` is the rate that a schedule scales."""
    groups = reversed(timm.optim.param_groups_weight_decay(module, weight_decay))
    return [{**group, "lr": lr, "base_lr": lr} for group in groups]
