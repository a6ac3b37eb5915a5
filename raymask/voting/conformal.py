"""Sets of classes that hold the true one with a chosen probability: conformal prediction on the cross-fitted vote."""

from __future__ import annotations

from dataclasses import asdict
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from raymask.core.columns import targets_of
from raymask.core.tasks import JOINT, LabelSpace
from raymask.core.types import Labels, Probabilities
from raymask.metrics.prediction_sets import PredictionSets, coverage_of
from raymask.voting.grouping import Grouping, pooled
from raymask.voting.selection import OofPredictions, parts_of

MIN_GROUPS = 20
MIN_OUTSIDE = 2
"""Groups that are expected beyond a quantile that is a class's own; with fewer it is decided by one group."""
MAX_SUBGROUPS = 40
"""Classes of a task for which coverage is told class by class."""
ROUNDING = 1e-9


def least_probability(of_truth: npt.NDArray[np.float64], groups: Labels, coverage: float) -> float:
    """The probability that the true class of a new group's image reaches with a chance of at least `coverage`.

    Groups are exchangeable, not their images, which are alike: each group counts once, its images sharing that, and a new group
    counts as one that lies beyond all. So the chance is that of one image, drawn at random, of a new group.

    Args:
        of_truth: (N,) probabilities of the true classes.
        groups: (N,) what tells groups apart.
        coverage: the chance, below 1.

    Returns:
        0 where the groups are too few for it, which every class reaches.

    Source:
        Lee, Barber & Willett, Distribution-free inference with hierarchical data, arXiv:2306.06342; the score, one less the
        probability, is that of Sadinle, Lei & Wasserman 2019, arXiv:1609.00451.

    Example:
        >>> least_probability(np.array([0.9, 0.8, 0.3]), np.array([0, 1, 2]), 0.5)
        0.8
        >>> least_probability(np.array([0.9, 0.8, 0.3]), np.array([0, 1, 2]), 0.9)
        0.0
    """
    if not len(groups):
        return 0.0
    _, of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(-of_truth, kind="stable")
    reached = (1 / sizes[of[order]]).cumsum()
    place = int(np.searchsorted(reached, coverage * (len(sizes) + 1) - ROUNDING))
    return float(of_truth[order[place]]) if place < len(order) else 0.0


def enough_groups(coverage: float) -> int:
    """Groups with an image of a class from which on the class has a quantile of its own.

    Example:
        >>> enough_groups(0.9), enough_groups(0.99)
        (20, 200)
    """
    return max(MIN_GROUPS, ceil(MIN_OUTSIDE / (1 - coverage) - ROUNDING))


