"""Heads, by name: from the features of a backbone to the logits of a task."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from raymask.config.components import HeadConfig
from raymask.core.registry import Registry


def head_key(task: str) -> str:
    """A name that no attribute of a module has, as a task's name such as `type` or `half` may."""
    return f"{task}-head"


def build_head(width: int, classes: int, config: HeadConfig) -> nn.Sequential:
    """The head of one task: (B, F) features -> (B, C) logits.

    Args:
        width: F, the backbone's features.
        classes: C.
        config: its name and arguments.
    """
    return HEADS.get(config.name)(width, classes, config)


def linear(width: int, classes: int, config: HeadConfig) -> nn.Sequential:
    """Normalisation, dropout and one layer; the first two where the config wants them.

    Source: He et al. 2022 (arXiv:2111.06377) for the normalisation without affine part, as in MAE's linear probes.
    """
    return nn.Sequential(*_norm(width, config), *_dropout(config), nn.Linear(width, classes))


def mlp(width: int, classes: int, config: HeadConfig) -> nn.Sequential:
    """As `linear`, with a hidden layer before the dropout."""
    hidden = [nn.Linear(width, config.hidden), nn.ReLU(inplace=True)]
    return nn.Sequential(*_norm(width, config), *hidden, *_dropout(config), nn.Linear(config.hidden, classes))


def _norm(width: int, config: HeadConfig) -> list[nn.Module]:
    return [nn.BatchNorm1d(width, affine=False)] if config.norm else []


def _dropout(config: HeadConfig) -> list[nn.Module]:
    return [nn.Dropout(config.dropout)] if config.dropout else []


HEADS: Registry[Callable[[int, int, HeadConfig], nn.Sequential]] = Registry("recipe.head.name", {"linear": linear, "mlp": mlp})
"""By name: from the features, the classes and the arguments to the head."""
