"""Tests of banks of features: which parts there are, and what heads learn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raymask.config.recipe import Recipe
from raymask.core.tasks import LabelSpace, Task
from raymask.data.features import missing_parts, open_bank, part_path
from raymask.data.specs import bank_spec, stream_spec

SPACE = LabelSpace((Task("mask", "mask", ("worn", "none")),))
VIEWS = ("original", "hflip")


def recipe(passes: int) -> Recipe:
    return Recipe.model_validate({"freeze": {"part": "backbone", "passes": passes}, "schedule": {"epochs": 5}})


@pytest.mark.parametrize(("passes", "own"), [(0, []), (2, ["pass-0", "pass-1"]), (9, [f"pass-{number}" for number in range(5)])])
def test_a_bank_has_as_many_passes_as_the_heads_learn_from_and_each_view(tmp_path: Path, passes: int, own: list[str]) -> None:
    frozen = recipe(passes)
    spec = bank_spec(frozen, stream_spec(frozen, 0, "mask", SPACE), VIEWS)
    assert missing_parts(tmp_path, spec) == [*own, "view-original", "view-hflip"]
    for number, part in enumerate(spec.parts):
        np.save(part_path(tmp_path, part), np.full((3, 4), number, np.float32))
    assert missing_parts(tmp_path, spec) == []
    bank = open_bank(tmp_path, spec)
    assert [float(features[0, 0]) for features in bank.passes] == [float(number) for number in range(max(1, len(own)))]
    assert float(bank.views["original"][0, 0]) == len(own), "without passes heads learn from the images as they are"
