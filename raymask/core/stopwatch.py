"""A display that remembers when work got on, so that its speed is known apart from the start-up before it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from raymask.core.console import Counter, Display

Clock = Callable[[], float]


class Stopwatch(Display):
    """Shows what another display shows.

    Args:
        display: whose console is spoken to.
        clock: seconds.
    """

    def __init__(self, display: Display, clock: Clock = time.monotonic) -> None:
        super().__init__(display.console)
        self.clock = clock
        self.counted: dict[str, float] = defaultdict(float)
        """Seconds from the first report of counted work to the last, by stage."""
        self.reported: list[tuple[float, dict[str, Any]]] = []
        """When each report of a trial came."""

    @contextmanager
    def counting(self, stage: str, unit: str) -> Iterator[Counter]:
        """See `Display`."""
        first: float | None = None
        last = 0.0

        with super().counting(stage, unit) as count:

            def timed(done: int, in_all: int) -> None:
                nonlocal first, last
                last = self.clock()
                first = last if first is None else first
                count(done, in_all)

            yield timed
        if first is not None:
            self.counted[stage] += last - first

    @contextmanager
    def training(self, replicas_of: Mapping[str, Sequence[str]]) -> Iterator[Callable[[dict[str, Any]], None]]:
        """See `Display`."""
        with super().training(replicas_of) as show:

            def timed(report: dict[str, Any]) -> None:
                self.reported.append((self.clock(), report))
                show(report)

            yield timed

    def packs(self) -> list[tuple[float, float, float]]:
        """When each pack that went to its end began, had trained all its epochs, and had predicted its own folds."""
        times: dict[str, dict[str, float]] = defaultdict(dict)
        for when, report in self.reported:
            phase = "trained" if report["phase"] == "training" and report["share"] >= 1 else report["phase"]
            times[report["pack"]][phase] = when
        return [
            (of_pack["starting"], of_pack["trained"], of_pack["done"])
            for of_pack in times.values()
            if {"starting", "trained", "done"} <= of_pack.keys()
        ]


def side_by_side(spans: Sequence[tuple[float, float]]) -> int:
    """The most spans of time that overlap.

    Example:
        >>> side_by_side([(0, 2), (1, 3), (2, 4)])
        2
    """
    events = sorted([(end, -1) for _, end in spans] + [(begin, 1) for begin, _ in spans])
    here = most = 0
    for _, change in events:
        here += change
        most = max(most, here)
    return most
