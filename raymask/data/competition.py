"""The competition's layout: `train/train.csv` names people and their folders of photos, `eval/info.csv` test images."""

from __future__ import annotations

import pandas as pd

from raymask.config.data import DataConfig
from raymask.core.errors import InputError
from raymask.data.rejected import Rejected, is_image
from raymask.data.tables import need_columns, read_table
from raymask.io import files

COMPETITION_TASKS: dict[str, dict[str, object]] = {
    "mask": {"classes": ["worn", "incorrect", "none"]},
    "gender": {"classes": ["male", "female"]},
    "age": {"edges": [30, 60], "valid_range": [0, 120]},
}
COMPETITION_COLUMNS = ("id", "gender", "age", "path")
PHOTOS = {**{f"mask{number}": "worn" for number in range(1, 6)}, "incorrect_mask": "incorrect", "normal": "none"}


def competition_table(root: str) -> str | None:
    """The table of people, or None where the folder has none."""
    for name in ("train/train.csv", "train.csv"):
        if files.exists(files.join(root, name)):
            return files.join(root, name)
    return None


def competition_info(root: str) -> str | None:
    """The file that names the test images, or None where the folder has none."""
    for name in ("eval/info.csv", "test/info.csv", "info.csv"):
        if files.exists(files.join(root, name)):
            return files.join(root, name)
    return None


def read_competition(data: DataConfig, rejected: Rejected) -> pd.DataFrame:
    """One row a photo: image_id, path, group, mask, gender, age, size, stamp, problem."""
    assert data.path is not None
    root = data.path
    table_path = competition_table(root)
    if table_path is None:
        raise InputError(f"data.path: '{root}' has no train/train.csv, as the competition layout needs.")
    table = read_table(table_path, data)
    need_columns(table, COMPETITION_COLUMNS, table_path)
    people = table.values
    images_root = files.absolute(f"{files.parent(table_path)}/images")
    if not files.is_folder(images_root):
        raise InputError(f"data.path: '{images_root}' is missing; the photos' folders of train.csv must lie there.")
    by_folder: dict[str, list[tuple[str, files.State]]] = {}
    for name, state in files.list_files(images_root).items():
        if is_image(name):
            folder, _, photo = name.rpartition("/")
            by_folder.setdefault(folder, []).append((photo, state))
    rows = []
    for person, gender, age, folder in people[["id", "gender", "age", "path"]].itertuples(index=False):
        present = by_folder.get(folder, [])
        stems = {photo.rpartition(".")[0] for photo, _ in present}
        absent = [(stem, files.ABSENT) for stem in PHOTOS if stem not in stems]
        for photo, state in [*present, *absent]:
            mask = PHOTOS.get(photo.rpartition(".")[0] or photo)
            image_id = f"{folder}/{photo}"
            if mask is None:
                rejected.add([image_id], f"the file's name is none of {', '.join(PHOTOS)}")
            else:
                rows.append((image_id, f"{images_root}/{image_id}", person, mask, gender, age, *state))
    for folder in sorted(by_folder.keys() - set(people["path"])):
        rejected.add([f"{folder}/{photo}" for photo, _ in by_folder[folder]], "the folder is not in train.csv")
    return pd.DataFrame(rows, columns=["image_id", "path", "group", "mask", "gender", "age", *files.State._fields])
