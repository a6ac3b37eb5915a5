"""Losses that ask of each class on its own whether an image is of it."""

from __future__ import annotations

import math

import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from raymask.config.components import LossConfig
from raymask.training.losses.base import ClasswiseLoss

TINY = torch.finfo(torch.float32).tiny


class BinaryCrossEntropy(ClasswiseLoss):
    """Mean over the classes of the binary cross-entropy of their sigmoids.

    Its values are those of timm's `BinaryCrossEntropy`, which has no weights of rows, and whose weights of classes are of their
    sigmoids, present or absent, and not of their images, so that a rare class stays as unlikely as it is.

    Source: Wightman et al. 2021 (arXiv:2110.00476).
    """

    def of_classes(self, outputs: Tensor) -> Tensor:
        """See `ClasswiseLoss`."""
        of_absent = functional.softplus(outputs)
        return (of_absent.sum(dim=1, keepdim=True) - outputs) / outputs.shape[1]


class Asymmetric(ClasswiseLoss):
    """Sum over the classes of a binary cross-entropy that looks away from what is easy, more so where a class is absent.

    The true class costs -(1 - p)^gamma_positive log p, each other one -q^gamma_negative log(1 - q) with q = max(p - clip, 0).

    For labels the values are those of timm's `AsymmetricLossMultiLabel`. It isn't used, since for probabilities it mixes the
    exponents, where the paper's sum is linear in the target, and since its gradient is NaN where q is 0 and a gamma below 1.
    timm's `AsymmetricLossSingleLabel` takes labels alone, and has no clip.

    Source: Ridnik et al. 2021 (arXiv:2009.14119).
    """

    def __init__(self, config: LossConfig, counts: npt.ArrayLike) -> None:
        super().__init__(config, counts)
        self.gamma_positive, self.gamma_negative, self.clip = config.gamma_positive, config.gamma_negative, config.clip

    def of_classes(self, outputs: Tensor) -> Tensor:
        """See `ClasswiseLoss`."""
        p, log_rest = outputs.sigmoid(), functional.logsigmoid(-outputs)
        of_present = -(self.gamma_positive * log_rest).exp() * functional.logsigmoid(outputs)
        log_clip = torch.full_like(outputs, math.log(self.clip) if self.clip else -math.inf)
        log_kept = torch.logaddexp(log_rest, log_clip).clamp(max=0)
        # q^gamma has an infinite slope at q = 0 for a gamma under 1
        of_absent = -((p - self.clip).clamp(min=TINY) ** self.gamma_negative) * log_kept
        return of_present - of_absent + of_absent.sum(dim=1, keepdim=True)
