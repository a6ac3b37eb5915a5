"""The report's sections on doubt: how often sets hold the true class, and how unlike those of training test images are."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from raymask.core.tasks import JOINT, LabelSpace
from raymask.io.checked import DamagedFileError, read_table
from raymask.metrics.doubt import ALARM
from raymask.report.plots import GOOD, PLOT_STYLE, SOFT, inline_svg
from raymask.report.vote_sections import Section
from raymask.runs.directory import Run
from raymask.runs.schemas import Ensemble
from raymask.runs.uncertainty_schemas import CoverageRow, read_sets

BARS = 50
MAX_ROWS = 60


def sets_section(run: Run, ensemble: Ensemble, space: LabelSpace) -> Section:
    """The coverage of each target's sets, over all images, by its own classes, and on the groups held out; None without sets."""
    try:
        sets = read_sets(run.ensemble, ensemble.sets, space)
    except DamagedFileError:  # the page says of the vote that the file is damaged
        return None
    if sets is None or not sets.rows:
        return None
    parts = {"": sets.rows, "voted by group": sets.rows_by_group, "held out": sets.reserve}
    rows = [
        {
            **row.model_dump(),
            "target": space.names[0] if row.target == JOINT and len(space.names) == 1 else row.target,
            "where": where,
        }
        for name, of_part in parts.items()
        for row in of_part
        if _shown(row, space) and (where := ", ".join(filter(None, [name, row.label or "all"])))
    ]
    return {"coverage": sets.coverage, "rows": rows[:MAX_ROWS], "grouped": ensemble.groups < ensemble.images}


def _shown(row: CoverageRow, space: LabelSpace) -> bool:
    if row.target == JOINT and len(space.names) == 1:
        return False
    return row.task in ("", row.target)


def unusual_section(run: Run) -> Section:
    """The histogram of the test images' places among the training images; None without any."""
    if not run.predictions.exists():
        return None
    try:
        unusual = read_table(run.predictions, {"unusual": "finite"}, only=True)["unusual"].to_numpy()
    except DamagedFileError:  # of an older raymask, or said elsewhere on the page
        return None
    if not len(unusual):
        return None
    return {"plot": _histogram(unusual), "images": len(unusual), "count": int((unusual > ALARM).sum()), "alarm": ALARM}


def _histogram(unusual: Any) -> Markup:
    with matplotlib.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(6.4, 2.2))
        figure.subplots_adjust(left=0.09, right=0.98, top=0.96, bottom=0.2)
        axes = figure.subplots()
        counts, edges = np.histogram(unusual, BARS, (0, 1))
        axes.bar(edges[:-1], counts, 1 / BARS, align="edge", color=GOOD, alpha=0.75)
        axes.axhline(len(unusual) / BARS, color=SOFT, linewidth=1, linestyle=":")
        axes.set(xlim=(0, 1), xlabel="share of the training images that were doubted less", ylabel="test images")
        return inline_svg(figure, "Test images by their place among the training images")
