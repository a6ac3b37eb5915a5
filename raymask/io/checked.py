"""Reading and writing the files of a run: written whole or not at all, and read as what may be cut, altered or a stranger's.

Whatever is wrong with a file ends in a `DamagedFileError`, which names the file, what is wrong, and how it is made again. Nothing
that is read is ever executed, and no name from a file becomes a path but by `within`.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json
from safetensors import SafetensorError, safe_open

from raymask.core.errors import InputError
from raymask.io.hashing import file_digest
from raymask.io.parquet import open_parquet

MAX_TEXT_BYTES = 2**28
"""A larger JSON, YAML or CSV file is none of ours."""

Kind = Literal["text", "whole", "number", "finite"]
"""Of a column's values: texts, whole numbers, or numbers, which may be NaN or not."""


class DamagedFileError(InputError):
    """A file of a run is missing, cut, or holds something else than it should; `fault` says what without what to do."""

    fault: str = ""


def damaged(file: Path, why: str) -> DamagedFileError:
    """The error for a file, with what to do."""
    error = DamagedFileError(f"'{file}' is damaged ({why}); {how_to_mend(file)}.")
    error.fault = f"'{file}' is damaged ({why})"
    return error


MENDS = {
    "members/*/fold-*/*": "delete the folder '{folder}', and `raymask train --recipe {config}` trains that model again",
    "members/*/all/*": "delete the folder '{folder}', and `raymask refit {root}` trains that model again",
    "members/*/*soup/*": "delete the folder '{folder}', and `raymask soup {root}` makes that model again",
    "config.yaml": "it says what the run is: bring back a copy of it, or train the run anew under another --name",
    "reserve/manifest.parquet": "delete it and '{root}/manifest.parquet', and `raymask train --recipe {config}` makes both again",
    "manifest.parquet": "delete it, and `raymask train --recipe {config}` makes it again",
    "targets.parquet": "delete it, and `raymask train --recipe {config}` makes it again",
    "teacher.json": "delete it and '{root}/targets.parquet', and `raymask train --recipe {config}` makes both again",
    "backbones.json": "delete it if the members still start from the same weights; it is written again",
    "source.parquet": "delete it, and `raymask train --recipe {config}` makes it again",
    "search.json": "delete the folder '{root}', and `raymask tune` searches anew",
    "*": "`raymask vote {root}` makes it again",
}
"""What makes a file of a run again, by the end of its path."""


def how_to_mend(file: Path) -> str:
    """What makes a file of a run, of a vote of several runs, or of an export again."""
    root = next((folder for folder in file.parents if (folder / "config.yaml").exists()), file.parent)
    if (root / "preprocessing.json").exists():
        return "export the run again by `raymask export`"
    if not (root / "members").is_dir() and file.name != "config.yaml":
        return f"the command that made '{root}' makes it again"
    mend = next(mend for pattern, mend in MENDS.items() if file.match(pattern))
    return mend.format(root=root, folder=file.parent, config=root / "config.yaml")


def check_file_name(name: str, root: Path) -> None:
    """Refuses a name that is no file's below a folder on every system, or a way out of it.

    Raises:
        InputError: so it is.
    """
    if name in ("", ".", "..") or not name.isprintable() or set(name) & set("/\\:"):
        raise InputError(f"'{name}' cannot name a file below '{root}': it may have no '/', '\\' or ':', nor be empty or dots.")


def within(root: Path, *parts: str) -> Path:
    """The path below a folder that names lead to; the only way from a name to a path.

    Raises:
        InputError: a name is none of a file, or a link leads out of the folder.
    """
    path = root
    for part in parts:
        check_file_name(part, root)
        path = path / part
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"'{path}' is a link that leads out of '{root}'; put the file itself there.")
    return path


def check_regular(file: Path, most_bytes: float = float("inf")) -> None:
    """Refuses what is not there, is no regular file, or is too large.

    Raises:
        DamagedFileError: so it is.
    """
    try:
        status = file.stat()
    except (OSError, ValueError) as error:
        raise damaged(file, "it is missing" if isinstance(error, FileNotFoundError) else _reason(error)) from None
    if not stat.S_ISREG(status.st_mode):
        raise damaged(file, "it is no regular file")
    if status.st_size > most_bytes:
        raise damaged(file, f"it has {status.st_size} bytes, which is too many")
    if not status.st_size:
        raise damaged(file, "it is empty")


def read_text(file: Path) -> str:
    """A text file.

    Raises:
        DamagedFileError: it cannot be read, or is no UTF-8.
    """
    check_regular(file, MAX_TEXT_BYTES)
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise damaged(file, _reason(error)) from None


