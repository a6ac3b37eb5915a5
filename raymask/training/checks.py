"""What of a recipe can be found wrong before anything is trained, by building its model and optimizer once."""

from __future__ import annotations

import torch

from raymask.config.recipe import Recipe
from raymask.models.classifier import build_classifier
from raymask.models.stages import check_stages
from raymask.training.optim import build_optimizer, check_optimizer, optimizer_class


def check_recipe(recipe: Recipe) -> None:
    """Builds a recipe's model and optimizer from random weights.

    Raises:
        InputError: its backbone, stochastic depth, frozen stages or optimizer cannot be used.
    """
    model = build_classifier(recipe, {"any": 2})
    if recipe.freeze.stages:
        check_stages(model.backbone.eval(), recipe.freeze.stages, torch.zeros(1, 3, *recipe.height_width))
    check_optimizer(recipe.optim)
    if optimizer_class(recipe.optim) is not None:
        build_optimizer(recipe.optim, model)
