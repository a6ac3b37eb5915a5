"""Tests of tables as files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from layouts import sentence, write_table

from raymask.data.tables import check_rejected, is_image, read_csv


def test_values_are_kept_as_they_are_written(table: Path) -> None:
    write_table(table, [("a", "b"), ("007", "1.50"), ("NA", ""), ("null", "1e3")])
    assert read_csv(str(table)).values.tolist() == [["007", "1.50"], ["NA", ""], ["null", "1e3"]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", True),
        ("a.JPEG", True),
        ("d/e/a.tiff", True),
        ("a.b.png", True),
        (".jpg", False),
        ("._a.jpg", False),
        (".d/a.jpg", False),
        ("a.txt", False),
        ("jpg", False),
        ("a.jpg.part", False),
    ],
)
def test_images_are_told_by_their_names(name: str, expected: bool) -> None:
    assert is_image(name) == expected


def test_the_limit_is_the_share_itself() -> None:
    rejected = pd.DataFrame({"image_id": ["a", "b"], "reason": ["why", "why"]})
    check_rejected(rejected, 100, 0.02)
    assert sentence(lambda: check_rejected(rejected, 99, 0.02)).startswith(
        "2 of 99 images would be set aside (2× why, such as 'a')"
    )
    check_rejected(rejected[:0], 0, 0.0)


def test_the_three_most_frequent_reasons_are_told() -> None:
    reasons = [*"a" * 4, *"b" * 3, *"c" * 2, "d"]
    rejected = pd.DataFrame({"image_id": [f"i{place}" for place in range(10)], "reason": reasons})
    text = sentence(lambda: check_rejected(rejected, 10, 0))
    assert "(4× a, such as 'i0'; 3× b, such as 'i4'; 2× c, such as 'i7')" in text
