"""A run as one page: what came of it, where it fails, and what it cost. Reads the run directory alone, and the worst photos."""

from __future__ import annotations

from datetime import datetime
from itertools import product
from math import ceil, floor, prod
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from raymask.config.members import Member
from raymask.config.schema import ENSEMBLE
from raymask.core.columns import label_column
from raymask.core.console import duration
from raymask.core.errors import shortened
from raymask.core.tasks import JOINT, UNLABELLED, LabelSpace
from raymask.io.atomic import write_text
from raymask.io.checked import read_text
from raymask.metrics.calibration import expected_calibration_error, reliability
from raymask.metrics.scores import Aim, class_counts, score
from raymask.report.doubt_sections import sets_section, unusual_section
from raymask.report.pages import page_template
from raymask.report.plots import plot_curves, plot_reliability
from raymask.report.run_data import RunData, read_run_data
from raymask.report.vote_sections import Section, counts_votes, member_calibration, vote_line, vote_section
from raymask.runs.directory import Run
from raymask.runs.timings import read_timings

MAX_CLASSES = 40
MAX_MISTAKES = 24
MAX_REJECTED = 20
THUMBNAIL_WIDTH = 128

SCORES: tuple[Aim, ...] = ("f1", "accuracy")

Heads = list[list[dict[str, Any]]]
"""By level the name and span of each head."""


def build_report(run: Run) -> list[str]:
    """Writes report.html, one self-contained page, from what the run directory holds; what is missing is said to be.

    Returns:
        Sentences on what is damaged or a stranger's, and was left out; they stand on the page too.

    Raises:
        InputError: the directory holds no run, or its config or manifest is damaged.
    """
    data = read_run_data(run)
    sections: dict[str, Any] = {
        "header": header(data),
        "tiles": tiles(data),
        "vote": vote_section(data.ensemble, data.vote),
        "scores": score_table(data),
        "curves": curves(data),
        "confusion": confusions(data),
        "classes": class_table(data),
        "calibration": calibration(data),
        "members": member_calibration(data.ensemble.calibration, data.space),
        "sets": sets_section(data.run, data.ensemble, data.space),
        "unusual": unusual_section(data.run),
        "mistakes": worst_mistakes(data),
        "folds": fold_table(data),
        "time": wall_time(data),
        "rejected": set_aside(data),
        "test": predicted_classes(data),
        "config": read_text(run.config),
    }
    sections["left_out"] = data.left_out
    write_text(run.report, page_template("report.html.j2").render(sections))
    return data.left_out


def header(data: RunData) -> dict[str, Any]:
    """What the run is made of: facts by name."""
    run, config, manifest, space = data.run, data.config, data.manifest, data.space
    groups = manifest["group"].nunique()
    versions = {f"{name} {number}" for model in data.models for name, number in model.versions.items()}
    written = [model.files.meta for model in data.models] or [run.config]
    classes = " × ".join(f"{size} {name}" for name, size in zip(space.names, space.shape, strict=True))
    facts = {
        "Images": f"{len(manifest):,}" + (f" of {groups:,} groups" if groups < len(manifest) else ""),
        "Classes": f"{space.joint_size} = {classes}" if len(space.names) > 1 else classes,
        "Set aside": f"{len(data.rejected):,}",
        "Folds": f"{config.folds.k}, {config.folds.how}" if config.folds.scheme != "holdout" else f"one part in {config.folds.k}",
        "Members": f"{len(data.members)}: {shortened([member.name for member in data.members])}",
        "Vote": vote_line(data.vote, config.vote.rule),
        "Versions": ", ".join(sorted(versions)) or "unknown",
    }
    last = datetime.fromtimestamp(max(path.stat().st_mtime for path in written))
    when = f"{'trained' if data.models else 'begun'} {last:%d %B %Y, %H:%M}"
    return {"name": config.name, "when": when, "facts": facts}


def tiles(data: RunData) -> list[dict[str, Any]]:
    """The ensemble's scores by target, the joint label first, beside those of always naming the most frequent class."""
    shown = []
    for target in sorted(data.targets, key=lambda name: name != JOINT):
        truth = data.evaluated.truth[target]
        naive = score(truth, np.full(len(truth), np.bincount(truth).argmax())) if len(truth) else None
        if of_target := data.ensemble.oof.get(ENSEMBLE, {}).get(target):
            shown.append({"target": target, "score": of_target, "naive": naive})
    return shown


