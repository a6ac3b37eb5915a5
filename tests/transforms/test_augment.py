"""Tests of augmentation: what an image becomes depends on (seed, epoch, row) alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from raymask.config.recipe import Recipe
from raymask.core.errors import InputError
from raymask.data.specs import InputSpec
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
        == "recipe.augment is 'hevy'; it may be 'heavy' (the nearest), 'none', 'light', 'medium', 'competition', 'cutout', "
        "'distort', 'randaugment' or 'trivialaugment', or a list of transforms."
    )


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("Blurr", "Blur"),
        ("randaugment", "RandAugment"),
        ("clahe", "CLAHE"),
        ("CutOut", "Cutout"),
        ("One_Of", "OneOf"),
        ("BasicTransform", "SquareSymmetry"),
        ("Sequentiel", "Sequential"),
    ],
)
def test_an_unknown_transform_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    said = sentence([{name: {}}])
    assert said.startswith(f"recipe.augment: there is no transform '{name}'; the nearest is '")
    if name != "BasicTransform":  # a base class of others is none itself
        assert said.endswith(f"the nearest is '{nearest}'.")


def test_a_name_that_is_near_to_none_is_refused_with_those_that_are_ours() -> None:
    assert sentence([{"__name__": {}}]) == (
        "recipe.augment: there is no transform '__name__'; it may be one of albumentations, 'Cutout', 'GridMask', 'RandAugment' "
        "or 'TrivialAugment'."
    )


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
        (
            {"Cutout": {"holes": 3}},
            "Cutout refuses its arguments: Argument(s) 'holes' are not valid for transform CoarseDropout.",
        ),
        ({"RandAugment": {"num_op": 1}}, "RandAugment refuses its arguments: got an unexpected keyword argument 'num_op'."),
        ({"RandAugment": {"num_ops": 0}}, "RandAugment refuses its arguments: num_ops is 0, but is a whole number from 1."),
        ({"RandAugment": {"magnitude": 11}}, "RandAugment refuses its arguments: magnitude is 11, but may be 0 to 10."),
        ({"TrivialAugment": {"p": 2}}, "TrivialAugment refuses its arguments: p is 2, but may be 0 to 1."),
        ({"OneOf": {"p": 0.5}}, "OneOf needs transforms, a list such as [{Blur: null}, {CLAHE: null}]."),
        ({"OneOf": {"transforms": []}}, "OneOf needs transforms, a list such as [{Blur: null}, {CLAHE: null}]."),
        ({"OneOf": {"transforms": ["Blur"]}}, "each item is one transform, such as {HorizontalFlip: {p: 0.5}}, not Blur."),
        ({"OneOf": {"transforms": [{"Blur": {"p": 0}}]}}, "OneOf refuses its arguments: float division by zero."),
        (
            {"Compose": {"transforms": [{"OneOf": {"transforms": [{"Blur": {"limit": 3}}]}}]}},
            "Blur refuses its arguments: Argument(s) 'limit' are not valid for transform Blur.",
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


# --- transforms by name, as they stand in a recipe


BY_NAME = """
CenterCrop: {CenterCrop: {height: 48, width: 56}}
RandomCrop: {RandomCrop: {height: 48, width: 56}}
RandomResizedCrop: {RandomResizedCrop: {size: [48, 56], scale: [0.4, 1.0], ratio: [0.8, 1.25]}}
Rotate: {Rotate: {limit: [-10, 10], p: 1}}
ColorJitter: {ColorJitter: {brightness: 0.3, contrast: [0.7, 1.3], saturation: 0.3, hue: 0.1, p: 1}}
CoarseDropout: {CoarseDropout: {num_holes_range: [1, 3], hole_height_range: [0.1, 0.3], hole_width_range: [0.1, 0.2], p: 1}}
Cutout: {Cutout: {num_holes_range: [1, 1], hole_height_range: [0.5, 0.5], hole_width_range: [0.5, 0.5], p: 1}}
GridDropout: {GridDropout: {ratio: 0.4, p: 1}}
GridMask: {GridMask: {ratio: 0.5, unit_size_range: [8, 24], p: 1}}
OpticalDistortion: {OpticalDistortion: {distort_limit: [-0.4, 0.4], mode: fisheye, p: 1}}
GridDistortion: {GridDistortion: {num_steps: 4, distort_limit: 0.3, p: 1}}
ElasticTransform: {ElasticTransform: {alpha: 40, sigma: 6, p: 1}}
CLAHE: {CLAHE: {clip_limit: [1, 4], tile_grid_size: [4, 4], p: 1}}
Affine: {Affine: {shear: {x: [-10, 10], y: [0, 0]}, translate_percent: {x: [-0.1, 0.1], y: [0, 0]}, p: 1}}
OneOf: {OneOf: {transforms: [{CLAHE: null}, {Rotate: {limit: 20}}, {GridDropout: {}}], p: 1}}
SomeOf: {SomeOf: {transforms: [{CLAHE: {p: 1}}, {Rotate: {limit: 20, p: 1}}, {HorizontalFlip: {p: 1}}], n: 2}}
Compose: {Compose: {transforms: [{OneOf: {transforms: [{Blur: null}, {CLAHE: null}], p: 0.5}}, {Rotate: {p: 1}}], p: 1}}
Sequential: {Sequential: {transforms: [{HorizontalFlip: {p: 0.5}}, {RandomBrightnessContrast: {p: 1}}], p: 1}}
RandAugment: {RandAugment: {num_ops: 2, magnitude: 9}}
TrivialAugment: {TrivialAugment: {}}
"""
NAMED: dict[str, Any] = yaml.safe_load(BY_NAME)
SMOOTH = np.stack([cv2.resize(IMAGES[row, :8, :8], (64, 64), interpolation=cv2.INTER_CUBIC) for row in range(6)])


@pytest.mark.parametrize("name", NAMED)
def test_a_transform_of_a_recipe_makes_images_of_its_size_by_seed_epoch_and_row_alone(name: str) -> None:
    recipe = Recipe.model_validate({"augment": [NAMED[name]]})
    transforms = json.loads(json.dumps(resolve_augment(recipe.augment)))  # as a stream's spec holds them
    size = (48, 56) if name.endswith("Crop") else (64, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = Augmenter(transforms, size)(SMOOTH, 3, 1, range(6))
    assert (out.shape, out.dtype) == ((6, *size, 3), np.uint8)
    again = Augmenter(transforms, size)
    np.testing.assert_array_equal(
        np.concatenate([again(SMOOTH[row : row + 1], 3, 1, [row]) for row in (5, 2, 0)]), out[[5, 2, 0]]
    )
    if name != "CenterCrop":
        same = np.repeat(SMOOTH[:1], 20, axis=0)
        assert len({image.tobytes() for image in again(same, 3, 1, range(20))}) > 1


def test_a_centre_crop_is_what_a_model_sees_of_a_prepared_image() -> None:
    for size in ((48, 56), (47, 55), (64, 1)):
        cropped = Augmenter([{"CenterCrop": {"height": size[0], "width": size[1]}}], size)(SMOOTH, 0, 0, range(6))
        np.testing.assert_array_equal(cropped, InputSpec(64, 64, 1.0, size).seen(SMOOTH))


def test_one_of_several_happens_as_often_as_it_says() -> None:
    flips = {"OneOf": {"transforms": [{"HorizontalFlip": {"p": 0.3}}, {"VerticalFlip": {"p": 0.1}}], "p": 0.8}}
    out = Augmenter([flips])(np.repeat(SMOOTH[:1], 1000, axis=0), 0, 0, range(1000))
    seen = [(out == SMOOTH[0, ::up, ::left]).all(axis=(1, 2, 3)).sum() for up, left in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
    np.testing.assert_allclose(seen, [200, 600, 200, 0], atol=50)


# --- what brings prepared images to the size that a model takes


def test_augmented_images_may_be_smaller_than_prepared_ones() -> None:
    out = Augmenter([{"RandomCrop": {"height": 30, "width": 20}}], (30, 20))(IMAGES, 0, 0, range(6))
    assert out.shape == (6, 30, 20, 3)
    places = {(y, x) for y in range(11) for x in range(29) if (IMAGES[0, y : y + 30, x : x + 20] == out[0]).all()}
    assert len(places) == 1


@pytest.mark.parametrize(
    ("augment", "made"),
    [
        ("none", "40×48"),
        ("light", "40×48"),
        ([{"RandomCrop": {"height": 30, "width": 20}}], "30×20"),
        ([{"RandomCrop": {"height": 32, "width": 32, "p": 0.5}}], "40×48"),
    ],
)
def test_transforms_that_do_not_bring_prepared_images_to_their_size_are_refused(augment: Any, made: str) -> None:
    with pytest.raises(InputError) as caught:
        check_augment(augment, 40, 48, (32, 32))
    assert str(caught.value) == (
        f"recipe.augment makes {made} of images that are prepared at 40×48 (recipe.prepare_size), but recipe.image_size is "
        "32×32; give it as a list that ends with {RandomCrop: {height: 32, width: 32}}."
    )
    check_augment([{"RandomCrop": {"height": 32, "width": 32}}], 40, 48, (32, 32))


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
        ({"Flap": None}, "no transform 'Flap'; it may be one of albumentations"),
    ],
)
def test_what_cannot_work_is_refused_before_training(transform: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        check_augment([transform], 32, 32)
    check_augment("heavy", 32, 32)
