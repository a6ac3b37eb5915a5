"""Small data sets of every layout, and what became of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from raymask.config.loading import validate
from raymask.core.errors import InputError
from raymask.data.competition import PHOTOS
from raymask.data.kinds import resolve_kind
from raymask.data.sources import Source, read_source

PEOPLE = [("000001", "female", "20"), ("000002", "male", "30"), ("000003", "male", "59"), ("000004", "female", "60")]
LOCAL = ["path", "stamp"]  # what differs between a folder and its copy behind a URL


def image(shade: int = 100, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 9), (shade % 256, 50, 200)).save(buffer, kind)
    return buffer.getvalue()


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_table(path: Path, rows: Iterable[Iterable[str]]) -> Path:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return write(path, text.getvalue())


def folder_of(person: tuple[str, str, str]) -> str:
    return "_".join((person[0], person[1], "Asian", person[2]))


def write_people(root: Path, people: list[tuple[str, str, str]] | None = None, suffix: str = ".jpg") -> Path:
    """The competition's training data of people (id, gender, age), seven small photos each."""
    people = PEOPLE if people is None else people
    rows = [(number, gender, "Asian", age, folder_of((number, gender, age))) for number, gender, age in people]
    write_table(root / "train" / "train.csv", [("id", "gender", "race", "age", "path"), *rows])
    for *_, folder in rows:
        for shade, photo in enumerate(PHOTOS):
            write(root / "train" / "images" / folder / f"{photo}{suffix}", image(shade))
    return root


def read(path: Path | str, tasks: Any = (), **data: Any) -> Source:
    config = validate({"data": {"path": str(path), **data}, "tasks": tasks if tasks != () else {}})
    kind = resolve_kind(config.data)
    return read_source(config.model_copy(update={"data": config.data.model_copy(update={"kind": kind})}))


def sentence(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text


def aside(source: Source) -> dict[str, str]:
    """Reason by image_id."""
    return dict(zip(source.rejected["image_id"], source.rejected["reason"], strict=True))


def photos(root: Path, person: int = 0) -> Path:
    return root / "train" / "images" / folder_of(PEOPLE[person])


def rewrite(table: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_csv(table, dtype=str)).to_csv(table, index=False)
