"""The members of the ensemble: as they are configured, and with everything resolved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field, ValidationError

from raymask.config.base import FolderName, Positive, Strict
from raymask.config.merging import deep_merge
from raymask.config.messages import explain
from raymask.config.recipe import Recipe
from raymask.core.errors import InputError


class MemberConfig(Strict):
    """Who has a vote: a task (or `multi`, or `joint`) with a recipe, once for each seed."""

    task: str = Field(description="a task's name; `multi` for one backbone with all heads; `joint` for one joint head")
    name: FolderName | None = None
    seeds: Positive = Field(1, description="copies that differ in their seed")
    folds: Positive | None = Field(None, description="it has models of the first so many folds alone (default: of all)")
    recipe: dict[str, Any] = Field(default_factory=dict, description="what differs from the run's recipe")


class Member(Strict):
    """A member with everything resolved: one name, one seed, one whole recipe."""

    name: str
    task: str
    seed: int
    recipe: Recipe
    folds: int | None = None

    def folds_of(self, folds: Sequence[int]) -> tuple[int, ...]:
        """Those of a run's folds, in their order, that the member has models of.

        Example:
            >>> Member(name="big", task="multi", seed=0, recipe=Recipe(), folds=2).folds_of([0, 1, 2])
            (0, 1)
        """
        return tuple(folds[: self.folds])


def member_recipe(recipe: Recipe, member: MemberConfig) -> Recipe:
    """The run's recipe with a member's differences merged in.

    Raises:
        InputError: the differences hold a wrong key or value.
    """
    merged = deep_merge(recipe.model_dump(exclude_unset=False), member.recipe)
    try:
        return Recipe.model_validate(merged)
    except ValidationError as error:
        raise InputError(f"members: '{member.name or member.task}': {explain(error, Recipe, 'recipe')}") from None
