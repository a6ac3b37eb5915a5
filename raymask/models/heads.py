"""Heads, by name: from the features of a backbone to the outputs of a task."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from raymask.config.components import HeadConfig
from raymask.core.registry import Registry


def head_key(task: str) -> str:
    """A name that no attribute of a module has, as a task's name such as `type` or `half` may."""
    return f"{task}-head"


def build_head(width: int, outputs: int, config: HeadConfig) -> nn.Sequential:
    """The head of one task: (B, F) features, or (B, F, h, w) feature maps for `conv`, -> (B, K) outputs.

    Args:
        width: F, the backbone's features.
        outputs: K, the task's classes where it has no order.
        config: its name and arguments.
    """
    return HEADS.get(config.name)(width, outputs, config)


def linear(width: int, outputs: int, config: HeadConfig) -> nn.Sequential:
    """Normalisation, dropout and one layer; the first two where the config wants them.

    Source: He et al. 2022 (arXiv:2111.06377) for the normalisation without affine part, as in MAE's linear probes.
    """
    return nn.Sequential(*_norm(width, config), *_last(width, outputs, config))


def mlp(width: int, outputs: int, config: HeadConfig) -> nn.Sequential:
    """As `linear`, with hidden layers before the dropout."""
    hidden: list[nn.Module] = []
    for inputs in [width] + [config.hidden] * (config.depth - 1):
        hidden += [nn.Linear(inputs, config.hidden), nn.ReLU(inplace=True)]
    return nn.Sequential(*_norm(width, config), *hidden, *_last(config.hidden, outputs, config))


def conv(width: int, outputs: int, config: HeadConfig) -> nn.Sequential:
    """A branch of 3×3 convolutions on the feature map, which each task has for itself, its mean, and a last layer."""
    branch: list[nn.Module] = []
    for inputs in [width] + [config.hidden] * (config.depth - 1):
        branch += [
            nn.Conv2d(inputs, config.hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(config.hidden),
            nn.ReLU(inplace=True),
        ]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*branch, *pool, *_norm(config.hidden, config), *_last(config.hidden, outputs, config))


class Dropout(nn.Dropout):
    """torch's dropout, whose masks on a CPU come from NumPy's generator: in a fifth of a time that else is most of a head's step.

    The masks follow a seed that torch's generator draws, so that `torch.manual_seed` decides them. The share that is dropped is
    rounded to 1/65536, and what is kept is scaled by the rounded one, so that the mean stays exact.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Of any shape."""
        if not self.training or features.device.type != "cpu":
            return super().forward(features)
        dropped = min(round(self.p * 2**16), 2**16 - 1)
        numbers, seed = features.numel(), int(torch.randint(2**63 - 1, ()))
        drawn = np.random.SFC64(seed).random_raw(-(-numbers // 4)).view(np.uint16)[:numbers]  # four of each 64 bits
        mask = np.multiply(drawn >= dropped, np.float32(2**16 / (2**16 - dropped)), dtype=np.float32)
        return features * torch.from_numpy(mask).view(features.shape).to(features.dtype)


class MultiSampleDropout(nn.Module):
    """A last layer whose outputs are, while training, the mean over several dropouts of its inputs.

    Source: Inoue 2019 (arXiv:1905.09788), with the mean of the outputs in place of that of the losses.
    """

    def __init__(self, dropout: float, samples: int, last: nn.Linear) -> None:
        super().__init__()
        self.dropout, self.samples, self.last = Dropout(dropout), samples, last

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, K)."""
        if not self.training:
            return self.last(features)  # type: ignore[no-any-return]
        return torch.stack([self.last(self.dropout(features)) for _ in range(self.samples)]).mean(dim=0)


def _norm(width: int, config: HeadConfig) -> list[nn.Module]:
    return [nn.BatchNorm1d(width, affine=False)] if config.norm else []


def _last(width: int, outputs: int, config: HeadConfig) -> list[nn.Module]:
    last = nn.Linear(width, outputs)
    if config.samples > 1:
        return [MultiSampleDropout(config.dropout, config.samples, last)]
    return [Dropout(config.dropout), last] if config.dropout else [last]


HEADS: Registry[Callable[[int, int, HeadConfig], nn.Sequential]] = Registry(
    "recipe.head.name", {"linear": linear, "mlp": mlp, "conv": conv}
)
"""By name: from the features, the outputs and the arguments to the head."""
