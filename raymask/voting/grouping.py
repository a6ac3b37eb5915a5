"""Tasks that are constant within a group, such as a person's gender, voted over all images of the group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raymask.core.errors import InputError, one_of
from raymask.core.registry import Registry
from raymask.core.tasks import LabelSpace
from raymask.core.types import Labels, Probabilities
from raymask.voting.combine import FLOOR, normalised, softmax

MIN_POSSIBLE = float(np.finfo(np.float64).tiny)
"""Probability below which a class is taken as one that an image rules out: nothing can be divided by it."""


@dataclass(frozen=True)
class Pool:
    """A way to make one distribution of those of a group's images: the mean of something of each."""

    words: str
    """What it does: `the mean of their probabilities`."""
    of_image: Callable[[Probabilities], Probabilities]
    """(N, S) what is averaged, from (N, S) probabilities."""
    of_mean: Callable[[Probabilities], Probabilities]
    """(G, S) probabilities from (G, S) means."""


POOLS: Registry[Pool] = Registry(
    "the pool of a group",
    {
        "mean": Pool("the mean of their probabilities", lambda probs: probs, normalised),
        "geometric": Pool(
            "the geometric mean of their probabilities",
            lambda probs: np.log(np.maximum(probs, FLOOR)),
            softmax,
        ),
    },
)
"""Linear and logarithmic opinion pools (Genest & Zidek 1986), from the simpler on."""


@dataclass(frozen=True)
class Grouping:
    """Which tasks are voted over the images of a group, and how; none are, where `tasks` is empty."""

    tasks: tuple[str, ...] = ()
    pool: str = POOLS.names[0]

    def __str__(self) -> str:
        return f"{' + '.join(self.tasks)} by {self.pool}" if self.tasks else "each image alone"

    @property
    def complexity(self) -> float:
        """Place among groupings from the simplest on: that of the fewest tasks."""
        return len(self.tasks) + 0.5 * POOLS.names.index(self.pool)


ALONE = Grouping()
"""Each image is voted on alone."""


