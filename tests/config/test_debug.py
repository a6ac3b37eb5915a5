"""Tests of the config of a debug run: valid whatever the real run's recipes say of epochs."""

from __future__ import annotations

import pytest

from raymask.config.debug import debug_config
from raymask.config.loading import differences, load_config, validate
from raymask.config.schema import resolve_members
from raymask.core.errors import InputError

OF_EPOCHS = {
    "schedule": {"epochs": 12, "average_last": 5},
    "mix": {"name": "mixup", "until": 8},
    "freeze": {"stages": 1, "unfreeze_at": 6},
}


def test_every_member_is_trained_for_two_epochs_and_its_recipe_stays_valid() -> None:
    members = [
        {"task": "mask"},
        {"task": "age", "recipe": {"schedule": {"epochs": 40, "average_last": 1}, "mix": {"until": None}}},
        {"task": "multi", "recipe": {"schedule": {"average_last": 3}, "freeze": {"unfreeze_at": None}}},
    ]
    config = load_config("baseline", overrides={"recipe": {**OF_EPOCHS, "optim": {"ema": 0}}, "members": members})
    of_debug = debug_config(config)
    assert validate(of_debug.model_dump(mode="json")) == of_debug, "its config can be read again"
    recipes = [member.recipe for member in resolve_members(of_debug.model_copy(update={"tasks": {"mask": {}, "age": {}}}))]
    assert [recipe.schedule.epochs for recipe in (of_debug.recipe, *recipes)] == [2, 2, 2, 2]
    assert [recipe.schedule.average_last for recipe in recipes] == [2, 1, 2]
    assert [recipe.mix.until for recipe in recipes] == [2, None, 2]
    assert [recipe.freeze.unfreeze_at for recipe in recipes] == [1, 1, None]


def test_nothing_else_of_the_run_is_another() -> None:
    config = load_config("probe", ["name=mine", "folds.k=3"])
    changed = differences(config, debug_config(config))
    assert [line.partition(" ")[0] for line in changed] == ["data.share", "debug", "recipe.schedule.epochs"]
    assert debug_config(config).name == "mine-debug"


def test_its_name_is_never_too_long_for_a_folder() -> None:
    name = debug_config(load_config("demo", [f"name={'x' * 100}"])).name
    assert name == "x" * 94 + "-debug"


def test_a_smaller_share_of_the_recipe_stays() -> None:
    assert debug_config(load_config("demo", ["data.share=0.01"])).data.share == 0.01


def test_a_debug_run_and_one_with_a_teacher_are_refused() -> None:
    with pytest.raises(InputError, match=r"'demo-debug' is a debug run itself: leave --debug out"):
        debug_config(debug_config(load_config("demo")))
    with pytest.raises(InputError, match=r"teacher\.run: .* --set teacher=null"):
        debug_config(load_config("demo", ["teacher.run=runs/x", "teacher.truth=0.5"]))
