"""One assignment of folds for every task: by group, stratified by the joint label, and checked for leaks."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pandas as pd

from raymask.config.data import FoldsConfig
from raymask.core.columns import label_column
from raymask.core.errors import InputError, shortened
from raymask.core.tasks import JOINT
from raymask.core.types import Labels
from raymask.data.given_folds import given_folds

TRAIN_ONLY = -1
GROUPED = ("stratified_group", "group", "holdout")
MAX_PARTS = 10
"""Parts that images are cut into to hold some of them out, but for shares so small that they need more."""


def assign_folds(images: pd.DataFrame, config: FoldsConfig, seed: int) -> Labels:
    """(N,) int64 fold of each row of a manifest that is sorted by image_id.

    Folds go from 0 to k-1; `holdout` validates on fold 0 alone and puts every other row in `TRAIN_ONLY`. The scheme by default,
    `stratified_group`, is that of scikit-learn's StratifiedGroupKFold over the joint label. Where a column of the table names the
    folds, they are those of `given_folds`.

    Raises:
        InputError: fewer groups than folds, or (as `check_leak`) a group in two folds.
    """
    if config.column:
        return given_folds(images, config.column)[0]
    joint = images[label_column(JOINT)].to_numpy()
    groups, names = pd.factorize(images["group"], sort=True)
    grouped = config.scheme in GROUPED
    units = len(names) if grouped else len(images)
    if units < config.k:
        raise InputError(f"folds.k is {config.k}, but there are only {units} {'groups' if grouped else 'images'}.")
    try:
        if config.scheme in ("stratified_group", "holdout"):
            folds = stratified_group_folds(joint, groups, config.k, seed)
        else:
            folds = _split(config, seed, joint, groups)
    except ValueError as error:
        raise InputError(f"folds: {str(error).rstrip('.')}; choose another folds.scheme or a smaller folds.k.") from None
    if config.scheme == "holdout":
        folds[folds > 0] = TRAIN_ONLY
    if grouped:
        check_leak(images["group"], folds)
    return folds


def reserve_rows(images: pd.DataFrame, config: FoldsConfig, seed: int) -> npt.NDArray[np.bool_]:
    """(N,) which images of a manifest are held out from everything: about `reserve` of the groups, stratified by the joint label.

    Where the scheme knows no groups, images take their place.

    Raises:
        InputError: too few groups or images for such a share.
    """
    if not config.reserve:
        return np.zeros(len(images), bool)
    joint = images[label_column(JOINT)].to_numpy()
    groups, names = pd.factorize(images["group"], sort=True)
    grouped = config.scheme in GROUPED
    share = reserved_share(config)
    parts = share.denominator
    other_seed = int(np.random.SeedSequence([seed, parts]).generate_state(1)[0])
    try:
        if (units := len(names) if grouped else len(images)) < parts:
            raise ValueError(f"there are only {units} {'groups' if grouped else 'images'}")
        if grouped:
            part = stratified_group_folds(joint, groups, parts, other_seed)
        else:
            part = _split(config.model_copy(update={"scheme": "stratified", "k": parts}), other_seed, joint, groups)
    except ValueError as error:
        raise InputError(
            f"folds.reserve is {config.reserve:g} ({share}), but {str(error).rstrip('.')}; choose another share, or 0."
        ) from None
    return np.less(part, share.numerator)


def reserved_share(config: FoldsConfig) -> Fraction:
    """The share above 0 that is held out, as so many of the fewest equal parts."""
    return Fraction(config.reserve).limit_denominator(max(MAX_PARTS, math.ceil(1 / config.reserve)))


def _split(config: FoldsConfig, seed: int, joint: Labels, groups: Labels) -> Labels:
    from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold  # a second that the default scheme does not need

    scheme = {"group": GroupKFold, "stratified": StratifiedKFold, "kfold": KFold}[config.scheme]
    splitter = scheme(n_splits=config.k, shuffle=True, random_state=seed)
    folds = np.empty(len(joint), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        for fold, (_, held_out) in enumerate(splitter.split(joint, joint, groups if config.scheme == "group" else None)):
            folds[held_out] = fold
    return folds


def stratified_group_folds(joint: Labels, groups: Labels, k: int, seed: int) -> Labels:
    """(N,) int64 folds, the very ones of scikit-learn's StratifiedGroupKFold, found several times as fast.

    Group after group, those of the most uneven classes first, goes to the fold that leaves each class spread the most evenly.

    Args:
        joint: (N,) joint labels.
        groups: (N,) numbers from 0 to that of the last group.
        k: number of folds.
        seed: decides the order of groups that are equally uneven.

    Raises:
        ValueError: no class has as many images as there are folds.
    """
    _, classes, of_class = np.unique(joint, return_inverse=True, return_counts=True)
    if of_class.max() < k:
        raise ValueError(f"no class has {k} images")
    size = (groups.max() + 1, len(of_class))
    of_group = np.bincount(np.ravel_multi_index((groups, classes), size), minlength=size[0] * size[1]).reshape(size)
    shuffled = np.arange(len(of_group))
    np.random.RandomState(seed).shuffle(shuffled)
    order = shuffled[np.argsort(-of_group[shuffled].std(axis=1), kind="stable")]
    of_fold = np.zeros((k, len(of_class)), dtype=np.int64)
    folds = np.empty(len(of_group), dtype=np.int64)
    for group in order.tolist():
        folds[group] = fold = _most_even_fold(of_fold, of_group[group], of_class)
        of_fold[fold] += of_group[group]
    return folds[groups]


def _most_even_fold(of_fold: Labels, added: Labels, of_class: Labels) -> int:
    """The fold to which images of one more group are best added; of equally good ones the smallest.

    Args:
        of_fold: (K, C) images by fold and class.
        added: (C,) images of the group.
        of_class: (C,) all images of each class.
    """
    k = len(of_fold)
    shares = np.repeat((of_fold / of_class)[None], k, axis=0)
    shares[range(k), range(k)] = (of_fold + added) / of_class
    unevenness, sizes = shares.std(axis=1).mean(axis=1).tolist(), of_fold.sum(axis=1).tolist()
    best = 0
    for fold in range(1, k):
        close = math.isclose(unevenness[fold], unevenness[best], rel_tol=1e-5, abs_tol=1e-8)
        if unevenness[fold] < unevenness[best] or (close and sizes[fold] < sizes[best]):
            best = fold
    return best


def check_leak(groups: npt.ArrayLike, folds: npt.ArrayLike) -> None:
    """Refuses folds in which a group lies in more than one.

    Raises:
        InputError: names the groups.
    """
    table = pd.DataFrame({"group": np.asarray(groups), "fold": np.asarray(folds)}).drop_duplicates()
    leaking = sorted(table["group"][table["group"].duplicated()].astype(str).unique())
    if leaking:
        raise InputError(
            f"{len(leaking)} group(s) lie in two folds ({shortened(leaking)}): validation would see people that training "
            "saw. Assign the folds again."
        )


def rare_classes(images: pd.DataFrame, classes: tuple[str, ...], k: int) -> list[str]:
    """`NAME (COUNT)` of each joint class that has fewer groups than folds, so that some fold validates without it."""
    groups = images.groupby(label_column(JOINT))["group"].nunique()
    counts = {name: int(groups.get(label, 0)) for label, name in enumerate(classes)}
    return [f"{name} ({count})" for name, count in counts.items() if count < k]


def replica_folds(folds: npt.ArrayLike) -> list[int]:
    """The folds that models are trained for: not `TRAIN_ONLY`, nor any other negative number."""
    return sorted(int(fold) for fold in np.unique(np.asarray(folds)) if fold >= 0)
