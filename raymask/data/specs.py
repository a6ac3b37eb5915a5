"""What a recipe wants of its inputs: the size and normalisation, the stream of batches, the bank of features."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from raymask.config.label_checks import counted_target
from raymask.config.recipe import Recipe
from raymask.core.tasks import LabelSpace
from raymask.core.types import Pixels
from raymask.transforms.augment import resolve_augment


@dataclass(frozen=True, order=True, repr=False)
class InputSpec:
    """How a file becomes a model's input: prepared once, by all but the last step, and then seen through a window."""

    height: int
    width: int
    crop: float
    """Share kept of the largest centred box of the target's aspect; above 1 the pixels of the box's shorter side."""
    window: tuple[int, ...] = ()
    """Height and width of the centre that a model sees of a prepared image; empty where it sees all of it."""

    def __repr__(self) -> str:
        """Folders of features are named by it: without a window it must stay as it is."""
        window = f", window={self.window}" if self.window else ""
        return f"InputSpec(height={self.height}, width={self.width}, crop={self.crop}{window})"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what a model sees."""
        height, width = self.window or (self.height, self.width)
        return height, width

    @property
    def prepared(self) -> InputSpec:
        """The steps that are done once: specs that differ in their windows alone share prepared images."""
        return replace(self, window=())

    def seen(self, prepared: Pixels) -> Pixels:
        """(…, H, W, 3) what a model sees of (…, height, width, 3) prepared images, a view of them.

        Example:
            >>> import numpy as np
            >>> InputSpec(6, 8, 1.0, window=(2, 4)).seen(np.zeros((5, 6, 8, 3), np.uint8)).shape
            (5, 2, 4, 3)
        """
        height, width = self.size
        top, left = (self.height - height) // 2, (self.width - width) // 2
        return prepared[..., top : top + height, left : left + width, :]


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
    """What decides which rows an epoch holds: a sampler's name, or JSON of its name and arguments, see `read_sampler`."""

    def steps(self, images: int) -> int:
        """Batches of so many images, such as those that an epoch draws; the last may be smaller."""
        return -(-images // self.batch_size)


@dataclass(frozen=True)
class BankSpec:
    """All that decides a bank's features, beside the backbone."""

    stream: StreamSpec
    views: tuple[str, ...]
    amp: str
    statistics: tuple[float, ...] | None = None
    """Mean and deviation of each channel that images are normalised by; None for those that the backbone was made for."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the bank's files: the passes first, in order."""
        return (*(f"pass-{number}" for number in range(self.stream.epochs)), *(f"view-{view}" for view in self.views))


def input_spec(recipe: Recipe) -> InputSpec:
    """How the files are prepared for a recipe."""
    height, width = recipe.prepared_height_width
    window = recipe.height_width if recipe.height_width != (height, width) else ()
    return InputSpec(height, width, recipe.crop, window)


def frozen_backbone(recipe: Recipe, weights: str) -> str | None:
    """What makes frozen backbones the same, so that their features are shared; None for one that is trained.

    Args:
        recipe: the backbone's.
        weights: digest of the weights that it starts from.
    """
    if not recipe.frozen:
        return None
    return " ".join([recipe.backbone, weights, recipe.amp, *map(str, recipe.statistics or ())])


def bank_spec(recipe: Recipe, stream: StreamSpec, views: Sequence[str]) -> BankSpec:
    """The features that heads on a recipe's frozen backbone learn from, and predict with under these views."""
    return BankSpec(stream, tuple(views), recipe.amp, recipe.statistics)


def stream_spec(recipe: Recipe, seed: int, task: str, space: LabelSpace) -> StreamSpec:
    """The stream that the fold models of a member read.

    Args:
        recipe: the member's.
        seed: the run's.
        task: the member's task, whose classes a sampler counts unless `recipe.sampler.by` names another.
        space: the labels.
    """
    return StreamSpec(
        input=input_spec(recipe),
        augment=json.dumps(resolve_augment(recipe.augment), sort_keys=True),
        batch_size=recipe.batch_size,
        epochs=min(recipe.freeze.passes, recipe.schedule.epochs) if recipe.frozen else recipe.schedule.epochs,
        seed=seed,
        sampler=_sampler(recipe, task, space),
    )


def _sampler(recipe: Recipe, task: str, space: LabelSpace) -> str:
    """The sampler as text, with the arguments that it has."""
    sampler = recipe.sampler
    given = {key: getattr(sampler, key) for key, names in sampler.ARGUMENTS.items() if sampler.name in names}
    if "by" in given:
        given["by"] = counted_target(sampler, task)
    if "factors" in given:
        given["factors"] = [sampler.factors.get(name, 1.0) for name in space.classes(given["by"])]
    if sampler.name == "dynamic":
        given["epochs"] = recipe.schedule.epochs
    return json.dumps({"name": sampler.name, **given}, sort_keys=True) if given else sampler.name
