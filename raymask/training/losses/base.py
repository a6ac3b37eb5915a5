"""What all losses share: targets that are labels or probabilities, rows that are left out, and weights of classes and rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from raymask.config.components import LossConfig
from raymask.training.losses.class_weights import build_class_weights


class Loss(nn.Module):
    """A loss of one head; called as `loss(outputs, target, weight)`, it gives the scalar that is minimised.

    A row of weight 0 counts as if it were absent, whatever its outputs and target; where all rows are, the loss and its gradient
    are 0. Labels are the same as probabilities of 1. For hard labels, the weight of a class is the weight of its rows.
    """

    def forward(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss of a batch.

        Args:
            outputs: (B, C) logits, which are taken as float32.
            target: (B,) int64 labels, or (B, C) probabilities of the classes.
            weight: (B,) weights of the rows, at least 0; None for 1 each.
        """
        raise NotImplementedError

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Called before the first batch of each epoch, for losses that change while training goes on.

        Args:
            epoch: number of finished epochs.
            epochs: number of epochs in the whole training.
        """


class ClasswiseLoss(Loss):
    """A loss that is linear in the target: that of probabilities is the mean of the classes' losses, weighted by them.

    So the loss of a mixed target is the mix of the losses. Smoothing mixes the target with the uniform one. The loss of a batch
    is the mean over its rows, weighted by their weight times the mean weight of their classes.
    """

    class_weight: Tensor | None
    """(C,) weights of the classes; None for 1 each."""

    def __init__(self, config: LossConfig, counts: npt.ArrayLike) -> None:
        super().__init__()
        self.label_smoothing = config.label_smoothing
        self.register_buffer("class_weight", build_class_weights(config, counts))

    def of_classes(self, outputs: Tensor) -> Tensor:
        """(B, C) for each row and class the loss if the row were of that class.

        Args:
            outputs: (B, C) float32 logits.
        """
        raise NotImplementedError

    def forward(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """See `Loss`."""
        rows = present_rows(outputs, target, weight)
        shares, smoothed = rows.target, smooth(rows.target, self.label_smoothing)
        if self.class_weight is not None:
            shares, smoothed = shares * self.class_weight, smoothed * self.class_weight
        of_rows = (smoothed * self.of_classes(rows.outputs)).sum(dim=1)
        return ratio((rows.weight * of_rows).sum(), (rows.weight * shares.sum(dim=1)).sum())


class Rows(NamedTuple):
    """A batch in one form."""

    outputs: Tensor
    """(B, C) float32."""
    target: Tensor
    """(B, C) float32 probabilities of the classes."""
    weight: Tensor
    """(B,) float32."""


def present_rows(outputs: Tensor, target: Tensor, weight: Tensor | None) -> Rows:
    """A batch in one form; what stands in rows of weight 0, such as a label of -1, is replaced, so that it reaches nothing."""
    outputs, classes = outputs.float(), outputs.shape[1]
    if weight is None:
        weight = torch.ones(len(outputs), device=outputs.device)
    else:
        weight = weight.float()
        present = weight > 0
        outputs = outputs.where(present[:, None], 0)
        target = target.where(present if target.ndim == 1 else present[:, None], 0)
    probabilities = functional.one_hot(target, classes) if target.ndim == 1 else target
    return Rows(outputs, probabilities.float(), weight)


def smooth(target: Tensor, smoothing: float) -> Tensor:
    """(B, C) probabilities of which a share is spread evenly over all classes.

    Example:
        >>> smooth(torch.tensor([[1.0, 0.0]]), 0.2)
        tensor([[0.9000, 0.1000]])
    """
    return target * (1 - smoothing) + smoothing / target.shape[1] if smoothing else target


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Part over whole, and 0 where the whole is 0.

    Example:
        >>> ratio(torch.tensor([1.0, 0.0]), torch.tensor([4.0, 0.0]))
        tensor([0.2500, 0.0000])
    """
    return part / whole.where(whole > 0, 1)
