"""What every command has around it: its result, and the one sentence that a failure ends in."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raymask.core.endings import log_of
from raymask.core.errors import GOES_ON, InputError, RunError, is_full, reason
from raymask.io.atomic import write_text
from raymask.runs.directory import Run

if TYPE_CHECKING:
    from raymask.metrics.scores import Scores


@dataclass(frozen=True)
class Result:
    """What a run left behind."""

    run: Run
    scores: Scores
    """Out-of-fold scores by member (and `ensemble`) and target."""


@contextmanager
def ray_errors(folder: Path, again: str = GOES_ON) -> Iterator[None]:
    """Turns what Ray raises, and a full disk, into one sentence, the whole of it being kept in a file.

    Args:
        folder: where the file is written.
        again: what is said of starting the command again.
    """
    try:
        yield
    except Exception as error:
        cause = getattr(error, "cause", None)  # what was raised inside a task of Ray
        if isinstance(cause, InputError | RunError):
            raise type(cause)(str(cause)) from error
        if not type(error).__module__.startswith("ray.") and not is_full(error):
            raise
        log = str(folder / "error.log")
        try:
            write_text(Path(log), "".join(traceback.format_exception(error)))
        except OSError:  # the disk may be full
            log = log_of(error)
        message = f"a part of the run failed ({reason(error, folder)}); all that is known lies in {log}"
        raise RunError(f"{message}. Once its cause is gone, {again}.") from error
