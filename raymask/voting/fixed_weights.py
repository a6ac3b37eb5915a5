"""Weights of members that the user fixed (`vote.weights`), in place of a rule that finds its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raymask.config.vote import VoteConfig
from raymask.core.errors import InputError, one_of
from raymask.core.tasks import JOINT, LabelSpace
from raymask.voting.ballots import voter_names
from raymask.voting.combine import Params


def fixed_weights(space: LabelSpace, config: VoteConfig, members: Mapping[str, Mapping[str, Any]]) -> dict[str, Params] | None:
    """The weights that the user fixed, as the rule `weighted` takes them, by the space that it votes in; None without any.

    Args:
        space: the label space.
        config: holds the weights.
        members: anything by head, by member.

    Raises:
        InputError: a weight is for no member, a member has none, or all that predict a task weigh nothing.
    """
    if not config.weights:
        return None
    names = voter_names(space, {name: list(heads) for name, heads in members.items()})
    by_task = _weights_by_task(space, config.weights, list(members), names)
    fixed: dict[str, Params] = {}
    for target in space.names:
        weights = np.array([by_task[target][name] for name in names[target]])
        if not weights.sum() > 0:
            raise InputError(f"vote.weights: all members that predict '{target}' weigh 0.")
        fixed[target if len(space.names) > 1 else JOINT] = {"weights": weights / weights.sum()}
    return fixed


def _weights_by_task(
    space: LabelSpace, given: Mapping[str, Any], members: Sequence[str], voters: Mapping[str, Sequence[str]]
) -> dict[str, Mapping[str, float]]:
    """The weights of all that predict a task, by the task; those that are given by member are the same in all tasks."""
    if not any(isinstance(weights, Mapping) for weights in given.values()):
        _check_weighed("vote.weights", given, members)
        return dict.fromkeys(space.names, given)
    for task in given:
        if task not in space.names:
            raise InputError(f"vote.weights: there is no task '{task}'; it may be {one_of(space.names, task)}.")
    for task in space.names:
        if task not in given:
            raise InputError(f"vote.weights: the task '{task}' has no weights; give it some, such as {{{voters[task][0]}: 1}}.")
        _check_weighed(f"vote.weights.{task}", given[task], voters[task], task)
    return dict(given)


def _check_weighed(key: str, weights: Mapping[str, float], members: Sequence[str], task: str = "") -> None:
    """Refuses weights of others than these members, or of some of them."""
    for name in weights:
        if name not in members:
            of_task = f" that predicts '{task}'" if task else ""
            raise InputError(f"{key}: there is no member '{name}'{of_task}; it may be {one_of(members, name)}.")
    if lacking := [name for name in members if name not in weights]:
        raise InputError(f"{key}: '{lacking[0]}' has no weight; give it one, 0 to leave it out.")
