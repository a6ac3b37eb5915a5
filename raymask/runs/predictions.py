"""Replicas' files -> one out-of-fold prediction an image and member -> ballots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from raymask.core.columns import by_column, by_head, predicted_column, set_column
from raymask.core.errors import InputError, shortened
from raymask.core.tasks import JOINT, LabelSpace
from raymask.core.types import Probabilities
from raymask.io.atomic import write_table
from raymask.io.checked import DamagedFileError, damaged, read_table
from raymask.metrics.prediction_sets import PredictionSets
from raymask.runs.directory import ReplicaId, Run


def collect_oof(run: Run, member: str, folds: Sequence[int], validated: pd.Series, keep: Run | None = None) -> bool:
    """Writes a member's OOF file from its fold models' unless one is there that says what they say; returns whether one is.

    Where fold models' files are gone, one that is there is left as it is.

    Args:
        run: where the fold models lie.
        member: the member's name.
        folds: the folds that it has fold models for.
        validated: image_id of every image that lies in one of these folds.
        keep: where the file is written (default: the run), such as another run that its members vote in.

    Raises:
        InputError: an image has no prediction, or two, under one of the views.
    """
    own, kept = run.oof(member), (keep or run).oof(member)
    written = [file for file in dict.fromkeys((own, kept)) if file.exists()]
    files = [run.replica_oof(ReplicaId(member, fold)) for fold in folds]
    if written and not all(file.exists() for file in files):
        return True
    parts = [
        read_table(file, {"image_id": "text", "view": "text"}, others="finite").assign(fold=fold)
        for file, fold in zip(files, folds, strict=True)
    ]
    for file, part in zip(files, parts, strict=True):
        if set(part) != set(parts[0]):
            raise damaged(file, f"it has other columns than '{files[0]}'")
    table = pd.concat(parts, ignore_index=True)
    for view, of_view in table.groupby("view"):
        check_complete(f"the out-of-fold predictions of '{member}' ({view})", of_view["image_id"].tolist(), validated.tolist())
    table = table.sort_values(["image_id", "view"], kind="stable", ignore_index=True)
    same = [file for file in written if _holds(file, table)]
    if kept not in same and own not in same:
        write_table(kept, table)
    elif own in same and kept != own:
        kept.unlink(missing_ok=True)
    return bool(same)


def _holds(file: Path, table: pd.DataFrame) -> bool:
    try:
        return table.equals(read_oof(file))
    except DamagedFileError:
        return False


def read_oof(file: Path) -> pd.DataFrame:
    """What `collect_oof` wrote.

    Raises:
        DamagedFileError: it cannot be read.
    """
    return read_table(file, {"image_id": "text", "view": "text", "fold": "whole"}, others="finite")


def oof_by_view(file: Path, member: str, views: Sequence[str], image_ids: pd.Series) -> dict[str, npt.NDArray[np.float32]]:
    """A member's (W, N, C) float32 OOF probabilities by head, under these views, for these images in this order.

    It may have predicted others too.

    Raises:
        InputError: an image has no prediction under one of the views.
    """
    table = read_oof(file).set_index("image_id")
    table = table[table.index.isin(image_ids)]
    parts = []
    for view in views:
        of_view = table[table["view"] == view].drop(columns=["view", "fold"])
        check_complete(f"the out-of-fold predictions of '{member}' ({view})", of_view.index.tolist(), image_ids.tolist())
        parts.append(by_head(of_view.loc[image_ids.to_numpy()]))
    return {head: np.stack([part[head] for part in parts]).astype(np.float32) for head in parts[0]}


def prediction_table(
    image_ids: pd.Series, problems: pd.Series, joint: Probabilities, space: LabelSpace, sets: PredictionSets | None = None
) -> pd.DataFrame:
    """One row an image: image_id, problem, joint label, each task's label and class, sets of classes, and all probabilities.

    The joint label is the most probable joint class, and the tasks' labels are its parts, so that they always agree.

    Args:
        image_ids: (N,) ids.
        problems: (N,) why an image is broken, "" where it is not.
        joint: (N, J) probabilities.
        space: the label space.
        sets: which classes an image may be of (default: there are no columns of these).
    """
    elected = joint.argmax(axis=1)
    columns: dict[str, object] = {"image_id": image_ids.to_numpy(), "problem": problems.to_numpy(), JOINT: elected}
    labels = space.split(elected)
    columns |= {predicted_column(task): task_labels for task, task_labels in labels.items()}
    columns |= {task: [space.classes(task)[label] for label in task_labels] for task, task_labels in labels.items()}
    if sets:
        of_targets = sets.texts(joint, problems.to_numpy() != "")
        columns |= {set_column(target): texts for target, texts in of_targets.items()}
    columns |= by_column({**{task: space.marginal(joint, task) for task in space.names}, JOINT: joint}, space)
    return pd.DataFrame(columns)


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
