"""Tests of run files as types: what is written is read, other formats and what nothing reads beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raymask.io.atomic import write_json
from raymask.io.checked import DamagedFileError
from raymask.runs.directory import Run, read_ensemble
from raymask.runs.schemas import Ensemble, Interval, Meta, PredictionJob, PredictionSource, read_run_file, write_run_file

META: dict[str, Any] = {"classes": {"mask": ["worn", "none"]}, "recipe": {"lr": 1}}


def test_what_is_written_is_read_and_holds_what_was_given_alone(tmp_path: Path) -> None:
    job = PredictionJob(images=3, fingerprint="x")
    write_run_file(tmp_path / "job.json", job)
    assert json.loads((tmp_path / "job.json").read_text()) == {"format": 1, "images": 3, "fingerprint": "x"}
    assert read_run_file(tmp_path / "job.json", PredictionJob) == job


def test_a_file_without_a_format_is_of_the_first(tmp_path: Path) -> None:
    write_json(tmp_path / "job.json", {"images": 3, "fingerprint": "x"})
    assert read_run_file(tmp_path / "job.json", PredictionJob) == PredictionJob(images=3, fingerprint="x")


@pytest.mark.parametrize("kind", [Meta, PredictionSource, Ensemble])
def test_a_later_format_is_refused_with_what_to_do(tmp_path: Path, kind: type[Meta]) -> None:
    file = Run(tmp_path).ensemble
    write_json(
        file, {"format": kind.newest + 1, **META, "fingerprint": "x", "views": []} | ({} if kind is Ensemble else {"views": {}})
    )
    sentence = f"later raymask wrote it, in format {kind.newest + 1} where this one knows {kind.newest}.*makes it again"
    with pytest.raises(DamagedFileError, match=sentence):
        read_run_file(file, kind)


@pytest.mark.parametrize("number", [0, -1, 1.5, "1", None, True])
def test_a_format_that_is_no_number_is_refused(tmp_path: Path, number: object) -> None:
    write_json(tmp_path / "meta.json", {"format": number, **META})
    with pytest.raises(DamagedFileError, match="`format`"):
        read_run_file(tmp_path / "meta.json", Meta)


def test_what_nothing_reads_is_kept_at_every_depth(tmp_path: Path) -> None:
    run = Run(tmp_path)
    written = {
        "format": 2,
        "note": [1],
        "estimate": {"score": 0.5, "se": 0.1, "low": 0.4, "high": 0.6, "optimism": 0.0, "more": "x"},
        "members": {"a": {"member": "a", "seen": 1}},
    }
    write_json(run.ensemble, written)
    read = read_ensemble(run, "estimate")
    assert read.members["a"].run is None
    write_run_file(run.ensemble, read.model_copy(update={"metric": "joint.f1"}))
    assert json.loads(run.ensemble.read_text()) == {**written, "metric": "joint.f1"}


@pytest.mark.parametrize("vote", [{}, {"vote": None}])
def test_a_key_that_is_needed_and_missing_is_named(tmp_path: Path, vote: dict[str, None]) -> None:
    write_json(Run(tmp_path).ensemble, {"metric": "joint.f1", **vote})
    with pytest.raises(DamagedFileError, match="it has no `vote`"):
        read_ensemble(Run(tmp_path), "metric", "vote")


def test_a_member_without_its_name_is_refused(tmp_path: Path) -> None:
    write_json(Run(tmp_path).ensemble, {"members": {"a": {}}})
    with pytest.raises(DamagedFileError, match="it does not say which member 'a' is"):
        read_ensemble(Run(tmp_path))


def test_an_interval_reads_as_one() -> None:
    assert str(Interval(score=0.5, se=0.1, low=0.25, high=0.75)) == "0.5000 (0.2500 to 0.7500)"
