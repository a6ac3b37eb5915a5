"""Tables of images as files: read with every value as it is, their columns found, and what is set aside counted."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import pandas as pd

from raymask.config import DataConfig
from raymask.data import files
from raymask.data.decode import SUFFIXES
from raymask.errors import InputError, one_of, shortened


@dataclass(frozen=True)
class Rejected:
    """Images set aside, with the reason."""

    image_id: list[str] = field(default_factory=list)
    reason: list[str] = field(default_factory=list)

    def add(self, image_ids: pd.Series | list[str], reason: str) -> None:
        """Sets several images aside for one reason."""
        self.image_id.extend(image_ids)
        self.reason.extend([reason] * len(image_ids))

    def table(self) -> pd.DataFrame:
        """One row an image: image_id, reason."""
        return pd.DataFrame({"image_id": self.image_id, "reason": self.reason}, dtype=str)


def check_rejected(rejected: pd.DataFrame, found: int, most: float) -> None:
    """Refuses to go on when more than a share of the images was set aside.

    Raises:
        InputError: with the three most frequent reasons.
    """
    if len(rejected) > most * max(found, 1):
        raise InputError(
            f"{len(rejected)} of {found} images would be set aside{reasons(rejected)}; mend them, or raise "
            f"data.max_rejected (now {most:g})."
        )


def is_image(name: str) -> bool:
    """Whether a file name is that of an image and not hidden (`._mask1.jpg`, `.DS_Store`)."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES and not files.is_hidden(name)


def left_out(names: Iterable[str]) -> str:
    """What is to be said of the files that are no images by their names: how many of which suffix; "" where there are none."""
    others = [name for name in names if not is_image(name) and not files.is_hidden(name)]
    if not others:
        return ""
    counts = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in others)
    listed = [f"{count}× {suffix}" for suffix, count in counts.most_common()]
    return f"{len(others)} files are left out, whose names are not those of images: {shortened(listed)}"


def read_csv(path: str) -> pd.DataFrame:
    """A CSV file with every value as the string that it is.

    Raises:
        InputError: the file is missing, empty or no table.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # more values than columns would be dropped
            content = io.BytesIO(files.read_bytes(path))
            return pd.read_csv(content, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"there is no file '{path}'.") from None
    except pd.errors.ParserWarning:
        raise InputError(f"'{path}' cannot be read as a CSV file: its rows have more values than its header.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"'{path}' cannot be read as a CSV file: {str(error).strip().splitlines()[-1]}") from None


def reasons(rejected: pd.DataFrame) -> str:
    """` (3× REASON, such as 'ID'; ...)` of the three most frequent reasons; "" where nothing is set aside."""
    counts = rejected["reason"].value_counts().head(3)
    listed = "; ".join(
        f"{count}× {reason}, such as '{rejected.loc[rejected['reason'] == reason, 'image_id'].iloc[0]}'"
        for reason, count in counts.items()
    )
    return f" ({listed})" if listed else ""


def need_columns(table: pd.DataFrame, columns: tuple[str, ...], path: str) -> None:
    """Refuses a table that lacks a column.

    Raises:
        InputError: names the file, and what it has.
    """
    for column in columns:
        if column not in table:
            raise InputError(f"'{path}' has no column '{column}'; it has {one_of(map(str, table.columns), column)}.")
        if (twice := list(table.columns).count(column)) > 1:
            raise InputError(f"'{path}' has {twice} columns '{column}'; give the one that is meant a name of its own.")


def ids_and_paths(table: pd.DataFrame, data: DataConfig, path: str, root: str | None) -> tuple[pd.Series, list[str]]:
    """Ids of a table's images and their paths, which start from a root or from the table's own folder; "" where there is none."""
    need_columns(table, (data.image_column, *([data.id_column] if data.id_column else [])), path)
    start = files.absolute(root or files.parent(files.absolute(path)))
    paths = [files.join(start, name) if name else "" for name in table[data.image_column]]
    return table[data.id_column or data.image_column], paths
