"""Cross-entropy."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from raymask.training.losses.base import ClasswiseLoss


class CrossEntropy(ClasswiseLoss):
    """Cross-entropy with label smoothing and weights by class.

    Source: Szegedy et al. 2016 (arXiv:1512.00567) for the smoothing.
    """

    def of_classes(self, outputs: Tensor) -> Tensor:
        """See `ClasswiseLoss`."""
        return -outputs.log_softmax(dim=1)

    def forward(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """See `Loss`; without weights of rows it is torch's, which is faster."""
        if weight is not None:
            return super().forward(outputs, target, weight)
        loss = functional.cross_entropy(outputs.float(), target, weight=self.class_weight, label_smoothing=self.label_smoothing)
        if self.class_weight is None or target.ndim == 1:
            return loss
        # torch divides by the number of rows here, and not by their weight as it does with labels
        return loss * len(target) / (target * self.class_weight).sum()  # not by @, which autocast rounds
