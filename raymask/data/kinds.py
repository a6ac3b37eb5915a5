"""The kinds of data, one entry each in `KINDS`: how it is read, what tasks it brings, and which keys of the config it uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from raymask.config.data import DataConfig
from raymask.core.errors import InputError
from raymask.data.competition import COMPETITION_TASKS, competition_table, read_competition
from raymask.data.folders import list_folders, read_folders
from raymask.data.parquet import Table
from raymask.data.rejected import Rejected
from raymask.data.splits import TRAIN
from raymask.data.tables import images_of, need_columns, parquet_files, read_table
from raymask.io import files

IMAGE_COLUMNS = ["image_id", "path", "group", *files.State._fields]
COLUMN_KEYS = frozenset({"image_column", "id_column"})
FILE_KEYS = frozenset({"encoding", "separator"})
TEST_TABLE_KEYS = COLUMN_KEYS | FILE_KEYS | {"image_root", "test_root", "test_group_column"}
KEYS_OF_ALL = frozenset({"kind", "test", "share", "max_rejected", "max_missing_test"})


class RawSource(NamedTuple):
    """Training data as they are read, before labels are made of them."""

    images: pd.DataFrame
    """image_id, path, group, size, stamp and problem of each image."""
    table: Table
    """The columns that labels are made of, in the same order."""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataKind:
    """A way in which data lie."""

    words: str
    read: Callable[[DataConfig, Rejected], RawSource]
    """Training data; images that are set aside at once are told to the second argument."""
    tasks: Mapping[str, Any] | None = None
    """What it labels by itself; None where the config names all tasks."""
    named_groups: bool = False
    """Whether groups have names, also without `data.group_column`."""
    names_are_classes: bool = False
    """Whether every name is a class, as that of a folder is, also `None` and `nan`."""
    keys: frozenset[str] = frozenset({"path"})
    """Keys of the config's `data` that it reads."""
    test_table_keys: frozenset[str] = TEST_TABLE_KEYS
    """More of them where `data.test` is a table."""
    test_layout_keys: frozenset[str] = frozenset()
    """More of them where `data.test` is no folder of images."""


def _read_competition(data: DataConfig, rejected: Rejected) -> RawSource:
    return _apart(read_competition(data, rejected))


def _read_folders(data: DataConfig, _: Rejected) -> RawSource:
    assert data.path is not None
    found = list_folders(data.path)
    return _apart(read_folders(found, data.path), tuple(found.remarks))


def _apart(table: pd.DataFrame, remarks: tuple[str, ...] = ()) -> RawSource:
    """The columns of a layout's own about its images, and those of labels."""
    return RawSource(table[IMAGE_COLUMNS].copy(), Table(table.drop(columns=IMAGE_COLUMNS)), remarks)


def _read_csv(data: DataConfig, _: Rejected) -> RawSource:
    """A table's columns about its images, under raymask's names, and the table with the user's."""
    assert data.path is not None
    table = read_table(data.path, data, (data.image_column,), TRAIN)
    images = images_of(table, data, data.path, data.image_root)
    if data.group_column:
        need_columns(table, (data.group_column,), data.path)
    groups = table.values[data.group_column] if data.group_column else images["image_id"]
    return RawSource(images.assign(group=groups), table)


KINDS: dict[str, DataKind] = {
    "demo": DataKind(
        "the drawn people of the demo",
        _read_competition,
        tasks=COMPETITION_TASKS,
        named_groups=True,
        keys=frozenset({"demo_people", "demo_test_people"}),
        test_table_keys=frozenset(),
    ),
    "competition": DataKind(
        "the competition's layout",
        _read_competition,
        tasks=COMPETITION_TASKS,
        named_groups=True,
        keys=frozenset({"path"}) | FILE_KEYS,
        test_table_keys=frozenset(),
        test_layout_keys=frozenset({"test_root", "test_group_column"}),
    ),
    "csv": DataKind(
        "a table",
        _read_csv,
        keys=COLUMN_KEYS | FILE_KEYS | {"path", "group_column", "image_root"},
        test_layout_keys=frozenset({"test_group_column"}),
    ),
    "folders": DataKind("folders of classes", _read_folders, tasks={"label": {}}, names_are_classes=True),
}
"""By `data.kind`."""


def resolve_kind(data: DataConfig) -> str:
    """The layout that a path holds.

    Raises:
        InputError: nothing is there.
    """
    if data.kind != "auto":
        if data.kind != "demo" and not data.path:
            raise InputError(f"data.path is missing; data.kind={data.kind} needs it.")
        return data.kind
    if data.path is None:
        return "demo"
    if not files.exists(data.path):
        raise InputError(f"data.path: there is nothing at '{data.path}'.")
    if not files.is_folder(data.path) or parquet_files(data.path):
        return "csv"
    return "competition" if competition_table(data.path) else "folders"


def check_keys(data: DataConfig) -> None:
    """Refuses keys that have no effect with this kind of data, which is resolved.

    Raises:
        InputError: names the key, and what it would be for.
    """
    test_folder = data.test is not None and files.is_folder(data.test) and not parquet_files(data.test)
    kind, test_table = KINDS[data.kind], data.test is not None and not test_folder
    used = KEYS_OF_ALL | kind.keys
    used |= kind.test_table_keys if test_table else frozenset()
    used |= frozenset() if test_folder else kind.test_layout_keys
    for key in sorted(DataConfig.model_fields.keys() - used):
        value = getattr(data, key)
        if value != DataConfig.model_fields[key].default:
            tests = " and a folder of test images" if test_folder else ""
            raise InputError(
                f"data.{key} is '{value}', but has no effect with {kind.words}{tests}; leave it out, or mend "
                "data.path and data.kind."
            )
