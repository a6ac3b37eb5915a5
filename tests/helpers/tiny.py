"""Whole runs of seconds: what their configs share, and what they say."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from raymask.config.loading import load_config
from raymask.config.schema import RunConfig
from raymask.core.console import Display
from raymask.runs.directory import Run
from raymask.training.launch import OnReport
from raymask.training.packs import Job, Plan
from raymask.training.trial import train_pack_of_run
from raymask.workflows.train import run

# Without mixed precision, which a CPU may have or not, so that the same numbers come out anywhere.
RECIPE = {
    "backbone": "test_resnet",
    "pretrained": False,
    "image_size": 32,
    "schedule": {"epochs": 2},
    "batch_size": 16,
    "optim": {"lr": 0.003},
    "amp": "off",
}


PLAIN_VOTE = {"rule": "soft", "level": "joint", "adjust": "none", "calibrate": "none", "views": "all", "merge": "mean"}


TINY = {
    "recipe": RECIPE,
    "folds": {"k": 2},
    "vote": PLAIN_VOTE,
}


def tiny_config(runs: Path, data: Path, name: str = "tiny", **more: object) -> RunConfig:
    over = {**TINY, "name": name, "runs": runs, "data": {"path": str(data)}, **more}
    return load_config("demo", overrides=over)


def run_and_read(config: RunConfig) -> tuple[Run, str]:
    said = io.StringIO()
    result = run(config, Display(Console(file=said)))
    return result.run, said.getvalue()


@contextmanager
def trials_here() -> Iterator[None]:
    """Packs are trained one after another in this process, which saves starting a process for each; all else is as ever."""
    threads = torch.get_num_threads()

    def train(job: Job, plan: Plan, retries: int, on_report: OnReport, **more: Any) -> list[str]:
        refusals: list[str] = []

        def take(report: dict[str, Any]) -> None:
            refusals.append(report["refusal"]) if "refusal" in report else on_report(report)

        for pack in plan.packs:  # by one thread, as other processes of tests run beside
            train_pack_of_run(job, pack, replace(plan.slots, threads=1), take)
        return refusals

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raymask.workflows.fold_models.train", train)
        yield
    torch.set_num_threads(threads)


def with_cache(done: Run, folder: Path) -> Run:
    """A copy of a run and of what it shares with others."""
    shutil.copytree(done.root, folder / done.name)
    shutil.copytree(done.root.parent / ".cache", folder / ".cache")
    return Run(folder / done.name)
