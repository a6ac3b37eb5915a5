"""Images that lie in a Parquet file itself, as those of Hugging Face do: a path for each, and its bytes by that path.

`parquet:///data/train.parquet#2/0000000017/5304-9f86d081884c7d65` is row 17 of column 2, of 5,304 bytes with that digest: whoever
has the path knows the version of the image without reading it, and paths in order are rows in order.
"""

from __future__ import annotations

import hashlib
import os
import re
from bisect import bisect
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from threading import Lock
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from raymask.io.parquet import open_parquet

SCHEME = "parquet://"
FORM = re.compile(re.escape(SCHEME) + r"(.+)#(\d+)/(\d+)/(\d+)-([0-9a-f]{16})", re.DOTALL)

Opener = Callable[[str], BinaryIO]

_reading = Lock()
"""Parquet readers are not for several threads."""


class Place(NamedTuple):
    """Where an image lies, and what it is known by."""

    file: str
    column: int
    row: int
    size: int
    digest: str


def path_of(file: str, column: int, row: int, content: bytes) -> str:
    """The path by which the bytes of a row are read again."""
    return f"{SCHEME}{file}#{column}/{row:010d}/{len(content)}-{_digest(content)}"


def place_of(path: str) -> Place:
    """Where a path points to.

    Raises:
        OSError: it is no such path.
    """
    found = FORM.fullmatch(path)
    if found is None:
        raise OSError(f"'{path}' names no row of a Parquet file")
    file, column, row, size, digest = found.groups()
    return Place(file, int(column), int(row), int(size), digest)


def read(path: str, opener: Opener) -> bytes:
    """The bytes of an image.

    A row group is read at once and kept until another is asked for, so that images are best read in the file's order.

    Raises:
        OSError: the file is gone, is no Parquet file, or has changed since the path was made.
    """
    place = place_of(path)
    with _reading:
        reader, starts = _opened(place.file, opener, _stamp(place.file))
        group = bisect(starts, place.row) - 1
        if group == len(starts) - 1:
            raise OSError("the Parquet file has changed")
        content = _row_group(reader, place.column, group)[place.row - starts[group]].as_py()
    if not isinstance(content, bytes) or _digest(content) != place.digest:
        raise OSError("the Parquet file has changed")
    return content


def _stamp(file: str) -> tuple[int, ...]:
    """Changes when a local file is written anew, so that no process reads on in one that was replaced."""
    try:
        status = os.stat(file)
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=4)
def _opened(file: str, opener: Opener, stamp: tuple[int, ...]) -> tuple[Any, list[int]]:  # noqa: ARG001
    """A reader, and the number of each row group's first row, and of all rows."""
    reader = open_parquet(opener(file), verify=False)
    metadata = reader.metadata
    sizes = (metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
    return reader, list(accumulate(sizes, initial=0))


@lru_cache(maxsize=1)
def _row_group(reader: Any, column: int, group: int) -> Any:
    return read_leaf(reader, group, column, "bytes")


def read_leaf(reader: Any, group: int, column: int, leaf: str) -> Any:
    """One leaf of a column of structs, or a plain column itself, in a row group."""
    field = reader.schema_arrow.field(column)
    if not pa.types.is_struct(field.type):
        return reader.read_row_group(group, columns=[field.name]).column(0)
    return pc.struct_field(reader.read_row_group(group, columns=[f"{field.name}.{leaf}"]).column(0), leaf)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
