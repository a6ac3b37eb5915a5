"""What a report is made of: the files of a run directory, as far as they are whole, and pictures from the run's own data."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from raymask.config.members import Member
from raymask.config.schema import RunConfig, resolve_members
from raymask.config.tasks import label_space
from raymask.core.columns import joint_columns, label_column, targets_of, true_labels
from raymask.core.errors import InputError
from raymask.core.tasks import JOINT, LabelSpace
from raymask.core.types import Labels, Probabilities
from raymask.data.decode import FORMATS, pixels_of
from raymask.io import files
from raymask.io.checked import DamagedFileError, Kind, damaged, read_table
from raymask.metrics.bootstrap import parse_metric
from raymask.runs.configs import load_run_config
from raymask.runs.directory import ReplicaId, Run, demo_folder, read_ensemble
from raymask.runs.models import ModelFolder, read_model
from raymask.runs.schemas import Ensemble
from raymask.runs.tables import read_ensemble_predictions, read_manifest
from raymask.voting.reading import read_grouping, read_vote
from raymask.voting.vote import Vote

THUMBNAIL_WIDTH = 128
MAX_PICTURE_BYTES = 2**26
NUMBERS: dict[str, Kind] = dict.fromkeys(("train_loss", "loss", "f1"), "number")

Found = TypeVar("Found")


@dataclass(frozen=True)
class EvaluatedPredictions:
    """The ensemble's out-of-fold predictions beside the truth, in the manifest's order."""

    images: pd.DataFrame
    """image_id, path and group of each of N images."""
    truth: dict[str, Labels]
    """(N,) labels by task, and the joint."""
    predicted: dict[str, Labels]
    """(N,) labels by task, and the joint."""
    probabilities: Probabilities
    """(N, J) of the joint classes."""


@dataclass(frozen=True)
class RunData:
    """What a run directory holds; tables are empty where their file is missing."""

    run: Run
    config: RunConfig
    space: LabelSpace
    members: list[Member]
    manifest: pd.DataFrame
    evaluated: EvaluatedPredictions
    history: pd.DataFrame
    """One row a fold model and epoch: member, fold, and the columns of history.csv."""
    models: list[ModelFolder]
    ensemble: Ensemble
    """Without any key where its file is missing."""
    vote: Vote | None
    rejected: pd.DataFrame
    predictions: pd.DataFrame
    left_out: list[str] = field(default_factory=list)
    """Sentences on what is damaged, or none of the run's own."""

    @property
    def targets(self) -> tuple[str, ...]:
        """What is scored: each task, and the joint label where it is another thing."""
        return (*self.space.names, JOINT) if len(self.space.names) > 1 else self.space.names

    def thumbnails(self, paths: Sequence[str]) -> list[str | None]:
        """Small JPEGs of images as data URIs; None for what cannot be read any more, or lies outside of the run's data."""
        roots = data_roots(self.config)
        own = [path if is_below(path, roots) else None for path in paths]
        if strange := [path for path, known in zip(paths, own, strict=True) if known is None]:
            self.left_out.append(
                f"{len(strange)} pictures, such as '{strange[0]}', lie outside of {' and '.join(map(repr, roots))}, where the "
                "run's config says that its data are, and are not shown."
            )
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda path: None if path is None else thumbnail(path), own))


