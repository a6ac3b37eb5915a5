"""What is kept of a pack between epochs, so that it goes on from there when its process dies."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pickle import UnpicklingError
from typing import Any

import torch

from raymask.io.atomic import replacing
from raymask.io.checked import DamagedFileError, check_archive
from raymask.runs.directory import ReplicaId, Run
from raymask.training.learner import Learner

History = list[dict[str, Any]]
"""The metrics of a fold model's epochs."""
MOST_OF_THE_TIME = 0.05
"""Share of a training's time that may go into writing checkpoints."""


class Checkpoints:
    """The checkpoints of a pack: after each epoch, or where that would cost too much, after some of them.

    Args:
        run: where they are kept.
        clock: seconds.
    """

    def __init__(self, run: Run, clock: Callable[[], float] = time.monotonic) -> None:
        self.run, self.clock = run, clock
        self._cost, self._written = 0.0, clock()

    def save(self, models: Sequence[tuple[ReplicaId, Learner, History]]) -> None:
        """Writes the states of fold models after an epoch, unless the last ones were written too short a time ago."""
        began = self.clock()
        if began - self._written < self._cost / MOST_OF_THE_TIME:
            return
        for replica, learner, history in models:
            with replacing(self.run.checkpoint(replica)) as draft:
                torch.save({"learner": learner.state(), "history": history}, draft)
        self._written = self.clock()
        self._cost = self._written - began

    def resume(self, replica: ReplicaId, begin: Callable[[], Learner], device: torch.device) -> tuple[Learner, History]:
        """A learner where its checkpoint left it, and the metrics of the epochs that it has behind it.

        Without a checkpoint, or with one that is damaged or of another model, it is at the start of its training.

        Args:
            replica: the fold model.
            begin: makes its learner at the start.
            device: where that is.
        """
        file, learner = self.run.checkpoint(replica), begin()
        if not file.exists():
            return learner, []
        try:
            check_archive(file)
            checkpoint = torch.load(file, map_location=device, weights_only=True)
            learner.load_state(checkpoint["learner"])
            return learner, list(checkpoint["history"])
        except (DamagedFileError, UnpicklingError, LookupError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            print(f"{replica} begins anew, since '{file}' cannot be used: {error}")  # noqa: T201 -- in the trial's log
            file.unlink()
            return begin(), []