def read_json(file: Path, schema: Any = dict[str, Any]) -> Any:
    """Values of a JSON file.

    Args:
        file: its path.
        schema: a type that pydantic knows, such as a `TypedDict`, whose values are returned.

    Raises:
        DamagedFileError: it cannot be read, is no JSON, or holds something else.
    """
    content = read_text(file)
    try:
        values = from_json(content)
    except ValueError as error:
        raise damaged(file, f"it is no whole JSON: {error}") from None
    try:
        return _adapter(schema).validate_python(values, strict=True)
    except ValidationError as error:
        raise damaged(file, first_problem(error)) from None


@cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    return TypeAdapter(schema)


def first_problem(error: ValidationError) -> str:
    """The first thing that a schema finds wrong, in a few words."""
    problem = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(map(str, problem["loc"]))
    return f"`{where}`: {problem['msg']}" if where else problem["msg"]


def read_table(file: Path, columns: Mapping[str, Kind], only: bool = False, others: Kind | None = None) -> pd.DataFrame:
    """A Parquet or CSV file, by the path's ending, that has these columns.

    Args:
        file: its path.
        columns: what each must hold.
        only: whether other columns are left out.
        others: what other columns must hold; None for anything.

    Raises:
        DamagedFileError: it cannot be read, or lacks a column or has another kind of values there.
    """
    check_regular(file, MAX_TEXT_BYTES if file.suffix == ".csv" else float("inf"))
    try:
        table = _read_csv(file, columns, others) if file.suffix == ".csv" else _read_parquet(file, columns, only)
    except Exception as error:  # pyarrow and pandas raise whatever they like for bytes that are none of theirs
        raise damaged(file, _reason(error)) from None
    wanted = {**dict.fromkeys(map(str, table.columns), others), **columns} if others else columns
    for name, kind in wanted.items():
        if name not in table:
            raise damaged(file, f"it has no column '{name}'")
        if kind and not _is(table[name], kind):
            raise damaged(file, f"its column '{name}' holds other values than {KINDS[kind]}")
    return table[list(columns)] if only else table


def _read_parquet(file: Path, columns: Mapping[str, Kind], only: bool) -> pd.DataFrame:
    opened = open_parquet(file)
    for field in opened.schema_arrow:
        if pa.types.is_nested(field.type) or isinstance(field.type, pa.BaseExtensionType):
            raise ValueError(f"its column '{field.name}' is of the type {field.type}")
    wanted = [name for name in columns if name in opened.schema_arrow.names] if only else None
    # What pandas has written about its columns is passed over, so that a file cannot choose the types that are made of it.
    return pd.DataFrame(opened.read(columns=wanted).to_pandas(ignore_metadata=True))


def _read_csv(file: Path, columns: Mapping[str, Kind], others: Kind | None) -> pd.DataFrame:
    with file.open("rb") as opened:
        opened.seek(-1, os.SEEK_END)
        if opened.read() != b"\n":
            raise ValueError("its last line is cut")
    table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8")
    numbers = [name for name in map(str, table) if columns.get(name, others or "text") != "text"]
    return table.assign(**{name: pd.to_numeric(table[name]) for name in numbers})


KINDS: dict[Kind, str] = {"text": "texts", "whole": "whole numbers", "number": "numbers", "finite": "finite numbers"}


def _is(values: pd.Series, kind: Kind) -> bool:
    if values.empty:
        return True
    if kind == "text":
        return bool(values.map(lambda value: isinstance(value, str)).all())
    known = values.dtype.kind in ("iu" if kind == "whole" else "iuf")
    return known and (kind != "finite" or bool(np.isfinite(values.to_numpy()).all()))


def check_archive(file: Path) -> None:
    """Refuses an archive of `torch.save` whose parts are not what was written.

    Raises:
        DamagedFileError: so it is.
    """
    check_regular(file)
    try:
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise damaged(file, _reason(error)) from None
    if broken:
        raise damaged(file, "its bytes are not those that were written")


def check_weights(file: Path, sha256: str | None) -> None:
    """Refuses a safetensors file that is not the one that was written.

    Args:
        file: its path.
        sha256: the digest that it must have; None where it is not known, so that only its length is looked at.

    Raises:
        DamagedFileError: so it is.
    """
    check_regular(file)
    if sha256 and file_digest(file, "sha256") != sha256:
        raise damaged(file, "its SHA-256 is not that in meta.json")
    try:
        with safe_open(file, "np"):
            pass
    except (SafetensorError, OSError) as error:
        raise damaged(file, _reason(error)) from None


def weight_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a safetensors file, by name.

    Raises:
        DamagedFileError: it is none.
    """
    check_weights(file, None)
    with safe_open(file, "np") as weights:
        return {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118


def _reason(error: Exception) -> str:
    """What an error of another library says, on one line."""
    message = " ".join((error.strerror if isinstance(error, OSError) and error.strerror else str(error)).split())[:160]
    return message.rstrip(".:") or type(error).__name__
