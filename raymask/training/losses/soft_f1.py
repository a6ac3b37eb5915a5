"""Soft macro-F1."""

from __future__ import annotations

import numpy.typing as npt
import torch
from torch import Tensor

from raymask.config.components import LossConfig
from raymask.training.losses.base import present_rows, ratio, smooth
from raymask.training.losses.cross_entropy import CrossEntropy


class SoftF1(CrossEntropy):
    """1 - macro-F1 of the batch, with probabilities in place of counted predictions, mixed with cross-entropy.

    Of a class with probabilities p and targets t, F1 is 2 * sum of min(p, t) / sum of (p + t). With labels, min(p, t) is p * t,
    the usual count of true positives. With probabilities F1 is highest at p = t, where cross-entropy is lowest; with p * t it
    would not be. So this loss is not linear in the target.

    Classes that no row of the batch is of are left out of the mean. A row counts as often as its weight says, times the mean
    weight of its classes.

    Source: the Dice semimetric loss, Wang et al. 2023 (arXiv:2303.16296), of a class's column in place of a picture's pixels.
    """

    def __init__(self, config: LossConfig, counts: npt.ArrayLike) -> None:
        super().__init__(config, counts)
        self.cross_entropy_weight = config.cross_entropy_weight

    def forward(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """See `Loss`."""
        share = self.cross_entropy_weight
        return share * super().forward(outputs, target, weight) + (1 - share) * self._one_minus_f1(outputs, target, weight)

    def _one_minus_f1(self, outputs: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        rows = present_rows(outputs, target, weight)
        shares = rows.target if self.class_weight is None else rows.target * self.class_weight
        row_weight = (rows.weight * shares.sum(dim=1))[:, None]
        p, t = rows.outputs.softmax(dim=1), smooth(rows.target, self.label_smoothing)
        hits, both = (row_weight * torch.minimum(p, t)).sum(dim=0), (row_weight * (p + t)).sum(dim=0)
        present = (row_weight * rows.target).sum(dim=0) > 0
        return ratio((1 - ratio(2 * hits, both)).where(present, 0).sum(), present.sum())
