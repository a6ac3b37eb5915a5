"""Pretrained backbones: fetched once, and loaded into members' models."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from raymask.config.recipe import Recipe
from raymask.core.errors import InputError, shortened
from raymask.models.backbones import build_backbone, create_backbone, reason_of
from raymask.models.classifier import Classifier, build_classifier


def fetch_backbone(recipe: Recipe, file: Path) -> None:
    """Writes the weights that a recipe's backbone starts from: timm's download, or the local file that it names.

    Raises:
        InputError: the weights cannot be had, or do not fit the backbone.
    """
    if recipe.weights and not recipe.weights.is_file():
        raise InputError(f"recipe.weights: there is no file '{recipe.weights}'.")
    build_backbone(recipe)
    weights = _pretrained(recipe)
    if recipe.weights:  # timm passes over what a file lacks; that differs from one random start to the next
        again = _pretrained(recipe)
        lacking = [name for name, tensor in weights.items() if not torch.equal(tensor, again[name])]
        if lacking:
            raise InputError(
                f"recipe.weights: '{recipe.weights}' does not fit the backbone '{recipe.backbone}', "
                f"since it lacks {shortened(lacking, 2)}."
            )
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, str(file))


def check_random_backbone(recipe: Recipe) -> None:
    """Builds a recipe's model from random weights, so that a wrong recipe is refused before anything is trained.

    Raises:
        InputError: it cannot be built.
    """
    build_classifier(recipe, {"any": 2})


def _pretrained(recipe: Recipe) -> dict[str, Tensor]:
    overlay = {"file": str(recipe.weights)} if recipe.weights else None
    try:
        return create_backbone(recipe, pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
    except Exception as error:  # the hub's client, torch and timm raise whatever they like here
        raise InputError(_why_no_weights(recipe, reason_of(error))) from None


def _why_no_weights(recipe: Recipe, reason: str) -> str:
    if recipe.weights:
        return f"recipe.weights: '{recipe.weights}' does not fit the backbone '{recipe.backbone}' ({reason})."
    return (
        f"the pretrained weights of '{recipe.backbone}' cannot be downloaded ({reason}); set recipe.weights to a local file, "
        "or recipe.pretrained=false to start from random weights."
    )


def load_backbone(model: Classifier, file: Path) -> None:
    """Loads what `fetch_backbone` wrote."""
    model.backbone.load_state_dict(load_file(str(file)), strict=True)
