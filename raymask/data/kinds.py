"""Which kind of data a path holds, and which keys of the config have an effect with it."""

from __future__ import annotations

from raymask.config.data import DataConfig
from raymask.core.errors import InputError
from raymask.data.competition import competition_table
from raymask.data.tables import parquet_files
from raymask.io import files

DEMO_KEYS = ("demo_people", "demo_test_people")
COLUMN_KEYS = ("image_column", "id_column")
FILE_KEYS = ("encoding", "separator")


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
    test_table = data.test is not None and not test_folder
    words = {
        "demo": "the drawn people of the demo",
        "competition": "the competition's layout",
        "csv": "a table",
        "folders": "folders of classes",
    }
    for key in sorted(DataConfig.model_fields.keys() - _used(data.kind, test_table, test_folder)):
        value = getattr(data, key)
        if value != DataConfig.model_fields[key].default:
            tests = " and a folder of test images" if test_folder else ""
            raise InputError(
                f"data.{key} is '{value}', but has no effect with {words[data.kind]}{tests}; leave it out, or mend "
                "data.path and data.kind."
            )


def _used(kind: str, test_table: bool, test_folder: bool) -> set[str]:
    """The keys that are read."""
    always = {"kind", "path", "test", "max_rejected", "max_missing_test"}
    if kind == "demo":
        return (always | {*DEMO_KEYS}) - {"path"}
    if kind == "competition":
        return always | ({*FILE_KEYS} if test_folder else {*FILE_KEYS, "test_root"})
    of_test = {*COLUMN_KEYS, *FILE_KEYS, "image_root", "test_root"} if test_table else set()
    return always | of_test | ({*COLUMN_KEYS, *FILE_KEYS, "group_column", "image_root"} if kind == "csv" else set())
