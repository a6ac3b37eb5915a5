"""Waiting for what no machine of the cluster offers any more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import HELPERS

from raymask.cluster.waiting import Watch, described, unplaceable
from raymask.core.errors import RunError
from raymask.runs.directory import ReplicaId, Run

RESOURCES = st.fixed_dictionaries({"CPU": st.integers(0, 4), "GPU": st.integers(0, 2)})
GPU = {"CPU": 0.5, "GPU": 1.0}
WITH, WITHOUT = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 2.0}], [{"CPU": 4.0}]


class TestWatch:
    def watch(self, minutes: float = 2) -> tuple[Watch, list[str], list[float], list[dict[str, float]]]:
        said: list[str] = []
        now, machines = [0.0], list(WITH)
        return Watch(minutes, said.append, lambda: machines, lambda: now[0]), said, now, machines

    def test_a_loss_is_said_once_and_given_up_after_the_time(self) -> None:
        watch, said, now, machines = self.watch()
        watch.check([GPU])
        assert not said
        machines[:] = WITHOUT
        for now[0] in range(10, 130, 5):
            watch.check([{"CPU": 1.0}, GPU])
        assert said == [
            "waiting for a GPU: no machine of the cluster has 0.5 CPUs and 1 GPU now; after 2 minutes (compute.wait_minutes) "
            "the run stops"
        ]
        now[0] = 130.0
        with pytest.raises(RunError, match=r"had 0.5 CPUs and 1 GPU for 2 minutes .*; the same command goes on"):
            watch.check([GPU])

    def test_time_counts_anew_when_it_came_meanwhile(self) -> None:
        watch, said, now, machines = self.watch()
        for now[0] in range(0, 1000, 10):
            machines[:] = WITH if now[0] % 100 == 0 else WITHOUT
            watch.check([GPU])
        assert said[:3] == [said[0], "there is a GPU again", said[0]]

    def test_the_cluster_is_not_asked_at_every_step(self) -> None:
        asked: list[float] = []
        now = [0.0]

        def offered() -> list[dict[str, float]]:
            asked.append(now[0])
            return WITH

        watch = Watch(1, lambda sentence: None, offered, lambda: now[0])
        for step in range(1000):
            now[0] = step / 100
            watch.check([GPU])
        assert asked == [0.0, 5.0]

    @given(st.lists(RESOURCES), st.lists(RESOURCES))
    def test_what_fits_nowhere(self, needs: list[dict[str, float]], machines: list[dict[str, float]]) -> None:
        fits = [any(one["CPU"] >= need["CPU"] and one["GPU"] >= need["GPU"] for one in machines) for need in needs]
        found = unplaceable(needs, machines)
        assert (found is None) == all(fits)
        assert found is None or found == needs[fits.index(False)]

    def test_needs_in_words(self) -> None:
        assert [described(need) for need in ({"CPU": 1.0}, {"CPU": 2, "GPU": 0.5}, {"CPU": 0, "GPU": 1})] == [
            "1 CPU",
            "2 CPUs and 0.5 GPUs",
            "1 GPU",
        ]


class TestALostGpu:
    @pytest.fixture(scope="class")
    @classmethod
    def out(cls, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """In a process of its own, which has a Ray of two machines."""
        folder = tmp_path_factory.mktemp("lost")
        script = HELPERS / "lost_gpu.py"
        done = subprocess.run(
            [sys.executable, str(script), str(photos), str(folder)], capture_output=True, text=True, timeout=550, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return folder

    def test_training_says_what_it_waits_for_and_stops(self, out: Path) -> None:
        said = (out / "trained.txt").read_text()
        assert "waiting for a GPU: no machine of the cluster has " in said
        assert said.splitlines()[-1].startswith("RunError: no machine of the cluster had ")
        assert "the same command goes on" in said.splitlines()[-1]

    def test_the_same_command_goes_on_when_there_is_one_again(self, out: Path) -> None:
        said = (out / "again.txt").read_text()
        assert "2 models go on from their last finished epoch" in said
        done = Run(out / "run")
        for fold in (0, 1):
            assert pd.read_csv(done.history(ReplicaId("mask", fold)))["epoch"].tolist() == list(range(1, 9))

    def test_prediction_says_what_it_waits_for_and_stops(self, out: Path) -> None:
        said = (out / "predicted.txt").read_text()
        assert "waiting for a GPU: no machine of the cluster has " in said
        assert said.splitlines()[-1].startswith("RunError: no machine of the cluster had ")
