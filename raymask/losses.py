"""What a model is trained to make small."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from raymask.config import Recipe


def build_loss(recipe: Recipe, counts: npt.ArrayLike) -> nn.Module:
    """The loss of one head: (B, C) logits and (B,) int64 labels -> scalar.

    Cross-entropy with label smoothing (Szegedy et al. 2016) and weights by class.

    Args:
        recipe: label_smoothing and class_weight_power.
        counts: (C,) training images of each class.
    """
    weight = class_weights(counts, recipe.class_weight_power) if recipe.class_weight_power else None
    return nn.CrossEntropyLoss(weight=weight, label_smoothing=recipe.label_smoothing)


def class_weights(counts: npt.ArrayLike, power: float) -> Tensor:
    """(C,) float32 weights (1 / frequency)^power whose mean over the images is 1; a class without images weighs nothing."""
    count = np.asarray(counts, dtype=np.float64)
    weights = np.where(count > 0, np.maximum(count, 1) ** -power, 0.0)
    weights *= count.sum() / (weights * count).sum()
    return torch.tensor(weights, dtype=torch.float32)
