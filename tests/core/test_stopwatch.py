"""Tests of the display that remembers when work got on."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from raymask.core.console import Display
from raymask.core.stopwatch import Stopwatch, side_by_side


def watch_at(*seconds: float) -> Stopwatch:
    times: Iterator[float] = iter(seconds)
    return Stopwatch(Display(Console(file=io.StringIO())), clock=lambda: next(times))


def test_counted_work_is_timed_from_its_first_report_on() -> None:
    watch = watch_at(3, 5, 9, 100, 104, 200)
    with watch.counting("embed", "features") as count:
        for done in (10, 20, 30):
            count(done, 30)
    for _ in range(1):
        with watch.counting("embed", "features") as count:
            count(1, 2)
            count(2, 2)
    with watch.counting("predict", "images") as count:
        count(5, 5)
    with watch.counting("prepare", "images"):
        pass
    assert dict(watch.counted) == {"embed": 6 + 4, "predict": 0}


def test_packs_are_timed_by_their_reports() -> None:
    watch = watch_at(1, 2, 4, 6, 7, 8, 9)
    with watch.training({"a": ["m/fold-0"], "b": ["m/fold-1"]}) as take:
        for pack, phase, share in (
            ("a", "starting", 0.0),
            ("a", "training", 0.5),
            ("b", "starting", 0.0),
            ("a", "training", 1.0),
            ("b", "training", 0.5),
            ("a", "done", 1.0),
            ("b", "training", 1.0),
        ):
            take({"pack": pack, "phase": phase, "share": share, "epochs": 2})
    assert watch.packs() == [(1, 6, 8)], "the other never came to its end"


@pytest.mark.parametrize(
    ("spans", "most"),
    [([], 0), ([(0, 1)], 1), ([(0, 1), (1, 2), (2, 3)], 1), ([(0, 9), (1, 2), (3, 4)], 2), ([(0, 3), (1, 4), (2, 5)], 3)],
)
def test_spans_that_only_touch_are_not_side_by_side(spans: list[tuple[float, float]], most: int) -> None:
    assert side_by_side(spans) == most
