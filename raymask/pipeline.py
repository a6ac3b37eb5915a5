"""The story of a run, top to bottom. What is finished already is not done again."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raymask.config import RunConfig
from raymask.display import Display
from raymask.endings import log_of
from raymask.errors import GOES_ON, InputError, RunError, is_full, reason
from raymask.paths import absolute, check_writable
from raymask.run_files import write_text
from raymask.session import RaySession
from raymask.store import Run, cache_root

if TYPE_CHECKING:
    from raymask.election import Scores


@dataclass(frozen=True)
class Result:
    """What a run left behind."""

    run: Run
    scores: Scores
    """Out-of-fold scores by member (and `ensemble`) and target."""


def run(config: RunConfig, display: Display | None = None) -> Result:
    """Trains, votes and submits an ensemble; see the run directory for all of its results.

    Raises:
        InputError: the data or the config are wrong; nothing is half-written.
        RunError: a part failed for good; started again, the run goes on with what is unfinished.
    """
    display = display or Display()
    began = time.monotonic()
    config = config.model_copy(update={"runs": absolute(config.runs)})
    folder = config.runs / config.name
    check_writable(folder, "--runs")
    check_writable(cache_root(config), "folder by --set cache=FOLDER")
    with ray_errors(folder), ExitStack() as stack:
        session = RaySession(stack, config.compute, display)
        if not Run(folder).report.exists():
            session.begin()
        # Only now, since they import pandas and its like: Ray is on its way meanwhile.
        from raymask import election, stages
        from raymask.data.folds import replica_folds
        from raymask.opening import open_run

        opened = open_run(config, display)
        caches, manifest = stages.prepare_images(opened, session, display)
        folds = replica_folds(manifest["fold"])
        stages.train_members(opened, folds, caches, manifest["image_id"], session, display)
        voting = election.electorates([opened.run])
        vote, scores = election.elect(voting, config.vote, opened.run, config.seed, display)
        election.predict_test(voting, vote, opened.test, opened.run, session, display)
        election.score_reserve(voting, vote, opened.run, config.seed, session, display)
    stages.summarise(opened.run, opened.space, scores, time.monotonic() - began, display)
    return Result(opened.run, scores)


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
        said = f"a part of the run failed ({reason(error, folder)}); all that is known lies in {log}"
        raise RunError(f"{said}. Once its cause is gone, {again}.") from error
