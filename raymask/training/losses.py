"""Losses of a head, by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from raymask.config.components import LossConfig
from raymask.core.registry import Registry


def build_loss(config: LossConfig, counts: npt.ArrayLike) -> nn.Module:
    """The loss of one head: (B, C) logits, and (B,) int64 labels or (B, C) float32 probabilities of the classes -> scalar.

    Args:
        config: its name and arguments.
        counts: (C,) training images of each class; of probabilities their sums.
    """
    return LOSSES.get(config.name)(config, counts)


def cross_entropy(config: LossConfig, counts: npt.ArrayLike) -> nn.Module:
    """Cross-entropy with label smoothing and weights by class.

    Source: Szegedy et al. 2016 (arXiv:1512.00567) for the smoothing.
    """
    return CrossEntropy(weight=class_weights_of(config, counts), label_smoothing=config.label_smoothing)


def class_weights_of(config: LossConfig, counts: npt.ArrayLike) -> Tensor | None:
    """(C,) float32 weights of the classes that a config asks for; None for 1 each."""
    return class_weights(counts, config.class_weight_power) if config.class_weight_power else None


class CrossEntropy(nn.CrossEntropyLoss):
    """torch's, but that the mean over weighted probabilities is a weighted mean too, as it is over labels.

    So a probability of 1 is the same as the label.
    """

    def forward(self, input: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:  # noqa: A002
        """See `build_loss`."""
        if weight is not None:
            return self(input[weight > 0], target[weight > 0])  # type: ignore[no-any-return]
        loss = super().forward(input, target)
        if self.weight is None or target.ndim == 1:
            return loss
        return loss * len(target) / (target * self.weight).sum()  # not by @, which autocast rounds


def class_weights(counts: npt.ArrayLike, power: float) -> Tensor:
    """(C,) float32 weights (1 / frequency)^power whose mean over the images is 1; a class without images has weight 0.

    Example:
        >>> class_weights([30, 10, 0], power=1.0)
        tensor([0.6667, 2.0000, 0.0000])
    """
    count = np.asarray(counts, dtype=np.float64)
    weights = np.where(count > 0, np.maximum(count, 1) ** -power, 0.0)
    weights *= count.sum() / (weights * count).sum()
    return torch.tensor(weights, dtype=torch.float32)


LOSSES: Registry[Callable[[LossConfig, npt.ArrayLike], nn.Module]] = Registry(
    "recipe.loss.name", {"cross_entropy": cross_entropy}
)
"""By name: from the arguments and the images of each class to the loss."""
