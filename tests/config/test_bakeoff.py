"""Tests of how backbones are listed, on the command line and in a recipe's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from raymask.config.bakeoff import bakeoff_config, from_text
from raymask.config.members import member_recipe
from raymask.config.schema import RunConfig
from raymask.core.errors import InputError


def recipes(config: RunConfig) -> dict[str, tuple[str, Path | None, int | tuple[int, int]]]:
    found = {str(member.name): member_recipe(config.recipe, member) for member in config.members}
    return {name: (recipe.backbone, recipe.weights, recipe.image_size) for name, recipe in found.items()}


def written(folder: Path, text: str) -> str:
    file = folder / "mine.yaml"
    file.write_text(text)
    return str(file)


def test_a_command_line_lists_names_and_weights() -> None:
    config = bakeoff_config(backbones="resnet18, hf/vit.a1 ,vgg16=/w/vgg16.pth,", settings=["recipe.image_size=96"])
    assert recipes(config) == {
        "resnet18": ("resnet18", None, 96),
        "hf-vit.a1": ("hf/vit.a1", None, 96),
        "vgg16": ("vgg16", Path("/w/vgg16.pth"), 96),
    }
    assert {member.task for member in config.members} == {"multi"}
    assert config.name == "bakeoff"


def test_an_image_costs_one_pass_unless_a_recipe_wants_more() -> None:
    [plain], [probed] = (
        [member_recipe(config.recipe, member) for member in config.members]
        for config in (bakeoff_config(backbones="resnet18"), bakeoff_config("probe", "resnet18"))
    )
    assert (plain.freeze.passes, bakeoff_config(backbones="resnet18").views) == (0, ("original",))
    assert (probed.freeze.passes, probed.frozen, probed.image_size) == (4, True, 192)
    assert bakeoff_config("probe", "resnet18").name == "bakeoff", "no run of that recipe is in its way"


def test_a_file_lists_backbones_with_what_differs_of_their_recipes(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "recipe: {image_size: 64}\nbackbones:\n"
        "  - resnet18\n"
        "  - {name: resnet18, label: larger, image_size: 192, weights: /w/r.pth}\n"
        "  - {name: vit, crop: 0.9}\n",
    )
    config = bakeoff_config(file)
    assert recipes(config) == {
        "resnet18": ("resnet18", None, 64),
        "larger": ("resnet18", Path("/w/r.pth"), 192),
        "vit": ("vit", None, 64),
    }
    assert config.name == "mine"
    assert list(recipes(bakeoff_config(file, "vgg16"))) == ["vgg16"], "the command line has the last word"
    assert list(recipes(bakeoff_config(file, settings=["backbones=[vgg11]"]))) == ["vgg11"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name: x", "a bake-off needs backbones: name some by --backbones"),
        ("backbones: resnet18", "backbones is 'resnet18'; it must be a list, such as [resnet18,"),
        ("backbones: [7]", "backbones: '7' is neither a name nor {name: NAME, ...}"),
        ("backbones: [{weights: w.pth}]", "is neither a name nor {name: NAME, ...}"),
        ("backbones: [a, A]", "backbones: two are called 'a'; give one of them a `label`"),
        ("backbones: [{name: a, weight: w.pth}]", "there is no key 'recipe.weight'; it may be 'weights' (the nearest)"),
        ("backbones: [a, b]\nrecipe: {weights: w.pth}", "recipe.weights is one file, which 'a' would start from too"),
        ("backbones: [a]\nrecipe: {freeze: {unfreeze_at: 3}}", "backbones: 'a' is not frozen, as a bake-off's are"),
    ],
)
def test_a_wrong_list_is_refused_in_a_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        bakeoff_config(written(tmp_path, text))
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("text", ["=w.pth", "a,b=", "a,=b"])
def test_a_half_pair_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--backbones takes NAME or NAME=WEIGHTS"):
        from_text(text)
