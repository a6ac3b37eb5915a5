"""From members to voters: every member's probabilities in one space, that of the joint label or that of a task.

Probabilities are arrays of numpy or tensors of torch alike, as in `raymask.voting.combine`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from raymask.core.arrays import Array, as_float64, mean_of, stacked
from raymask.core.errors import InputError
from raymask.core.tasks import JOINT, LabelSpace
from raymask.core.types import ByHead

Voters = Mapping[str, Array]
"""Ballots by the space that they are in: (V, N, J) for `joint`, (V, N, C) for each task."""


def joint_ballots(space: LabelSpace, members: Mapping[str, ByHead]) -> dict[str, Array]:
    """(N, J) ballots by the voter's name: each member that gives the joint label, and each team of specialists.

    The first specialists of all tasks make the first team, the second ones the second, and so on; their ballot is the product of
    their probabilities. A team that lacks a specialist for a task takes the average of those that there are, or, where there is
    none, of what the other members say of the task.

    Args:
        space: the label space.
        members: each member's (N, C) probabilities by head, rows of all in the same order.

    Raises:
        InputError: no member predicts one of the tasks.
    """
    wholes = {name: whole for name, member in members.items() if (whole := joint_of(space, member)) is not None}
    specialists = {
        task: {name: as_float64(heads[task]) for name, heads in members.items() if name not in wholes and task in heads}
        for task in space.names
    }
    teams: dict[str, Array] = {}
    for index in range(max(map(len, specialists.values()))):
        names, parts = [], {}
        for task, of_task in specialists.items():
            if index < len(of_task):
                names.append(list(of_task)[index])
                parts[task] = of_task[names[-1]]
            else:
                parts[task] = _completed(space, task, of_task, wholes)
        teams[" + ".join(dict.fromkeys(names))] = space.product(parts)
    return {**teams, **wholes}


def _completed(space: LabelSpace, task: str, specialists: Mapping[str, Array], wholes: Mapping[str, Array]) -> Array:
    probabilities = list(specialists.values()) or [space.marginal(whole, task) for whole in wholes.values()]
    if not probabilities:
        raise InputError(f"no member predicts the task '{task}', so there is no joint label to vote on; add a member for it.")
    return mean_of(probabilities)


def task_ballots(space: LabelSpace, members: Mapping[str, ByHead], task: str) -> dict[str, Array]:
    """(N, C) ballots for one task by the voter's name: each member that predicts it, joint members by their marginal."""
    ballots = {}
    for name, heads in members.items():
        if task in heads:
            ballots[name] = as_float64(heads[task])
        elif JOINT in heads:
            ballots[name] = space.marginal(heads[JOINT], task)
    if not ballots:
        raise InputError(f"no member predicts the task '{task}', so there is no joint label to vote on; add a member for it.")
    return ballots


def voters_of(space: LabelSpace, members: Mapping[str, ByHead]) -> Voters:
    """The ballots in every space.

    Raises:
        InputError: no member predicts one of the tasks.
    """
    by_task = {task: stacked(task_ballots(space, members, task).values()) for task in space.names}
    return {JOINT: stacked(joint_ballots(space, members).values()), **by_task}


def voter_names(space: LabelSpace, members: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Names of the voters in every space, in the order of `voters_of`.

    Args:
        space: the label space.
        members: each member's heads.
    """
    one = {
        name: {head: np.full((1, len(space.classes(head))), 1 / len(space.classes(head))) for head in heads}
        for name, heads in members.items()
    }
    return {JOINT: list(joint_ballots(space, one)), **{task: list(task_ballots(space, one, task)) for task in space.names}}


def joint_of(space: LabelSpace, member: ByHead) -> Array | None:
    """(N, J) joint probabilities of a member whose heads give them, else None."""
    if JOINT in member:
        return as_float64(member[JOINT])
    if set(member) == set(space.names):
        return space.product(member)
    return None
