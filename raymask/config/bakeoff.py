"""The config of a bake-off: a member for each backbone, which is frozen and has a head for each task."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from raymask.config.loading import validate
from raymask.config.members import member_recipe
from raymask.config.merging import deep_merge
from raymask.config.schema import RunConfig
from raymask.config.settings import apply_setting
from raymask.config.yaml_files import read_recipe, recipe_names
from raymask.core.errors import InputError
from raymask.core.tasks import MULTI

RECIPE = "bakeoff"
"""The recipe that others are laid over."""
EXAMPLE = "[resnet18, {name: mobilenetv2_100, weights: file.pth, image_size: 192}]"


def bakeoff_config(
    recipe: str = RECIPE,
    backbones: str | None = None,
    settings: Iterable[str] = (),
    overrides: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The config of a run whose members are backbones.

    Args:
        recipe: a recipe's name or a YAML file, which is laid over `bakeoff`; it may list the backbones.
        backbones: `NAME,NAME=WEIGHTS,...`, in place of those that the recipe lists.
        settings: `key.path=value`.
        overrides: values laid over the recipe, before the settings.

    Raises:
        InputError: no backbones are named, or a key or value is wrong.
    """
    own = read_recipe(recipe)
    if recipe in recipe_names():
        own.pop("name", None)  # the results are a bake-off's, whichever recipe it has
    values = deep_merge(deep_merge(read_recipe(RECIPE), own), overrides or {})
    for setting in settings:
        apply_setting(values, setting)
    in_recipe = values.pop("backbones", None)
    values["members"] = _members(from_text(backbones) if backbones else in_recipe)
    config = validate(values)
    _check_weights(config)
    for member in config.members:
        if not member_recipe(config.recipe, member).frozen:
            raise InputError(f"backbones: '{member.name}' is not frozen, as a bake-off's are; leave recipe.freeze as it is.")
    return config


def from_text(text: str) -> list[dict[str, str]]:
    """The backbones of a command line.

    Example:
        >>> from_text("resnet18, vgg16=/models/vgg16.pth")
        [{'name': 'resnet18'}, {'name': 'vgg16', 'weights': '/models/vgg16.pth'}]
    """
    backbones = []
    for part in filter(None, map(str.strip, text.split(","))):
        name, given, weights = (piece.strip() for piece in part.partition("="))
        if not name or (given and not weights):
            raise InputError(f"--backbones takes NAME or NAME=WEIGHTS, but got '{part}'.")
        backbones.append({"name": name, **({"weights": weights} if given else {})})
    return backbones


def _members(backbones: Any) -> list[dict[str, Any]]:
    """The members of a config, one a backbone."""
    if not backbones:
        raise InputError(
            "a bake-off needs backbones: name some by --backbones resnet18,mobilenetv2_100=weights.pth, or list them under "
            "`backbones` in a recipe's file."
        )
    if not isinstance(backbones, list):
        raise InputError(f"backbones is '{backbones}'; it must be a list, such as {EXAMPLE}.")
    members = [_member(backbone) for backbone in backbones]
    names = [member["name"].casefold() for member in members]
    if twice := next((member["name"] for member in members if names.count(member["name"].casefold()) > 1), None):
        raise InputError(f"backbones: two are called '{twice}'; give one of them a `label` of its own, in a recipe's file.")
    return members


def _member(backbone: Any) -> dict[str, Any]:
    values = {"name": backbone} if isinstance(backbone, str) else backbone
    if not isinstance(values, dict) or not isinstance(values.get("name"), str):
        raise InputError(f"backbones: '{backbone}' is neither a name nor {{name: NAME, ...}}; write such as {EXAMPLE}.")
    recipe = {key: value for key, value in values.items() if key not in ("name", "label")}
    label = values.get("label") or re.sub(r"[^A-Za-z0-9_.-]+", "-", values["name"])
    return {"task": MULTI, "name": label, "recipe": {**recipe, "backbone": values["name"]}}


def _check_weights(config: RunConfig) -> None:
    without = [member.name for member in config.members if "weights" not in member.recipe]
    if config.recipe.weights and len(config.members) > 1 and without:
        raise InputError(
            f"recipe.weights is one file, which '{without[0]}' would start from too; give each backbone its own, as in "
            f"--backbones {without[0]}=FILE."
        )
