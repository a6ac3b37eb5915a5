"""Optimizers of timm, by name and their own arguments, over groups of a model's weights."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection
from typing import Any

import timm.optim
import torch
from torch import nn

from raymask.config.components import OptimConfig
from raymask.core.errors import InputError, one_of
from raymask.models.backbones import reason_of
from raymask.models.classifier import Classifier

Groups = list[dict[str, Any]]
"""Groups of weights as an optimizer takes them; `base_lr` is the rate that a schedule scales."""

HERE_ALREADY = ("lr", "weight_decay")
"""Arguments of optimizers that have a key of their own in `recipe.optim`."""


def build_optimizer(config: OptimConfig, model: Classifier) -> torch.optim.Optimizer:
    """Any optimizer of timm over the trainable weights; no weight decay for norms and biases; the backbone's rate scaled.

    Optimizers such as Muon, which update matrices as a whole and leave vectors to AdamW, leave to it the heads and what the
    backbone names as no weights of a layer (its position embedding) too.

    Raises:
        InputError: timm has no optimizer of this name or with these arguments, it cannot be used here, or the backbone's layers
            are not known.

    Source: Bao et al. 2022 (arXiv:2106.08254) for `layer_decay`, over the layers of timm's `group_matcher`; Jordan 2024
    (https://kellerjordan.github.io/posts/muon) for what Muon leaves to AdamW.
    """
    kind = optimizer_class(config)
    leaves_some = kind is not None and "fallback_lr_scale" in inspect.signature(kind).parameters
    of_no_layer: Collection[str] = getattr(model.backbone, "no_weight_decay", frozenset)()
    groups = _backbone_groups(config, model.backbone, {"fallback_list": of_no_layer} if leaves_some else {})
    heads = timm.optim.param_groups_weight_decay(
        model.heads, config.weight_decay, **({"fallback_list": ("*",)} if leaves_some else {})
    )
    return _create(config, [*groups, *_at_rate(heads, config.lr)])


def check_optimizer(config: OptimConfig) -> None:
    """Takes a step of a toy network, to find wrong names, arguments and values before anything is trained.

    An optimizer that needs a GPU is not tried by a process that has none.

    Raises:
        InputError: it cannot take one.
    """
    if optimizer_class(config) is None and not torch.cuda.is_available():
        return
    network = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 8))
    optimizer = _create(config, _at_rate(timm.optim.param_groups_weight_decay(network, config.weight_decay), config.lr))
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    try:
        with torch.compiler.set_stance("force_eager"):  # compiling, as Kron does, takes minutes
            optimizer.step()
    except Exception as error:  # each optimizer fails by a wrong value in its own way
        raise _refused_values(config, error) from None


def optimizer_class(config: OptimConfig) -> type[torch.optim.Optimizer] | None:
    """The class of an optimizer, its name and arguments checked; None for one that needs a GPU or package that is not here.

    Raises:
        InputError: timm has no optimizer of this name, or it takes no such argument.
    """
    known = timm.optim.list_optimizers()
    if config.name not in known:
        near = ", ".join(difflib.get_close_matches(config.name, known, n=3) or known[:5])
        raise InputError(f"recipe.optim.name is '{config.name}', which timm does not have; the nearest are {near}.")
    try:
        kind: type[torch.optim.Optimizer] = timm.optim.get_optimizer_class(config.name, bind_defaults=False)
    except (AssertionError, ImportError):
        return None
    taken = [name for name in inspect.signature(kind).parameters if name not in ("params", *HERE_ALREADY)]
    for name in config.arguments:
        if name in HERE_ALREADY:
            raise InputError(f"recipe.optim.arguments sets {name}, which has a key of its own: set recipe.optim.{name} instead.")
        if name not in taken:
            raise InputError(
                f"recipe.optim.arguments sets '{name}', which '{config.name}' does not take; it may be {one_of(taken, name)}."
            )
    return kind


def _create(config: OptimConfig, groups: Groups) -> torch.optim.Optimizer:
    try:
        optimizer: torch.optim.Optimizer = timm.optim.create_optimizer_v2(
            groups,
            opt=config.name,
            lr=config.lr,
            weight_decay=config.weight_decay,
            **{**_quickest(config), **config.arguments},
        )
    except (AssertionError, ImportError) as error:  # those that need a GPU or another package
        raise InputError(f"recipe.optim.name '{config.name}' cannot be used here ({error}).") from None
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as error:
        raise _refused_values(config, error) from None
    if getattr(optimizer, "is_second_order", False):
        raise InputError(f"recipe.optim.name '{config.name}' needs second derivatives, which are not computed here.")
    return optimizer


def _refused_values(config: OptimConfig, error: Exception) -> InputError:
    return InputError(
        f"recipe.optim.name '{config.name}' cannot be used with recipe.optim.arguments={config.arguments} ({reason_of(error)}); "
        "change what it names, or leave it out."
    )


def _quickest(config: OptimConfig) -> dict[str, bool]:
    """Arguments that let an optimizer update all weights by one operator, where it can and its own arguments leave it open."""
    kind = timm.optim.get_optimizer_class(config.name, bind_defaults=False)
    excluding = {"foreach", "differentiable"} & config.arguments.keys()
    return {"fused": True} if "fused" in inspect.signature(kind).parameters and not excluding else {}


def _backbone_groups(config: OptimConfig, backbone: nn.Module, left_to_others: dict[str, Any]) -> Groups:
    lr, decay = config.lr * config.backbone_lr_scale, config.weight_decay
    if config.layer_decay == 1:
        return _at_rate(timm.optim.param_groups_weight_decay(backbone, decay, **left_to_others), lr)
    groups = timm.optim.param_groups_layer_decay(backbone, decay, layer_decay=config.layer_decay, **left_to_others)
    scales = [group.pop("lr_scale") for group in groups]
    if set(scales) == {1.0}:
        raise InputError(
            f"recipe.optim.layer_decay is {config.layer_decay:g}, but timm does not tell the layers of this backbone apart; set "
            "it to 1, and recipe.optim.backbone_lr_scale below 1."
        )
    return [scaled for group, scale in zip(groups, scales, strict=True) for scaled in _at_rate([group], lr * scale)]


def _at_rate(groups: Groups, lr: float) -> Groups:
    """Groups with their learning rate; timm puts the weights that decay last."""
    return [{**group, "lr": lr, "base_lr": lr} for group in reversed(groups)]
