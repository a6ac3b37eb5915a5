"""The one owner of a run directory's paths and formats.

A file is written under another name and renamed when complete, so that its existence means that it is whole.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from raymask.config import RunConfig, dump_config, validate
from raymask.config_files import read_recipe
from raymask.errors import InputError
from raymask.paths import absolute

WHOLE, SOUP, GREEDY_SOUP = -2, -3, -4
"""What stands for the fold of a member's model that is trained on all people, or averaged from its folds' replicas."""

ANY_FOLD = -1
"""What stands for the fold of a target that every replica learns from."""

PART_NAMES = {WHOLE: "all", SOUP: "soup", GREEDY_SOUP: "greedy-soup"}


@dataclass(frozen=True)
class ReplicaId:
    """A member trained without fold `fold`; or one of its models that no fold is left out of, see `PART_NAMES`."""

    member: str
    fold: int

    @property
    def part(self) -> str:
        """`fold-K`, or what stands for it."""
        return PART_NAMES.get(self.fold, f"fold-{self.fold}")

    def __str__(self) -> str:
        return f"{self.member}/{self.part}"


def cache_root(config: RunConfig) -> Path:
    """Folder of everything that runs share."""
    return (absolute(config.cache) if config.cache else config.runs / ".cache").resolve()


@dataclass(frozen=True)
class Run:
    """The paths of one run directory."""

    root: Path

    @property
    def name(self) -> str:
        """Name of the run, that of its directory."""
        return self.root.name

    @property
    def config(self) -> Path:
        """Resolved config, from which the same run can be started again."""
        return self.root / "config.yaml"

    @property
    def manifest(self) -> Path:
        """One row a training image: image_id, path, group, labels, fold, and where it lies in the cache."""
        return self.root / "manifest.parquet"

    @property
    def source(self) -> Path:
        """Fingerprint of the training images and labels that the run began with."""
        return self.root / "source.json"

    @property
    def backbones(self) -> Path:
        """Digests of the weights that members start from, by the member's name."""
        return self.root / "backbones.json"

    @property
    def test_source(self) -> Path:
        """Fingerprint of the test images that were predicted."""
        return self.root / "test" / "source.json"

    @property
    def test_predictions(self) -> Path:
        """Every replica's probabilities for each test image."""
        return self.root / "test" / "replicas.parquet"

    @property
    def reserve(self) -> Path:
        """Images of people that are held out from everything, like the manifest but without folds."""
        return self.root / "reserve" / "manifest.parquet"

    @property
    def reserve_predictions(self) -> Path:
        """Every replica's probabilities for each reserved image."""
        return self.root / "reserve" / "replicas.parquet"

    @property
    def reserve_singles(self) -> Path:
        """Probabilities for each reserved image of the models that no fold is left out of."""
        return self.root / "reserve" / "singles.parquet"

    @property
    def targets(self) -> Path:
        """What a teacher says of images: soft targets of the loss."""
        return self.root / "targets.parquet"

    @property
    def teacher(self) -> Path:
        """Which run the targets are of, and the fingerprint of what it said then."""
        return self.root / "teacher.json"

    @property
    def gain(self) -> Path:
        """How a run that learned from another compares to it."""
        return self.root / "gain.json"

    @property
    def singles(self) -> Path:
        """Scores and speed of models that stand for the whole ensemble, beside it."""
        return self.root / "singles.json"

    @property
    def rejected(self) -> Path:
        """What was set aside and why."""
        return self.root / "rejected.csv"

    @property
    def ensemble(self) -> Path:
        """Rule of the vote and the OOF scores."""
        return self.root / "ensemble.json"

    @property
    def oof_ensemble(self) -> Path:
        """Out-of-fold prediction of the whole ensemble."""
        return self.root / "oof" / "_ensemble.parquet"

    @property
    def predictions(self) -> Path:
        """Joint and per-task probabilities of the test images."""
        return self.root / "predictions.parquet"

    @property
    def submission(self) -> Path:
        """The test file with its answers."""
        return self.root / "submission.csv"

    @property
    def report(self) -> Path:
        """The run as one page."""
        return self.root / "report.html"

    @property
    def tune(self) -> Path:
        """Ray Tune's own records of the trials."""
        return self.root / "tune"

    @property
    def timings(self) -> Path:
        """Wall time in seconds of each stage that really ran."""
        return self.root / "timings.json"

    def oof(self, member: str) -> Path:
        """Out-of-fold predictions of a member."""
        return self.root / "oof" / f"{member}.parquet"

    def replica(self, replica: ReplicaId) -> Path:
        """Folder of a replica."""
        return self.root / "members" / replica.member / replica.part

    def weights(self, replica: ReplicaId) -> Path:
        """A replica's weights."""
        return self.replica(replica) / "model.safetensors"

    def meta(self, replica: ReplicaId) -> Path:
        """All that is needed to rebuild and feed the model; written last, so that it marks a finished replica."""
        return self.replica(replica) / "meta.json"

    def history(self, replica: ReplicaId) -> Path:
        """Metrics of each epoch."""
        return self.replica(replica) / "history.csv"

    def replica_oof(self, replica: ReplicaId) -> Path:
        """A replica's predictions of its own fold."""
        return self.replica(replica) / "oof.parquet"

    def replica_reserve(self, replica: ReplicaId) -> Path:
        """What is to be expected of a greedy soup on reserved images: cross-fitted, like the replicas' predictions of them."""
        return self.replica(replica) / "reserve.parquet"

    def checkpoint(self, replica: ReplicaId) -> Path:
        """State after the last finished epoch of a replica that is still being trained."""
        return self.replica(replica) / "checkpoint.pt"

    def finished(self, replica: ReplicaId) -> bool:
        """Whether a replica is trained and has predicted its fold."""
        return self.meta(replica).exists()


def load_run_config(run: Run) -> RunConfig:
    """The config that a run directory holds.

    Raises:
        InputError: the directory holds no run, or its config cannot be read.
    """
    if not run.config.is_file():
        raise InputError(f"'{run.root}' holds no run: it has no {run.config.name}.")
    return validate(read_recipe(str(run.config)))


def save_run_config(run: Run, config: RunConfig) -> None:
    """Writes the resolved config."""
    write_text(run.config, dump_config(config))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, renamed to it when the block ends well and removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield draft
        draft.replace(path)
    finally:
        if draft.is_dir():
            shutil.rmtree(draft)
        else:
            draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a whole file or none."""
    with replacing(path) as draft:
        draft.write_text(text)


def write_json(path: Path, values: Any) -> None:
    """Writes a whole file or none."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Values of a JSON file."""
    return json.loads(path.read_text())


def write_table(path: Path, table: pd.DataFrame, line_end: str = "\n") -> None:
    """Writes a whole Parquet or CSV file, by the path's ending, or none."""
    with replacing(path) as draft:
        if path.suffix == ".csv":
            # Python's csv leaves a carriage return unquoted that is no part of a line's end, and readers end the line there.
            texts = chain(table.columns, table.to_numpy(dtype=object).flat)
            quoting: Literal[0, 1] = 1 if any("\r" in text for text in texts if isinstance(text, str)) else 0
            table.to_csv(draft, index=False, lineterminator=line_end, quoting=quoting)
        else:
            table.to_parquet(draft, index=False)


def add_timing(run: Run, stage: str, seconds: float) -> None:
    """Records the wall time of a stage."""
    timings = read_json(run.timings) if run.timings.exists() else {}
    write_json(run.timings, {**timings, stage: round(seconds, 2)})
