"""Tests of starting weights: the same by their content alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from raymask.config.members import Member
from raymask.config.recipe import Recipe
from raymask.core.errors import InputError
from raymask.runs.directory import Run
from raymask.training.backbones import _prove, backbone_file, check_starts, proof_file


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


class TestProof:
    DOUBTFUL: tuple[dict[str, Any], ...] = (
        {"optim": {"name": "lion"}},
        {"optim": {"arguments": {"eps": 1e-6}}},
        {"optim": {"layer_decay": 0.8}},
        {"freeze": {"stages": 2}},
        {"drop_path": 0.1},
    )

    def test_what_every_model_can_be_trained_with_needs_none(self) -> None:
        assert proof_file(recipe_of(None)) is None
        assert proof_file(recipe_of(None, optim={"lr": 0.1, "ema": 0.9}, schedule={"name": "plateau"})) is None

    def test_each_setting_that_a_model_may_not_have_needs_its_own(self) -> None:
        recipes = [recipe_of(None, **values) for values in (*self.DOUBTFUL, {**self.DOUBTFUL[0], "image_size": 64})]
        assert len({proof_file(recipe) for recipe in recipes} - {None}) == len(recipes)
        assert proof_file(recipe_of(None, optim={"name": "lion", "lr": 1.0})) == proof_file(recipe_of(None, **self.DOUBTFUL[0]))

    def test_one_that_can_be_trained_leaves_an_empty_file(self, tmp_path: Path) -> None:
        recipe = recipe_of(None, image_size=32, optim={"name": "muon", "layer_decay": 0.8}, freeze={"stages": 2}, drop_path=0.1)
        assert _prove(recipe, tmp_path / "proof") is None
        assert (tmp_path / "proof").read_bytes() == b""

    @pytest.mark.parametrize(
        ("values", "start"),
        [
            ({"optim": {"name": "adamw2"}}, "recipe.optim.name is 'adamw2', which timm does not have"),
            (
                {"optim": {"name": "sgd", "arguments": {"beta": 1}}},
                "recipe.optim.arguments sets 'beta', which 'sgd' does not take",
            ),
            ({"optim": {"name": "adamp", "arguments": {"betas": [0.9]}}}, "recipe.optim.name 'adamp' cannot be used with"),
            ({"freeze": {"stages": 4}}, "recipe.freeze.stages is 4, but 'test_resnet' has 4 stages"),
            ({"backbone": "vgg11", "drop_path": 0.1}, "recipe.drop_path is 0.1, but 'vgg11' has no residual blocks"),
        ],
    )
    def test_one_that_cannot_is_told_in_a_sentence(self, tmp_path: Path, values: dict[str, Any], start: str) -> None:
        said = _prove(recipe_of(None, image_size=32, **values), tmp_path / "proof")
        assert said is not None
        assert said.startswith(start)
        assert "\n" not in said
        assert not (tmp_path / "proof").exists()
