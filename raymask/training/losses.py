"""What a model is trained to make small."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from raymask.config.recipe import Recipe


def build_loss(recipe: Recipe, counts: npt.ArrayLike) -> nn.Module:
    """The loss of one head: (B, C) logits, and (B,) int64 labels or (B, C) float32 probabilities of the classes -> scalar.

    Cross-entropy with label smoothing (Szegedy et al. 2016) and weights by class.

    Args:
        recipe: label_smoothing and class_weight_power.
        counts: (C,) training images of each class; of probabilities their sums.
    """
    weight = class_weights(counts, recipe.class_weight_power) if recipe.class_weight_power else None
    return CrossEntropy(weight=weight, label_smoothing=recipe.label_smoothing)


class CrossEntropy(nn.CrossEntropyLoss):
    """torch's, but that the mean over weighted probabilities is a weighted mean too, as it is over labels.

    So a probability of 1 is the same as the label.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # noqa: A002
        """See `build_loss`."""
        loss = super().forward(input, target)
        if self.weight is None or target.ndim == 1:
            return loss
        return loss * len(target) / (target * self.weight).sum()  # not by @, which autocast rounds


def class_weights(counts: npt.ArrayLike, power: float) -> Tensor:
    """(C,) float32 weights (1 / frequency)^power whose mean over the images is 1; a class without images weighs nothing."""
    count = np.asarray(counts, dtype=np.float64)
    weights = np.where(count > 0, np.maximum(count, 1) ** -power, 0.0)
    weights *= count.sum() / (weights * count).sum()
    return torch.tensor(weights, dtype=torch.float32)
