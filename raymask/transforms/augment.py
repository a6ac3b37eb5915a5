"""Augmentation by albumentations: the only file that knows it. What an image becomes depends on (seed, epoch, row) alone.

Where a sampler repeats a row in an epoch, it depends on which of the repeats it is too.
"""

from __future__ import annotations

import os
import random
import sys
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from raymask.core.errors import InputError
from raymask.core.registry import Registry
from raymask.core.types import Pixels

Transform = dict[str, dict[str, Any] | None]

_PRESETS: dict[str, tuple[Transform, ...]] = {
    "none": (),
    "light": (
        {"HorizontalFlip": {"p": 0.5}},
        {"Affine": {"scale": [0.9, 1.1], "translate_percent": [-0.06, 0.06], "rotate": [-10, 10], "p": 0.7}},
        {"RandomBrightnessContrast": {"brightness_limit": 0.2, "contrast_limit": 0.2, "p": 0.5}},
    ),
    "medium": (
        {"HorizontalFlip": {"p": 0.5}},
        {"Affine": {"scale": [0.85, 1.2], "translate_percent": [-0.1, 0.1], "rotate": [-15, 15], "p": 0.8}},
        {"ColorJitter": {"brightness": 0.25, "contrast": 0.25, "saturation": 0.25, "hue": 0.02, "p": 0.7}},
        {"GaussianBlur": {"blur_limit": [3, 5], "p": 0.1}},
        {"CoarseDropout": {"num_holes_range": [1, 2], "hole_height_range": [0.1, 0.2], "hole_width_range": [0.1, 0.2], "p": 0.2}},
    ),
    "heavy": (
        {"HorizontalFlip": {"p": 0.5}},
        {"Affine": {"scale": [0.75, 1.3], "translate_percent": [-0.12, 0.12], "rotate": [-20, 20], "shear": [-6, 6], "p": 0.9}},
        {"ColorJitter": {"brightness": 0.35, "contrast": 0.35, "saturation": 0.35, "hue": 0.05, "p": 0.8}},
        {"GaussianBlur": {"blur_limit": [3, 7], "p": 0.2}},
        {"GaussNoise": {"std_range": [0.02, 0.08], "p": 0.3}},
        {"ToGray": {"p": 0.1}},
        {
            "CoarseDropout": {
                "num_holes_range": [1, 4],
                "hole_height_range": [0.1, 0.25],
                "hole_width_range": [0.1, 0.25],
                "p": 0.4,
            }
        },
    ),
}

PRESETS = Registry("recipe.augment", _PRESETS, alternative="a list of transforms")
"""Transforms by the preset's name."""


def resolve_augment(augment: str | Sequence[Transform]) -> tuple[Transform, ...]:
    """The transforms that a preset's name or a list stands for.

    Raises:
        InputError: there is no such preset.
    """
    return PRESETS.get(augment) if isinstance(augment, str) else tuple(augment)


class Augmenter:
    """Augments images of one size.

    Raises:
        InputError: a transform's name or arguments are not albumentations', or it changes the image's size.
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        built = [_build(transform) for transform in transforms]
        self._compose = albumentations().Compose(built, seed=0) if built else None

    def __call__(
        self, images: Pixels, seed: int, epoch: int, rows: npt.ArrayLike, repeats: npt.ArrayLike | None = None
    ) -> Pixels:
        """(B, H, W, 3) uint8 augmented images; the same for the same (seed, epoch, row), whatever else is in the batch.

        Args:
            images: (B, H, W, 3) uint8.
            seed: that of the stream.
            epoch: the epoch.
            rows: (B,) row of each image.
            repeats: (B,) how often each row has come before in the epoch, which changes what it becomes; None for never.
        """
        if self._compose is None:
            return images
        out = np.empty_like(images)
        before = np.zeros(len(images), np.int64) if repeats is None else np.asarray(repeats)
        for index, (row, times) in enumerate(zip(np.asarray(rows).tolist(), before.tolist(), strict=True)):
            # Not set_random_seed: it gives every transform the same draws, so that they happen together or not at all.
            draws = np.random.default_rng([seed, epoch, row, times] if times else [seed, epoch, row])
            self._compose.set_random_state(draws, random.Random(int(draws.integers(2**63))))
            changed = self._compose(image=images[index])["image"]
            if (changed.shape, changed.dtype) != (out.shape[1:], out.dtype):
                raise InputError(
                    f"recipe.augment changes an image of {_kind(images[index])} to {_kind(changed)}; leave the size to "
                    "recipe.image_size, and the scale of the values to the model."
                )
            out[index] = changed
        return out


def check_augment(augment: str | Sequence[Transform], height: int, width: int) -> None:
    """Augments one image of noise, so that what cannot work is refused before anything is trained.

    Raises:
        InputError: the transforms cannot be built, or refuse such an image.
    """
    augmenter = Augmenter(resolve_augment(augment))
    image = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    try:
        for epoch in range(16):  # each transform happens with its own probability
            augmenter(image, 0, epoch, [0])
    except InputError:
        raise
    except Exception as error:  # albumentations and OpenCV raise whatever they like here
        raise InputError(
            f"recipe.augment cannot be done to an image of {height}×{width} pixels: {_problem(error) or type(error).__name__}."
        ) from None


def _kind(image: npt.NDArray[Any]) -> str:
    return f"{'×'.join(map(str, image.shape))} {image.dtype}"


def _problem(error: Exception) -> str:
    """The first problem of an error of albumentations; pydantic's reports have lines for: count, argument, problem, link."""
    lines = str(error).splitlines()
    message = f"{lines[1].partition('.')[0]}: {lines[2].strip().partition(' [type=')[0]}" if len(lines) > 2 else lines[0]
    return message.rstrip(".")


@cache
def albumentations() -> Any:
    """The library, imported when it is first needed and without torch, which it wants for transforms that are not used here.

    That would cost 2 s and 600 MB in every worker.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    without_torch = "torch" not in sys.modules
    if without_torch:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import albumentations
    finally:
        if without_torch:
            del sys.modules["torch"]
    return albumentations


def _build(transform: Transform) -> Any:
    if len(transform) != 1:
        raise InputError(f"recipe.augment: each item is one transform, such as {{HorizontalFlip: {{p: 0.5}}}}, not {transform}.")
    [(name, arguments)] = transform.items()
    kind = getattr(albumentations(), name, None)
    if not (isinstance(kind, type) and issubclass(kind, albumentations().BasicTransform)):
        raise InputError(f"recipe.augment: albumentations has no transform '{name}'.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # albumentations only warns of arguments that it does not know
            return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in (arguments or {}).items()})
    except (TypeError, ValueError, UserWarning) as error:
        raise InputError(f"recipe.augment: {name} refuses its arguments: {_problem(error)}.") from None
