"""Mixers, by name: they mix the images of a batch, or their features, and the targets with each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from raymask.config.components import MixConfig
from raymask.core.registry import Registry
from raymask.training.encoding import one_hot


@dataclass(frozen=True)
class Examples:
    """Rows of a batch that one fold model learns from."""

    inputs: Tensor
    """(B, 3, H, W) float32 normalised images, or (B, F) float32 features of a frozen backbone."""
    targets: Mapping[str, Tensor]
    """By head: (B,) int64 labels, or (B, K) float32 probabilities or other numbers that may be mixed."""
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    """By head (B,) float32 weights of the rows, 0 for one that its loss leaves out; a head that is absent has them all 1."""


Mixer = Callable[[Examples, Tensor, int], Examples]
"""From examples, which of them are rare ((B,) bool, on the CPU) and the epoch to mixed ones.

Inputs are shared with other models: a mixer makes new tensors. It draws from torch's global generator, which is seeded for each
model, epoch and step.
"""
InputMixer = Callable[[Tensor, Tensor, MixConfig], tuple[Tensor, float]]
"""From inputs and those of their partners to mixed ones, and the share of the former in them."""


def build_mixer(config: MixConfig, classes: Mapping[str, int]) -> Mixer:
    """The mixer of a recipe.

    Args:
        config: its name and arguments.
        classes: number of classes by head, for labels, which become probabilities when they are mixed.
    """
    mix_inputs = MIXERS.get(config.name)
    if mix_inputs is None:
        return lambda examples, rare, epoch: examples
    until = math.inf if config.until is None else config.until

    def mix(examples: Examples, rare: Tensor, epoch: int) -> Examples:
        if epoch >= until or float(torch.rand(())) >= config.probability:
            return examples
        partners = draw_partners(rare).to(examples.inputs.device)
        inputs, share = mix_inputs(examples.inputs, examples.inputs[partners], config)
        return mix_targets(examples, inputs, partners, share, classes)

    return mix


def draw_partners(rare: Tensor) -> Tensor:
    """(B,) int64 row that each row is mixed with: a permutation, or where there are rare rows these alone, equally often.

    Args:
        rare: (B,) bool.
    """
    order, rows = torch.randperm(len(rare)), rare.nonzero().flatten()
    return rows[order % len(rows)] if len(rows) else order


def mix_targets(examples: Examples, inputs: Tensor, partners: Tensor, share: float, classes: Mapping[str, int]) -> Examples:
    """Examples of mixed inputs, with targets and weights mixed alike.

    A target counts by its row's weight, so that a row that a loss leaves out leaves no trace in the mixed one.

    Args:
        examples: the rows before.
        inputs: mixed.
        partners: (B,) int64 row that each is mixed with.
        share: that of the row itself, from 0 to 1; its partner has the rest.
        classes: number of classes by head.
    """
    targets, weights = {}, {}
    for head, given in examples.targets.items():
        target = given if given.is_floating_point() else one_hot(given, classes[head])
        own, other = torch.full_like(target[:, :1], share), torch.full_like(target[:, :1], 1 - share)
        if head in examples.weights:
            weight = examples.weights[head][:, None]
            target = torch.where(weight > 0, target, torch.zeros_like(target))
            own, other = own * weight, other * weight[partners]
            mixed = own + other
            weights[head] = mixed.flatten()
            whole = torch.where(mixed > 0, mixed, torch.ones_like(mixed))  # both rows may be left out
            own, other = own / whole, other / whole
        targets[head] = own * target + other * target[partners]
    return Examples(inputs, targets, weights)


def mixup(inputs: Tensor, partners: Tensor, config: MixConfig) -> tuple[Tensor, float]:
    """Each input a weighted mean of two, the weight of a batch drawn from Beta(alpha, alpha).

    Source: Zhang et al. 2018 (arXiv:1710.09412).
    """
    share = _draw_share(config.alpha)
    return inputs * share + partners * (1 - share), share


def cutmix(inputs: Tensor, partners: Tensor, config: MixConfig) -> tuple[Tensor, float]:
    """A box of each image from another one, the same box in all of a batch; the share is that of the pixels within the image.

    The box has the image's aspect, an area drawn from Beta(alpha, alpha), and its centre anywhere.

    Source: Yun et al. 2019 (arXiv:1905.04899).
    """
    height, width = inputs.shape[-2:]
    side = math.sqrt(1 - _draw_share(config.alpha))
    rows, columns = _cut(height, side), _cut(width, side)
    mixed = inputs.clone()
    mixed[..., rows, columns] = partners[..., rows, columns]
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return mixed, 1 - area / (height * width)


def half_cutmix(inputs: Tensor, partners: Tensor, config: MixConfig) -> tuple[Tensor, float]:  # noqa: ARG001
    """The left or the right half of each image from another one, at full height; of an odd width the smaller half.

    Faces are alike left and right, so that each half still shows what there is to see.

    Source: CutMix (Yun et al. 2019, arXiv:1905.04899) with a fixed box.
    """
    width = inputs.shape[-1]
    half = width // 2
    columns = slice(0, half) if torch.rand(()) < 0.5 else slice(width - half, width)
    mixed = inputs.clone()
    mixed[..., columns] = partners[..., columns]
    return mixed, 1 - half / width


def _draw_share(alpha: float) -> float:
    """A number from 0 to 1, from Beta(alpha, alpha)."""
    # Not by torch's Beta, which gives 0.5 where both of its gammas are 0, as they are with an alpha below 0.01.
    return float(np.random.default_rng(int(torch.randint(2**62, ()))).beta(alpha, alpha))


def _cut(length: int, side: float) -> slice:
    """A part of a length, as long as a share of it says, around a place anywhere, and cut off at the ends."""
    part = int(length * side)
    start = int(torch.randint(length, ())) - part // 2
    return slice(max(0, start), min(length, start + part))


MIXERS: Registry[InputMixer | None] = Registry(
    "recipe.mix.name", {"none": None, "mixup": mixup, "cutmix": cutmix, "half_cutmix": half_cutmix}
)
"""By name; None leaves batches as they are."""