def score_table(data: RunData) -> Section:
    """One row a member, and the ensemble: scores by target, and the last epoch's F1 of each fold."""
    scores, history = data.ensemble.oof, data.history
    last = history.groupby(["member", "fold"])["f1"].last() if "f1" in history else pd.Series(dtype=float)
    by_member = {name: of_member.tolist() for name, of_member in last.groupby(level=0)}
    low, high = outer_steps(last, 0.05)
    details = {member.name: recipe_line(member) for member in data.members}
    details[ENSEMBLE] = vote_line(data.vote, data.config.vote.rule)
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
        for target in data.targets
        for kind in SCORES
    }
    return {"targets": data.targets, "rows": rows, "best": best, "low": low, "high": high} if rows else None


def recipe_line(member: Member) -> str:
    """What tells a member from the others."""
    recipe, (height, width) = member.recipe, member.recipe.height_width
    size = f"{height}" if height == width else f"{height}×{width}"
    frozen = ", frozen" if recipe.frozen else ""
    folds = f" · the first {member.folds}\N{NO-BREAK SPACE}fold(s)" if member.folds else ""
    return f"{recipe.backbone}{frozen} · {size}\N{NO-BREAK SPACE}px · {recipe.schedule.epochs}\N{NO-BREAK SPACE}epochs{folds}"


def outer_steps(values: pd.Series, step: float) -> tuple[float, float]:
    """The nearest multiples of a step outside of all values, or 0 and 1 where there is no value."""
    if values.empty:
        return 0.0, 1.0
    low, high = floor(values.min() / step) * step, ceil(values.max() / step) * step
    return low, max(high, low + step)


def curves(data: RunData) -> list[dict[str, Any]]:
    """The learning curves of each member that has any."""
    shown = []
    f1_range = outer_steps(data.history.get("f1", pd.Series(dtype=float)), 0.1)
    for member in data.members:
        history = data.history[data.history["member"] == member.name]
        if len(history):
            target = member.task if member.task in data.targets else data.targets[-1]
            shown.append({"name": member.name, "target": target, "plot": plot_curves(history, f1_range)})
    return shown


def confusions(data: RunData) -> list[dict[str, Any]]:
    """A confusion matrix of each target: counts, and shares of the true class; without rows where there are too many classes."""
    evaluated, shown = data.evaluated, []
    for target in data.targets if len(evaluated.images) else ():
        size, rows, levels = len(data.space.classes(target)), [], class_heads(data.space, target)
        if size <= MAX_CLASSES:
            counts = confusion_matrix(evaluated.truth[target], evaluated.predicted[target], labels=range(size))
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


def class_table(data: RunData) -> Section:
    """Precision, recall and F1 of each joint class that is there or predicted, the weakest first."""
    evaluated, size = data.evaluated, data.space.joint_size
    truth, predicted = evaluated.truth[JOINT], evaluated.predicted[JOINT]
    if not len(truth):
        return None
    names = np.array([" · ".join(parts) for parts in joint_parts(data.space)], dtype=object)
    counts = class_counts(truth, predicted, size)
    wrong = confusion_matrix(truth, predicted, labels=range(size))
    np.fill_diagonal(wrong, 0)
    shares = {"precision": counts.precision, "recall": counts.recall, "f1": counts.f1}
    table = pd.DataFrame({"name": names, "images": counts.true, **shares})
    table["groups"] = evaluated.images["group"].groupby(truth).nunique().reindex(range(size), fill_value=0)
    table["rival"] = np.where(wrong.any(axis=1), names[wrong.argmax(axis=1)], "")
    table["rival_share"] = wrong.max(axis=1) / np.maximum(counts.true, 1)
    present = table[np.isin(np.arange(size), [truth, predicted])].sort_values("f1", kind="stable")
    rows = present.head(MAX_CLASSES).to_dict("records")
    return {"rows": rows, "left_out": len(present) - len(rows), "absent": size - len(present)}


def calibration(data: RunData) -> Section:
    """How far the ensemble's confidence in its joint class can be believed."""
    evaluated = data.evaluated
    if not len(evaluated.images):
        return None
    confidence = evaluated.probabilities.max(axis=1)
    correct = evaluated.predicted[JOINT] == evaluated.truth[JOINT]
    bins = reliability(confidence, correct)
    return {
        "ece": expected_calibration_error(bins),
        "bins": len(bins),
        "confidence": float(confidence.mean()),
        "accuracy": float(correct.mean()),
        "hard": counts_votes(data.vote, data.config.vote.rule),
        "plot": plot_reliability(bins),
    }


