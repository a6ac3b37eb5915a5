"""Tests of what is read of sets and doubts: what was written, nothing of older runs, and a sentence on what is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raymask.core.errors import InputError
from raymask.core.tasks import LabelSpace, Task
from raymask.runs.uncertainty_schemas import read_doubt, read_sets, sets_alone, sets_by_group

SPACE = LabelSpace((Task("mask", "m", ("a", "b")),))
FILE = Path("run/ensemble.json")
LEAST = {"mask": [0.5, 0.25], "joint": [0.5, 0.0]}


def test_what_was_written_is_read() -> None:
    written = read_sets(FILE, {"coverage": 0.9, "least": LEAST}, SPACE)
    sets = sets_alone(written, SPACE)
    assert sets is not None
    assert {target: least.tolist() for target, least in sets.least.items()} == LEAST
    assert sets_by_group(written, SPACE) is None
    assert sets.texts(np.array([[0.7, 0.3], [0.8, 0.2]]))["mask"].tolist() == ["a|b", "a"]


def test_older_runs_have_none() -> None:
    assert read_sets(FILE, None, SPACE) is None
    assert sets_alone(None, SPACE) is None
    assert sets_by_group(None, SPACE) is None
    assert read_doubt(FILE, []) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"least": LEAST},
        {"coverage": 1.0, "least": LEAST},
        {"coverage": 0.9, "least": {"mask": [0.5, 0.25]}},
        {"coverage": 0.9, "least": {**LEAST, "mask": [0.5]}},
        {"coverage": 0.9, "least": {**LEAST, "mask": [0.5, 1.5]}},
        {"coverage": 0.9, "least": {**LEAST, "mask": [0.5, float("nan")]}},
        {"coverage": 0.9, "least": {**LEAST, "mask": "all"}},
        {"coverage": 0.9, "least": LEAST, "least_by_group": {"mask": [0.5, 0.5]}},
    ],
)
def test_what_is_damaged_is_told_in_one_sentence(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"run/ensemble\.json.*its sets"):
        read_sets(FILE, wrong, SPACE)


def test_doubts_that_do_not_rise_are_refused() -> None:
    with pytest.raises(InputError, match="does not rise"):
        read_doubt(FILE, [0.1, 0.3, 0.2])
