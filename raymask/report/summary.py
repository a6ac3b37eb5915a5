"""What a run says at its end: scores, times and files."""

from __future__ import annotations

from raymask.core.console import Display, duration
from raymask.core.tasks import JOINT, LabelSpace
from raymask.metrics.scores import Scores
from raymask.report.run_report import build_report
from raymask.runs.directory import Run
from raymask.runs.timings import read_timings


def summarise(run: Run, space: LabelSpace, scores: Scores, seconds: float, display: Display) -> None:
    """Writes the report and shows what came of the run."""
    for sentence in build_report(run):
        display.warn(sentence)
    targets = [*space.names, JOINT] if len(space.names) > 1 else [*space.names]
    columns = ["", *(f"{target} {kind}" for target in targets for kind in ("F1", "acc"))]
    rows = [
        [name, *(f"{of_member[t][kind]:.4f}" if t in of_member else "-" for t in targets for kind in ("f1", "accuracy"))]
        for name, of_member in scores.items()
    ]
    display.table("Out-of-fold scores (macro-F1 and accuracy)", columns, rows)
    timings = read_timings(run)
    display.table("Wall time", [*timings, "this command"], [[*map(duration, timings.values()), duration(seconds)]])
    names = [path for path in (run.submission, run.predictions, run.report, run.ensemble, run.rejected) if path.exists()]
    display.table("Files", ["", ""], [[path.name, str(path)] for path in names])
