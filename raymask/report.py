"""A run as one page: what came of it, where it fails, and what it cost. Reads the run directory alone, and the worst photos."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from math import ceil, floor, prod
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image, ImageOps
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from raymask.calibration import expected_calibration_error, reliability
from raymask.config import ENSEMBLE, Member, RunConfig, resolve_members
from raymask.data.files import read_bytes
from raymask.data.sources import label_space
from raymask.display import duration
from raymask.errors import shortened
from raymask.metrics import score
from raymask.plots import plot_curves, plot_reliability
from raymask.report_vote import Section, counts_votes, member_calibration, vote_line, vote_section
from raymask.run_files import read_json, write_text
from raymask.store import ReplicaId, Run, load_run_config
from raymask.tasks import JOINT, UNLABELLED, Labels, LabelSpace, Probabilities

MOST_CLASSES = 40
MOST_MISTAKES = 24
MOST_REJECTED = 20
THUMBNAIL_WIDTH = 128

Heads = list[list[dict[str, Any]]]
"""By level the name and span of each head."""


def build_report(run: Run) -> None:
    """Writes report.html, one self-contained page, from what the run directory holds; what is missing is said to be.

    Raises:
        InputError: the directory holds no run.
    """
    material = read_material(run)
    sections = {
        "header": header(material),
        "tiles": tiles(material),
        "vote": vote_section(material.ensemble, material.space),
        "scores": score_table(material),
        "curves": curves(material),
        "confusion": confusions(material),
        "classes": class_table(material),
        "calibration": calibration(material),
        "members": member_calibration(material.ensemble, material.space),
        "mistakes": worst_mistakes(material),
        "folds": fold_table(material),
        "time": wall_time(material),
        "rejected": set_aside(material),
        "test": predicted_classes(material),
        "config": run.config.read_text(),
    }
    loader = PackageLoader("raymask")
    pages = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    write_text(run.report, pages.get_template("report.html.j2").render(sections))


@dataclass(frozen=True)
class Judged:
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
class Material:
    """What a run directory holds; tables are empty where their file is missing."""

    run: Run
    config: RunConfig
    space: LabelSpace
    members: list[Member]
    manifest: pd.DataFrame
    judged: Judged
    history: pd.DataFrame
    """One row a replica and epoch: member, fold, and the columns of history.csv."""
    metas: list[dict[str, Any]]
    ensemble: dict[str, Any]

    @property
    def targets(self) -> tuple[str, ...]:
        """What is scored: each task, and the joint label where it is another thing."""
        return (*self.space.names, JOINT) if len(self.space.names) > 1 else self.space.names


def read_material(run: Run) -> Material:
    """All that the page is made of, but the photos."""
    config = load_run_config(run)
    space, members = label_space(config.tasks), resolve_members(config)
    labels = [f"label_{target}" for target in (*space.names, JOINT)]
    manifest = read_table(run.manifest, ["image_id", "path", "group", "fold", *labels])
    replicas = [ReplicaId(member.name, fold) for member in members for fold in range(config.folds.k)]
    epochs = [read_table(run.history(r), ["epoch"]).assign(member=r.member, fold=r.fold) for r in replicas]
    return Material(
        run=run,
        config=config,
        space=space,
        members=members,
        manifest=manifest,
        judged=judge(space, manifest, read_table(run.oof_ensemble, ["image_id", *joint_columns(space)])),
        history=pd.concat([of_replica for of_replica in epochs if len(of_replica)] or epochs[:1], ignore_index=True),
        metas=[read_json(run.meta(replica)) for replica in replicas if run.finished(replica)],
        ensemble=read_json(run.ensemble) if run.ensemble.exists() else {},
    )


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A Parquet or CSV file, or an empty table of these columns where it is missing or empty."""
    try:
        return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (FileNotFoundError, pd.errors.EmptyDataError):
        return pd.DataFrame({column: [] for column in columns})


def joint_columns(space: LabelSpace) -> list[str]:
    """Columns of the joint classes' probabilities, in the order of the joint label."""
    return [f"{JOINT}:{name}" for name in space.joint_classes]


def judge(space: LabelSpace, manifest: pd.DataFrame, oof: pd.DataFrame) -> Judged:
    """Joins predictions and truth on image_id."""
    columns = joint_columns(space)
    both = manifest.merge(oof[["image_id", *columns]], on="image_id", validate="one_to_one")
    truth = {target: both[f"label_{target}"].to_numpy(np.int64) for target in (*space.names, JOINT)}
    probabilities = both[columns].to_numpy(np.float64)
    elected = probabilities.argmax(axis=1)
    return Judged(both[["image_id", "path", "group"]], truth, {**space.split(elected), JOINT: elected}, probabilities)


