"""A run with a member of fewer folds than the others: trained, started again, and what else asks for its models."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from tiny import run_and_read, tiny_config, trials_here, with_cache

from raymask.core.console import Display
from raymask.io.checked import read_json
from raymask.runs.configs import load_run_config
from raymask.runs.directory import ReplicaId, Run, read_ensemble
from raymask.workflows.distill import pseudo
from raymask.workflows.refit import refit
from raymask.workflows.soup import soup

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def fewer(ray_session: None, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    members = [{"task": "joint"}, {"task": "multi", "folds": 1}]
    with trials_here():
        folds = {"k": 2, "reserve": 0.25}
        return run_and_read(tiny_config(tmp_path_factory.mktemp("runs"), photos, folds=folds, members=members))


def test_it_is_trained_for_its_folds_alone_and_votes(fewer: tuple[Run, str]) -> None:
    run, said = fewer
    assert "3 models are trained" in said
    assert [run.finished(ReplicaId("multi", fold)) for fold in (0, 1)] == [True, False]
    manifest = pd.read_parquet(run.manifest)
    common = int((manifest["fold"] == 0).sum())
    assert f"decided on the {common} of {len(manifest)} images" in " ".join(said.split())
    assert read_ensemble(run).images == common == len(pd.read_parquet(run.oof_ensemble))
    assert len(pd.read_csv(run.submission)) == 28
    assert "28 test images by 3 models" in said


def test_started_again_it_is_finished(fewer: tuple[Run, str]) -> None:
    _, said = run_and_read(load_run_config(fewer[0]))
    for sentence in ("3 of 3 models are trained already", "decided already", "predicted already"):
        assert sentence in said


def test_soups_and_refits_are_made_and_compared(fewer: tuple[Run, str], tmp_path: Path) -> None:
    run = with_cache(fewer[0], tmp_path)
    soup(run.root, display=Display())
    refit(run.root, display=Display())
    made = read_json(run.meta(ReplicaId("multi", -3)))
    assert list(made["made_of"]) == ["fold-0"]
    rows = {row["name"]: row["models"] for row in read_json(run.singles)["rows"]}
    assert rows == {"ensemble": 3, "fold": 2, "soup": 2, "greedy-soup": 2, "all": 2}


def test_it_teaches_unlabelled_images_to_the_folds_that_it_knows_honestly(
    fewer: tuple[Run, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = with_cache(fewer[0], tmp_path)
    taught = pseudo(run.root, settings=["teacher.precision=0"]).run
    assert "models of others learn no unlabelled images" in " ".join(capsys.readouterr().out.split())
    assert sorted(pd.read_parquet(taught.targets)["fold"].unique()) == [-2, 0]
