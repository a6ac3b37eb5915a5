"""Heads: from the features of a backbone to the logits of each task."""

from __future__ import annotations

from torch import nn

from raymask.config.recipe import HeadConfig


def head_key(task: str) -> str:
    """A name that no attribute of a module has, as a task's name such as `type` or `half` may."""
    return f"{task}-head"


def build_head(width: int, classes: int, config: HeadConfig) -> nn.Sequential:
    """(B, F) -> (B, C): normalisation without affine part (as for MAE's linear probes, He et al. 2022), hidden layer, dropout."""
    layers: list[nn.Module] = []
    if config.norm:
        layers.append(nn.BatchNorm1d(width, affine=False))
    if config.hidden:
        layers += [nn.Linear(width, config.hidden), nn.ReLU(inplace=True)]
        width = config.hidden
    if config.dropout:
        layers.append(nn.Dropout(config.dropout))
    layers.append(nn.Linear(width, classes))
    return nn.Sequential(*layers)
