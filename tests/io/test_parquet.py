"""Tests of Parquet files whose columns are of types that run code when their values are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymask.config.schema import RunConfig
from raymask.core.errors import InputError
from raymask.data.parquet import read_parquet
from raymask.io import hashing
from raymask.io.parquet import open_parquet
from raymask.runs.digests import remembered_digests


class CodeType(pa.ExtensionType):
    """A type that is defined in Python, as those are whose values Ray pickles."""

    def __init__(self) -> None:
        super().__init__(pa.string(), "tests.code")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> CodeType:
        return cls()


@pytest.fixture(autouse=True)
def registered() -> object:
    pa.register_extension_type(CodeType())
    yield
    pa.unregister_extension_type("tests.code")


VALUES = pa.ExtensionArray.from_storage(CodeType(), pa.array(["a", "b"]))
COLUMNS: dict[str, Callable[[], pa.Array]] = {
    "plain": lambda: VALUES,
    "struct": lambda: pa.StructArray.from_arrays([VALUES], ["inner"]),
    "list": lambda: pa.ListArray.from_arrays([0, 1, 2], VALUES),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_they_are_refused_however_deep(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": ["x", "y"], "more": COLUMNS[kind]()}), file)
    with pytest.raises(ValueError, match="'more' is of the type"):
        open_parquet(file)
    with pytest.raises(InputError, match="cannot be read as a Parquet file: its column 'more' is of the type"):
        read_parquet([str(file)], ())


def test_types_of_arrow_itself_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    table = pa.table({"a": pa.array(["x", "x"]).dictionary_encode(), "b": [[1], [2]], "c": [{"d": b"1"}, {"d": b"2"}]})
    pq.write_table(table, file)
    assert open_parquet(file).read().equals(table)


def test_a_memory_of_digests_that_holds_them_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "YOUNG_SECONDS", -1.0)
    config = RunConfig(cache=tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    (tmp_path / "a").write_bytes(b"a")
    remembered_digests([str(tmp_path / "a")], config)
    [memory] = (tmp_path / "cache" / "digests").iterdir()
    known = pd.read_parquet(memory).assign(digest="made up")
    pq.write_table(pa.Table.from_pandas(known, preserve_index=False).append_column("more", VALUES.slice(0, len(known))), memory)
    assert remembered_digests([str(tmp_path / "a")], config) != ["made up"]
