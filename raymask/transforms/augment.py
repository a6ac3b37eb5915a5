"""Augmentation by albumentations: the only file that knows it. What an image becomes depends on (seed, epoch, row) alone.

Where a sampler repeats a row in an epoch, it depends on which of the repeats it is too.
"""

from __future__ import annotations

import difflib
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from raymask.core.errors import InputError, one_of
from raymask.core.registry import Registry
from raymask.core.types import Pixels
from raymask.transforms.operations import Transform, randaugment, trivialaugment

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
    "competition": (
        {"HorizontalFlip": {"p": 0.5}},
        {"Rotate": {"limit": [-10, 10], "p": 0.5}},
        {"ColorJitter": {"brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "hue": 0.1, "p": 0.5}},
    ),
    "cutout": (
        {"HorizontalFlip": {"p": 0.5}},
        {"Cutout": {"num_holes_range": [1, 1], "hole_height_range": [0.25, 0.5], "hole_width_range": [0.25, 0.5], "p": 0.5}},
    ),
    "distort": (
        {"HorizontalFlip": {"p": 0.5}},
        {
            "OneOf": {
                "transforms": [
                    {"OpticalDistortion": {"distort_limit": [-0.3, 0.3], "p": 1}},
                    {"GridDistortion": {"num_steps": 5, "distort_limit": [-0.2, 0.2], "p": 1}},
                    {"ElasticTransform": {"alpha": 60, "sigma": 8, "p": 1}},
                ],
                "p": 0.5,
            }
        },
    ),
    "randaugment": ({"HorizontalFlip": {"p": 0.5}}, {"RandAugment": {"num_ops": 2, "magnitude": 9}}),
    "trivialaugment": ({"HorizontalFlip": {"p": 0.5}}, {"TrivialAugment": {}}),
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

    Args:
        transforms: what is done, in this order.
        size: height and width of augmented images (default: those of the images).

    Raises:
        InputError: there is no such transform, it refuses its arguments, or augmented images are of another size or type.
    """

    def __init__(self, transforms: Sequence[Transform], size: tuple[int, int] | None = None) -> None:
        built = [_build(transform) for transform in transforms]
        self._compose = albumentations().Compose(built, seed=0) if built else None
        self._size = size

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
        given = images.shape[1:]
        shape = (*(self._size or given[:2]), 3)
        if self._compose is None:
            if given != shape:
                raise _wrong_kind(images[0], images[0], shape)
            return images
        out = np.empty((len(images), *shape), dtype=images.dtype)
        before = np.zeros(len(images), np.int64) if repeats is None else np.asarray(repeats)
        for index, (row, times) in enumerate(zip(np.asarray(rows).tolist(), before.tolist(), strict=True)):
            # Not set_random_seed: it gives every transform the same draws, so that they happen together or not at all.
            draws = np.random.default_rng([seed, epoch, row, times] if times else [seed, epoch, row])
            self._compose.set_random_state(draws, random.Random(int(draws.integers(2**63))))
            changed = self._compose(image=images[index])["image"]
            if (changed.shape, changed.dtype) != (shape, out.dtype):
                raise _wrong_kind(images[index], changed, shape)
            out[index] = changed
        return out


def _wrong_kind(image: Pixels, changed: npt.NDArray[Any], shape: tuple[int, ...]) -> InputError:
    if image.shape == shape or changed.shape[:2] == shape[:2]:
        return InputError(
            f"recipe.augment changes an image of {_kind(image)} to {_kind(changed)}; leave the size to recipe.image_size, and "
            "the scale of the values to the model."
        )
    (height, width), prepared, made = shape[:2], _size(image), _size(changed)
    return InputError(
        f"recipe.augment makes {made} of images that are prepared at {prepared} (recipe.prepare_size), but recipe.image_size is "
        f"{height}×{width}; give it as a list that ends with {{RandomCrop: {{height: {height}, width: {width}}}}}."
    )


def _size(image: npt.NDArray[Any]) -> str:
    return "×".join(map(str, image.shape[:2]))


def check_augment(augment: str | Sequence[Transform], height: int, width: int, size: tuple[int, int] | None = None) -> None:
    """Augments one image of noise, so that what cannot work is refused before anything is trained.

    Args:
        augment: a preset's name, or transforms.
        height: of prepared images.
        width: of prepared images.
        size: height and width of augmented images (default: those of prepared ones).

    Raises:
        InputError: the transforms cannot be built, refuse such an image, or bring it to another size.
    """
    augmenter = Augmenter(resolve_augment(augment), size)
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
    if not isinstance(transform, Mapping) or len(transform) != 1:
        raise InputError(f"recipe.augment: each item is one transform, such as {{HorizontalFlip: {{p: 0.5}}}}, not {transform}.")
    [(name, given)] = transform.items()
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in (given or {}).items()}
    kind = OWN.get(name) or _albumentations_kinds().get(ALIASES.get(name, name))
    if kind is None:
        raise InputError(f"recipe.augment: there is no transform '{name}'; {_nearest(name)}.")
    if isinstance(kind, type) and issubclass(kind, albumentations().BaseCompose):
        inner = arguments.get("transforms")
        if not isinstance(inner, tuple) or not inner:
            raise InputError(f"recipe.augment: {name} needs transforms, a list such as [{{Blur: null}}, {{CLAHE: null}}].")
        arguments["transforms"] = [_build(each) for each in inner]
    with _explained(name):
        return kind(**arguments)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """What albumentations says of wrong arguments, as a refusal; of those that it does not know it only warns."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            yield
    except (TypeError, ValueError, ArithmeticError, UserWarning) as error:
        problem = _problem(error).rpartition("() ")[2]  # without the name of a function
        raise InputError(f"recipe.augment: {name} refuses its arguments: {problem}.") from None


@cache
def _albumentations_kinds() -> dict[str, Any]:
    """Classes of albumentations' transforms, and of those that hold others, by name."""
    library = albumentations()
    bases = (library.BasicTransform, library.DualTransform, library.ImageOnlyTransform, library.Transform3D, library.BaseCompose)
    named = {name: getattr(library, name) for name in dir(library)}
    roots = (library.BasicTransform, library.BaseCompose)
    return {
        name: kind for name, kind in named.items() if isinstance(kind, type) and issubclass(kind, roots) and kind not in bases
    }


def _nearest(name: str) -> str:
    known = {each.casefold(): each for each in (*_albumentations_kinds(), *ALIASES, *OWN)}
    near = difflib.get_close_matches(str(name).casefold(), known, n=1)
    return f"the nearest is '{known[near[0]]}'" if near else f"it may be one of albumentations, {one_of((*ALIASES, *OWN), name)}"


@cache
def _drawing() -> Any:
    """A transform that draws operations for each image, and of each operation one of its equally likely variants."""

    class Drawing(albumentations().ImageOnlyTransform):  # type: ignore[misc]
        def __init__(self, operations: Sequence[Sequence[Transform]], count: int, p: float) -> None:
            super().__init__(p=p)
            self.operations, self.count = operations, count
            self.built: dict[tuple[int, int], Any] = {}  # by operation and variant: of the many, those that were drawn

        def get_params(self) -> dict[str, Any]:
            return {"drawn": [self.draw() for _ in range(self.count)]}

        def draw(self) -> Any:
            operation = self.py_random.randrange(len(self.operations))
            variant = self.py_random.randrange(len(self.operations[operation]))
            if (operation, variant) not in self.built:
                self.built[operation, variant] = _build(self.operations[operation][variant])
            return self.built[operation, variant]

        def apply(self, image: Pixels, drawn: Sequence[Any], **_: Any) -> Pixels:
            for transform in drawn:
                image = transform(image=image)["image"]
            return image

    return Drawing


def _rand_augment(num_ops: int = 2, magnitude: float = 9, p: float = 1.0) -> Any:
    """See `randaugment`; `num_ops` operations are drawn, one after the other, and may be the same."""
    if not isinstance(num_ops, int) or num_ops < 1:
        raise ValueError(f"num_ops is {num_ops}, but is a whole number from 1")
    return _drawing()(randaugment(magnitude), num_ops, _share(p))


def _trivial_augment(p: float = 1.0) -> Any:
    """See `trivialaugment`."""
    return _drawing()(trivialaugment(), 1, _share(p))


def _share(p: float) -> float:
    if not 0 <= p <= 1:
        raise ValueError(f"p is {p}, but may be 0 to 1")
    return p


ALIASES = {"Cutout": "CoarseDropout", "GridMask": "GridDropout"}
"""What papers call transforms that albumentations has under other names."""
OWN: dict[str, Callable[..., Any]] = {"RandAugment": _rand_augment, "TrivialAugment": _trivial_augment}
"""Transforms that albumentations lacks."""