class GroupVote:
    """Pools the chosen tasks' marginals of images by group, chunk by chunk, and then puts them back.

    Sums are kept by group alone, so that images may come in any number of chunks. Chunks are added in the order of the images
    and put back in it, by which the results are the same in each run.
    """

    def __init__(self, space: LabelSpace, grouping: Grouping, groups: int) -> None:
        """Args: the label space, which tasks are pooled and how, and the number of groups."""
        self.space, self.pool = space, POOLS.get(grouping.pool)
        self.chosen = tuple(place + 1 for place, name in enumerate(space.names) if name in grouping.tasks)
        self.others = tuple(place + 1 for place, name in enumerate(space.names) if name not in grouping.tasks)
        size = int(np.prod([space.shape[axis - 1] for axis in self.chosen]))
        self.sums = np.zeros((groups, size))
        self.counts = np.zeros(groups, dtype=np.int64)

    def add(self, joint: Probabilities, groups: Labels, counted: npt.NDArray[np.bool_]) -> None:
        """Takes images into the pools of their groups.

        Args:
            joint: (N, J) probabilities.
            groups: (N,) numbers of groups, from 0 on.
            counted: (N,) whether an image counts; one that cannot be read does not.
        """
        own = self._own(joint[counted]).reshape(-1, self.sums.shape[1])
        np.add.at(self.sums, groups[counted], self.pool.of_image(own))
        np.add.at(self.counts, groups[counted], 1)

    def changes(self, groups: Labels, counted: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """(N,) whether there are other images in an image's group, by which it is voted on: an image alone stays as it is."""
        return np.asarray(self.counts[groups] - counted > 0)

    def put_back(self, joint: Probabilities, groups: Labels, counted: npt.NDArray[np.bool_]) -> Probabilities:
        """(N, J) probabilities of images that were added, the chosen tasks' marginal being that of their group.

        What an image says of the other tasks, given the chosen ones, is kept (Jeffrey's rule of conditioning), so that all
        images of a group agree on the marginal of the chosen tasks and rows sum to 1. Of a class of the chosen tasks that an
        image rules out it says nothing; there its marginal of the other tasks is taken. An image alone is as it was, to the bit.
        """
        changed = self.changes(groups, counted)
        table = joint[changed].reshape(-1, *self.space.shape)
        own = self._own(joint[changed])
        possible = own >= MIN_POSSIBLE
        rest = table.sum(axis=self.chosen, keepdims=True)
        given_chosen = np.where(possible, table / np.where(possible, own, 1.0), rest)
        of_group = groups[changed]
        pooled = self.pool.of_mean(self.sums[of_group] / self.counts[of_group][:, None])
        result = joint.copy()
        result[changed] = (given_chosen * pooled.reshape(own.shape)).reshape(-1, joint.shape[1])
        return result

    def _own(self, joint: Probabilities) -> Probabilities:
        """(N, ...) each image's marginal of the chosen tasks, its other axes being of length 1."""
        return np.asarray(joint.reshape(-1, *self.space.shape).sum(axis=self.others, keepdims=True))


def pooled(
    space: LabelSpace, joint: Probabilities, groups: Labels, grouping: Grouping, counted: npt.NDArray[np.bool_] | None = None
) -> Probabilities:
    """(N, J) joint probabilities with the tasks of a grouping voted over each group, see `GroupVote.put_back`.

    Args:
        space: the label space.
        joint: (N, J) probabilities of the vote.
        groups: (N,) numbers of groups, from 0 on.
        grouping: which tasks are pooled, and how.
        counted: (N,) whether an image counts (default: all do); the others are given what their group says.

    Source:
        Genest & Zidek, Combining Probability Distributions, 1986; Jeffrey, The Logic of Decision, 1965.
    """
    if not grouping.tasks or not len(joint):
        return joint
    counted = np.ones(len(joint), dtype=bool) if counted is None else counted
    vote = GroupVote(space, grouping, int(groups.max()) + 1)
    vote.add(joint, groups, counted)
    return vote.put_back(joint, groups, counted)


def first_difference(labels: Labels, groups: Labels) -> tuple[int, int] | None:
    """Places of the first two images of one group that have different labels; None where each group has one label.

    Example:
        >>> first_difference(np.array([0, 1, 0, 2]), np.array([5, 7, 5, 7]))
        (1, 3)
    """
    _, first, of = np.unique(groups, return_index=True, return_inverse=True)
    other = np.flatnonzero(labels != labels[first[of]])
    return (int(first[of[other[0]]]), int(other[0])) if len(other) else None


def constant_tasks(space: LabelSpace, truth: Labels, groups: Labels) -> tuple[str, ...]:
    """The tasks whose label never differs within a group; none where no group has two images.

    Args:
        space: the label space.
        truth: (N,) joint labels.
        groups: (N,) what tells groups apart.
    """
    if len(np.unique(groups)) == len(groups):
        return ()
    return tuple(name for name, labels in space.split(truth).items() if first_difference(labels, groups) is None)


def check_tasks(space: LabelSpace, wanted: tuple[str, ...], truth: Labels, names: npt.NDArray[np.object_]) -> None:
    """Refuses tasks that cannot be voted by group.

    Args:
        space: the label space.
        wanted: names of tasks.
        truth: (N,) joint labels.
        names: (N,) names of groups.

    Raises:
        InputError: there is no such task, it is named twice, no group has two images, or the task differs within one.
    """
    groups = np.unique(names, return_inverse=True)[1]
    for name in wanted:
        if name not in space.names:
            raise InputError(f"vote.groups: there is no task '{name}'; it may be {one_of(space.names, name)}.")
        if wanted.count(name) > 1:
            raise InputError(f"vote.groups names '{name}' twice; name each task once.")
        labels = space.split(truth)[name]
        if places := first_difference(labels, groups):
            one, other = (space.classes(name)[labels[place]] for place in places)
            raise InputError(
                f"vote.groups names '{name}', which differs within a group: '{names[places[0]]}' has '{one}' and '{other}'; "
                "leave it out, or mend the labels."
            )
    if len(np.unique(groups)) == len(groups):
        raise InputError(
            f"vote.groups names '{wanted[0]}', but no group of the training data has two images; name their column by "
            "data.group_column, or set vote.groups to none."
        )
