"""One assignment of folds for every task: by group, stratified by the joint label, and checked for leaks."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from raymask.config import FoldsConfig
from raymask.errors import InputError, shortened
from raymask.tasks import JOINT

TRAIN_ONLY = -1


def assign_folds(images: pd.DataFrame, config: FoldsConfig, seed: int) -> npt.NDArray[np.int64]:
    """(N,) int64 fold of each row of a manifest that is sorted by image_id.

    Folds go from 0 to k-1; `holdout` validates on fold 0 alone and puts every other row in `TRAIN_ONLY`. The scheme by default,
    `stratified_group`, is scikit-learn's StratifiedGroupKFold over the joint label.

    Raises:
        InputError: fewer groups than folds, or (as `check_leak`) a group in two folds.
    """
    joint, groups = images[f"label_{JOINT}"].to_numpy(), images["group"].to_numpy()
    grouped = config.scheme in ("stratified_group", "group", "holdout")
    units = len(np.unique(groups)) if grouped else len(images)
    if units < config.k:
        raise InputError(f"folds.k is {config.k}, but there are only {units} {'groups' if grouped else 'images'}.")
    splitter = {
        "stratified_group": StratifiedGroupKFold,
        "holdout": StratifiedGroupKFold,
        "group": GroupKFold,
        "stratified": StratifiedKFold,
        "kfold": KFold,
    }[config.scheme](n_splits=config.k, shuffle=True, random_state=seed)
    folds = np.full(len(images), TRAIN_ONLY, dtype=np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        try:
            for fold, (_, held_out) in enumerate(splitter.split(np.zeros(len(images)), joint, groups if grouped else None)):
                folds[held_out] = fold
        except ValueError as error:
            raise InputError(f"folds: {str(error).rstrip('.')}; choose another folds.scheme or a smaller folds.k.") from None
    if config.scheme == "holdout":
        folds[folds > 0] = TRAIN_ONLY
    if grouped:
        check_leak(groups, folds)
    return folds


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


def thin_classes(images: pd.DataFrame, classes: tuple[str, ...], k: int) -> list[str]:
    """`NAME (COUNT)` of each joint class that has fewer groups than folds, so that some fold validates without it."""
    groups = images.groupby(f"label_{JOINT}")["group"].nunique()
    counts = {name: int(groups.get(label, 0)) for label, name in enumerate(classes)}
    return [f"{name} ({count})" for name, count in counts.items() if count < k]


def replica_folds(folds: npt.ArrayLike) -> list[int]:
    """The folds that a replica is trained for: all but `TRAIN_ONLY`."""
    return sorted(int(fold) for fold in np.unique(np.asarray(folds)) if fold != TRAIN_ONLY)
