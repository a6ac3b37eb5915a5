"""How much each class counts, from its number of images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raymask.config.components import LossConfig


def build_class_weights(config: LossConfig, counts: npt.ArrayLike) -> Tensor | None:
    """(C,) float32 weights of a loss's classes, or None where it doesn't weight them.

    Args:
        config: the loss and its arguments.
        counts: (C,) training images of each class; of probabilities their sums.
    """
    if config.class_weight_power:
        return class_weights(counts, config.class_weight_power)
    if config.effective_number:
        return effective_number_weights(counts, config.effective_number)
    return None


def class_weights(counts: npt.ArrayLike, power: float) -> Tensor:
    """(C,) float32 weights (1 / frequency)^power whose mean over the images is 1; a class without images has weight 0.

    Example:
        >>> class_weights([30, 10, 0], power=1.0)
        tensor([0.6667, 2.0000, 0.0000])
    """
    count = np.asarray(counts, dtype=np.float64)
    return _with_mean_1(np.maximum(count, 1) ** -power, count)


def effective_number_weights(counts: npt.ArrayLike, beta: float) -> Tensor:
    """(C,) float32 weights (1 - beta) / (1 - beta^n) whose mean over the images is 1; a class without images has weight 0.

    The nearer beta is to 1, the nearer they are to 1 / n.

    Source: Cui et al. 2019 (arXiv:1901.05555).

    Args:
        counts: (C,) images of each class.
        beta: over 0 and under 1.

    Example:
        >>> effective_number_weights([3, 1, 0], beta=0.5)
        tensor([0.8421, 1.4737, 0.0000])
    """
    count = np.asarray(counts, dtype=np.float64)
    return _with_mean_1((1 - beta) / -np.expm1(np.maximum(count, 1) * np.log(beta)), count)


def _with_mean_1(raw: npt.NDArray[np.float64], count: npt.NDArray[np.float64]) -> Tensor:
    weights = np.where(count > 0, raw, 0.0)
    weights *= count.sum() / (weights * count).sum()
    return torch.tensor(weights, dtype=torch.float32)
