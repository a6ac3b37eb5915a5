"""Processes that die while they train."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import ray
import torch
from ray.util.state import list_actors
from rich.console import Console

from raymask.config.loading import load_config
from raymask.core.console import Display
from raymask.runs.directory import ReplicaId, Run
from raymask.workflows.train import run

pytestmark = pytest.mark.usefixtures("ray_session")

EPOCHS = 12


def train(runs: Path, photos: Path, name: str) -> Run:
    recipe = {
        "backbone": "test_resnet",
        "pretrained": False,
        "image_size": 32,
        "schedule": {"epochs": EPOCHS},
        "batch_size": 8,
        "optim": {"ema": 0.9},
    }
    over = {
        "name": name,
        "runs": runs,
        "recipe": recipe,
        "tasks": {"gender": None, "age": None},
        "data": {"path": str(photos / "train")},  # without a test set
        "folds": {"k": 2},
        "vote": {"rule": "soft", "adjust": "none"},
    }
    return run(load_config("demo", overrides=over), Display(Console(file=io.StringIO()))).run


def kill_trials_once_two_epochs_are_kept(done: Run, killed: list[int]) -> None:
    checkpoint, trials = done.checkpoint(ReplicaId("mask", 0)), list[int]()
    for _ in range(600):
        time.sleep(0.05)
        if not checkpoint.exists():
            continue
        trials = trials or processes_of_trials()  # asked for early, as it takes some time
        if torch.load(checkpoint, weights_only=True)["learner"]["epoch"] >= 2:
            for trial in trials:
                os.kill(trial, signal.SIGKILL)
            killed += trials
            return


def processes_of_trials() -> list[int]:
    here = ray.get_runtime_context().gcs_address  # whatever other Rays there are on this machine
    alive = list_actors(address=here, filters=[("state", "=", "ALIVE")])
    return [actor.pid for actor in alive if actor.class_name.endswith("ImplicitFunc")]


def test_a_killed_trial_goes_on_from_its_last_epoch_to_the_same_result(photos: Path, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", photos, "run")
    cut = Run(tmp_path / "cut" / "run")
    killed: list[int] = []
    killer = threading.Thread(target=kill_trials_once_two_epochs_are_kept, args=(cut, killed))
    killer.start()
    train(tmp_path / "cut", photos, "run")
    killer.join()
    assert killed
    for fold in (0, 1):
        replica = ReplicaId("mask", fold)
        assert pd.read_csv(cut.history(replica))["epoch"].tolist() == list(range(1, EPOCHS + 1))
        expected, got = pd.read_parquet(whole.replica_oof(replica)), pd.read_parquet(cut.replica_oof(replica))
        pd.testing.assert_frame_equal(got, expected, atol=1e-5, rtol=0)
