"""The picture of a learning-rate range test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from raymask.io.atomic import replacing
from raymask.report.bakeoff import CHOSEN, INK, STYLE


def write_plot(lr: Sequence[float], loss: Sequence[float], suggested: float, file: Path) -> None:
    """Writes the smoothed loss against the learning rate, with the suggested one marked, as a PNG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(lr, loss, color=INK, linewidth=1.5)
        axes.axvline(suggested, color=CHOSEN, linewidth=1.2, linestyle="--")
        axes.annotate(
            f"{suggested:.2g}", (suggested, max(loss)), (5, -8), textcoords="offset points", color=CHOSEN, fontweight="bold"
        )
        axes.set(xscale="log", xlabel="learning rate of the heads (logarithmic)", ylabel="training loss, smoothed")
        axes.set_title("Learning-rate range test: the loss falls the most steeply at the dashed line", loc="left")
        with replacing(file) as draft:
            figure.savefig(draft, format="png", dpi=150)
