"""The vote by group in a run: decided on its out-of-fold predictions, said, and used on its test images and people held out."""

from __future__ import annotations

import numpy as np
import pandas as pd

from raymask.config.vote import VoteConfig
from raymask.core.columns import label_column
from raymask.core.console import Display
from raymask.core.tasks import JOINT, LabelSpace
from raymask.inference.voting_runs import truth_of
from raymask.metrics.bootstrap import group_numbers
from raymask.runs.schemas import Ensemble, Groups, Interval
from raymask.voting.group_choice import GroupChoice, choose_grouping
from raymask.voting.grouping import Grouping, check_tasks, constant_tasks, first_difference
from raymask.voting.selection import OofPredictions
from raymask.voting.vote import Decision, drawn_images

FEW = 0.02
"""Share of the groups that a task may differ in to be told of: likely by mistake."""


def check_group_tasks(config: VoteConfig, images: pd.DataFrame, space: LabelSpace) -> None:
    """Refuses tasks of `vote.groups` that cannot be voted by group.

    Args:
        config: names them.
        images: group and joint label of each image.
        space: the label space.

    Raises:
        InputError: there is no such task, or it differs within a group, which is named.
    """
    if not isinstance(config.groups, str):
        truth = images[label_column(JOINT)].to_numpy(np.int64)
        check_tasks(space, config.groups, truth, images["group"].to_numpy(dtype=object))


def decide_grouping(decision: Decision, images: pd.DataFrame, config: VoteConfig, seed: int) -> GroupChoice | None:
    """Whether tasks are voted by group, decided on the images that the vote was decided on; None without candidates.

    Args:
        decision: of the vote.
        images: group, fold and joint label of the images that it was decided on.
        config: of the vote.
        seed: the run's.

    Raises:
        InputError: see `check_group_tasks`.
    """
    space = decision.vote.space
    check_group_tasks(config, images, space)
    known = truth_of(space, images)
    candidates = constant_tasks(space, known.truth, known.groups)
    drawn = drawn_images(known.groups, seed)
    renumbered = np.unique(known.groups[drawn], return_inverse=True)[1]
    evidence = OofPredictions(space, {}, known.truth[drawn], renumbered, known.folds[drawn])
    return choose_grouping(evidence, decision.joint[drawn], candidates, config, decision.metric, seed)


def mistaken(images: pd.DataFrame, space: LabelSpace) -> list[str]:
    """Sentences on tasks that differ within so few groups that it is likely by mistake."""
    truth, groups = images[label_column(JOINT)].to_numpy(np.int64), group_numbers(images["group"])
    several = int((np.bincount(groups) > 1).sum())
    sentences = []
    for name, labels in space.split(truth).items():
        places = first_difference(labels, groups)
        if places is None:
            continue
        differing = int((pd.Series(labels).groupby(groups).nunique() > 1).sum())
        if differing <= FEW * several:
            sentences.append(
                f"{name} is not voted by group, since it differs within {differing} of {several} groups of several images, such "
                f"as '{images['group'].iloc[places[0]]}'"
            )
    return sentences


def grouping_line(by_group: Groups | None, metric: str) -> str:
    """What was decided, in a sentence; "" where nothing was compared."""
    if by_group is None or by_group.estimate is None:
        return ""
    asked, grouping = " + ".join(by_group.candidates), Grouping(tuple(by_group.tasks), by_group.pool)
    if by_group.gain is None:
        return f"by group: voting {asked} over all images of a group would gain nothing that is sure"
    return (
        f"by group: {grouping}; where new images come with groups{usual(by_group)}, {metric} of {by_group.estimate} is "
        f"expected, {told_gain(by_group.gain)}"
    )


def usual(by_group: Groups) -> str:
    """` of 7 images`, as most training images have them; where most are alone, ` like those of the training images`."""
    images = by_group.sizes[-1].images if by_group.sizes else 1
    return f" of {images} images" if images > 1 else " like those of the training images"


def told_gain(gain: Interval | None) -> str:
    """`+0.0320 (+0.0200 to +0.0450)`."""
    return "" if gain is None else f"{gain.score:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"


def say_of_test(ensemble: Ensemble, grouped: bool, display: Display) -> None:
    """One line on test images that come without groups where these would be worth something, or with groups that are not."""
    by_group = ensemble.by_group
    if by_group and by_group.tasks and not grouped:
        display.line(
            "predict",
            f"each image is voted on alone; with a column of groups (data.test_group_column) {ensemble.metric} is expected to "
            f"gain {told_gain(by_group.gain)} where groups are{usual(by_group)}",
        )
    elif grouped and not (by_group and by_group.tasks):
        display.line("predict", "the groups of the test images change nothing, since no task is voted by group")
