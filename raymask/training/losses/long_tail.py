"""Losses for classes of which some have far fewer images than others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raymask.config.components import LossConfig
from raymask.training.losses.base import ClasswiseLoss
from raymask.training.losses.class_weights import build_class_weights, effective_number_weights

DEFERRED_BETA = 0.9999
"""Cao et al.'s, for the weights of classes that are deferred."""


def class_sizes(counts: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(C,) images of each class, at least 1; a class without any is as large as the largest.

    For these losses favour small classes over what was seen, and a class that is never seen must not be favoured.

    Example:
        >>> class_sizes([20, 0, 0.5])
        array([20., 20.,  1.])
    """
    count = np.asarray(counts, dtype=np.float64)
    return np.maximum(np.where(count > 0, count, count.max()), 1)


class LogitAdjusted(ClasswiseLoss):
    """Cross-entropy of logits + tau * log(share of the images), so that the logits themselves are those of balanced classes.

    Predictions take the logits as they are.

    Source: Menon et al. 2021 (arXiv:2007.07314).
    """

    adjustment: Tensor
    """(C,) what is added to the logits."""

    def __init__(self, config: LossConfig, counts: npt.ArrayLike) -> None:
        super().__init__(config, counts)
        sizes = class_sizes(counts)
        adjustment = config.tau * np.log(sizes / sizes.sum())
        self.register_buffer("adjustment", torch.tensor(adjustment, dtype=torch.float32))

    def of_classes(self, outputs: Tensor) -> Tensor:
        """See `ClasswiseLoss`."""
        return -(outputs + self.adjustment).log_softmax(dim=1)


class BalancedSoftmax(LogitAdjusted):
    """Cross-entropy of n_c exp(logit_c) / sum of n_j exp(logit_j) with n_c images of class c.

    It is `LogitAdjusted` with tau = 1, which is the default that its config has to keep.

    Source: Ren et al. 2020 (arXiv:2007.10740).
    """


class LDAM(ClasswiseLoss):
    """LDAM-DRW: cross-entropy with the true class's logit lowered by a margin, and with class weights in the last epochs alone.

    The margin is max_margin * (n_min / n_c)^(1/4) for n_c images of class c. The weights are those of the config, else those of
    the effective number with the paper's beta, 0.9999. The loss of mixed targets is the mix of the losses.

    The paper's last layer normalises features and weights, and the loss is of 30 * (cosine - margin), with margins up to 0.5. The
    factor is there because cosines are bounded. Logits of a linear head are not: a factor would only change the scale of the
    head's weights, and make predictions, which come from the logits as they are, far too unsure. So there is none, and margins
    are in logits; for a head that gives 30 * cosine, the paper's is max_margin = 15.

    Source: Cao et al. 2019 (arXiv:1906.07413).
    """

    margin: Tensor
    """(C,) of each class, in logits."""
    deferred: Tensor
    """(C,) weights of the classes in the last epochs."""

    def __init__(self, config: LossConfig, counts: npt.ArrayLike) -> None:
        super().__init__(config, counts)
        sizes = class_sizes(counts)
        margin = config.max_margin * (sizes.min() / sizes) ** 0.25
        weights = build_class_weights(config, counts)
        self.register_buffer("margin", torch.tensor(margin, dtype=torch.float32))
        self.register_buffer("deferred", effective_number_weights(counts, DEFERRED_BETA) if weights is None else weights)
        self.drw_from = config.drw_from
        self.class_weight = None

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """See `Loss`; classes are weighted from the share `drw_from` of the epochs on, rounded to whole epochs."""
        self.class_weight = self.deferred if epoch >= round(self.drw_from * epochs) else None

    def of_classes(self, outputs: Tensor) -> Tensor:
        """See `ClasswiseLoss`."""
        log_p = outputs.log_softmax(dim=1)
        p = log_p.exp()
        top = p.argmax(dim=1, keepdim=True)
        # the probability of the other classes; by 1 - p that is rounded off where p is nearly 1, just what a margin looks at
        rest = (1 - p).scatter(1, top, p.scatter(1, top, 0.0).sum(dim=1, keepdim=True))
        return (rest + p * (-self.margin).exp()).log() + self.margin - log_p
