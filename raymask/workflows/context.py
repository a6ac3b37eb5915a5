"""What every command works with: the run, its config, Ray and the display; and the one sentence that a failure ends in."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from raymask.cluster.session import RaySession
from raymask.config.schema import RunConfig
from raymask.core.console import Display
from raymask.core.endings import log_of
from raymask.core.errors import GOES_ON, InputError, RunError, is_full, reason
from raymask.io.atomic import write_text
from raymask.metrics.scores import Scores
from raymask.runs.directory import ERROR_LOG, Run


@dataclass(frozen=True)
class RunContext:
    """What the steps of a command share."""

    run: Run
    """Where results are written; nothing is written into another run."""
    config: RunConfig
    session: RaySession
    """Ray, which starts when a step first needs it."""
    display: Display
    may_predict: bool = True
    """Whether what is not predicted yet may be; else it is refused."""
    option: str = "--name"
    """By which the run's folder is given, for messages."""


@contextmanager
def run_context(
    run: Run,
    config: RunConfig,
    display: Display,
    *,
    may_predict: bool = True,
    again: str = GOES_ON,
    errors_in: Path | None = None,
    option: str = "--name",
) -> Iterator[RunContext]:
    """The context of a command. Ray ends with it where it was started by it, and failures become one sentence.

    Args:
        run: where results are written.
        config: the run's.
        display: what shows progress.
        may_predict: see `RunContext`.
        again: what a failure says of starting the command again.
        errors_in: folder that keeps the whole of an error (default: the run's).
        option: see `RunContext`.

    Raises:
        RunError: a part of it failed in Ray, or the disk is full.
    """
    with ray_errors(errors_in or run.root, again), RaySession(config.compute, display) as session:
        yield RunContext(run, config, session, display, may_predict, option)


@dataclass(frozen=True)
class Result:
    """What a run left behind."""

    run: Run
    scores: Scores
    """Out-of-fold scores by member (and `ensemble`) and target."""


@contextmanager
def ray_errors(folder: Path, again: str = GOES_ON) -> Iterator[None]:
    """Turns what Ray raises, and a full disk, into one sentence, and keeps the whole error in a file.

    Args:
        folder: where the file is written.
        again: what is said of starting the command again.

    Raises:
        RunError: in place of Ray's error.
    """
    try:
        yield
    except Exception as error:
        cause = getattr(error, "cause", None)  # what was raised inside a task of Ray
        if isinstance(cause, InputError | RunError):
            raise type(cause)(str(cause)) from error
        if not type(error).__module__.startswith("ray.") and not is_full(error):
            raise
        log = str(folder / ERROR_LOG)
        try:
            write_text(Path(log), "".join(traceback.format_exception(error)))
        except OSError:  # the disk may be full
            log = log_of(error)
        message = f"a part of the run failed ({reason(error, folder)}); all that is known lies in {log}"
        raise RunError(f"{message}. Once its cause is gone, {again}.") from error
