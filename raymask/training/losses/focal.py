"""Focal loss."""

from __future__ import annotations

import numpy.typing as npt
import torch
from torch import Tensor

from raymask.config.components import LossConfig
from raymask.training.losses.base import ClasswiseLoss

TINY = torch.finfo(torch.float32).tiny


class Focal(ClasswiseLoss):
    """-(1 - p)^gamma log p of the class's probability p, so that rows that are learned already count less.

    Its alpha is the weights of the classes.

    Source: Lin et al. 2017 (arXiv:1708.02002), with a softmax in place of sigmoids.
    """

    def __init__(self, config: LossConfig, counts: npt.ArrayLike) -> None:
        super().__init__(config, counts)
        self.gamma = config.gamma

    def of_classes(self, outputs: Tensor) -> Tensor:
        """See `ClasswiseLoss`."""
        log_p = outputs.log_softmax(dim=1)
        # (1 - p)^gamma has an infinite slope at 1 - p = 0 for a gamma under 1
        return -((-log_p.expm1()).clamp(min=TINY) ** self.gamma) * log_p
