"""From a recipe or a file, and settings, to a validated config; and back to text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raymask.config.merging import deep_merge, flatten
from raymask.config.messages import explain
from raymask.config.schema import RunConfig
from raymask.config.settings import apply_setting
from raymask.config.yaml_files import dump_yaml, read_recipe
from raymask.core.errors import InputError

SEARCH_KEYS = ("search", "tune")
"""What the file of a search holds beside a recipe, see `raymask.config.search`."""


def load_config(
    recipe: str | Path = "demo",
    settings: Iterable[str] = (),
    overrides: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The config of a named recipe or a YAML file, with overrides and then `key.path=value` settings merged in.

    A YAML file may name a recipe that it starts from under the key `base`.

    Raises:
        InputError: one sentence that names the key, what it was and what it may be.
    """
    values = deep_merge(read_recipe(str(recipe)), overrides or {})
    for setting in settings:
        apply_setting(values, setting)
    if searched := [key for key in SEARCH_KEYS if key in values]:
        raise InputError(f"'{searched[0]}' is a key of a search: give this recipe to `raymask tune`, or drop that key.")
    return validate(values)


def validate(values: Mapping[str, Any]) -> RunConfig:
    """A `RunConfig` of plain values, or an `InputError` of one sentence."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise InputError(explain(error, RunConfig)) from None


def dump_config(config: RunConfig) -> str:
    """YAML from which `load_config` makes the same config again."""
    return dump_yaml(config.model_dump(mode="json"))


def differences(old: RunConfig, new: RunConfig) -> list[str]:
    """Sentences such as `recipe.schedule.epochs was 5 and is 8` for what differs and makes another run."""
    # Vote and test set decide stages that are done again whenever they change; the others change no result. Data and a teacher
    # are told from others by what they say, not by where they lie.
    without: dict[str, Any] = {
        **dict.fromkeys(("name", "runs", "cache", "compute", "vote"), True),
        "data": {"path", "test", "image_root", "test_root", "test_group_column", "max_missing_test"},
        "teacher": {"run"},
    }
    before = flatten(old.model_dump(mode="json", exclude=without))
    after = flatten(new.model_dump(mode="json", exclude=without))
    return [
        f"{key} was {before.get(key)} and is {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
