"""Backbones side by side: what heads on their features score, what they cost, and which one to fine-tune; and a picture of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from raymask.core.columns import targets_of
from raymask.core.tasks import LabelSpace
from raymask.core.types import Labels
from raymask.io.atomic import replacing
from raymask.metrics.bootstrap import Metric, compare, interval
from raymask.runs.schemas import BackboneScore, BakeOff, Interval

INK, SOFT, CHOSEN = "#222222", "#9a9a9a", "#0b6e4f"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}


@dataclass(frozen=True, eq=False)
class Probed:
    """What is known of a backbone whose heads are trained."""

    name: str
    backbone: str
    size: tuple[int, int]
    """Height and width of its images."""
    labels: Labels
    """(N,) joint labels, out of fold."""
    parameters: int
    features: int
    ms_an_image: float


def scored(
    probed: Sequence[Probed], metric: Metric, space: LabelSpace, truth: Labels, groups: Labels, seed: int
) -> list[BackboneScore]:
    """Backbones by their scores, the best first, and which of them to fine-tune.

    Those that cannot be told from the best are level with it: the interval of 95% of their difference to it, paired by group,
    reaches 0. Of these the one that takes the least time for an image is chosen.

    Args:
        probed: the backbones.
        metric: what decides.
        space: the label space.
        truth: (N,) joint labels.
        groups: (N,) numbers of groups from 0 on.
        seed: of the resamples.
    """
    labels = [of_backbone.labels for of_backbone in probed]
    targets = targets_of(space) if len(space.names) > 1 else space.names
    by_target = {target: _intervals(*compare(Metric(target, "f1"), space, truth, labels, groups, seed)) for target in targets}
    found, resampled = compare(metric, space, truth, labels, groups, seed)
    best = int(found.argmax())
    behind = _intervals(found - found[best], resampled - resampled[best])
    level = [difference.high >= 0 for difference in behind]
    chosen = min(np.flatnonzero(level).tolist(), key=lambda number: probed[number].ms_an_image)
    rows = [
        BackboneScore(
            name=one.name,
            backbone=one.backbone,
            height=one.size[0],
            width=one.size[1],
            parameters=one.parameters,
            features=one.features,
            ms_an_image=one.ms_an_image,
            scores={target: intervals[number] for target, intervals in by_target.items()},
            score=score,
            behind=behind[number],
            level=level[number],
            chosen=number == chosen,
        )
        for number, (one, score) in enumerate(zip(probed, _intervals(found, resampled), strict=True))
    ]
    return [rows[number] for number in np.argsort(-found, kind="stable").tolist()]


def _intervals(scores: Any, resampled: Any) -> list[Interval]:
    return [Interval(**interval(float(score), of_score)) for score, of_score in zip(scores, resampled, strict=True)]


def verdict(result: BakeOff) -> str:
    """Which backbone to fine-tune, and why."""
    compared = [row for row in result.rows if not row.problem]
    best, level = compared[0], [row for row in compared if row.level]
    chosen = next(row for row in compared if row.chosen)
    by = f"by {result.metric}"
    if len(level) == 1:
        why = f"it is the best {by}, and no other's difference to it may be 0 (95% intervals)"
    elif chosen.name == best.name:
        why = f"it is the best {by}, and of those whose difference to it may be 0 (95% intervals) none is faster"
    else:
        of_them = f"of {len(level)} whose difference to the best {by}, {best.name}, may be 0 (95% intervals)"
        why = f"{of_them} it is the fastest, {chosen.ms_an_image:.3g} ms an image for {best.ms_an_image:.3g}"
    return f"fine-tune {chosen.name}: {why}"


def shown(result: BakeOff) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a table for people."""
    targets = list(next(row.scores for row in result.rows if row.scores))
    columns = ["", "px", "M parameters", "features", "ms/image", *(f"{target} F1" for target in targets), "behind the best", ""]
    return columns, [_cells(row, targets) for row in result.rows]


def _cells(row: BackboneScore, targets: Sequence[str]) -> list[str]:
    size = str(row.height) if row.height == row.width else f"{row.height}×{row.width}"
    if row.behind is None:
        return [row.name, size, *["-"] * (len(targets) + 4), "cannot be had"]
    scores = [_short(row.scores[target]) for target in targets]
    verdict_of = "fine-tune it" if row.chosen else "level with the best" if row.level else ""
    costs = [f"{row.parameters / 1e6:.1f}", str(row.features), f"{row.ms_an_image:.3g}"]
    return [row.name, size, *costs, *scores, _short(row.behind), verdict_of]


def _short(score: Interval) -> str:
    return f"{score.score:.3f} ({score.low:.3f} to {score.high:.3f})"


def as_table(result: BakeOff) -> pd.DataFrame:
    """One row a backbone, for other programs."""
    return pd.DataFrame([_flat(row) for row in result.rows])


def _flat(row: BackboneScore) -> dict[str, object]:
    intervals: Mapping[str, Interval] = {
        **{f"{target}_f1": score for target, score in row.scores.items()},
        **({"behind": row.behind} if row.behind else {}),
    }
    numbers = {
        f"{name}{ending}": getattr(score, key)
        for name, score in intervals.items()
        for ending, key in (("", "score"), ("_low", "low"), ("_high", "high"))
    }
    values = row.model_dump(include={"name", "backbone", "height", "width", "parameters", "features", "ms_an_image"})
    return {**values, **numbers, "level": row.level, "chosen": row.chosen, "problem": row.problem}


def write_plot(result: BakeOff, file: Path) -> None:
    """Writes the scores with their intervals of 95% against the time an image takes, as a PNG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 4.6), layout="constrained")
        axes = figure.subplots()
        for row in (row for row in result.rows if row.score):
            assert row.score is not None
            colour = CHOSEN if row.chosen else INK if row.level else SOFT
            below, above = row.score.score - row.score.low, row.score.high - row.score.score
            axes.errorbar(
                row.ms_an_image,
                row.score.score,
                [[max(0, below)], [max(0, above)]],
                fmt="o",
                color=colour,
                elinewidth=1,
                capsize=2,
            )
            weight = "bold" if row.chosen else "normal"
            axes.annotate(
                row.name, (row.ms_an_image, row.score.score), (6, 4), textcoords="offset points", color=colour, fontweight=weight
            )
        axes.set(xscale="log", xlabel=f"ms an image on {result.device} (logarithmic)", ylabel=f"{result.metric}, out of fold")
        times = [row.ms_an_image for row in result.rows if row.score]
        axes.set_xlim(min(times) / 1.4, max(times) * 2.5)  # room for the names on the right
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(f"Heads on frozen backbones: {result.images} images of {result.groups} groups, 95% intervals", loc="left")
        with replacing(file) as draft:
            figure.savefig(draft, format="png", dpi=150)
