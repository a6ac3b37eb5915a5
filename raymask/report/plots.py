"""The report's plots, as SVG that takes the page's colours."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator

INK, SOFT, LINE, GOOD, WARM = (f"#00000{number}" for number in range(1, 6))
THEME = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)", GOOD: "rgb(var(--good))", WARM: "rgb(var(--warm))"}
"""Colours that plots are drawn in, and the page's that take their place, so that plots follow light and dark."""

PLOT_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "raymask",
    "font.sans-serif": ["DejaVu Sans"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.labelsize": 8,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    **{f"{axis}tick.{key}": value for axis in "xy" for key, value in {"color": SOFT, "labelsize": 8, "major.size": 0}.items()},
}


def plot_curves(history: pd.DataFrame, f1_range: tuple[float, float]) -> Markup:
    """Loss and F1 against the epoch: a thin line a fold, and their mean."""
    with matplotlib.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(3.4, 3.8))
        figure.subplots_adjust(left=0.11, right=0.88, top=0.94, bottom=0.11, hspace=0.26)
        losses, f1 = figure.subplots(2, 1, sharex=True)
        ends = [draw_folds(losses, history, "train_loss", WARM, "--"), draw_folds(losses, history, "loss", GOOD, "-")]
        for end, beside in zip(sorted(ends, key=lambda end: end.xy[1]), ("top", "bottom"), strict=True):
            end.set(va=beside)
        draw_folds(f1, history, "f1", GOOD, "-")
        losses.set_title("Loss")
        f1.set(title="Macro-F1", xlabel="epoch", ylim=f1_range)
        f1.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return inline_svg(figure, "Loss and macro-F1 by epoch")


def draw_folds(axes: Axes, history: pd.DataFrame, column: str, colour: str, style: str) -> Annotation:
    """Draws a thin line a fold, their mean, and the mean's last value, which is returned."""
    marker = "o" if history["epoch"].nunique() == 1 else ""
    for _, of_fold in history.groupby("fold"):
        axes.plot(of_fold["epoch"], of_fold[column], style, color=colour, alpha=0.35, linewidth=0.7, marker=marker, markersize=2)
    mean = history.groupby("epoch")[column].mean()
    axes.plot(mean.index, mean, style, color=colour, linewidth=1.8, marker=marker, markersize=4, clip_on=False)
    last = (float(mean.index[-1]), float(mean.iloc[-1]))
    return axes.annotate(f"{last[1]:.2f}", last, (4, 0), textcoords="offset points", color=colour, va="center", fontsize=8)


def plot_reliability(bins: pd.DataFrame) -> Markup:
    """Accuracy and mean confidence of each bin against the diagonal, over the number of images in it."""
    with matplotlib.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(4.4, 4.4))
        figure.subplots_adjust(left=0.13, right=0.96, top=0.98, bottom=0.11, hspace=0.08)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        middle, width = (bins["low"] + bins["high"]) / 2, 0.92 / len(bins)
        upper.bar(middle, bins["accuracy"], width, color=GOOD, alpha=0.75)
        upper.vlines(middle, bins["accuracy"], bins["confidence"], color=WARM, linewidth=1)
        upper.hlines(bins["confidence"], middle - width / 2, middle + width / 2, color=WARM, linewidth=2.2)
        upper.plot([0, 1], [0, 1], ":", color=SOFT, linewidth=1)
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right")
        lower.bar(middle, bins["images"], width, color=SOFT, alpha=0.5)
        lower.set(xlabel="confidence", ylabel="images")
        lower.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        return inline_svg(figure, "Share of right predictions by confidence")


def plot_calibration(before: pd.DataFrame, after: pd.DataFrame) -> Markup:
    """Accuracy against mean confidence of the bins that hold an image, before and after calibration; areas are images."""
    with matplotlib.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(2.6, 2.4))
        figure.subplots_adjust(left=0.15, right=0.96, top=0.96, bottom=0.17)
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], ":", color=SOFT, linewidth=1)
        for bins, colour, style in ((before, WARM, "--"), (after, GOOD, "-")):
            axes.plot(bins["confidence"], bins["accuracy"], style, color=colour, linewidth=1.2)
            areas = 4 + 60 * bins["images"] / max(bins["images"].sum(), 1)
            axes.scatter(
                bins["confidence"], bins["accuracy"], areas, color=colour, alpha=0.75, linewidths=0, zorder=3, clip_on=False
            )
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        return inline_svg(figure, "Share of right predictions by confidence, before and after calibration")


def inline_svg(figure: Figure, label: str) -> Markup:
    """A figure as an SVG element in the page's colours, without anything that reaches beyond it."""
    written = io.StringIO()
    figure.savefig(written, format="svg", transparent=True)
    _, start, drawing = written.getvalue().partition('<g id="figure_1">')
    for drawn, of_page in THEME.items():
        drawing = drawing.replace(drawn, of_page)
    width, height = figure.get_size_inches() * 72
    return Markup(f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{label}">{start}{drawing}')
