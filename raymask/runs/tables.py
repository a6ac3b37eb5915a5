"""The tables of a run: what each must hold for what is made of it, and what reads it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from raymask.config.tasks import label_space
from raymask.core.columns import joint_columns, label_column, predicted_column, targets_of, train_label_column
from raymask.core.tasks import JOINT, UNLABELLED, LabelSpace
from raymask.io.checked import Kind, damaged, read_table
from raymask.runs.configs import load_run_config
from raymask.runs.directory import Run


def read_manifest(run: Run, space: LabelSpace) -> pd.DataFrame:
    """The manifest: one row an image.

    Raises:
        DamagedFileError: it cannot be read, names an image twice, or has labels that are none of the label space.
    """
    return _read_images(run.manifest, space, {"fold": "whole"})


def read_reserve(run: Run) -> pd.DataFrame:
    """The images of the people held out from everything.

    Raises:
        DamagedFileError: as `read_manifest`.
    """
    return _read_images(run.reserve, label_space(load_run_config(run).tasks), {})


def _read_images(file: Path, space: LabelSpace, more: dict[str, Kind]) -> pd.DataFrame:
    texts: dict[str, Kind] = dict.fromkeys(("image_id", "path", "group"), "text")
    targets = targets_of(space)
    labels: dict[str, Kind] = {named(target): "whole" for target in targets for named in (label_column, train_label_column)}
    table = read_table(file, {**texts, **labels, **more})
    check_ids(file, table["image_id"])
    for target in targets:
        for name in (label_column(target), train_label_column(target)):
            if not table[name].between(UNLABELLED, len(space.classes(target)) - 1).all():
                raise damaged(file, f"its column '{name}' holds labels of other classes than the run's config")
    return table


def read_targets(run: Run, space: LabelSpace) -> pd.DataFrame:
    """What a teacher says of images.

    Raises:
        DamagedFileError: it cannot be read, or is of other classes.
    """
    return read_table(run.targets, {"image_id": "text", "fold": "whole", **dict.fromkeys(joint_columns(space), "finite")})


def read_folds(run: Run) -> pd.Series:
    """The fold of each image of the manifest.

    Raises:
        DamagedFileError: it cannot be read.
    """
    return read_table(run.manifest, {"fold": "whole"}, only=True)["fold"]


def check_ids(file: Path, image_ids: pd.Series) -> None:
    """Refuses a table that names an image twice.

    Raises:
        DamagedFileError: so it does.
    """
    twice = image_ids[image_ids.duplicated()]
    if len(twice):
        raise damaged(file, f"it holds '{twice.iloc[0]}' twice")


def read_ensemble_predictions(file: Path, space: LabelSpace) -> pd.DataFrame:
    """An ensemble's predictions, as `raymask.runs.predictions.prediction_table` makes them.

    Raises:
        DamagedFileError: they cannot be read, or are not of the label space.
    """
    columns: dict[str, Kind] = {"image_id": "text", "problem": "text", JOINT: "whole"}
    columns |= {predicted_column(task): "whole" for task in space.names}
    table = read_table(file, {**columns, **dict.fromkeys(joint_columns(space), "finite")})
    check_ids(file, table["image_id"])
    for target in (JOINT, *space.names):
        if not table[predicted_column(target)].between(0, len(space.classes(target)) - 1).all():
            raise damaged(file, f"its column '{predicted_column(target)}' holds labels of other classes than the run's config")
    return table


def read_model_predictions(file: Path, image_ids: Iterable[str], columns: Collection[str]) -> pd.DataFrame:
    """Models' probabilities of these images, in the order of their ids; those of broken images may be NaN.

    Raises:
        DamagedFileError: they cannot be read, or are of other images or models.
    """
    table = read_table(file, {"image_id": "text", "problem": "text", **dict.fromkeys(columns, "number")})
    if table["image_id"].tolist() != sorted(image_ids):
        raise damaged(file, "it holds other images")
    whole = table.loc[table["problem"] == "", list(columns)].to_numpy(np.float64)
    if not np.isfinite(whole).all():
        raise damaged(file, "it lacks probabilities of images that have no problem")
    return table