def header(material: Material) -> dict[str, Any]:
    """What the run is made of: facts by name."""
    run, config, manifest, space = material.run, material.config, material.manifest, material.space
    groups = manifest["group"].nunique()
    versions = {f"{name} {number}" for meta in material.metas for name, number in meta.get("versions", {}).items()}
    written = [run.meta(ReplicaId(meta["member"], meta["fold"])) for meta in material.metas] or [run.config]
    classes = " × ".join(f"{size} {name}" for name, size in zip(space.names, space.shape, strict=True))
    facts = {
        "Images": f"{len(manifest):,}" + (f" of {groups:,} groups" if groups < len(manifest) else ""),
        "Classes": f"{space.joint_size} = {classes}" if len(space.names) > 1 else classes,
        "Set aside": f"{len(read_table(run.rejected, ['image_id'])):,}",
        "Folds": f"{config.folds.k}, {config.folds.scheme}"
        if config.folds.scheme != "holdout"
        else f"one part in {config.folds.k}",
        "Members": f"{len(material.members)}: {shortened([member.name for member in material.members])}",
        "Vote": vote_line(material.ensemble, config.vote.rule, space),
        "Versions": ", ".join(sorted(versions)) or "unknown",
    }
    last = datetime.fromtimestamp(max(path.stat().st_mtime for path in written))
    when = f"{'trained' if material.metas else 'begun'} {last:%d %B %Y, %H:%M}"
    return {"name": config.name, "when": when, "facts": facts}


def tiles(material: Material) -> list[dict[str, Any]]:
    """The ensemble's scores by target, the joint label first, beside those of always naming the most frequent class."""
    shown = []
    for target in sorted(material.targets, key=lambda name: name != JOINT):
        truth = material.judged.truth[target]
        naive = score(truth, np.full(len(truth), np.bincount(truth).argmax())) if len(truth) else None
        if of_target := material.ensemble.get("oof", {}).get("ensemble", {}).get(target):
            shown.append({"target": target, "score": of_target, "naive": naive})
    return shown


def score_table(material: Material) -> Section:
    """One row a member, and the ensemble: scores by target, and the last epoch's F1 of each fold."""
    scores, history = material.ensemble.get("oof", {}), material.history
    last = history.groupby(["member", "fold"])["f1"].last() if "f1" in history else pd.Series(dtype=float)
    by_member = {name: of_member.tolist() for name, of_member in last.groupby(level=0)}
    low, high = outer_steps(last, 0.05)
    details = {member.name: recipe_line(member) for member in material.members}
    details[ENSEMBLE] = vote_line(material.ensemble, material.config.vote.rule, material.space)
    rows = [
        {
            "name": name,
            "detail": details.get(name, ""),
            "scores": of_name,
            "folds": [{"f1": f1, "place": (f1 - low) / (high - low)} for f1 in by_member.get(name, [])],
        }
        for name, of_name in scores.items()
    ]
    best = {
        (target, kind): max((of_name[target][kind] for of_name in scores.values() if target in of_name), default=None)
        for target, kind in product(material.targets, ("f1", "accuracy"))
    }
    return {"targets": material.targets, "rows": rows, "best": best, "low": low, "high": high} if rows else None


def recipe_line(member: Member) -> str:
    """What tells a member from the others."""
    recipe, (height, width) = member.recipe, member.recipe.height_width
    size = f"{height}" if height == width else f"{height}×{width}"
    frozen = ", frozen" if recipe.freeze == "backbone" else ""
    return f"{recipe.backbone}{frozen} · {size}\N{NO-BREAK SPACE}px · {recipe.epochs}\N{NO-BREAK SPACE}epochs"


def outer_steps(values: pd.Series, step: float) -> tuple[float, float]:
    """The nearest multiples of a step outside of all values, or 0 and 1 where there is no value."""
    if values.empty:
        return 0.0, 1.0
    low, high = floor(values.min() / step) * step, ceil(values.max() / step) * step
    return low, max(high, low + step)


