"""What a recipe wants of its inputs: the size and normalisation, the stream of batches, the bank of features."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from raymask.config.recipe import Recipe
from raymask.transforms.augment import resolve_augment


@dataclass(frozen=True, order=True)
class InputSpec:
    """How a file becomes a model's input: the steps that are done once, when it is prepared."""

    height: int
    width: int
    crop: float
    """Share kept of the largest centred box of the target's aspect."""


@dataclass(frozen=True)
class StreamSpec:
    """All that decides a stream's pixels and order: fold models with equal ones can share a stream."""

    input: InputSpec
    augment: str
    """Transforms as canonical JSON, so that the spec can be hashed and compared."""
    batch_size: int
    epochs: int
    seed: int
    sampler: str = field(default="shuffle", repr=False)  # a bank's folder is named by the rest: its features know no order

    def steps(self, images: int) -> int:
        """Batches to an epoch; the last may be smaller."""
        return -(-images // self.batch_size)


@dataclass(frozen=True)
class BankSpec:
    """All that decides a bank's features, beside the backbone."""

    stream: StreamSpec
    views: tuple[str, ...]
    amp: str

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the bank's files: the passes first, in order."""
        return (*(f"pass-{number}" for number in range(self.stream.epochs)), *(f"view-{view}" for view in self.views))


def input_spec(recipe: Recipe) -> InputSpec:
    """How the files are prepared for a recipe."""
    height, width = recipe.height_width
    return InputSpec(height, width, recipe.crop)


def frozen_backbone(recipe: Recipe, weights: str) -> str | None:
    """What makes frozen backbones the same, so that their features are shared; None for one that is trained.

    Args:
        recipe: the backbone's.
        weights: digest of the weights that it starts from.
    """
    return f"{recipe.backbone} {weights} {recipe.amp}" if recipe.frozen else None


def bank_spec(recipe: Recipe, seed: int, views: Sequence[str]) -> BankSpec:
    """The features that heads on a recipe's frozen backbone learn from and predict with."""
    return BankSpec(stream_spec(recipe, seed), tuple(views), recipe.amp)


def stream_spec(recipe: Recipe, seed: int) -> StreamSpec:
    """The stream that a recipe's fold models read."""
    return StreamSpec(
        input=input_spec(recipe),
        augment=json.dumps(resolve_augment(recipe.augment), sort_keys=True),
        batch_size=recipe.batch_size,
        epochs=min(recipe.freeze.passes, recipe.schedule.epochs) if recipe.frozen else recipe.schedule.epochs,
        seed=seed,
        sampler=recipe.sampler.name,
    )
