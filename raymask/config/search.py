"""The config of a search: a run, the keys of its recipe that are searched, and how."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from raymask.config.base import Positive, Strict
from raymask.config.loading import SEARCH_KEYS, validate
from raymask.config.merging import deep_merge
from raymask.config.messages import explain
from raymask.config.schema import RunConfig
from raymask.config.search_space import Domain, label_of, plain, read_space
from raymask.config.settings import apply_setting
from raymask.config.yaml_files import read_recipe
from raymask.core.errors import InputError

LARGEST_GRID = 10_000
TRIES = 50
"""Draws of the other keys with which a value must be possible at least once."""
VIEW = "original"
"""The one that trials are scored under; which views help is the vote's business."""


class TuneConfig(Strict):
    """How a search goes about it."""

    method: Literal["tpe", "random", "grid"] = Field("tpe", description="how the next trials are proposed")
    trials: Positive | None = Field(None, description="trials in all (default: 32, or the whole grid)")
    minutes: Annotated[float, Field(gt=0)] | None = Field(
        None, description="after so many minutes no trial is begun, and those that run end, but for the best"
    )
    stop: Literal["asha", "median", "none"] = Field("asha", description="how trials that promise little are ended early")
    grace: Positive | None = Field(None, description="epochs that every trial has (default: a quarter of them)")
    reduction: Annotated[int, Field(ge=2)] = Field(2, description="`asha` lets one in so many go on from each rung")
    folds: Positive = Field(2, description="folds that each trial is trained for and scored on")
    batch: Positive | None = Field(None, description="trials that are begun together (default: 8 of tpe, else all)")


@dataclass(frozen=True)
class SearchConfig:
    """What is searched, and how."""

    run: RunConfig
    """Of the search's directory, and of each trial but for what is searched."""
    values: Mapping[str, Any]
    """The recipe and its settings as plain values, from which the winner's recipe is written."""
    space: Mapping[str, Domain]
    tune: TuneConfig
    recipe: str
    """Where it was read."""

    def trial(self, chosen: Mapping[str, Any]) -> RunConfig:
        """The config of a trial.

        Args:
            chosen: a value for each key of the space.

        Raises:
            InputError: the values cannot be together.
        """
        return validate(with_values(self.values, chosen))


def search_config(
    recipe: str, settings: Iterable[str] = (), overrides: Mapping[str, Any] | None = None, tune: Mapping[str, Any] | None = None
) -> SearchConfig:
    """The search that a recipe's file declares.

    Args:
        recipe: a YAML file, or a recipe's name where settings say what is searched.
        settings: `key.path=value`.
        overrides: values laid over the recipe, before the settings.
        tune: values laid over its `tune`, after the settings.

    Raises:
        InputError: a key or value is wrong, or nothing is searched.
    """
    values = read_recipe(recipe)
    values["name"] = f"{values['name']}-tune"
    whole = deep_merge(values, overrides or {})
    for setting in settings:
        apply_setting(values, setting)
        apply_setting(whole, setting)
    values, whole = plain(values), plain(whole)
    declared, given = (whole.pop(key, None) for key in SEARCH_KEYS)
    for key in SEARCH_KEYS:
        values.pop(key, None)
    if given is not None and not isinstance(given, dict):
        raise InputError(f"'tune' is {given!r}; it must hold keys and values, such as {{trials: 16}}.")
    try:
        how = TuneConfig.model_validate(deep_merge(given or {}, tune or {}))
    except ValidationError as error:
        raise InputError(explain(error, TuneConfig, "tune")) from None
    search = SearchConfig(validate({**whole, "views": [VIEW]}), values, read_space(declared), how, recipe)
    _check(search)
    return search


def with_values(values: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values in which these keys have these values, whatever lay there.

    Example:
        >>> with_values({"recipe": {"optim": {"lr": 1, "ema": 0}}}, {"recipe.optim.lr": 2, "recipe.mix": {"name": "mixup"}})
        {'recipe': {'optim': {'lr': 2, 'ema': 0}, 'mix': {'name': 'mixup'}}}
    """
    merged = dict(values)
    for key, value in chosen.items():
        merged = _put(merged, key.split("."), value)
    return merged


def _put(values: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    first, *rest = path
    if not rest:
        return {**values, first: value}
    below = values.get(first)
    return {**values, first: _put(below if isinstance(below, Mapping) else {}, rest, value)}


def _check(search: SearchConfig) -> None:
    _check_overlap(search)
    _check_values(search)
    if not search.run.folds.column and search.tune.folds > search.run.folds.k:
        raise InputError(f"tune.folds is {search.tune.folds}, but there are {search.run.folds.k} folds (folds.k).")
    if search.tune.method == "grid":
        sizes = [len(domain.grid()) for domain in search.space.values()]
        if math.prod(sizes) > LARGEST_GRID:
            raise InputError(
                f"the grid has {math.prod(sizes):,} points, and {LARGEST_GRID:,} are the most; leave out values, or set "
                "tune.method to tpe."
            )


def _check_overlap(search: SearchConfig) -> None:
    """Refuses keys that have no effect, since another key of the search or a member's own recipe decides the same."""
    keys = list(search.space)
    for key in keys:
        if above := next((other for other in keys if key.startswith(f"{other}.")), None):
            raise InputError(f"search: '{above}' holds '{key}', so that only one of them can be searched.")
        for member in search.run.members:
            if _decides(member.recipe, key.split(".")[1:]):
                name = member.name or member.task
                raise InputError(
                    f"search: '{key}' has no effect on the member '{name}', whose own recipe sets it; drop it there."
                )


def _check_values(search: SearchConfig) -> None:
    """Refuses values that are possible with no values of the other keys that are tried."""
    draw = random.Random(0)
    ends = {key: list(domain.choices) or [domain.low, domain.high] for key, domain in search.space.items()}
    for key, values in ends.items():
        for value in values:
            drawn = ({**{other: draw.choice(of_other) for other, of_other in ends.items()}, key: value} for _ in range(TRIES))
            refusals = list(itertools.takewhile(bool, (_refusal(search, chosen) for chosen in drawn)))
            if len(refusals) == TRIES:
                raise InputError(f"search: {key} cannot be {label_of(value)}: {refusals[0]}")


def _refusal(search: SearchConfig, chosen: Mapping[str, Any]) -> str:
    """Why values cannot be together; empty if they can."""
    try:
        search.trial(chosen)
    except InputError as error:
        return str(error)
    return ""


def _decides(recipe: Any, path: Sequence[str]) -> bool:
    """Whether a member's own recipe sets a key, or something below it."""
    for name in path:
        if not isinstance(recipe, Mapping) or name not in recipe:
            return False
        recipe = recipe[name]
    return True
