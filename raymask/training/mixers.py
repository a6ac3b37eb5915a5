"""Mixers, by name: they mix the images of a batch, or their features, and the targets with each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from raymask.config.components import MixConfig
from raymask.core.registry import Registry

Targets = Mapping[str, Tensor]
"""By head: (B,) int64 labels, or (B, C) float32 probabilities of the classes."""
Mixer = Callable[[Tensor, Targets], tuple[Tensor, Targets]]
"""From inputs and targets of B rows that one fold model learns from to mixed ones.

Inputs are (B, 3, H, W) float32 normalised images, or (B, F) float32 features of a frozen backbone, and shared with other models:
a mixer makes new tensors. It draws from torch's global generator, which is seeded for each model, epoch and step. Labels that it
mixes become probabilities.
"""


def build_mixer(config: MixConfig) -> Mixer:
    """The mixer of a recipe."""
    return MIXERS.get(config.name)(config)


def no_mixing(_: MixConfig) -> Mixer:
    """Leaves inputs and targets as they are."""
    return lambda inputs, targets: (inputs, targets)


MIXERS: Registry[Callable[[MixConfig], Mixer]] = Registry("recipe.mix.name", {"none": no_mixing})
"""By name: from the arguments to the mixer."""
