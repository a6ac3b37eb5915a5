"""Whole runs of seconds: what their configs share, and what they say."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

from rich.console import Console

from raymask.config.loading import load_config
from raymask.config.schema import RunConfig
from raymask.core.console import Display
from raymask.runs.directory import Run
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


def with_cache(done: Run, folder: Path) -> Run:
    """A copy of a run and of what it shares with others."""
    shutil.copytree(done.root, folder / done.name)
    shutil.copytree(done.root.parent / ".cache", folder / ".cache")
    return Run(folder / done.name)
