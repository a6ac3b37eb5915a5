"""Opening Parquet files that may be a stranger's."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq


def open_parquet(source: Path | BinaryIO, verify: bool = True) -> pq.ParquetFile:
    """A Parquet file whose values are data alone.

    Args:
        source: its path, or the file opened for reading.
        verify: whether the checksums of its pages are verified, where its writer left any.

    Raises:
        ValueError: a column is of a type that Python code defines, such as Ray's, whose values may be pickles.
        OSError: it cannot be read; pyarrow's own errors where it is no Parquet file.
    """
    opened = pq.ParquetFile(source, page_checksum_verification=verify)
    for field in opened.schema_arrow:
        if _runs_code(field.type):
            raise ValueError(f"its column '{field.name}' is of the type {field.type}, whose values may be code")
    return opened


def _runs_code(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _runs_code(kind.value_type)
    inner = [kind.field(index).type for index in range(kind.num_fields)] if pa.types.is_nested(kind) else []
    return isinstance(kind, pa.ExtensionType) or any(map(_runs_code, inner))
