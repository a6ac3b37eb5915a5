"""The range test of a recipe: what it leaves behind, and what it refuses."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from rich.console import Console
from tiny import RECIPE, TINY

from raymask.config.loading import load_config
from raymask.config.schema import RunConfig
from raymask.core.console import Display
from raymask.core.errors import InputError
from raymask.workflows.lr import lr


def config_of(runs: Path, photos: Path) -> RunConfig:
    over = {**TINY, "recipe": RECIPE, "name": "tiny", "runs": runs, "data": {"path": str(photos)}, "folds": {"k": 2}}
    return load_config("demo", overrides=over)


def test_a_range_test_leaves_a_picture_and_its_numbers_and_no_run(ray_session: None, photos: Path, tmp_path: Path) -> None:
    said = io.StringIO()
    out = tmp_path / "out"
    found = lr(config_of(tmp_path / "runs", photos), "gender", (1e-5, 1e3), 30, out, Display(Console(file=said, width=200)))
    table = pd.read_csv(out / "lr.csv")
    assert table["lr"].tolist() == pytest.approx(found.lr)
    assert table["lr"].is_monotonic_increasing
    assert found.suggested in found.lr
    with Image.open(out / "lr.png") as drawn:
        assert drawn.format == "PNG"
    assert f"try --set recipe.optim.lr={found.suggested:.2g}" in said.getvalue()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [".cache"]


def test_what_cannot_be_tested_is_refused_before_anything_is_read(photos: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path / "runs", photos)
    for rates in ((0.0, 1.0), (1.0, 1.0), (1.0, 0.1)):
        with pytest.raises(InputError, match=r"--from is .* and --to .*; the first must be above 0, and less than the second"):
            lr(config, rates=rates, out=tmp_path / "a")
    with pytest.raises(InputError, match="--steps is 9; 10 are the fewest"):
        lr(config, steps=9, out=tmp_path / "a")
    assert not (tmp_path / "runs").exists()
    with pytest.raises(InputError, match=r"--member: the recipe has no member 'gendre'; it may be 'gender' \(the nearest\)"):
        lr(config, "gendre", out=tmp_path / "a")
