"""Votes of several runs, and commands on a run that leave its files to their owner. Without Ray."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from made import make_run, predict_and_report
from rich.console import Console

from raymask.core.console import Display
from raymask.core.errors import InputError
from raymask.data.sources import read_source
from raymask.io.atomic import write_table
from raymask.runs.directory import ReplicaId, Run, load_run_config, read_ensemble
from raymask.workflows.setup import finished_run
from raymask.workflows.vote import vote

MEMBERS = [{"task": "joint"}]


@pytest.fixture
def runs(photos: Path, tmp_path: Path) -> list[Run]:
    """Two runs that have predicted and voted, each for itself."""
    made = [make_run(tmp_path / name, photos, members=MEMBERS) for name in ("one", "other")]
    for run in made:
        predict_and_report(run, read_source(load_run_config(run)))
    return made


def contents(run: Run) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in run.root.rglob("*") if file.is_file()}


def vote_quietly(runs: list[Run], into: Path) -> Run:
    return vote([run.root for run in runs], into, display=Display(Console(file=io.StringIO()))).run


class TestSeveralRuns:
    def test_what_a_run_lacks_is_kept_where_it_votes(self, runs: list[Run], tmp_path: Path) -> None:
        one, other = runs
        collected = other.oof("joint").read_bytes()
        other.oof("joint").unlink()
        before = contents(one) | contents(other)
        both = vote_quietly(runs, tmp_path / "both")
        assert contents(one) | contents(other) == before
        assert both.of_voter(other).oof("joint").read_bytes() == collected
        assert not both.of_voter(one).root.exists()
        assert set(read_ensemble(both).members) == {"one/joint", "other/joint"}
        assert len(pd.read_csv(both.submission)) == 28

    def test_what_was_kept_goes_once_the_run_has_it(self, runs: list[Run], tmp_path: Path) -> None:
        other = runs[1]
        collected = other.oof("joint").read_bytes()
        other.oof("joint").unlink()
        both = vote_quietly(runs, tmp_path / "both")
        decided = both.ensemble.stat().st_mtime_ns
        other.oof("joint").write_bytes(collected)
        assert vote_quietly(runs, both.root) == both
        assert not both.of_voter(other).oof("joint").exists()
        assert both.ensemble.stat().st_mtime_ns >= decided

    def test_what_a_run_says_otherwise_than_its_models_is_collected_anew_beside_it(self, runs: list[Run], tmp_path: Path) -> None:
        other = runs[1]
        table = pd.read_parquet(other.oof("joint"))
        joint = [name for name in map(str, table) if name.startswith("joint:")]
        write_table(other.oof("joint"), table.assign(**dict.fromkeys(joint, 1 / 18)))
        before = contents(other)
        both = vote_quietly(runs, tmp_path / "both")
        assert contents(other) == before
        pd.testing.assert_frame_equal(pd.read_parquet(both.of_voter(other).oof("joint")), table)

    def test_what_is_damaged_in_a_run_is_collected_anew_beside_it(self, runs: list[Run], tmp_path: Path) -> None:
        other = runs[1]
        collected = other.oof("joint").read_bytes()
        other.oof("joint").write_bytes(collected[:100])
        before = contents(other)
        both = vote_quietly(runs, tmp_path / "both")
        assert contents(other) == before
        assert both.of_voter(other).oof("joint").read_bytes() == collected

    def test_predictions_that_a_run_lacks_are_refused_without_predict(self, runs: list[Run], tmp_path: Path) -> None:
        runs[1].test_predictions.unlink()
        with pytest.raises(InputError, match=r"'.*/other' has no predictions of its test images .*; add --predict\.$"):
            vote_quietly(runs, tmp_path / "both")


def test_a_run_that_is_looked_at_keeps_its_config(runs: list[Run]) -> None:
    """As `refit` and `soup` do it, with a rule of the caller's."""
    run = runs[0]
    before = contents(run)
    with finished_run(run.root, "hard", Display(Console(file=io.StringIO()))) as prepared:
        assert prepared.config.vote.rule == "hard"
    assert contents(run) == before
    assert run.finished(ReplicaId("joint", 0))
