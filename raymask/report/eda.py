"""A data set as one page: what is in it, what it looks like, and what of it would deceive."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from raymask.core.columns import value_column
from raymask.core.errors import legible
from raymask.core.tasks import JOINT, UNLABELLED, LabelSpace, Task
from raymask.core.types import Labels
from raymask.data.fold_tables import FoldTable
from raymask.data.folds import TRAIN_ONLY
from raymask.data.near_duplicates import BITS, RADIUS, NearDuplicates
from raymask.data.survey import THUMBNAIL
from raymask.report.eda_data import Explored, Part
from raymask.report.eda_findings import findings
from raymask.report.eda_plots import SHADES, plot_images_a_group, plot_numbers, plot_shares
from raymask.report.pages import page_template

MARK = '<meta name="generator" content="raymask eda">'
"""Near the beginning of every page, by which it is known as one that may be replaced."""
SIDE, QUALITY = 96, 80
"""Of the pictures on the page, in pixels; and of their JPEGs."""
MOST_PICTURES = 400
PICTURES_A_CLASS = 8
MOST_CLASSES = 60
"""That are listed by name."""
MOST_CROSSTABS, MOST_CELLS = 15, 400
MOST_SIZES = 8
MOST_ROWS = 200
"""Of images that are set aside."""


def render_eda(explored: Explored) -> str:
    """The page of a data set."""
    space, labels, leak = explored.space, explored.labels, explored.leak
    return page_template("eda.html.j2").render(
        mark=MARK,
        name=legible(explored.name),
        facts=_facts(explored),
        findings=[legible(finding) for finding in findings(explored)],
        classes=[_class_bars(target, space, labels[target], explored.groups) for target in (*space.names, JOINT)],
        crosstabs=list(_crosstabs(space, labels, explored.groups)),
        numbers=[plot for task in space.tasks if task.edges and (plot := _numbers(explored, task))],
        images_a_group=_images_a_group(explored.groups),
        sizes=[_sizes(what, part) for what, part in _parts(explored)],
        shares=_shares(_parts(explored)),
        has_test=len(_parts(explored)) > 1,
        normalize=_normalize(explored.statistics),
        seen="×".join(str(side) for side in reversed(_seen(explored))),
        sheets=_sheets(explored),
        duplicates=_duplicates(explored),
        radius=RADIUS,
        bits=BITS,
        thumbnail=THUMBNAIL,
        schemes=[_scheme(table, explored) for table in explored.folds],
        chosen=_chosen(explored),
        leak={"images": leak.images, "problem": leak.problem, "scores": leak.scores},
        grouped=explored.grouped,
        aside=_aside(explored),
    )


def _seen(explored: Explored) -> tuple[int, int]:
    return explored.config.recipe.height_width


def _parts(explored: Explored) -> list[tuple[str, Part]]:
    parts = [("training", explored.train), ("test", explored.test)]
    return [(what, part) for what, part in parts if part is not None and len(part)]


def _shares(parts: Sequence[tuple[str, Part]]) -> dict[str, str]:
    """Histograms of what training and test images have; none of what is one number for all."""
    surveys = [part.survey for _, part in parts]
    values = {
        "aspect": ("width by height", [survey.widths / survey.heights for survey in surveys]),
        "brightness": ("mean grey value, of 255", [survey.brightness for survey in surveys]),
        "contrast": ("deviation of the grey values", [survey.contrast for survey in surveys]),
    }
    plots = {}
    for title, (label, of_parts) in values.items():
        differ = len(np.unique(np.concatenate(of_parts))) > 1
        plots[title] = plot_shares(of_parts[0], of_parts[1] if len(of_parts) > 1 else np.zeros(0), label) if differ else ""
    return plots


def _groups_in_words(groups: Labels) -> str:
    sizes = np.unique(groups, return_counts=True)[1]
    if sizes.max() == 1:
        return "none are named: each image is one of its own"
    images = f"{sizes.min()}" if sizes.min() == sizes.max() else f"{sizes.min()} to {sizes.max()}"
    return f"{len(sizes):,} of {images} images each"


def _facts(explored: Explored) -> dict[str, str]:
    present = len(np.unique(explored.joint))
    test = f"{len(explored.test):,}" if explored.test else "none"
    return {
        "training images": f"{len(explored.train):,}",
        "groups": _groups_in_words(explored.groups),
        "tasks": ", ".join(f"{task.name} ({len(task.classes)})" for task in explored.space.tasks),
        "joint classes with images": f"{present} of {explored.space.joint_size}",
        "test images": test,
        "set aside": f"{len(explored.set_aside) + len(explored.unreadable_test):,}",
        "data": legible(explored.where),
    }


def _class_bars(target: str, space: LabelSpace, labels: Labels, groups: Labels) -> dict[str, Any]:
    """Images and groups of the classes; the largest where there are many."""
    names = space.classes(target)
    counts = np.bincount(labels, minlength=len(names))
    of_class = _groups_by(labels, groups, len(names))
    shown = np.arange(len(names))
    if len(names) > MOST_CLASSES:
        shown = np.sort(np.argsort(-counts, kind="stable")[:MOST_CLASSES])
    rows = [
        {
            "name": legible(names[label]),
            "images": int(counts[label]),
            "groups": int(of_class[label]),
            "share": counts[label] / max(1, len(labels)),
            "bar": counts[label] / max(1, counts.max()),
        }
        for label in shown.tolist()
    ]
    return {"target": target, "rows": rows, "more": len(names) - len(rows)}


def _images_a_group(groups: Labels) -> str:
    """A plot, where groups differ in it."""
    sizes = np.unique(groups, return_counts=True)[1]
    return plot_images_a_group(sizes.astype(np.float64)) if sizes.min() < sizes.max() else ""


def _groups_by(labels: Labels, groups: Labels, classes: int) -> Labels:
    """(C,) groups that have an image of each class."""
    pairs = np.unique(np.stack([labels, groups]), axis=1)
    return np.bincount(pairs[0], minlength=classes)


def _crosstabs(space: LabelSpace, labels: Mapping[str, Labels], groups: Labels) -> Iterator[dict[str, Any]]:
    """Images of each two classes of every two tasks, but for tables that are too large to read."""
    pairs = [pair for pair in combinations(space.tasks, 2) if len(pair[0].classes) * len(pair[1].classes) <= MOST_CELLS]
    for rows, columns in pairs[:MOST_CROSSTABS]:
        size = (len(rows.classes), len(columns.classes))
        cells = np.ravel_multi_index((labels[rows.name], labels[columns.name]), size)
        counts = np.bincount(cells, minlength=size[0] * size[1]).reshape(size)
        of_cell = _groups_by(cells, groups, counts.size).reshape(size)
        yield {
            "rows": rows.name,
            "columns": columns.name,
            "names": [legible(name) for name in columns.classes],
            "table": [
                {
                    "name": legible(name),
                    "cells": [
                        {"images": int(images), "groups": int(several), "shade": images / max(1, counts.max())}
                        for images, several in zip(counts[place], of_cell[place], strict=True)
                    ],
                    "images": int(counts[place].sum()),
                }
                for place, name in enumerate(rows.classes)
            ],
        }


def _numbers(explored: Explored, task: Task) -> dict[str, Any] | None:
    """The numbers behind a task, coloured by another: by groups, where a group has but one number."""
    column = value_column(task.name)
    values = explored.train.images[column].to_numpy(np.float64)
    other = _colouring(explored, task)
    labels = explored.labels[other.name] if other else np.zeros(len(values), np.int64)
    once = pd.DataFrame({"group": explored.groups, "value": values, "label": labels}).drop_duplicates()
    by_group = explored.grouped and not once["group"].duplicated().any()
    table = once if by_group else pd.DataFrame({"value": values, "label": labels})
    table = table[np.isfinite(table["value"]) & (table["label"] != UNLABELLED)]
    if table.empty:
        return None
    names = [legible(name) for name in other.classes] if other else []
    unit = "groups" if by_group else "images"
    plot = plot_numbers(table["value"].to_numpy(), table["label"].to_numpy(), max(1, len(names)), task.edges, task.name, unit)
    legend = [(name, kind, opacity) for name, (_, kind, opacity) in zip(names, SHADES, strict=False)]
    return {"plot": plot, "task": task.name, "other": other.name if other else "", "legend": legend, "unit": unit}


def _colouring(explored: Explored, task: Task) -> Task | None:
    """Another task that a histogram is coloured by: one that is the same in all images of a group, if there is any."""
    others = [other for other in explored.space.tasks if other is not task and len(other.classes) <= len(SHADES)]

    def varies(other: Task) -> bool:
        pairs = np.unique(np.stack([explored.groups, explored.labels[other.name]]), axis=1)
        return int(pairs.shape[1]) > len(np.unique(explored.groups))

    return min(others, key=varies, default=None)


def _sizes(what: str, part: Part) -> dict[str, Any]:
    """The most frequent sizes of images."""
    survey = part.survey
    counts = Counter(zip(survey.widths.tolist(), survey.heights.tolist(), strict=True))
    rows = [
        {"size": f"{width}×{height}", "images": count, "share": count / len(part)}
        for (width, height), count in counts.most_common(MOST_SIZES)
    ]
    shorter, longer = np.minimum(survey.widths, survey.heights), np.maximum(survey.widths, survey.heights)
    return {
        "what": what,
        "rows": rows,
        "more": len(counts) - len(rows),
        "shorter": _quantiles(shorter),
        "longer": _quantiles(longer),
    }


def _quantiles(values: Labels) -> str:
    low, middle, high = values.min(), np.median(values), values.max()
    return f"{low}" if low == high else f"{low} to {high}, half of them up to {middle:.0f}"


def _normalize(statistics: Sequence[float]) -> str:
    """The key of a recipe."""
    if not statistics:
        return ""
    mean, deviation = (", ".join(f"{value:.4f}" for value in part) for part in (statistics[:3], statistics[3:]))
    return f"normalize: {{mean: [{mean}], std: [{deviation}]}}"


def _uri(explored: Explored, path: str) -> str:
    content = explored.picture(path)
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}" if content else ""


def _sheets(explored: Explored) -> dict[str, Any]:
    """A few images of each joint class, each of another group where there are so many."""
    images, joint = explored.train.images, explored.joint
    classes, counts = np.unique(joint, return_counts=True)
    a_class = int(np.clip(MOST_PICTURES // len(classes), 2, PICTURES_A_CLASS))
    shown = classes[np.sort(np.argsort(-counts, kind="stable")[: MOST_PICTURES // a_class])]
    order = np.random.default_rng(explored.config.seed).permutation(len(images))
    sheets = []
    for label in shown.tolist():
        of_class = order[joint[order] == label]
        repeated = pd.Series(explored.groups[of_class]).groupby(explored.groups[of_class]).cumcount().to_numpy()
        chosen = of_class[np.argsort(repeated, kind="stable")][:a_class]
        pictures = [
            {"uri": _uri(explored, path), "id": legible(image_id)}
            for image_id, path in zip(images["image_id"].iloc[chosen], images["path"].iloc[chosen], strict=True)
        ]
        sheets.append({"name": legible(explored.space.joint_classes[label]), "images": len(of_class), "pictures": pictures})
    return {"classes": sheets, "more": len(classes) - len(shown)}


def _duplicates(explored: Explored) -> list[dict[str, Any]]:
    """Both kinds of near-duplicates."""
    across, tested = explored.compared.across_groups, explored.compared.with_test
    shown = [{"title": "Across groups of the training set", **_pairs(across, explored)}]
    if explored.test is not None and len(explored.test):
        shown.append({"title": "Across training and test", **_pairs(tested, explored)})
    return shown


def _pairs(found: NearDuplicates, explored: Explored) -> dict[str, Any]:
    nearest = [
        {"sides": [_side(pair.left, explored), _side(pair.right, explored)], "distance": pair.distance} for pair in found.nearest
    ]
    return {"pairs": found.pairs, "images": int(found.rows.sum()), "nearest": nearest}


def _side(row: int, explored: Explored) -> dict[str, str]:
    """One image of a pair; rows are those of training images, then of test images."""
    if row < len(explored.train):
        image = explored.train.images.iloc[row]
        words = explored.space.joint_classes[int(explored.joint[row])]
    else:
        assert explored.test is not None
        image, words = explored.test.images.iloc[row - len(explored.train)], "test"
    return {"uri": _uri(explored, image["path"]), "id": legible(image["image_id"]), "words": legible(words)}


def _scheme(table: FoldTable, explored: Explored) -> dict[str, Any]:
    """A line about a scheme."""
    return {
        "name": table.scheme,
        "chosen": table.scheme == explored.config.folds.scheme,
        "problem": table.problem,
        "folds": len(table.folds),
        "images": _from_to([str(count) for count in table.images], table.images),
        "groups": _from_to([str(count) for count in table.groups], table.groups),
        "unevenness": f"{max(table.unevenness, default=0):.1%}",
        "lacking": max(table.lacking, default=0),
        "split": table.split_groups,
    }


def _from_to(words: Sequence[str], numbers: Sequence[int]) -> str:
    if not numbers:
        return ""
    low, high = int(np.argmin(numbers)), int(np.argmax(numbers))
    return words[low] if numbers[low] == numbers[high] else f"{words[low]} to {words[high]}"


def _chosen(explored: Explored) -> dict[str, Any] | None:
    """The classes of each fold of the run's own scheme."""
    table = next(table for table in explored.folds if table.scheme == explored.config.folds.scheme)
    if table.problem:
        return None
    in_all = table.counts.sum(axis=0)
    labels = np.flatnonzero(in_all)
    shown = np.sort(labels[np.argsort(-in_all[labels], kind="stable")][:MOST_CLASSES])
    shares = table.counts / np.maximum(in_all, 1)
    return {
        "scheme": table.scheme,
        "folds": ["only trained on" if fold == TRAIN_ONLY else f"fold {fold}" for fold in table.folds],
        "images": table.images,
        "groups": table.groups,
        "rows": [
            {
                "name": legible(explored.space.joint_classes[label]),
                "cells": [
                    {"images": int(table.counts[fold, label]), "shade": float(shares[fold, label])}
                    for fold in range(len(table.folds))
                ],
            }
            for label in shown.tolist()
        ],
        "more": len(labels) - len(shown),
    }


def _aside(explored: Explored) -> dict[str, Any]:
    """Images that are not used, with the reasons."""
    parts = [("training", explored.set_aside), ("test", explored.unreadable_test)]
    rows = [
        {"part": part, "id": legible(image_id), "reason": legible(reason)}
        for part, table in parts
        for image_id, reason in zip(table["image_id"], table["reason"], strict=True)
    ]
    return {"rows": rows[:MOST_ROWS], "more": max(0, len(rows) - MOST_ROWS)}
