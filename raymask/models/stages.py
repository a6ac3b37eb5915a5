"""Backbones cut into stages: what the first of them are made of, in order."""

from __future__ import annotations

import re
from itertools import takewhile

import torch
from torch import Tensor, nn

from raymask.core.errors import InputError

NamedModules = list[tuple[str, nn.Module]]

CONTAINERS = ("stages", "blocks", "layers")
"""Children of a timm backbone whose own children are its stages; of a transformer its blocks."""
NUMBERED = re.compile(r"(features\.)?(layer|stage|level|s|block|denseblock)\d+")
"""Children that are stages themselves, as in ResNets and RegNets."""
TOKENS = {"cls_token", "reg_token", "dist_token", "pos_embed"}
"""Weights of a transformer's own, which join the embedded patches before the first block."""


def frozen_modules(backbone: nn.Module, stages: int) -> NamedModules:
    """The modules of a backbone up to the end of one of its first stages, by name and in order: the stem, then the stages.

    In a convolutional network an image passes through them one after the other, each given what the one before it made. In a
    transformer its tokens and position embedding, see `frozen_parameters`, come in between.

    Args:
        backbone: timm's model.
        stages: number of its first stages, at least 1.

    Raises:
        InputError: the backbone has no stages, or not so many that one is left to train.

    Example:
        >>> import timm
        >>> [name for name, _ in frozen_modules(timm.create_model("resnet18"), 2)]
        ['conv1', 'bn1', 'act1', 'maxpool', 'layer1', 'layer2']
    """
    modules = _in_parts(backbone)
    ends = _ends(backbone, modules)
    if len(ends) < 2 or set(dict(backbone.named_parameters(recurse=False))) - TOKENS:
        raise InputError(
            f"recipe.freeze.stages: '{_name(backbone)}' is not made of stages that can be cut; set recipe.freeze.stages to 0, or "
            "recipe.freeze.part to backbone."
        )
    if stages >= len(ends):
        raise InputError(
            f"recipe.freeze.stages is {stages}, but '{_name(backbone)}' has {len(ends)} stages; freeze at most {len(ends) - 1}, "
            "or all by recipe.freeze.part=backbone."
        )
    last = ends[stages - 1]
    return [*takewhile(lambda part: part[0] != last, modules), (last, dict(modules)[last])]


def following_module(backbone: nn.Module, stages: int) -> str:
    """The name of the first module after `frozen_modules`.

    Raises:
        InputError: as `frozen_modules`.
    """
    return _in_parts(backbone)[len(frozen_modules(backbone, stages))][0]


def frozen_parameters(backbone: nn.Module, stages: int) -> list[nn.Parameter]:
    """The weights of `frozen_modules`, and a transformer's tokens and position embedding, which are in none of them.

    Raises:
        InputError: as `frozen_modules`.
    """
    of_modules = [parameter for _, module in frozen_modules(backbone, stages) for parameter in module.parameters()]
    return [*of_modules, *backbone.parameters(recurse=False)]


def check_stages(backbone: nn.Module, stages: int, images: Tensor) -> None:
    """Proves on an example that the frozen modules come before all others that have weights.

    Args:
        backbone: timm's model.
        stages: number of its first stages.
        images: (B, 3, H, W) images as it takes them.

    Raises:
        InputError: they do not, or as `frozen_modules`.
    """
    frozen = {id(inner) for _, module in frozen_modules(backbone, stages) for inner in module.modules()}
    order: list[bool] = []

    def note(module: nn.Module, _: object) -> None:
        order.append(id(module) in frozen)

    weighted = [module for module in backbone.modules() if module is not backbone and [*module.parameters(recurse=False)]]
    hooks = [module.register_forward_pre_hook(note) for module in weighted]
    try:
        with torch.inference_mode():
            backbone(images)
    finally:
        for hook in hooks:
            hook.remove()
    if order != sorted(order, reverse=True):
        raise InputError(
            f"recipe.freeze.stages: the stages of '{_name(backbone)}' do not come one after the other, so they cannot be cut; "
            "set recipe.freeze.stages to 0, or recipe.freeze.part to backbone."
        )


def _in_parts(backbone: nn.Module) -> NamedModules:
    """A backbone's children, those of a container of stages or layers in its place."""
    parts: NamedModules = []
    for name, child in backbone.named_children():
        inside = isinstance(child, nn.Sequential | nn.ModuleList) and name in (*CONTAINERS, "features")
        parts += [(f"{name}.{inner}", module) for inner, module in child.named_children()] if inside else [(name, child)]
    return parts


def _ends(backbone: nn.Module, modules: NamedModules) -> list[str]:
    """Names of the modules that stages end with; of a plain sequence of layers those before its resolution falls."""
    names = [name for name, _ in modules]
    if contained := [name for name in names if name.partition(".")[0] in CONTAINERS]:
        return contained
    if numbered := [name for name in names if NUMBERED.fullmatch(name)]:
        return numbered
    changes = {entry["module"] for entry in getattr(backbone, "feature_info", ())}
    return [name for name in names if name in changes and name.startswith("features.")]


def _name(backbone: nn.Module) -> str:
    return str(getattr(backbone, "pretrained_cfg", {}).get("architecture", type(backbone).__name__))