def curves(material: Material) -> list[dict[str, Any]]:
    """The learning curves of each member that has any."""
    shown = []
    f1_range = outer_steps(material.history.get("f1", pd.Series(dtype=float)), 0.1)
    for member in material.members:
        history = material.history[material.history["member"] == member.name]
        if len(history):
            target = member.task if member.task in material.targets else material.targets[-1]
            shown.append({"name": member.name, "target": target, "plot": plot_curves(history, f1_range)})
    return shown


def confusions(material: Material) -> list[dict[str, Any]]:
    """A confusion matrix of each target: counts, and shares of the true class; without rows where there are too many classes."""
    judged, shown = material.judged, []
    for target in material.targets if len(judged.images) else ():
        size, rows, levels = len(material.space.classes(target)), [], class_heads(material.space, target)
        if size <= MOST_CLASSES:
            counts = confusion_matrix(judged.truth[target], judged.predicted[target], labels=range(size))
            rows = [
                {
                    "heads": [level[row // level[0]["span"]] for level in levels if row % level[0]["span"] == 0],
                    "cells": [{"count": int(count), "share": count / max(of_class.sum(), 1)} for count in of_class],
                    "images": int(of_class.sum()),
                }
                for row, of_class in enumerate(counts)
            ]
        shown.append({"target": target, "size": size, "levels": levels, "rows": rows})
    return shown


def class_heads(space: LabelSpace, target: str) -> Heads:
    """The heads of a target's classes, a level for each task: joint classes are nested, the first task outermost."""
    parts = [task.classes for task in space.tasks] if target == JOINT else [space.classes(target)]
    sizes = [len(classes) for classes in parts]
    return [
        [{"name": name, "span": prod(sizes[depth + 1 :])} for _ in range(prod(sizes[:depth])) for name in classes]
        for depth, classes in enumerate(parts)
    ]


def joint_parts(space: LabelSpace) -> list[tuple[str, ...]]:
    """Each joint label's classes, one a task."""
    return list(product(*(task.classes for task in space.tasks)))


def class_table(material: Material) -> Section:
    """Precision, recall and F1 of each joint class that is there or predicted, the weakest first."""
    judged, size = material.judged, material.space.joint_size
    truth, predicted = judged.truth[JOINT], judged.predicted[JOINT]
    if not len(truth):
        return None
    names = np.array([" · ".join(parts) for parts in joint_parts(material.space)], dtype=object)
    precision, recall, f1, images = precision_recall_fscore_support(truth, predicted, labels=range(size), zero_division=0.0)
    wrong = confusion_matrix(truth, predicted, labels=range(size))
    np.fill_diagonal(wrong, 0)
    table = pd.DataFrame({"name": names, "images": images, "precision": precision, "recall": recall, "f1": f1})
    table["groups"] = judged.images["group"].groupby(truth).nunique().reindex(range(size), fill_value=0)
    table["rival"] = np.where(wrong.any(axis=1), names[wrong.argmax(axis=1)], "")
    table["rival_share"] = wrong.max(axis=1) / np.maximum(images, 1)
    there = table[np.isin(np.arange(size), [truth, predicted])].sort_values("f1", kind="stable")
    rows = there.head(MOST_CLASSES).to_dict("records")
    return {"rows": rows, "left_out": len(there) - len(rows), "absent": size - len(there)}


def calibration(material: Material) -> Section:
    """How far the ensemble's confidence in its joint class can be believed."""
    judged = material.judged
    if not len(judged.images):
        return None
    confidence = judged.probabilities.max(axis=1)
    correct = judged.predicted[JOINT] == judged.truth[JOINT]
    bins = reliability(confidence, correct)
    return {
        "ece": expected_calibration_error(bins),
        "bins": len(bins),
        "confidence": float(confidence.mean()),
        "accuracy": float(correct.mean()),
        "hard": counts_votes(material.ensemble, material.config.vote.rule),
        "plot": plot_reliability(bins),
    }


def worst_mistakes(material: Material) -> list[dict[str, Any]]:
    """The wrongly predicted images whose true joint class got the least probability, the worst first."""
    judged, parts = material.judged, joint_parts(material.space)
    truth, predicted = judged.truth[JOINT], judged.predicted[JOINT]
    of_truth = judged.probabilities[np.arange(len(truth)), truth]
    wrong = np.flatnonzero(truth != predicted)
    worst = wrong[np.argsort(of_truth[wrong], kind="stable")][:MOST_MISTAKES]
    with ThreadPoolExecutor(8) as pool:
        thumbnails = list(pool.map(thumbnail, judged.images["path"].iloc[worst]))
    return [
        {
            "image_id": str(judged.images["image_id"].iloc[row]),
            "thumbnail": picture,
            "probability": float(of_truth[row]),
            "parts": list(zip(parts[truth[row]], parts[predicted[row]], strict=True)),
        }
        for row, picture in zip(worst, thumbnails, strict=True)
    ]


def thumbnail(path: str) -> str | None:
    """A small JPEG of an image as a data URI, or None when the image cannot be read any more."""
    try:
        with Image.open(io.BytesIO(read_bytes(path))) as opened:
            opened.draft("RGB", (2 * THUMBNAIL_WIDTH, 2 * THUMBNAIL_WIDTH))
            upright = ImageOps.exif_transpose(opened).convert("RGB")
        upright.thumbnail((THUMBNAIL_WIDTH, 2 * THUMBNAIL_WIDTH))
        small = io.BytesIO()
        upright.save(small, "JPEG", quality=85)
    except Exception:  # a remote store's driver may raise anything, and a report must not fail for a picture
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(small.getvalue()).decode()}"


def fold_table(material: Material) -> Section:
    """Images and groups of each fold, and the groups of each joint class in it beside an even share."""
    manifest, size = material.manifest, material.space.joint_size
    if manifest.empty:
        return None
    groups = manifest.groupby(["fold", f"label_{JOINT}"])["group"].nunique().unstack(fill_value=0)
    counts = groups.reindex(columns=range(size), fill_value=0)
    even = np.maximum(counts[counts.index >= 0].mean().to_numpy(), 1e-9)
    rows = []
    for fold, of_classes in zip(counts.index.tolist(), counts.to_numpy(), strict=True):
        images = manifest[manifest["fold"] == fold]
        cells = [{"count": int(n), "share": n / e} for n, e in zip(of_classes, even, strict=True)]
        rows.append({"fold": fold, "images": len(images), "groups": images["group"].nunique(), "cells": cells})
    return {"rows": rows, "levels": class_heads(material.space, JOINT) if size <= MOST_CLASSES else [], "size": size}


def wall_time(material: Material) -> dict[str, Any]:
    """Seconds by stage, and what came through the stream by member."""
    timings: dict[str, float] = read_json(material.run.timings) if material.run.timings.exists() else {}
    total = max(sum(timings.values()), 1e-9)
    stages = [{"name": name, "time": duration(seconds), "share": seconds / total} for name, seconds in timings.items()]
    epochs = material.history.reindex(columns=["member", "images_per_second", "waiting"]).dropna()
    by_member = epochs.groupby("member", sort=False).agg(rate=("images_per_second", "median"), waiting=("waiting", "mean"))
    throughput = by_member.reset_index(names="name").to_dict("records")
    return {"stages": stages, "total": duration(total), "throughput": throughput, "fastest": by_member["rate"].max()}


def set_aside(material: Material) -> Section:
    """Images that were not used, by reason."""
    rejected = read_table(material.run.rejected, ["image_id", "reason"]).astype(str)
    first = rejected.head(MOST_REJECTED).to_dict("records")
    reasons = rejected["reason"].value_counts().to_dict()
    return {"reasons": reasons, "images": first, "all": len(rejected)} if first else None


def predicted_classes(material: Material) -> Section:
    """Shares of the joint classes in the test set as predicted, and in the training set as labelled."""
    predictions = read_table(material.run.predictions, ["problem", JOINT])
    if predictions.empty:
        return None
    space, labels = material.space, material.manifest[f"label_{JOINT}"]
    readable, labels = predictions[predictions["problem"].fillna("") == ""], labels[labels != UNLABELLED]
    table = pd.DataFrame({"name": [" · ".join(parts) for parts in joint_parts(space)]})
    table["count"] = np.bincount(readable[JOINT].to_numpy(np.int64), minlength=space.joint_size)
    table["predicted"] = table["count"] / max(len(readable), 1)
    table["trained"] = np.bincount(labels.to_numpy(np.int64), minlength=space.joint_size) / max(len(labels), 1)
    frequent = (table["predicted"] + table["trained"]).nlargest(MOST_CLASSES).index.sort_values()
    return {
        "rows": table.loc[frequent].to_dict("records"),
        "most": max(table["predicted"].max(), table["trained"].max(), 1e-9),
        "images": len(predictions),
        "unreadable": len(predictions) - len(readable),
        "left_out": len(table) - len(frequent),
    }
