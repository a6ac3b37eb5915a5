"""Hundreds of random tables: each becomes a manifest in which no person, file or class is there twice, or one sentence.

What is one person, file or class is judged here anew, by the values as they are in the table and the files as they lie on disk.
"""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layouts import image, read

from raymask.config.data import FoldsConfig
from raymask.core.errors import InputError
from raymask.data.folds import assign_folds
from raymask.data.sources import Source

NAMES = [
    "a.jpg",
    "b.png",
    "c d.jpg",
    "c  d.jpg",
    "é.jpg",
    "e\u0301.jpg",
    "7",
    "sub/a.jpg",
    *(f"{number}.jpg" for number in range(8)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventeen files under many names."""
    root = tmp_path_factory.mktemp("tables") / "in"
    (root / "sub").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        (root / name).write_bytes(image(number))
    (root / "empty.jpg").write_bytes(b"")
    os.link(root / "a.jpg", root / "hard.jpg")
    (root / "soft.jpg").symlink_to("a.jpg")
    (root / "round").symlink_to(root)
    return root


ODD = [
    "",
    " ",
    "nan",
    "None",
    "NULL",
    "N/A",
    "none",
    "a|b",
    'a:"b',
    "a,b",
    "'",
    "x" * 300,
    "inf",
    "1e999",
    "9" * 400,
    "-0",
    "p\u00b2",
]
PATHS = st.one_of(
    st.sampled_from(NAMES),
    st.builds("{}{}".format, st.sampled_from(["./", ".//", "sub/../", "round/", "round/./sub/../"]), st.sampled_from(NAMES)),
    st.sampled_from(["hard.jpg", "soft.jpg", "7.0", "empty.jpg", "sub", "gone.jpg", "", "nan", "\0.jpg"]),
)
WAYS: list[Callable[[str], str]] = [
    *[str] * 6,
    *(
        f"{before}{{}}{after}".format
        for before, after in [("", " "), ("\t", "\n"), ("", "\u00a0"), ("\u200b", ""), ("+", ""), ("", ".0")]
    ),
    *(partial(unicodedata.normalize, kind) for kind in ("NFD", "NFKC")),
    lambda text: "".join(chr(ord(char) + 0xFEE0) if char in "p17" else char for char in text),
    str.upper,
    "0{}".format,
]
OTHERS = st.sampled_from(ODD) | st.text(max_size=4) | st.floats().map(str) | st.integers().map(str)


def values(words: list[str]) -> st.SearchStrategy[str]:
    """Words written in many ways, and now and then anything else."""
    written = st.builds(lambda way, text: way(text), st.sampled_from(WAYS), st.sampled_from(words))
    return st.integers(0, 9).flatmap(lambda number: written if number else OTHERS)


TASKS = [{}, {}, {}, {"edges": [1, 8]}, {"classes": ["p1", "7", "none"]}]
COLUMNS = {
    "image": (["image"], PATHS),
    "label": (["label", "group", "path", "label_label", "image_id"], values(["p1", "7", "é b"])),
    "person": (["person", "size", "stamp", "fold", "problem"], values(["p1", "p2", "7", "é b", "1e1", "10"])),
    "key": (["key", "id", "image_id", "train_label_label"], st.integers(0, 99).map(str) | values(["p1", "7"])),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[list[str]], dict[str, Any], dict[str, Any], str]:
    """Header and rows, the data's keys, the task, and what is written: a CSV file, or Parquet of texts, numbers or categories."""
    number = draw(st.sampled_from([10, 8, 8, 6, 6, 5, 4, 3, 1, 0]))
    names = {what: draw(st.sampled_from(written)) for what, (written, _) in COLUMNS.items()}
    order = draw(st.permutations([*COLUMNS, *([] if draw(st.integers(0, 15)) else ["label"])]))
    columns = [draw(st.lists(COLUMNS[what][1], min_size=number, max_size=number)) for what in order]
    rows = [[names[what] for what in order], *map(list, zip(*columns, strict=True))]
    if number and not draw(st.integers(0, 15)):
        del rows[-1][draw(st.integers(1, 3)) :]
    keys = {"image_column": names["image"]}
    keys |= {"group_column": names["person"]} if draw(st.integers(0, 3)) else {}
    keys |= {"id_column": names["key"]} if draw(st.booleans()) else {}
    kind = (
        draw(st.sampled_from(["csv", "csv", "csv", "csv", "csv", "csv", "text", "number", "category"]))
        if len(set(rows[0])) == len(rows[0])
        else "csv"
    )
    return rows, keys, {"column": names["label"], **draw(st.sampled_from(TASKS))}, kind


def write(folder: Path, rows: list[list[str]], keys: dict[str, Any], kind: str) -> tuple[Path, pd.DataFrame]:
    """A file of a table, and its values as texts."""
    whole = [[*row, *[""] * (len(rows[0]) - len(row))] for row in rows[1:]]
    table = pd.DataFrame(whole, columns=rows[0], dtype=object)
    file = folder / ("all.csv" if kind == "csv" else "all.parquet")
    if kind == "csv":
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        file.write_bytes(text.getvalue().encode())
        return file, table
    for name in table.columns.difference([keys["image_column"]]):
        if kind == "number":
            table[name] = pd.to_numeric(table[name], errors="coerce").astype(float)
        else:
            table[name] = table[name].where(table[name] != "", None).astype("category" if kind == "category" else object)
    table.to_parquet(file)
    return file, table.astype(object).map(as_text)


def as_text(value: Any) -> str:
    """A value of Parquet as a text: whole numbers without a point."""
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return "" if pd.isna(value) else str(int(value) if whole else value)


def word(value: str) -> str:
    """What is left of a value without blanks, its Unicode form, and the zeros behind a whole number."""
    shown = (char for char in value if char.isspace() or not unicodedata.category(char).startswith("C"))
    text = " ".join(unicodedata.normalize("NFKC", "".join(shown)).split())
    whole, _, fraction = text.partition(".")
    if whole[whole[:1] in ("+", "-") :].isdecimal() and not fraction.strip("0"):
        text = whole.removeprefix("+")
    return text.lstrip("-") if text.strip("-") and not text.strip("-0") else text


def person(value: str) -> str | None:
    """Who is meant, in any case and with any zeros; None for no one."""
    text = word(value)
    if text.casefold() in {"", "nan", "null", "n/a"} or text in {"None", "-nan"}:
        return None
    try:
        return f"{float(text):.6g}" if abs(float(text)) < 1e300 else text.casefold()
    except ValueError:
        return unicodedata.normalize("NFKC", text.casefold())


def check(source: Source, table: pd.DataFrame, keys: dict[str, Any], task: dict[str, Any]) -> None:
    """Nothing is there twice, nothing is lost, and every label is one that the table has for the image."""
    images, classes = source.images, source.space["my"].classes
    ids = table[keys.get("id_column", keys["image_column"])]
    assert images["image_id"].is_unique
    assert set(images["image_id"]) <= set(ids)
    assert len(images) + len(source.rejected) == len(table)
    files = [Path(path).stat() for path in images["path"]]
    assert len({(file.st_dev, file.st_ino) for file in files}) == len(images)
    assert len({word(name) for name in classes}) == len(classes)
    labels = table[task["column"]].groupby(ids).agg(set)
    if "edges" not in task:
        for image_id, label in zip(images["image_id"], images["label_my"], strict=True):
            assert word(classes[label]) in {word(written) for written in labels[image_id]}
    folds = assign_folds(images, FoldsConfig(k=2), 0)
    if "group_column" in keys and ids.is_unique:
        written = table[keys["group_column"]].set_axis(ids).loc[images["image_id"]]
        known = {both for both in zip(map(person, written), folds.tolist(), strict=True) if both[0] is not None}
        assert len(known) == len({who for who, _ in known})


@given(drawn=tables())
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_table_becomes_a_manifest_without_doubles_or_one_sentence(folder: Path, drawn: Any) -> None:
    rows, keys, task, kind = drawn
    file, table = write(folder, rows, keys, kind)
    try:
        check(read(file, {"my": task}, kind="csv", max_rejected=1, **keys), table, keys, task)
    except InputError as refusal:
        sentence = str(refusal)
    else:
        return
    assert sentence.endswith(".")
    assert sentence.isprintable()
