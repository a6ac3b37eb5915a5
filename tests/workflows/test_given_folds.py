"""Runs on a table whose column names the folds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tiny import TINY, run_and_read

from raymask.config.loading import load_config
from raymask.config.schema import RunConfig
from raymask.core.errors import InputError
from raymask.runs.configs import load_run_config

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def table(photos: Path, tmp_path: Path) -> pd.DataFrame:
    """Photos with the person and the gender of each, and three folds by person."""
    images = sorted((photos / "train" / "images").glob("*/mask[1-3].*"))
    rows = [(str(file), file.parent.name, file.parent.name.split("_")[1]) for file in images]
    made = pd.DataFrame(rows, columns=["image", "person", "gender"])
    of_person = {person: place for place, person in enumerate(sorted(made["person"].unique()))}
    return made.assign(part=[f"part {'cab'[of_person[person] % 3]}" for person in made["person"]])


def config_of(table: pd.DataFrame, folder: Path, members: Any = ({"task": "gender"},), **folds: Any) -> RunConfig:
    table.to_csv(folder / "table.csv", index=False)
    data = {"path": str(folder / "table.csv"), "group_column": "person"}
    over = {
        **TINY,
        "name": "tiny",
        "runs": folder / "runs",
        "data": data,
        "tasks": ["gender"],
        "folds": {"column": "part", **folds},
        "members": list(members),
    }
    return load_config("demo", overrides=over)


def test_a_run_has_the_folds_of_the_column_and_goes_on(table: pd.DataFrame, tmp_path: Path) -> None:
    config = config_of(table, tmp_path, reserve=0.25)
    run, said = run_and_read(config)
    manifest, reserve = pd.read_parquet(run.manifest), pd.read_parquet(run.reserve)
    wanted = dict(zip(table["image"], table["part"], strict=True))
    assert (manifest["path"].map(wanted) == manifest["fold"].map(dict(enumerate(["part a", "part b", "part c"])))).all()
    assert set(manifest["path"]) | set(reserve["path"]) == set(wanted)
    assert not set(manifest["group"]) & set(reserve["group"])
    assert "folds by column 'part': 0 is 'part a' (" in said
    assert "3 models are trained" in said
    assert load_run_config(run).folds.k == 3
    assert "3, by column &#39;part&#39;" in run.report.read_text()
    assert "3 of 3 models are trained already" in run_and_read(config)[1]
    assert "3 of 3 models are trained already" in run_and_read(load_run_config(run))[1]
    moved = table["person"] == manifest["group"].iloc[0]
    table.loc[moved, "part"] = table.loc[moved, "part"].map({"part a": "part b", "part b": "part c", "part c": "part a"})
    with pytest.raises(InputError, match=r"holds another run: since it began, 3 images have another fold, such as "):
        run_and_read(config_of(table, tmp_path, reserve=0.25, k=4))  # of which nothing is heard


def test_what_is_wrong_is_refused_before_a_run_is_begun(table: pd.DataFrame, tmp_path: Path) -> None:
    wrong = table.copy()
    wrong.loc[0, "part"] = "part z"
    with pytest.raises(InputError, match=r"^folds.column: group '.*' lies in the folds 'part .' and 'part z' of column 'part'"):
        run_and_read(config_of(wrong, tmp_path))
    with pytest.raises(InputError, match=r"^members: 'gender' has folds=4, but the run has 3 \(folds.column\);"):
        run_and_read(config_of(table, tmp_path, members=[{"task": "gender", "folds": 4}]))
    assert not (tmp_path / "runs" / "tiny").exists()