@dataclass(frozen=True)
class WholeFiles:
    """Reads files that may be missing or damaged, and keeps a sentence on each that is damaged."""

    left_out: list[str] = field(default_factory=list)

    def read(self, file: Path, reader: Callable[[], Found], otherwise: Found) -> Found:
        """What is read of a file, if it is there and whole."""
        try:
            return reader() if file.exists() else otherwise
        except DamagedFileError as error:
            self.left_out.append(f"{error.fault}; it is left out here.")
            return otherwise

    def table(self, file: Path, reader: Callable[[], pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
        """The same of a table; one of these columns without rows where there is none."""
        return self.read(file, reader, pd.DataFrame({name: [] for name in columns}))


def read_run_data(run: Run) -> RunData:
    """All that the page is made of, but the photos; what is damaged is left out, and that is said.

    Raises:
        InputError: the directory holds no run, or its config or manifest is damaged.
    """
    config, whole = load_run_config(run), WholeFiles()
    space, members = label_space(config.tasks), resolve_members(config)
    manifest = read_manifest(run, space) if run.manifest.exists() else _no_images(space)
    replicas = [ReplicaId(member.name, fold) for member in members for fold in member.folds_of(range(config.folds.k))]
    history = _history(run, replicas, whole)
    models = _models(run, replicas, whole)
    no_rejected = pd.DataFrame({"image_id": [], "reason": []}, dtype=str)
    read_rejected = partial(read_table, run.rejected, {"image_id": "text", "reason": "text"})
    no_decision: tuple[Ensemble, Vote | None] = (Ensemble(), None)
    read_oof, read_predictions = (partial(read_ensemble_predictions, file, space) for file in (run.oof_ensemble, run.predictions))
    oof = whole.table(run.oof_ensemble, read_oof, ("image_id", *joint_columns(space)))
    ensemble, vote = whole.read(run.ensemble, partial(read_decision, run, space), no_decision)
    return RunData(
        run=run,
        config=config,
        space=space,
        members=members,
        manifest=manifest,
        evaluated=judge(space, manifest, oof),
        history=history,
        models=models,
        ensemble=ensemble,
        vote=vote,
        rejected=whole.read(run.rejected, read_rejected, no_rejected),
        predictions=whole.table(run.predictions, read_predictions, ("image_id", "problem", JOINT)),
        left_out=whole.left_out,
    )


def _history(run: Run, replicas: Sequence[ReplicaId], whole: WholeFiles) -> pd.DataFrame:
    """The epochs of all fold models."""

    def read(replica: ReplicaId) -> pd.DataFrame:
        table = read_table(run.history(replica), {"epoch": "whole", **NUMBERS}, others="number")
        return table.assign(member=replica.member, fold=replica.fold)

    epochs = [whole.table(run.history(each), partial(read, each), ("epoch", "member", "fold")) for each in replicas]
    return pd.concat([table for table in epochs if len(table)] or epochs[:1], ignore_index=True)


def _models(run: Run, replicas: Sequence[ReplicaId], whole: WholeFiles) -> list[ModelFolder]:
    nothing: ModelFolder | None = None
    found = [whole.read(run.meta(each), partial(read_model, run.replica(each)), nothing) for each in replicas]
    return [model for model in found if model]


def read_decision(run: Run, space: LabelSpace) -> tuple[Ensemble, Vote | None]:
    """What `ensemble.json` holds, and its vote; None where an older raymask wrote it.

    Raises:
        DamagedFileError: it cannot be read, or fits no vote of this label space.
    """
    ensemble = read_ensemble(run)
    if ensemble.vote is None:
        return ensemble, None
    read_ensemble(run, "metric", "estimate", "rules")
    rule = ensemble.vote.get("rule")
    vote = read_vote(run.ensemble, ensemble.vote, space, rule if isinstance(rule, str) else None)  # which follows no rule
    read_grouping(run.ensemble, ensemble.by_group, space)
    try:
        parse_metric(ensemble.metric, space)
    except InputError as error:
        raise damaged(run.ensemble, str(error).rstrip(".")) from None
    if not any(row.chosen for row in ensemble.rules):
        raise damaged(run.ensemble, "it says of no rule that it was chosen")
    return ensemble, vote


def _no_images(space: LabelSpace) -> pd.DataFrame:
    labels = [label_column(target) for target in targets_of(space)]
    return pd.DataFrame({column: [] for column in ("image_id", "path", "group", "fold", *labels)})


def judge(space: LabelSpace, manifest: pd.DataFrame, oof: pd.DataFrame) -> EvaluatedPredictions:
    """Joins predictions and truth on image_id."""
    columns = joint_columns(space)
    both = manifest.merge(oof[["image_id", *columns]], on="image_id", validate="one_to_one")
    truth = true_labels(both, space)
    probabilities = both[columns].to_numpy(np.float64)
    elected = probabilities.argmax(axis=1)
    return EvaluatedPredictions(
        both[["image_id", "path", "group"]], truth, {**space.split(elected), JOINT: elected}, probabilities
    )


def data_roots(config: RunConfig) -> list[str]:
    """The folders or URLs that a run's config says its images lie below."""
    data = config.data
    if data.kind == "demo" or data.path is None:
        return [str(demo_folder(config))]
    return [data.image_root or (data.path if data.kind in ("competition", "folders") else files.parent(data.path))]


def is_below(path: str, roots: Sequence[str]) -> bool:
    """Whether a path is that of something below one of these folders or URLs, however it is spelt."""
    return any(_plain(path).startswith(f"{_plain(root).rstrip('/')}/") for root in roots)


def _plain(path: str) -> str:
    """A path without `.`, `..` and doubled slashes; a URL keeps its scheme."""
    scheme, separator, rest = path.rpartition("://")
    return f"{scheme}{separator}{os.path.normpath(rest)}" if separator else os.path.normpath(os.path.abspath(path))


def thumbnail(path: str) -> str | None:
    """A small JPEG of an image as a data URI, or None when the image cannot be read any more."""
    try:
        content = files.read_bytes(path, MAX_PICTURE_BYTES)
        pixels_of(content)  # refuses what is no image of a size that can be decoded
        with Image.open(io.BytesIO(content), formats=list(FORMATS)) as opened:
            opened.draft("RGB", (2 * THUMBNAIL_WIDTH, 2 * THUMBNAIL_WIDTH))
            upright = ImageOps.exif_transpose(opened).convert("RGB")
        upright.thumbnail((THUMBNAIL_WIDTH, 2 * THUMBNAIL_WIDTH))
        small = io.BytesIO()
        upright.save(small, "JPEG", quality=85)
    except Exception:  # a remote store's driver may raise anything, and a report must not fail for a picture
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(small.getvalue()).decode()}"
