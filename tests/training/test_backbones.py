"""Tests of starting weights: the same by their content alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raymask.config.members import Member
from raymask.config.recipe import Recipe
from raymask.core.errors import InputError
from raymask.runs.directory import Run
from raymask.training.backbones import backbone_file, check_starts


def recipe_of(weights: Path | None, **values: object) -> Recipe:
    return Recipe.model_validate({"backbone": "test_resnet", "weights": weights, **values})


def test_weights_are_the_same_by_their_content(tmp_path: Path) -> None:
    one, copy, other = (tmp_path / name for name in ("one.pth", "copy.pth", "other.pth"))
    for file, content in ((one, b"black"), (copy, b"black"), (other, b"white")):
        file.write_bytes(content)
        os.utime(file, (1, 1))
    assert backbone_file(recipe_of(one)) == backbone_file(recipe_of(copy)) != backbone_file(recipe_of(other))
    before = backbone_file(recipe_of(one))
    one.write_bytes(b"white")
    os.utime(one, (1, 1))
    assert backbone_file(recipe_of(one)) == backbone_file(recipe_of(other)) != before


def test_what_else_decides_the_file(tmp_path: Path) -> None:
    weights = tmp_path / "w.pth"
    weights.write_bytes(b"1")
    recipes = (
        recipe_of(weights),
        recipe_of(weights, image_size=64),
        recipe_of(weights, backbone="a/b"),
        recipe_of(None),
        recipe_of(None, pretrained=False),
    )
    assert len({backbone_file(recipe) for recipe in recipes}) == 5
    assert all("/" not in backbone_file(recipe) for recipe in recipes)


def test_weights_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^recipe\.weights: there is no file '{tmp_path}/none\.pth'\.$"):
        backbone_file(recipe_of(tmp_path / "none.pth"))


def test_a_member_that_began_with_other_weights_is_not_gone_on_with(tmp_path: Path) -> None:
    run, weights = Run(tmp_path / "run"), tmp_path / "w.pth"
    mask, age = (Member(name=name, task=name, seed=0, recipe=recipe_of(weights)) for name in ("mask", "age"))
    check_starts(run, {"mask": "a"}, [mask])
    check_starts(run, {"mask": "a", "age": "b"}, [mask, age])
    check_starts(run, {"age": "b"}, [age])
    with pytest.raises(InputError, match=rf"began to train 'mask' from other weights than '{weights}' holds now; put those back"):
        check_starts(run, {"mask": "c", "age": "b"}, [mask, age])
    check_starts(run, {"mask": "a", "age": "b"}, [mask, age])
