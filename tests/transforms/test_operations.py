"""Tests of the 14 operations of RandAugment and TrivialAugment, beside Pillow's, by which the papers define them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from raymask.core.types import Pixels
from raymask.transforms.augment import Augmenter
from raymask.transforms.operations import LEVELS, OPERATIONS, randaugment, trivialaugment

SIDE = 96
NOISE = np.random.default_rng(0).integers(20, 230, (12, 12, 3)).astype(np.uint8)
IMAGE: Pixels = np.asarray(cv2.resize(NOISE, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
PHOTO = Image.fromarray(IMAGE)
NAMES = [operation.name for operation in OPERATIONS]


def done(name: str, value: float) -> Pixels:
    """The image after one operation."""
    [operation] = [operation for operation in OPERATIONS if operation.name == name]
    [first, *_] = operation.of(abs(value))
    transform = operation.build(value) if value < 0 else first
    changed: Pixels = Augmenter([transform])(IMAGE[None], 0, 0, [0])[0]
    return changed


def moved(a: float, b: float, c: float, d: float, e: float, f: float) -> np.ndarray:
    """Pillow's image, of whose pixel at (x, y) the one at (a x + b y + c, d x + e y + f) is read, about the centre."""
    middle = (SIDE - 1) / 2
    matrix = (a, b, c + middle - a * middle - b * middle, d, e, f + middle - d * middle - e * middle)
    return np.asarray(PHOTO.transform((SIDE, SIDE), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))


def inner(image: np.ndarray) -> np.ndarray:
    """The middle, which no border of those moves reaches."""
    return image[SIDE // 3 : -SIDE // 3, SIDE // 3 : -SIDE // 3].astype(int)


PILLOW: dict[tuple[str, float], Callable[[], Any]] = {
    ("identity", 0): lambda: PHOTO,
    ("auto_contrast", 0): lambda: ImageOps.autocontrast(PHOTO),
    ("equalize", 0): lambda: ImageOps.equalize(PHOTO),
    ("solarize", 0.25): lambda: ImageOps.solarize(PHOTO, 192),
    ("solarize", 1): lambda: ImageOps.invert(PHOTO),
    ("posterize", 4): lambda: ImageOps.posterize(PHOTO, 4),
    ("posterize", 2): lambda: ImageOps.posterize(PHOTO, 6),
    **{("colour", sign * 0.7): partial(ImageEnhance.Color(PHOTO).enhance, 1 + sign * 0.7) for sign in (1, -1)},
    **{("contrast", sign * 0.7): partial(ImageEnhance.Contrast(PHOTO).enhance, 1 + sign * 0.7) for sign in (1, -1)},
    **{("brightness", sign * 0.7): partial(ImageEnhance.Brightness(PHOTO).enhance, 1 + sign * 0.7) for sign in (1, -1)},
    **{("sharpness", sign * 0.9): partial(ImageEnhance.Sharpness(PHOTO).enhance, 1 + sign * 0.9) for sign in (1, -1)},
    ("rotate", 20): lambda: PHOTO.rotate(20, Image.Resampling.BILINEAR),
    ("rotate", -20): lambda: PHOTO.rotate(-20, Image.Resampling.BILINEAR),
    ("shear_x", 0.2): lambda: moved(1, 0.2, 0, 0, 1, 0),
    ("shear_x", -0.2): lambda: moved(1, -0.2, 0, 0, 1, 0),
    ("shear_y", 0.2): lambda: moved(1, 0, 0, 0.2, 1, 0),
    ("translate_x", 0.125): lambda: moved(1, 0, -12, 0, 1, 0),
    ("translate_y", -0.125): lambda: moved(1, 0, 0, 0, 1, 12),
}


@pytest.mark.parametrize(("name", "value"), PILLOW)
def test_an_operation_is_pillows(name: str, value: float) -> None:
    made = done(name, value)
    expected = np.asarray(PILLOW[name, value]())
    difference = np.abs(inner(made) - inner(expected)).mean()
    assert difference < 2.5
    changed = np.abs(inner(expected) - inner(IMAGE)).mean()
    assert name == "identity" or changed > 2 * difference


def test_there_are_14_operations_and_each_but_one_changes_an_image() -> None:
    assert len(set(NAMES)) == 14
    assert {name for name, _ in PILLOW} == set(NAMES)
    same = [
        all(np.array_equal(done(name, sign * of.wide), IMAGE) for sign in (1, -1)[: 1 + of.signed])
        for name, of in zip(NAMES, OPERATIONS, strict=True)
    ]
    assert same == [name == "identity" for name in NAMES]


def test_magnitude_0_leaves_an_image_as_it_is_and_10_is_autoaugments_end() -> None:
    leveled = {operation.name: number for number, operation in enumerate(OPERATIONS) if operation.narrow}
    assert all(set(map(str, randaugment(0)[number])) == {"{'NoOp': {'p': 1}}"} for number in leveled.values())
    most = randaugment(10)
    assert most[leveled["rotate"]] == (
        {"Rotate": {"limit": (30, 30), "fill": 128, "p": 1}},
        {"Rotate": {"limit": (-30, -30), "fill": 128, "p": 1}},
    )
    assert most[leveled["posterize"]] == ({"Posterize": {"num_bits": 4, "p": 1}},)
    assert [len(variants) for variants in most] == [1, 1, 1, 2, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2]


def test_trivialaugment_has_each_strength_as_often_in_each_direction() -> None:
    variants = trivialaugment()
    assert [len(of_operation) for of_operation in variants] == [
        1,
        1,
        1,
        *(2 * LEVELS if of.signed else LEVELS for of in OPERATIONS[3:]),
    ]
    limits = sorted(turn["Rotate"]["limit"][0] for turn in variants[3] if "Rotate" in turn)  # type: ignore[index]
    np.testing.assert_allclose(limits, sorted(sign * 135 * level / 30 for level in range(1, 31) for sign in (1, -1)))


def of_constant(name: str, transforms: list[dict[str, Any]], images: int) -> Counter[int]:
    """How often gray 100 becomes which gray, of many images."""
    gray = np.full((images, 4, 4, 3), 100, dtype=np.uint8)
    return Counter(Augmenter(transforms)(gray, 0, 0, range(images))[:, 2, 2, 0].tolist())


def test_trivialaugment_draws_one_operation_of_14_and_one_strength_of_31() -> None:
    grays = of_constant("trivial", [{"TrivialAugment": {}}], 1000)
    # On gray 100 brightness alone makes 61 grays, of which 30 are above 100; solarize makes 155 at 100 >= 255 (1 - level / 30).
    brighter = sum(count for gray, count in grays.items() if gray > 100 and gray != 155)
    assert abs(brighter / 1000 - 30 / 61 / 14) < 0.01
    assert abs(grays[155] / 1000 - 12 / 31 / 14) < 0.012


def test_randaugment_draws_so_many_operations_with_replacement() -> None:
    """Gray 100 becomes 255 where it is brightened by 1.9 twice, or inverted and then brightened."""
    one, two = (of_constant("rand", [{"RandAugment": {"num_ops": ops, "magnitude": 10}}], 1000) for ops in (1, 2))
    assert abs(one[190] / 1000 - 1 / 28) < 0.01
    assert one[255] == 0
    assert abs(two[255] / 1000 - (1 / 28**2 + 1 / 14 / 28)) < 0.003
