"""Wall times of a run's stages, in `timings.json`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from raymask.io.atomic import write_json
from raymask.io.checked import DamagedFileError, read_json
from raymask.runs.directory import Run


def add_timing(run: Run, stage: str, seconds: float) -> None:
    """Records the wall time of a stage."""
    write_json(run.timings, {**read_timings(run), stage: round(seconds, 2)})


def read_timings(run: Run) -> dict[str, float]:
    """Seconds by stage; none where they are lost, since nothing depends on them."""
    try:
        timings: dict[str, float] = read_json(run.timings, dict[str, float])
    except DamagedFileError:
        return {}
    return timings


@contextmanager
def timed(run: Run, stage: str) -> Iterator[None]:
    """Records the wall time of a stage."""
    began = time.monotonic()
    yield
    add_timing(run, stage, time.monotonic() - began)
