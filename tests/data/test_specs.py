"""Tests of what a recipe wants of its inputs, and that what earlier runs prepared is still found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymask.config.recipe import Recipe
from raymask.core.tasks import LabelSpace, Task
from raymask.data.cache import cache_key
from raymask.data.features import bank_folder
from raymask.data.specs import InputSpec, bank_spec, frozen_backbone, input_spec, stream_spec

PLAIN: dict[str, Any] = {
    "backbone": "resnet18",
    "image_size": [48, 64],
    "crop": 0.9,
    "augment": "light",
    "freeze": {"part": "backbone"},
}
SPACE = LabelSpace((Task("mask", "mask", ("worn", "none")),))
IMAGES = pd.DataFrame({"image_id": ["a", "b"], "digest": ["aa", "bb"]})


def recipe_of(**over: Any) -> Recipe:
    return Recipe.model_validate({**PLAIN, **over})


def bank_of(recipe: Recipe) -> str:
    spec = bank_spec(recipe, stream_spec(recipe, 7, "mask", SPACE), ("original", "hflip"))
    return bank_folder(Path(), spec, Path("abc-48x64"), "resnet18", "www", IMAGES["image_id"]).name


def test_folders_of_runs_before_there_were_windows_and_given_statistics_are_found() -> None:
    assert cache_key(IMAGES, input_spec(recipe_of())) == "97fe8a7847c7ae66"
    assert bank_of(recipe_of()) == "resnet18-f22f1327a596"
    assert repr(input_spec(recipe_of())) == "InputSpec(height=48, width=64, crop=0.9)"
    assert frozen_backbone(recipe_of(), "www") == "resnet18 www auto"


def test_a_prepare_size_that_is_the_image_size_changes_nothing() -> None:
    assert input_spec(recipe_of(prepare_size=[48, 64])) == input_spec(recipe_of())


def test_models_of_several_image_sizes_share_images_that_are_prepared_at_one_size() -> None:
    small, large = (input_spec(recipe_of(prepare_size=80, image_size=size)) for size in (48, 64))
    assert (small.height, small.width, small.size, large.size) == (80, 80, (48, 48), (64, 64))
    assert small.prepared == large.prepared == InputSpec(80, 80, 0.9)
    assert cache_key(IMAGES, small) == cache_key(IMAGES, large) == cache_key(IMAGES, InputSpec(80, 80, 0.9))


def test_features_of_other_windows_or_statistics_are_others() -> None:
    given = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    others: list[dict[str, Any]] = [{}, {"prepare_size": 80}, {"prepare_size": 80, "image_size": 48}, {"normalize": given}]
    others.append({"normalize": {**given, "mean": [0.5, 0.5, 0.4]}})
    assert len({bank_of(recipe_of(**over)) for over in others}) == 5
    assert len({frozen_backbone(recipe_of(**over), "www") for over in others}) == 3  # a window is in the stream's spec


def test_specs_with_and_without_windows_can_be_sorted() -> None:
    specs = [InputSpec(8, 8, 1.0, (4, 4)), InputSpec(8, 8, 1.0), InputSpec(8, 8, 1.0, (2, 4)), InputSpec(4, 8, 1.0)]
    assert sorted(specs) == [specs[3], specs[1], specs[2], specs[0]]


@given(sides=st.tuples(st.integers(1, 40), st.integers(1, 40)), data=st.data())
def test_a_window_is_the_centre(sides: tuple[int, int], data: st.DataObject) -> None:
    window = tuple(data.draw(st.integers(1, side)) for side in sides)
    places: Any = np.moveaxis(np.mgrid[: sides[0], : sides[1]], 0, -1)
    seen = InputSpec(*sides, 1.0, window).seen(places)
    assert seen.shape == (*window, 2)
    for axis in (0, 1):
        before, after = seen[0, 0, axis], sides[axis] - 1 - seen[-1, -1, axis]
        assert after - before in (0, 1)


@pytest.mark.parametrize("over", [{"crop": 1.5}, {"prepare_size": 40}, {"prepare_size": [80, 60]}])
def test_what_cannot_be_prepared_is_refused(over: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"crop is a share up to 1|prepare_size is .* too small"):
        recipe_of(**over)
