"""Clusters that start machines when they are asked for them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from made import HELPERS


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """In a process of its own, which has a Ray with an autoscaler."""
    out = tmp_path_factory.mktemp("scaled")
    script = HELPERS / "scaled_cluster.py"
    command = [sys.executable, str(script), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads((out / "said.json").read_text()))


def test_a_demanded_gpu_is_asked_for_and_awaited(told: dict[str, Any]) -> None:
    run = told["demanded"]
    assert (
        "asked the cluster's autoscaler for 1 GPU(s) and 1 CPU(s); waiting for up to 2 minutes (compute.wait_minutes)"
        in run["said"]
    )
    assert "there are 1 CPUs and 1 GPUs" in run["said"]
    assert run["given"] == [[1.0, 1.0]]
    assert run["free"] == 1, "nothing is asked for any more"


def test_more_than_the_cluster_may_have_are_refused(told: dict[str, Any]) -> None:
    run = told["too many"]
    assert "asked the cluster's autoscaler for 1 GPU(s);" in run["said"]
    assert "InputError: compute.gpus is 2, but the Ray cluster has 1 GPUs and starts no more" in run["said"]
    assert run["free"] == 1


def test_what_comes_is_planned_for_where_nothing_is_demanded(told: dict[str, Any]) -> None:
    run = told["default"]
    assert run["said"].count("asked the cluster's autoscaler for ") == 1, "a second stage does not wait again"
    assert "asked the cluster's autoscaler for 2 GPU(s);" in run["said"]
    assert "Ray has 1 GPU(s) that torch cannot use" in run["said"]
    assert run["given"] == [[1.0, 0.0]]


def test_a_head_without_cpus_is_looked_at_as_well(told: dict[str, Any]) -> None:
    assert "do not see '/proc/self/cwd'; on a cluster --runs must be a folder that all nodes share" in told["shared"]["said"]
