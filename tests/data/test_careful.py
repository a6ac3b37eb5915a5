"""Images that kill the process that decodes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray.data
from ray.exceptions import RayError

from raymask.core.types import ActorPool
from raymask.data.careful import DEADLY
from raymask.data.stream import by_actors, by_tasks

HERE = Path(__file__).parents[1] / "helpers"


@pytest.fixture(scope="module")
def out(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In a process of its own, whose Ray has a faulty decoder."""
    folder = tmp_path_factory.mktemp("deadly")
    path = os.pathsep.join([str(HERE / "forked"), str(HERE), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(HERE / "deadly_images.py"), str(photos), str(folder)],
        env={**os.environ, "PYTHONPATH": path, "RAYMASK_TESTS_IMPORT": "faulty_decoder"},
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("way", ["prepare", "predict", "predict-on-gpus", "bulk"])
def test_they_alone_are_set_aside_with_a_reason(out: Path, way: str) -> None:
    names = sorted(file.name for file in (out / "images").iterdir())
    found = pd.read_csv(out / f"{way}.csv").sort_values("image_id")
    assert found["image_id"].tolist() == [names[place] for place in (3, 4, 9)]
    assert set(found[found.columns[1]]) == {DEADLY}


def test_no_marker_is_left(out: Path) -> None:
    assert not [path for folder in ("run", "cache", "bulk") for path in (out / folder).rglob("*decoding*")]


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("dies", ["task", "actor"])
def test_what_always_kills_its_process_is_given_up(monkeypatch: pytest.MonkeyPatch, dies: str) -> None:
    class Dying:  # inside the test, so that it travels to a worker that knows no tests
        def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
            os.kill(os.getpid(), signal.SIGKILL)
            return rows

    monkeypatch.setattr("raymask.data.stream.RETRIES", 1)
    pool = ActorPool(size=1, cpus=0.5, gpus=0.0, threads=1, decode_cpus=0.25)
    rows = ray.data.from_items([1, 2], override_num_blocks=2)
    deadly = rows.map_batches(Dying, **by_actors(pool, 2, 1))
    if dies == "task":
        deadly = rows.map_batches(lambda batch: Dying()(batch), batch_size=None, **by_tasks(pool))
    with pytest.raises(RayError):
        deadly.take_all()
