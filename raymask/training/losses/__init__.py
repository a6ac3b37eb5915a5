"""Losses of a head, by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy.typing as npt

from raymask.config.components import LossConfig
from raymask.core.registry import Registry
from raymask.training.losses.base import Loss
from raymask.training.losses.cross_entropy import CrossEntropy
from raymask.training.losses.focal import Focal
from raymask.training.losses.long_tail import LDAM, BalancedSoftmax, LogitAdjusted
from raymask.training.losses.one_vs_all import Asymmetric, BinaryCrossEntropy
from raymask.training.losses.soft_f1 import SoftF1


def build_loss(config: LossConfig, counts: npt.ArrayLike) -> Loss:
    """The loss of one head.

    Args:
        config: its name and arguments.
        counts: (C,) training images of each class; of probabilities their sums.
    """
    return LOSSES.get(config.name)(config, counts)


LOSSES: Registry[Callable[[LossConfig, npt.ArrayLike], Loss]] = Registry(
    "recipe.loss.name",
    {
        "cross_entropy": CrossEntropy,
        "focal": Focal,
        "logit_adjusted": LogitAdjusted,
        "balanced_softmax": BalancedSoftmax,
        "ldam_drw": LDAM,
        "soft_f1": SoftF1,
        "bce": BinaryCrossEntropy,
        "asymmetric": Asymmetric,
    },
)
"""By name: from the arguments and the images of each class to the loss."""
