"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import pandas as pd


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, renamed to it when the block ends well and removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield draft
        _give_usual_rights(draft)
        draft.replace(path)
    finally:
        if draft.is_dir():
            shutil.rmtree(draft)
        else:
            draft.unlink(missing_ok=True)


def _give_usual_rights(written: Path) -> None:
    """The rights that a new file has here, to files that were written by way of `tempfile`, which keeps them to their owner."""
    files = [file for file in written.rglob("*") if file.is_file()] if written.is_dir() else [written]
    private = [file for file in files if not stat.S_IMODE(file.stat().st_mode) & 0o077]
    if private:
        usual = written.with_name(f"{written.name}.rights")
        usual.touch()
        rights = stat.S_IMODE(usual.stat().st_mode)
        usual.unlink()
        for file in private:
            file.chmod(rights)


def write_text(path: Path, text: str) -> None:
    """Writes a whole file or none."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Any) -> None:
    """Writes a whole file or none."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def write_table(path: Path, table: pd.DataFrame, line_end: str = "\n") -> None:
    """Writes a whole Parquet or CSV file, by the path's ending, or none."""
    with replacing(path) as draft:
        if path.suffix == ".csv":
            # Python's csv leaves a carriage return unquoted that is no part of a line's end, and readers end the line there.
            texts = chain(table.columns, table.to_numpy(dtype=object).flat)
            quoting: Literal[0, 1] = 1 if any("\r" in text for text in texts if isinstance(text, str)) else 0
            table.to_csv(draft, index=False, lineterminator=line_end, quoting=quoting)
        else:
            table.to_parquet(draft, index=False, write_page_checksum=True)
