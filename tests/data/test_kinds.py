"""Tests of the kinds of data, and of keys that have no effect with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from layouts import sentence

from raymask.config.data import DataConfig
from raymask.data.kinds import check_keys

GIVEN = {
    "path": "somewhere",
    "image_column": "photo",
    "id_column": "key",
    "group_column": "person",
    "image_root": "/photos",
    "test_root": "/photos",
    "test_group_column": "person",
    "demo_people": 5,
    "demo_test_people": 5,
}


@pytest.mark.parametrize(
    ("kind", "test", "used"),
    [
        ("demo", None, {"demo_people", "demo_test_people"}),
        ("competition", None, {"path", "test_root", "test_group_column"}),
        ("competition", "folder", {"path"}),
        ("csv", None, {"path", "image_column", "id_column", "group_column", "image_root", "test_group_column"}),
        (
            "csv",
            "table",
            {"path", "image_column", "id_column", "group_column", "image_root", "test_root", "test_group_column"},
        ),
        ("csv", "folder", {"path", "image_column", "id_column", "group_column", "image_root"}),
        ("folders", None, {"path"}),
        ("folders", "table", {"path", "image_column", "id_column", "image_root", "test_root", "test_group_column"}),
        ("folders", "folder", {"path"}),
    ],
)
def test_keys_that_have_no_effect_are_refused(tmp_path: Path, kind: Any, test: str | None, used: set[str]) -> None:
    tests = {None: None, "folder": str(tmp_path), "table": str(tmp_path / "test.csv")}[test]
    refused = set()
    for key, value in GIVEN.items():
        data = DataConfig(**{"kind": kind, "test": tests, key: value})  # type: ignore[arg-type]
        try:
            check_keys(data)
        except ValueError as error:
            assert str(error).startswith(f"data.{key} is '{value}', but has no effect with ")  # noqa: PT017
            refused.add(key)
    assert GIVEN.keys() - refused == used


def test_the_refusal_says_what_to_do() -> None:
    text = sentence(lambda: check_keys(DataConfig(kind="folders", path="DIR", group_column="person")))
    assert text == (
        "data.group_column is 'person', but has no effect with folders of classes; leave it out, or mend data.path and data.kind."
    )