def least_by_class(
    probs: Probabilities, labels: Labels, groups: Labels, coverage: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The least probability of each class: its own, or one for all rare classes together, or one for all images.

    Args:
        probs: (N, C) probabilities.
        labels: (N,) true classes.
        groups: (N,) what tells groups apart.
        coverage: the chance, below 1.

    Returns:
        (C,) least probabilities, and (C,) whether they are of the class alone.

    Source:
        Vovk, Conditional validity of inductive conformal predictors, 2012 (by class); Ding et al., Class-conditional conformal
        prediction with many classes, arXiv:2306.09335 (classes that share one).
    """
    of_truth, enough = probs[np.arange(len(labels)), labels], enough_groups(coverage)
    pairs = np.unique(np.stack([labels, groups]), axis=1)
    own = np.bincount(pairs[0], minlength=probs.shape[1]) >= enough
    rare = ~own[labels]
    shared = rare if len(np.unique(groups[rare])) >= enough else np.ones(len(labels), dtype=bool)
    least = np.full(probs.shape[1], least_probability(of_truth[shared], groups[shared], coverage))
    for label in np.flatnonzero(own):
        here = labels == label
        least[label] = least_probability(of_truth[here], groups[here], coverage)
    return least, own


def fit_sets(space: LabelSpace, joint: Probabilities, truth: Labels, groups: Labels, coverage: float) -> PredictionSets:
    """Sets for each task and the joint label; see `fit_with_own`."""
    return fit_with_own(space, joint, truth, groups, coverage)[0]


def fit_with_own(
    space: LabelSpace, joint: Probabilities, truth: Labels, groups: Labels, coverage: float
) -> tuple[PredictionSets, dict[str, list[str]]]:
    """Sets for each task and the joint label, and by target the classes whose least probability is of them alone.

    Args:
        space: the label space.
        joint: (N, J) probabilities that were not fitted on these images.
        truth: (N,) joint labels.
        groups: (N,) what tells groups apart.
        coverage: the chance that a set holds the true class.
    """
    sets, labels = PredictionSets(space, {}), {**space.split(truth), JOINT: truth}
    least, own = {}, {}
    for target in targets_of(space):
        least[target], alone = least_by_class(sets.probabilities(joint, target), labels[target], groups, coverage)
        own[target] = [name for name, is_own in zip(space.classes(target), alone, strict=True) if is_own]
    return PredictionSets(space, least), own


def cross_fitted_masks(evidence: OofPredictions, joint: Probabilities, coverage: float, seed: int) -> dict[str, Any]:
    """(N, C) by target: the sets of each image by what was fitted on the other people.

    Args:
        evidence: the images; members are not looked at.
        joint: (N, J) probabilities.
        coverage: the chance.
        seed: of the parts.
    """
    space, parts = evidence.space, parts_of(evidence, seed)
    masks = {target: np.ones((len(joint), len(space.classes(target))), dtype=bool) for target in targets_of(space)}
    for part in np.unique(parts):
        here = parts == part
        fitted = fit_sets(space, joint[~here], evidence.truth[~here], evidence.groups[~here], coverage)
        for target, mask in fitted.masks(joint[here]).items():
            masks[target][here] = mask
    return masks


def coverage_rows(space: LabelSpace, masks: dict[str, Any], truth: Labels, groups: Labels, seed: int) -> list[dict[str, Any]]:
    """How the sets of each target did, over all images and over those of each class of each task.

    Args:
        space: the label space.
        masks: (N, C) by target whether a class is in an image's set.
        truth: (N,) joint labels.
        groups: (N,) what tells groups apart.
        seed: of the bootstrap.
    """
    labels = {**space.split(truth), JOINT: truth}
    subgroups = {("", ""): np.ones(len(truth), dtype=bool)}
    for task in space.names:
        names = space.classes(task)
        if len(names) <= MAX_SUBGROUPS:
            subgroups |= {(task, name): labels[task] == label for label, name in enumerate(names)}
    return [
        {
            "target": target,
            "task": task,
            "label": name,
            **asdict(coverage_of(mask[here], labels[target][here], groups[here], seed)),
        }
        for target, mask in masks.items()
        for (task, name), here in subgroups.items()
        if here.any()
    ]


def decide_sets(
    evidence: OofPredictions, joint: Probabilities, grouping: Grouping, coverage: float | None, seed: int
) -> dict[str, Any] | None:
    """What `ensemble.json` keeps of the sets: least probabilities, and how they did cross-fitted; None without a coverage.

    Images that are voted on by group have least probabilities of their own, from the training images whose group has several.

    Args:
        evidence: labels, groups and folds of the images.
        joint: (N, J) cross-fitted result of the vote on each image alone.
        grouping: which tasks are voted by group.
        coverage: the chance that a set holds the true class.
        seed: the run's.
    """
    if coverage is None:
        return None
    space, truth, groups = evidence.space, evidence.truth, evidence.groups
    sets, own = fit_with_own(space, joint, truth, groups, coverage)
    found: dict[str, Any] = {
        "coverage": coverage,
        "least": {target: least.tolist() for target, least in sets.least.items()},
        "own": own,
        "rows": coverage_rows(space, cross_fitted_masks(evidence, joint, coverage, seed), truth, groups, seed),
    }
    several = np.bincount(groups)[groups] > 1
    if grouping.tasks and several.any():
        together = pooled(space, joint, groups, grouping)[several]
        of_groups = fit_sets(space, together, truth[several], groups[several], coverage)
        found["least_by_group"] = {target: least.tolist() for target, least in of_groups.least.items()}
        numbers = np.unique(groups[several], return_inverse=True)[1]
        those = OofPredictions(space, {}, truth[several], numbers, evidence.folds[several])
        masks = cross_fitted_masks(those, together, coverage, seed)
        found["rows_by_group"] = coverage_rows(space, masks, truth[several], numbers, seed)
    return found
