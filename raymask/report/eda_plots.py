"""Histograms of the page about a data set. No name of a stranger is drawn: classes are named beside them."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raymask.core.types import Labels
from raymask.report.plots import GOOD, INK, PLOT_STYLE, SOFT, WARM, inline_svg

MOST_BINS = 60
SHADES: tuple[tuple[str, str, float], ...] = (
    (GOOD, "good", 0.95),
    (WARM, "warm", 0.95),
    (SOFT, "grey", 0.85),
    (GOOD, "good", 0.45),
    (WARM, "warm", 0.45),
    (SOFT, "grey", 0.4),
)
"""Colour in the plot, the page's class of the same, and opacity, of each class of a stacked histogram."""

Numbers = npt.NDArray[np.float64]


def bins_of(values: Numbers) -> Numbers:
    """Edges of at most `MOST_BINS` bins of equal width; of whole numbers each bin holds as many of them.

    Example:
        >>> bins_of(np.array([18.0, 20.0, 21.0])).tolist()
        [17.5, 18.5, 19.5, 20.5, 21.5]
    """
    low, high = float(values.min()), float(values.max())
    if np.equal(values, np.round(values)).all():
        width = max(1.0, np.ceil((high - low + 1) / MOST_BINS))
        return np.asarray(low - 0.5 + width * np.arange(np.ceil((high - low + 1) / width) + 1), np.float64)
    if np.nextafter(low, np.inf) >= high:
        return np.array([low - 0.5, high + 0.5])
    return np.linspace(low, high, min(MOST_BINS, max(8, round(np.sqrt(len(values))))) + 1)


def plot_numbers(values: Numbers, labels: Labels, classes: int, edges: Sequence[float], name: str, unit: str) -> Markup:
    """How often each number is there, stacked by class, and where it is cut into bands.

    Args:
        values: (N,) finite numbers.
        labels: (N,) classes, no more than there are `SHADES`.
        classes: how many there are.
        edges: of the bands.
        name: of the task, which is a word.
        unit: what is counted.
    """
    bins = bins_of(values)
    with matplotlib.rc_context(PLOT_STYLE):
        figure, axes = _figure()
        below = np.zeros(len(bins) - 1)
        for label in range(classes):
            colour, _, opacity = SHADES[label]
            counts = np.histogram(values[labels == label], bins)[0]
            axes.bar(bins[:-1], counts, np.diff(bins) * 0.92, below, align="edge", color=colour, alpha=opacity)
            below += counts
        for edge in edges:
            axes.axvline(edge, color=INK, linewidth=0.8, linestyle=":")
        axes.set(xlabel=name, ylabel=unit)
        return inline_svg(figure, f"{unit} by {name}")


def plot_images_a_group(sizes: Numbers) -> Markup:
    """How many groups have how many images, from the number of each group's."""
    with matplotlib.rc_context(PLOT_STYLE):
        figure, axes = _figure()
        bins = bins_of(sizes)
        axes.bar(bins[:-1], np.histogram(sizes, bins)[0], np.diff(bins) * 0.92, align="edge", color=GOOD, alpha=0.75)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set(xlabel="images of a group", ylabel="groups")
        return inline_svg(figure, "Groups by their number of images")


def plot_shares(train: Numbers, test: Numbers, label: str) -> Markup:
    """The share of training images, and of test images, in each bin of a number that both have."""
    bins = bins_of(np.concatenate([train, test]))
    with matplotlib.rc_context(PLOT_STYLE):
        figure, axes = _figure()
        shares = np.histogram(train, bins)[0] / len(train)
        axes.bar(bins[:-1], shares, np.diff(bins) * 0.92, align="edge", color=GOOD, alpha=0.75)
        if len(test):
            axes.stairs(np.histogram(test, bins)[0] / len(test), bins, color=WARM, linewidth=1.6)
        axes.set(xlabel=label, ylabel="share of images")
        return inline_svg(figure, f"Images by {label}")


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 2.6))
    figure.subplots_adjust(left=0.12, right=0.98, top=0.96, bottom=0.19)
    return figure, figure.subplots()
