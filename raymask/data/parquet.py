"""Parquet files -> a table of texts, and paths of the images that lie in them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from raymask.core.errors import InputError
from raymask.io import embedded, files
from raymask.io.parquet import open_parquet

INDEX = re.compile(r"__index_level_\d+__")
"""Columns that pandas writes for the numbers of its rows."""


@dataclass(frozen=True)
class Table:
    """A table as its file has it."""

    values: pd.DataFrame
    """Every value a text, "" for a null."""
    images: dict[str, list[str]] = field(default_factory=dict)
    """Of a column of images: a path for each, "" where it is null."""
    nested: frozenset[str] = frozenset()
    """Columns of lists and the like, whose texts are only to be shown."""
    line_end: str = "\n"
    """What ends the lines of a file of text."""


def read_parquet(paths: Sequence[str], wanted: Collection[str]) -> Table:
    """One table of Parquet files, in their order.

    Args:
        paths: the files.
        wanted: columns that may hold images which are to be read.

    Raises:
        InputError: a file is missing, is no Parquet file, or has other columns than the first.
    """
    tables = [_read_file(path, wanted) for path in paths]
    first = tables[0]
    for path, table in zip(paths, tables, strict=True):
        if list(table.values) != list(first.values) or table.images.keys() != first.images.keys():
            raise InputError(f"'{path}' has other columns than '{paths[0]}', though they are parts of one table.")
    images = {name: [path for table in tables for path in table.images[name]] for name in first.images}
    return Table(pd.concat([table.values for table in tables], ignore_index=True), images, first.nested)


def _read_file(path: str, wanted: Collection[str]) -> Table:
    values, images, nested = dict[str, list[str]](), dict[str, list[str]](), set[str]()
    try:
        with files.open_file(path) as opened:
            reader = open_parquet(opened, verify=False)
            for index, column in enumerate(reader.schema_arrow):
                if INDEX.fullmatch(column.name):
                    continue
                if _holds_images(reader, index):
                    values[column.name] = _names(reader, index)
                    if column.name in wanted:
                        images[column.name] = _paths(reader, path, index, values[column.name])
                        continue
                else:
                    values[column.name] = texts(reader.read(columns=[column.name]).column(0))
                if pa.types.is_nested(column.type):
                    nested.add(column.name)
    except FileNotFoundError:
        raise InputError(f"there is no file '{path}'.") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"'{path}' cannot be read as a Parquet file: {str(error).strip().splitlines()[-1]}") from None
    return Table(pd.DataFrame(values, dtype=object), images, frozenset(nested))


def _holds_images(reader: pq.ParquetFile, index: int) -> bool:
    """Whether a column is of structs with bytes, or of bytes that are no text (some programs write texts as mere bytes)."""
    kind = reader.schema_arrow.field(index).type
    if pa.types.is_struct(kind):
        return any(inner.name == "bytes" and _is_binary(inner.type) for inner in kind)
    return _is_binary(kind) and any(
        not _is_text(value.as_py())
        for group in range(reader.num_row_groups)
        for value in embedded.read_leaf(reader, group, index, "bytes")
    )


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(value: bytes | None) -> bool:
    try:
        return value is None or "\0" not in value.decode()
    except UnicodeDecodeError:
        return False


def _names(reader: pq.ParquetFile, index: int) -> list[str]:
    """What the images of a column are called in it; "" for one without a name."""
    kind = reader.schema_arrow.field(index).type
    if not pa.types.is_struct(kind) or "path" not in [inner.name for inner in kind]:
        return [""] * int(reader.metadata.num_rows)
    return [name for group in range(reader.num_row_groups) for name in texts(embedded.read_leaf(reader, group, index, "path"))]


def _paths(reader: pq.ParquetFile, file: str, index: int, names: list[str]) -> list[str]:
    """The path of each image of a column: to its bytes or, where there are none, by its name."""
    paths: list[str] = []
    for group in range(reader.num_row_groups):  # as a whole they may be larger than the memory
        for value in embedded.read_leaf(reader, group, index, "bytes"):
            row, content = len(paths), value.as_py()
            paths.append(names[row] if content is None else embedded.path_of(file, index, row, content))
    return paths


def texts(column: pa.ChunkedArray) -> list[str]:
    """Each value of a column as a text, "" for a null: whole numbers without a point, NaN as a null, times as ISO 8601 says."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return texts(column.cast(kind.value_type))
    if pa.types.is_floating(kind):
        return [_number(value) for value in column.to_numpy()]
    listed = column.to_pylist()
    if pa.types.is_nested(kind):
        return ["" if value is None else json.dumps(value, ensure_ascii=False, default=str) for value in listed]
    if _is_binary(kind):
        return ["" if value is None else value.decode() for value in listed]
    return ["" if value is None else str(value) for value in listed]


def _number(value: np.floating[Any]) -> str:
    """A number as short as it can be written: 0.1 of 32 bits is 0.1, and not 0.10000000149011612."""
    if np.isnan(value):
        return ""
    return str(int(value)) if float(value).is_integer() and abs(float(value)) < 2**53 else str(value)
