"""Tests of recipes from before their keys lay in groups: refused in a config, and read from a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from raymask.config.flat_recipes import GROUPED, config_in_groups, in_groups
from raymask.config.loading import differences, load_config, validate
from raymask.config.recipe import Recipe
from raymask.core.errors import InputError
from raymask.runs.configs import load_run_config
from raymask.runs.directory import Run
from raymask.runs.models import read_model

FLAT: dict[str, Any] = {
    "backbone": "test_resnet",
    "pretrained": True,
    "weights": None,
    "freeze": "backbone",
    "feature_passes": 3,
    "image_size": 64,
    "crop": 1.0,
    "augment": "light",
    "epochs": 20,
    "batch_size": 32,
    "accumulate": 2,
    "optimizer": "sgd",
    "lr": 0.003,
    "backbone_lr_scale": 0.5,
    "weight_decay": 0.05,
    "warmup": 0.15,
    "clip_grad": 1.0,
    "label_smoothing": 0.05,
    "class_weight_power": 0.25,
    "ema": 0.0,
    "amp": "off",
    "head": {"norm": True, "hidden": 8, "dropout": 0.1},
}
IN_GROUPS: dict[str, Any] = {
    "backbone": "test_resnet",
    "pretrained": True,
    "weights": None,
    "image_size": 64,
    "crop": 1.0,
    "augment": "light",
    "batch_size": 32,
    "amp": "off",
    "freeze": {"part": "backbone", "passes": 3},
    "head": {"name": "mlp", "norm": True, "hidden": 8, "dropout": 0.1},
    "sampler": {"name": "shuffle"},
    "mix": {"name": "none"},
    "loss": {"name": "cross_entropy", "label_smoothing": 0.05, "class_weight_power": 0.25},
    "optim": {
        "name": "sgd",
        "lr": 0.003,
        "backbone_lr_scale": 0.5,
        "weight_decay": 0.05,
        "clip_grad": 1.0,
        "accumulate": 2,
        "ema": 0.0,
    },
    "schedule": {"name": "cosine", "epochs": 20, "warmup": 0.15},
}
TASKS = {"mask": {"column": "mask", "classes": ["worn", "none"]}}
CONFIG: dict[str, Any] = {
    "name": "old",
    "tasks": TASKS,
    "recipe": FLAT,
    "members": [{"task": "mask", "recipe": {"lr": 0.1, "head": {"hidden": 0}}}, {"task": "multi"}],
}


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        validate(values)
    return str(caught.value)


@pytest.mark.parametrize(("old", "new"), GROUPED.items())
def test_a_flat_key_is_answered_with_the_key_of_today(old: str, new: str, tmp_path: Path) -> None:
    sentence = f"'recipe.{old}' is 'recipe.{new}' now."
    assert refusal({"recipe": {old: FLAT[old]}}) == sentence
    assert refusal({"members": [{"task": "mask", "recipe": {old: FLAT[old]}}]}) == f"members: 'mask': {sentence}"
    with pytest.raises(InputError) as caught:
        load_config("demo", [f"recipe.{old}={FLAT[old]}"])
    assert str(caught.value) == sentence
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"recipe": {old: FLAT[old]}}))
    with pytest.raises(InputError) as caught:
        load_config(tmp_path / "mine.yaml")
    assert str(caught.value) == sentence


def test_every_new_key_is_one_of_a_recipes() -> None:
    for new in GROUPED.values():
        group, key = new.split(".")
        assert key in type(getattr(Recipe(), group)).model_fields


def test_a_flat_recipe_keeps_its_values_in_groups() -> None:
    assert Recipe.model_validate(in_groups(FLAT)) == Recipe.model_validate(IN_GROUPS)


def test_a_config_in_groups_stays_as_it_is() -> None:
    values = {"recipe": IN_GROUPS, "members": [{"task": "mask", "recipe": {"head": {"hidden": 4}}}]}
    assert config_in_groups(values) == values


def test_a_run_with_a_flat_recipe_is_read_and_goes_on(tmp_path: Path) -> None:
    run = Run(tmp_path / "old")
    run.root.mkdir()
    run.config.write_text(yaml.safe_dump({**CONFIG, "runs": str(tmp_path)}) + "...\n")
    config = load_run_config(run)
    assert config.recipe == Recipe.model_validate(IN_GROUPS)
    assert config.members[0].recipe == {"optim": {"lr": 0.1}, "head": {"name": "linear", "hidden": 0}}
    members = [{"task": "mask", "recipe": config.members[0].recipe}, {"task": "multi"}]
    today = validate({"name": "old", "runs": tmp_path, "tasks": TASKS, "recipe": IN_GROUPS, "members": members})
    assert differences(config, today) == []


def test_a_model_with_a_flat_recipe_is_read(tmp_path: Path) -> None:
    meta = {"format": 1, "classes": {"mask": ["worn", "none"]}, "recipe": FLAT}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    assert read_model(tmp_path).recipe == Recipe.model_validate(IN_GROUPS)
