"""Backbones of timm, by name and size of the images."""

from __future__ import annotations

import difflib
import textwrap
from typing import Any

import timm
import torch
from torch import nn

from raymask.config.recipe import Recipe
from raymask.core.errors import InputError


def build_backbone(recipe: Recipe) -> tuple[nn.Module, int]:
    """A backbone of random weights and the width of its features."""
    height, width = recipe.height_width
    try:
        backbone = create_backbone(recipe).eval()
        with torch.inference_mode():
            features = int(backbone(torch.zeros(1, 3, height, width)).shape[-1])
    except InputError:
        raise
    except Exception as error:  # each architecture refuses a size in its own way
        raise InputError(
            f"recipe.backbone '{recipe.backbone}' cannot be built for images of {height}×{width} pixels ({reason_of(error)}); "
            "change recipe.image_size or recipe.backbone."
        ) from None
    return backbone.train(), features


def create_backbone(recipe: Recipe, **kwargs: Any) -> nn.Module:
    """Timm's model of the recipe's name without a head, built for the recipe's size of images and its stochastic depth.

    Raises:
        InputError: timm has no such model, or it knows no stochastic depth and the recipe wants it.
    """
    name = recipe.backbone
    if not timm.is_model(name):
        near = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=3)
        hint = f"; the nearest are {', '.join(near)}" if near else ""
        raise InputError(f"recipe.backbone is '{name}', which timm does not have{hint}.")
    if recipe.drop_path:
        kwargs["drop_path_rate"] = recipe.drop_path
    try:  # models with position embeddings want to know the image's size, the others refuse to hear of it
        backbone: nn.Module = timm.create_model(name, num_classes=0, img_size=recipe.height_width, **kwargs)
    except TypeError:
        try:
            backbone = timm.create_model(name, num_classes=0, **kwargs)
        except TypeError as error:
            if "drop_path_rate" in str(error):
                raise _no_stochastic_depth(recipe) from None
            raise
    if recipe.drop_path and not _skips_blocks(backbone):
        raise _no_stochastic_depth(recipe)
    return backbone


def _skips_blocks(backbone: nn.Module) -> bool:
    blocks = (block for block in backbone.modules() if getattr(block, "has_skip", True))
    return any(getattr(child, "drop_prob", 0) for block in blocks for child in block.children())


def _no_stochastic_depth(recipe: Recipe) -> InputError:
    return InputError(
        f"recipe.drop_path is {recipe.drop_path:g}, but '{recipe.backbone}' has no residual blocks that timm can skip; set it to "
        "0, or choose another recipe.backbone."
    )


def reason_of(error: Exception) -> str:
    """What an error of another library says, on one line."""
    message = textwrap.shorten(str(error), 160, placeholder=" …").rstrip(".:")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
