"""Tests of augmentation: what an image becomes depends on (seed, epoch, row) alone."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymask.core.errors import InputError
from raymask.transforms.augment import PRESETS, Augmenter, check_augment, resolve_augment

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 40, 48, 3)).astype(np.uint8)


def sentence(transforms: list[dict[str, Any]]) -> str:
    with pytest.raises(InputError) as caught:
        Augmenter(transforms)(IMAGES, 0, 0, range(6))
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert "http" not in text
    return text


# --- determinism


HEAVY = Augmenter(PRESETS.get("heavy"))
ALONE = np.stack([HEAVY(IMAGES[row : row + 1], 1, 2, [row])[0] for row in range(6)])


@given(rows=st.lists(st.integers(0, 5), min_size=1, max_size=8))
@settings(max_examples=15, deadline=None)
def test_an_image_becomes_the_same_whatever_else_is_in_the_batch_and_in_any_order(rows: list[int]) -> None:
    np.testing.assert_array_equal(HEAVY(IMAGES[rows], 1, 2, rows), ALONE[rows])


def test_another_augmenter_of_the_same_transforms_makes_the_same_pixels() -> None:
    np.testing.assert_array_equal(Augmenter(PRESETS.get("heavy"))(IMAGES, 1, 2, range(6)), ALONE)


def test_what_other_code_draws_at_random_changes_nothing() -> None:
    np.random.seed(7)  # noqa: NPY002
    np.random.random(5)  # noqa: NPY002
    np.testing.assert_array_equal(HEAVY(IMAGES, 1, 2, np.arange(6)), ALONE)


def test_another_seed_epoch_or_row_makes_other_pixels() -> None:
    same = np.repeat(IMAGES[:1], 4, axis=0)
    variants = [*HEAVY(same, 1, 2, [0, 1, 2, 3]), *HEAVY(same, 1, 3, [0, 1, 2, 3]), *HEAVY(same, 2, 2, [0, 1, 2, 3])]
    assert len({variant.tobytes() for variant in variants}) == 12


def test_a_row_that_comes_again_in_an_epoch_makes_other_pixels_and_the_first_time_the_same() -> None:
    same = np.repeat(IMAGES[:1], 4, axis=0)
    variants = HEAVY(same, 1, 2, [0, 0, 0, 0], [0, 2, 1, 3])
    assert len({variant.tobytes() for variant in variants}) == 4
    np.testing.assert_array_equal(variants[0], ALONE[0])
    np.testing.assert_array_equal(HEAVY(IMAGES[:1], 1, 2, [0], [2])[0], variants[1])


def test_seed_epoch_and_row_are_not_interchangeable() -> None:
    one = IMAGES[:1]
    variants = [HEAVY(one, *place)[0].tobytes() for place in ((1, 2, [3]), (2, 1, [3]), (1, 3, [2]), (3, 2, [1]), (12, 3, [0]))]
    assert len(set(variants)) == 5


def test_large_numbers_are_no_trouble() -> None:
    np.testing.assert_array_equal(HEAVY(IMAGES[:1], 2**31 - 1, 10**6, [10**7]), HEAVY(IMAGES[:1], 2**31 - 1, 10**6, [10**7]))


def test_the_images_that_came_in_stay_as_they_are() -> None:
    before = IMAGES.copy()
    HEAVY(IMAGES, 0, 0, range(6))
    np.testing.assert_array_equal(IMAGES, before)


def test_transforms_happen_independently_of_each_other() -> None:
    images = np.repeat(IMAGES[:1], 400, axis=0)
    out = Augmenter([{"HorizontalFlip": {"p": 0.5}}, {"VerticalFlip": {"p": 0.5}}])(images, 0, 0, range(400))
    seen = [(out == IMAGES[0, ::up, ::left]).all(axis=(1, 2, 3)).sum() for up in (1, -1) for left in (1, -1)]
    assert sum(seen) == 400
    assert min(seen) > 60  # of 100


def test_how_far_transforms_go_is_independent_too() -> None:
    grown = [{"RandomBrightnessContrast": {"brightness_limit": [0, 0.5], "contrast_limit": [0, 0], "p": 1}}] * 2
    gray = np.full((300, 8, 8, 3), 60, dtype=np.uint8)
    once = Augmenter(grown[:1])(gray, 0, 0, range(300))[:, 0, 0, 0] - 60.0
    twice = Augmenter(grown)(gray, 0, 0, range(300))[:, 0, 0, 0] - 60.0
    assert twice.std() < 1.7 * once.std()  # √2 where they are independent, 2 where they are the same


# --- presets


@pytest.mark.parametrize("name", PRESETS.names)
@pytest.mark.parametrize("shape", [(40, 48), (64, 64), (17, 33)])
def test_presets_keep_shape_and_type_without_a_warning(name: str, shape: tuple[int, int]) -> None:
    images = np.random.default_rng(1).integers(0, 256, (8, *shape, 3)).astype(np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = Augmenter(resolve_augment(name))(images, 0, 0, range(8))
    assert out.shape == images.shape
    assert out.dtype == np.uint8


def test_none_changes_nothing_and_each_preset_changes_more_than_the_last() -> None:
    y, x = np.mgrid[:40, :48]
    smooth = np.repeat(np.stack([x * 5, y * 6, x + y], axis=-1).astype(np.uint8)[None], 40, axis=0)
    changes = [
        np.abs(Augmenter(resolve_augment(name))(smooth, 0, 0, range(40)).astype(int) - smooth).mean()
        for name in ("none", "light", "medium", "heavy")
    ]
    assert changes[0] == 0
    assert changes[0] < changes[1] < changes[2] < changes[3]


def test_a_list_of_transforms_stands_for_itself() -> None:
    transforms = [{"HorizontalFlip": {"p": 1}}, {"Blur": None}]
    assert resolve_augment(transforms) == tuple(transforms)
    assert resolve_augment("none") == ()


def test_transforms_work_in_their_order_with_their_arguments() -> None:
    flipped = Augmenter([{"HorizontalFlip": {"p": 1}}])(IMAGES, 0, 0, range(6))
    np.testing.assert_array_equal(flipped, IMAGES[:, :, ::-1])
    both = Augmenter([{"HorizontalFlip": {"p": 1}}, {"VerticalFlip": {"p": 1}}])(IMAGES, 0, 0, range(6))
    np.testing.assert_array_equal(both, IMAGES[:, ::-1, ::-1])
    never = Augmenter([{"HorizontalFlip": {"p": 0}}])(IMAGES, 0, 0, range(6))
    np.testing.assert_array_equal(never, IMAGES)


def test_a_transform_without_arguments_has_its_defaults() -> None:
    for arguments in (None, {}):
        out = Augmenter([{"HorizontalFlip": arguments}])(np.repeat(IMAGES[:1], 50, axis=0), 0, 0, range(50))
        flipped = (out == IMAGES[0, :, ::-1]).all(axis=(1, 2, 3)).sum()
        assert 10 < flipped < 40  # p=0.5


# --- refusals


def test_an_unknown_preset_is_refused_with_the_presets() -> None:
    with pytest.raises(InputError) as caught:
        resolve_augment("hevy")
    assert (
        str(caught.value)
        == "recipe.augment is 'hevy'; it may be 'heavy' (the nearest), 'none', 'light' or 'medium', or a list of transforms."
    )


@pytest.mark.parametrize("name", ["Blurr", "Compose", "OneOf", "np", "__name__", "BasicTransform.apply"])
def test_an_unknown_transform_is_refused(name: str) -> None:
    assert sentence([{name: {}}]) == f"recipe.augment: albumentations has no transform '{name}'."


@pytest.mark.parametrize(
    ("transform", "problem"),
    [
        ({"Blur": {"blur_limitt": 3}}, "Blur refuses its arguments: Argument(s) 'blur_limitt' are not valid for transform Blur."),
        ({"HorizontalFlip": {"p": 2}}, "HorizontalFlip refuses its arguments: p: Input should be less than or equal to 1."),
        ({"Blur": {"blur_limit": "x"}}, "Blur refuses its arguments: blur_limit: Input should be a valid "),
        ({"RandomCrop": {}}, "RandomCrop refuses its arguments: height: Field required."),
        (
            {"CoarseDropout": {"num_holes_range": [4, 1]}},
            "CoarseDropout refuses its arguments: num_holes_range: Value error, First value should be less than the second",
        ),
    ],
)
def test_wrong_arguments_are_refused_with_their_name_and_the_problem(transform: dict[str, Any], problem: str) -> None:
    assert sentence([{"HorizontalFlip": {}}, transform]).startswith(f"recipe.augment: {problem}")


@pytest.mark.parametrize("transform", [{}, {"HorizontalFlip": {}, "Blur": {}}])
def test_an_item_of_none_or_two_transforms_is_refused(transform: dict[str, Any]) -> None:
    assert sentence([transform]).startswith(
        "recipe.augment: each item is one transform, such as {HorizontalFlip: {p: 0.5}}, not {"
    )


@pytest.mark.parametrize(
    ("transform", "becomes"),
    [
        ({"Resize": {"height": 8, "width": 9}}, "8×9×3 uint8"),
        ({"RandomCrop": {"height": 10, "width": 12, "p": 1}}, "10×12×3 uint8"),
        ({"Transpose": {"p": 1}}, "48×40×3 uint8"),
        ({"ToGray": {"num_output_channels": 1, "p": 1}}, "40×48"),
        ({"ToFloat": {"p": 1}}, "40×48×3 float32"),
        ({"Normalize": {"p": 1}}, "40×48×3 float32"),
    ],
)
def test_a_transform_that_changes_size_channels_or_type_is_refused(transform: dict[str, Any], becomes: str) -> None:
    assert sentence([transform]).startswith(f"recipe.augment changes an image of 40×48×3 uint8 to {becomes}")


# --- what a transform may import


@pytest.fixture
def fake_torch(tmp_path: Path) -> dict[str, str]:
    """An environment in which torch is a package that says when it is imported, and nothing else."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("print('torch was imported')\n")
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def test_importing_it_does_not_import_torch_and_torch_can_be_imported_afterwards(fake_torch: dict[str, str]) -> None:
    code = (
        "import sys, raymask.transforms.augment as augment\n"
        "print(any(name.partition('.')[0] in ('torch', 'torchvision') for name in sys.modules))\n"
        "augment.Augmenter(augment.PRESETS.get('heavy'))\n"
        "import torch\n"
        "print(torch.__file__ is not None, sys.modules['torch'] is torch)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=fake_torch, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["False", "torch was imported", "True True"], done.stderr


@pytest.mark.parametrize(
    ("transform", "sentence"),
    [
        ({"RandomCrop": {"height": 64, "width": 64}}, "cannot be done to an image of 32×32"),
        ({"Flap": None}, "no transform 'Flap'"),
    ],
)
def test_what_cannot_work_is_refused_before_training(transform: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        check_augment([transform], 32, 32)
    check_augment("heavy", 32, 32)
