"""The config of a debug run: that of a real run on few people and for two epochs."""

from __future__ import annotations

from typing import Any

from raymask.config.members import member_recipe
from raymask.config.merging import deep_merge
from raymask.config.recipe import Recipe
from raymask.config.schema import RunConfig
from raymask.core.errors import InputError

EPOCHS = 2
"""The fewest by which it is seen whether the loss falls."""
SHARE = 0.05
SUFFIX = "-debug"
LONGEST_NAME = 100


def debug_config(config: RunConfig) -> RunConfig:
    """The config of the debug run of a real run: its name, its share of the groups, and epochs of every member.

    Args:
        config: that of the real run.

    Raises:
        InputError: it is one of a debug run already, or of a run that learns from another.
    """
    if config.debug:
        raise InputError(
            f"'{config.name}' is a debug run itself: leave --debug out to go on with it, or name the recipe of the real run."
        )
    if config.teacher:
        raise InputError(
            "teacher.run: a run that learns from another needs all of its images, and --debug takes few; leave --debug out, or "
            "try the recipe alone with --set teacher=null."
        )
    members = [
        member.model_copy(update={"recipe": deep_merge(member.recipe, _changes(member_recipe(config.recipe, member)))})
        for member in config.members
    ]
    return config.model_copy(
        update={
            "name": config.name[: LONGEST_NAME - len(SUFFIX)] + SUFFIX,
            "debug": True,
            "data": config.data.model_copy(update={"share": min(SHARE, config.data.share)}),
            "recipe": Recipe.model_validate(deep_merge(config.recipe.model_dump(), _changes(config.recipe))),
            "members": tuple(members),
        }
    )


def _changes(recipe: Recipe) -> dict[str, Any]:
    """What differs of a recipe that is cut to so few epochs, so that what depends on these stays possible."""
    changes: dict[str, Any] = {"schedule": {"epochs": EPOCHS, "average_last": min(recipe.schedule.average_last, EPOCHS)}}
    if recipe.mix.until:
        changes["mix"] = {"until": min(recipe.mix.until, EPOCHS)}
    if recipe.freeze.unfreeze_at:
        changes["freeze"] = {"unfreeze_at": min(recipe.freeze.unfreeze_at, EPOCHS - 1)}
    return changes