def worst_mistakes(data: RunData) -> list[dict[str, Any]]:
    """The wrongly predicted images whose true joint class got the least probability, the worst first."""
    evaluated, parts = data.evaluated, joint_parts(data.space)
    truth, predicted = evaluated.truth[JOINT], evaluated.predicted[JOINT]
    of_truth = evaluated.probabilities[np.arange(len(truth)), truth]
    wrong = np.flatnonzero(truth != predicted)
    worst = wrong[np.argsort(of_truth[wrong], kind="stable")][:MAX_MISTAKES]
    thumbnails = data.thumbnails(evaluated.images["path"].iloc[worst].tolist())
    return [
        {
            "image_id": str(evaluated.images["image_id"].iloc[row]),
            "thumbnail": picture,
            "probability": float(of_truth[row]),
            "parts": list(zip(parts[truth[row]], parts[predicted[row]], strict=True)),
        }
        for row, picture in zip(worst, thumbnails, strict=True)
    ]


def fold_table(data: RunData) -> Section:
    """Images and groups of each fold, and the groups of each joint class in it beside an even share."""
    manifest, size = data.manifest, data.space.joint_size
    if manifest.empty:
        return None
    groups = manifest.groupby(["fold", label_column(JOINT)])["group"].nunique().unstack(fill_value=0)
    counts = groups.reindex(columns=range(size), fill_value=0)
    even = np.maximum(counts[counts.index >= 0].mean().to_numpy(), 1e-9)
    rows = []
    for fold, of_classes in zip(counts.index.tolist(), counts.to_numpy(), strict=True):
        images = manifest[manifest["fold"] == fold]
        cells = [{"count": int(n), "share": n / e} for n, e in zip(of_classes, even, strict=True)]
        rows.append({"fold": fold, "images": len(images), "groups": images["group"].nunique(), "cells": cells})
    return {"rows": rows, "levels": class_heads(data.space, JOINT) if size <= MAX_CLASSES else [], "size": size}


def wall_time(data: RunData) -> dict[str, Any]:
    """Seconds by stage, and what came through the stream by member."""
    timings = read_timings(data.run)
    total = max(sum(timings.values()), 1e-9)
    stages = [{"name": name, "time": duration(seconds), "share": seconds / total} for name, seconds in timings.items()]
    epochs = data.history.reindex(columns=["member", "images_per_second", "waiting"]).dropna()
    by_member = epochs.groupby("member", sort=False).agg(rate=("images_per_second", "median"), waiting=("waiting", "mean"))
    throughput = by_member.reset_index(names="name").to_dict("records")
    return {"stages": stages, "total": duration(total), "throughput": throughput, "fastest": by_member["rate"].max()}


def set_aside(data: RunData) -> Section:
    """Images that were not used, by reason."""
    rejected = data.rejected
    first = rejected.head(MAX_REJECTED).to_dict("records")
    reasons = rejected["reason"].value_counts().to_dict()
    return {"reasons": reasons, "images": first, "all": len(rejected)} if first else None


def predicted_classes(data: RunData) -> Section:
    """Shares of the joint classes in the test set as predicted, and in the training set as labelled."""
    predictions = data.predictions
    if predictions.empty:
        return None
    space, labels = data.space, data.manifest[label_column(JOINT)]
    readable, labels = predictions[predictions["problem"].fillna("") == ""], labels[labels != UNLABELLED]
    table = pd.DataFrame({"name": [" · ".join(parts) for parts in joint_parts(space)]})
    table["count"] = np.bincount(readable[JOINT].to_numpy(np.int64), minlength=space.joint_size)
    table["predicted"] = table["count"] / max(len(readable), 1)
    table["trained"] = np.bincount(labels.to_numpy(np.int64), minlength=space.joint_size) / max(len(labels), 1)
    frequent = (table["predicted"] + table["trained"]).nlargest(MAX_CLASSES).index.sort_values()
    return {
        "rows": table.loc[frequent].to_dict("records"),
        "most": max(table["predicted"].max(), table["trained"].max(), 1e-9),
        "images": len(predictions),
        "unreadable": len(predictions) - len(readable),
        "left_out": len(table) - len(frequent),
    }
