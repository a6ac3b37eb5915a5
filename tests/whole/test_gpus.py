"""GPUs in Ray's books: every way that books one, in a process of its own, which has such a Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made import HELPERS

import raymask
from raymask.inference.bulk import read_predictions
from raymask.runs.directory import ReplicaId, Run
from raymask.runs.folders import PredictionFolder


@pytest.fixture(scope="module")
def out(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpus")
    script = HELPERS / "on_gpus.py"
    done = subprocess.run([sys.executable, str(script), str(photos), str(folder)], capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_a_whole_run_with_two_packs_on_half_a_gpu_each(out: Path, photos: Path) -> None:
    said = (out / "whole.txt").read_text()
    assert "4 models in 2 pack(s), 2 side by side, 1 thread(s) each beside 0.5 GPU that torch cannot use" in said
    done = Run(out / "whole")
    asked = pd.read_csv(photos / "eval" / "info.csv", dtype=str)
    assert pd.read_csv(done.submission, dtype=str)["ImageID"].tolist() == asked["ImageID"].tolist()
    assert all(done.finished(ReplicaId(member, fold)) for member in ("mask", "multi") for fold in (0, 1))


def test_gpus_that_torch_cannot_use_are_told_of_once(out: Path) -> None:
    said = (out / "whole.txt").read_text()
    assert said.count("Ray has 1 GPU(s) that torch cannot use (torch ") == 1
    assert "they are booked as compute.gpus wants, and all is computed on CPUs" in said


def test_gpus_that_torch_cannot_use_are_left_alone_where_none_are_demanded(out: Path) -> None:
    said = (out / "unwanted.txt").read_text()
    assert ": they are not used" in said
    assert "1 thread(s) each" in said
    assert "GPU that" not in said


def test_predictions_are_those_of_a_process_without_ray(out: Path, photos: Path) -> None:
    files = sorted((photos / "eval" / "images").iterdir())
    expected = raymask.load(out / "whole").predict(files, [file.name for file in files])
    pd.testing.assert_frame_equal(read_predictions(PredictionFolder(out / "new")), expected, check_dtype=False, atol=1e-5, rtol=0)
    tested = pd.read_parquet(Run(out / "whole").predictions)
    np.testing.assert_array_equal(tested["joint"], expected["joint"])


def test_heads_on_a_frozen_backbone(out: Path) -> None:
    assert "features of test_resnet" in (out / "heads.txt").read_text()
    assert all(Run(out / "heads").finished(ReplicaId("mask", fold)) for fold in (0, 1))


def test_soups(out: Path) -> None:
    assert "is to be expected of the greedy soup" in (out / "soup.txt").read_text()


def test_an_actor_on_a_gpu_gets_block_by_block(out: Path) -> None:
    assert sorted(pd.read_csv(out / "rows.csv")["rows"]) == [3, 8, 8, 8, 8, 8]
