"""What a run shows: live tables and progress bars on a terminal, plain lines elsewhere (CI, job logs)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

SECONDS_BETWEEN_LINES = 10.0
WIDTH_OF_LOGS = 200
Counter = Callable[[int, int], None]


class _Console(Console):
    """A console that says by an error when nobody reads it any more, where rich would end the process."""

    def on_broken_pipe(self) -> None:
        """Called in the handler of a `BrokenPipeError`."""
        raise  # noqa: PLE0704


class Display:
    """Speaks to one console; `live` is whether it is a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or _Console(highlight=False)
        self.live = self.console.is_terminal and not self.console.is_dumb_terminal
        if not self.live:
            self.console.width = WIDTH_OF_LOGS

    def line(self, stage: str, text: str) -> None:
        """One line of the run's story."""
        self.console.print(Text.assemble((f"{stage:>8}  ", "bold cyan"), text))

    def warn(self, text: str) -> None:
        """Something the user should know of, without which the run goes on."""
        self.console.print(Text.assemble((f"{'note':>8}  ", "bold yellow"), text))

    @contextmanager
    def counting(self, stage: str, unit: str) -> Iterator[Counter]:
        """Progress of work of a known size: yields a function of (done, in all)."""
        if not self.live:
            yield self._counting_lines(stage, unit)
            return
        bar = Progress(
            TextColumn(f"[bold cyan]{stage:>8}[/]  {unit}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        with bar:
            task = bar.add_task(stage, total=None)
            yield lambda done, in_all: bar.update(task, completed=done, total=in_all)

    def _counting_lines(self, stage: str, unit: str) -> Counter:
        last = time.monotonic()
        first: tuple[float, int] | None = None  # the rate counts from the first report, not from the start-up before it

        def count(done: int, in_all: int) -> None:
            nonlocal last, first
            now = time.monotonic()
            first = first or (now, done)
            if done < in_all and now - last >= SECONDS_BETWEEN_LINES:
                last = now
                left = (now - first[0]) / max(1, done - first[1]) * (in_all - done)
                to_go = f", {duration(left)} to go" if done > first[1] else ""
                self.line(stage, f"{done} of {in_all} {unit}{to_go}")

        return count

    @contextmanager
    def training(self, replicas_of: Mapping[str, Sequence[str]]) -> Iterator[Callable[[dict[str, Any]], None]]:
        """The fold models while they are trained: yields a function that takes the trials' reports.

        Args:
            replicas_of: names of the fold models of each pack.
        """
        board = Board(replicas_of)
        if not self.live:
            yield lambda report: self._training_line(board, report)
            return
        with Live(
            console=self.console, refresh_per_second=4, transient=True, get_renderable=lambda: board.table(self.console.height)
        ):
            yield board.take

    def _training_line(self, board: Board, report: dict[str, Any]) -> None:
        board.take(report)
        now = time.monotonic()
        ended = report["share"] >= 1 and report["phase"] == "training"
        if report["phase"] in ("starting", "done") or not (ended or now - board.last_line >= SECONDS_BETWEEN_LINES):
            return
        board.last_line = now
        self.line("train", board.sentence(report["pack"]))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table, its first column on the left."""
        self.console.print()
        self.console.print(plain_table(title, columns, rows))


def plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], one_line: bool = False) -> Table:
    """A rich table of strings; where the console is too narrow, cells are folded, or cut to keep each row on one line."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for index, column in enumerate(columns):
        table.add_column(
            column,
            justify="left" if index == 0 else "right",
            no_wrap=one_line,
            overflow="ellipsis" if one_line else "fold",
        )
    for row in rows:
        table.add_row(*map(Text, row))  # not as markup: a path may hold [brackets]
    return table


class Board:
    """The latest of what each pack and fold model reported."""

    def __init__(self, replicas_of: Mapping[str, Sequence[str]]) -> None:
        self.replicas_of = replicas_of
        self.packs: dict[str, dict[str, Any]] = {}
        self.metrics: dict[str, dict[str, Any]] = {}
        self.began: dict[tuple[str, str], tuple[float, float]] = {}
        self.forecast: dict[str, float] = {}
        """When a pack will have ended, as its last report has it."""
        self.last_line = time.monotonic()

    def take(self, report: dict[str, Any]) -> None:
        """Takes one report of a trial, see `raymask.training.reporting.Reporter`."""
        pack = report["pack"]
        self.packs[pack] = {**self.packs.get(pack, {}), **report}
        now = time.monotonic()
        self.began.setdefault((pack, report["phase"]), (now, report["share"]))
        self.forecast.pop(pack, None)
        if "seconds_left" in report:
            self.forecast[pack] = now + report["seconds_left"]
        self.metrics.update(report.get("replicas", {}))

    def remaining(self, pack: str) -> float | None:
        """Seconds that a pack still needs, None while nothing is known; by its rate until it makes a forecast of its own."""
        report = self.packs.get(pack)
        if report is None or report["phase"] in ("starting", "done"):
            return None
        if pack in self.forecast:
            return max(0.0, self.forecast[pack] - time.monotonic())
        began, share_then = self.began[pack, report["phase"]]
        gained = report["share"] - share_then
        return (time.monotonic() - began) / gained * (1 - report["share"]) if gained > 0 else None

    def sentence(self, pack: str) -> str:
        """One line about a pack."""
        report, names = self.packs[pack], self.replicas_of[pack]
        parts = [f"{pack} ({len(names)} models)"]
        parts.append(f"epoch {report['share'] * report['epochs']:.1f}/{report['epochs']}".replace(".0/", "/"))
        known = [self.metrics[name] for name in names if name in self.metrics]
        validated = [metrics for metrics in known if not math.isnan(metrics["loss"])]
        if validated:
            loss, f1 = (sum(metrics[key] for metrics in validated) / len(validated) for key in ("loss", "f1"))
            parts.append(f"mean loss {loss:.3f}, mean F1 {f1:.3f}")
        elif known:
            parts.append(f"mean train loss {sum(metrics['train_loss'] for metrics in known) / len(known):.3f}")
        if "images_per_second" in report:
            parts.append(f"{report['images_per_second']:.0f} images/s, {report['waiting']:.0%} waiting")
        left = self.remaining(pack)
        if left is not None and report["share"] < 1:
            parts.append(f"{duration(left)} to go")
        return ": ".join([parts[0], ", ".join(parts[1:])])

    def table(self, height: int) -> RenderableType:
        """All fold models, the finished ones left out when there is no room."""
        rows = [row for pack in self.replicas_of for row in self._rows(pack)]
        room = max(4, height - 6)
        hidden = 0
        if len(rows) > room:
            unfinished = [row for row in rows if row[-1] != "done"]
            hidden = len(rows) - len(unfinished[:room])
            rows = unfinished[:room]
        columns = ("model", "pack", "epoch", "train loss", "loss", "F1", "accuracy", "images/s", "waiting", "ETA")
        table = plain_table("", columns, rows, one_line=True)
        return Group(table, Text(f"… and {hidden} more", style="dim")) if hidden else table

    def _rows(self, pack: str) -> Iterator[tuple[str, ...]]:
        report = self.packs.get(pack)
        phase = report["phase"] if report else "waiting"
        left = self.remaining(pack)
        eta = phase if phase in ("waiting", "starting", "done") else duration(left) if left is not None else "…"
        for name in self.replicas_of[pack]:
            metrics = self.metrics.get(name)
            epoch = f"{metrics['epoch']}/{report['epochs']}" if metrics and report else "-"
            numbers = [_number(metrics[key]) if metrics else "-" for key in ("train_loss", "loss", "f1", "accuracy")]
            rates = ("-", "-")
            if report and "images_per_second" in report:
                rates = (f"{report['images_per_second']:.0f}", f"{report['waiting']:.0%}")
            yield (name, pack, epoch, *numbers, *rates, eta)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def duration(seconds: float) -> str:
    """`0:42`, `12:05` or `3:07:11`."""
    text = str(timedelta(seconds=round(seconds)))
    return text.removeprefix("0:").removeprefix("0") if text.startswith("0:") else text
