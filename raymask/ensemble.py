"""Voting on arrays of probabilities: who has a ballot, how ballots are counted, and what it scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from raymask.errors import InputError, one_of, shortened
from raymask.tasks import JOINT, LabelSpace, Probabilities

ByHead = Mapping[str, npt.NDArray[np.floating]]
Ballots = Probabilities
"""(V, N, J): the joint probabilities of each voter for each image."""


def ballots_of(space: LabelSpace, members: Sequence[ByHead]) -> Ballots:
    """One ballot for the specialists together, and one for each member that gives the joint label itself.

    Specialists of one task are averaged, then the tasks' averages are multiplied; a task without a specialist takes the average
    of what the other members say of it.

    Args:
        space: the label space.
        members: each member's (N, C) probabilities by head, rows of all in the same order.

    Returns:
        (V, N, J) float64 ballots.

    Raises:
        InputError: no member predicts one of the tasks.
    """
    ballots = [whole for member in members if (whole := joint_of(space, member)) is not None]
    specialists = [member for member in members if joint_of(space, member) is None]
    if specialists:
        marginals = {}
        for task in space.names:
            said = [np.asarray(member[task], dtype=np.float64) for member in specialists if task in member]
            said = said or [space.marginal(ballot, task) for ballot in ballots]
            if not said:
                raise InputError(
                    f"no member predicts the task '{task}', so there is no joint label to vote on; add a member for it."
                )
            marginals[task] = np.mean(said, axis=0)
        ballots.append(space.product(marginals))
    return np.stack(ballots)


def joint_of(space: LabelSpace, member: ByHead) -> Probabilities | None:
    """(N, J) joint probabilities of a member whose heads give them, else None."""
    if JOINT in member:
        return np.asarray(member[JOINT], dtype=np.float64)
    if set(member) == set(space.names):
        return space.product(member)
    return None


def soft_vote(ballots: Ballots) -> Probabilities:
    """(N, J) mean of the ballots' probabilities."""
    return np.asarray(ballots.mean(axis=0))


def hard_vote(ballots: Ballots) -> Probabilities:
    """(N, J) shares of the ballots whose most probable class it is.

    Ties go to the class with the greatest sum of probabilities: it adds less than any vote, so that the greatest entry of a row
    is always the elected class. Should the sums be equal too, the lower class is elected, as by argmax.
    """
    voters, _, classes = ballots.shape
    votes = np.eye(classes)[ballots.argmax(axis=2)].sum(axis=0)
    counted = votes + ballots.mean(axis=0) * 0.5
    return np.asarray(counted / (voters + 0.5))


RULES: dict[str, Callable[[Ballots], Probabilities]] = {"soft": soft_vote, "hard": hard_vote}


def vote(rule: str, ballots: Ballots) -> Probabilities:
    """(N, J) result of a vote; its argmax is the elected class.

    Raises:
        InputError: there is no such rule.
    """
    if rule not in RULES:
        raise InputError(f"vote.rule is '{rule}'; it may be {one_of(RULES, rule)}.")
    return RULES[rule](ballots)


def check_complete(what: str, have: Sequence[str], want: Sequence[str]) -> None:
    """Refuses predictions that are not one a wanted image.

    Raises:
        InputError: names images that are missing, twice there, or unknown.
    """
    have_set, want_set = set(have), set(want)
    repeated = {name for name, count in Counter(have).items() if count > 1}
    for problem, names in (("lack", want_set - have_set), ("hold unknown", have_set - want_set), ("hold twice", repeated)):
        if names:
            raise InputError(f"{what} {problem} {len(names)} image(s): {shortened(sorted(names))}.")
