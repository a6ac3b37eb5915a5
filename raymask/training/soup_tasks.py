"""Ray tasks that make the soups of members."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayTaskError

from raymask.cluster.resources import Slots
from raymask.cluster.waiting import wait_for
from raymask.core.errors import InputError
from raymask.training.soup_jobs import SoupJob, SoupResult


def make(jobs: Sequence[SoupJob], slots: Slots, on_made: Callable[[SoupResult], None]) -> None:
    """Makes the soups of members, each in a task of its own, as many at a time as there are slots.

    Args:
        jobs: the members.
        slots: what a task may use.
        on_made: called with each member when both its soups are in the run directory.

    Raises:
        InputError: the reserved people are too few, or the fold models of different architectures.
    """
    task = ray.remote(_make).options(num_cpus=slots.cpus, num_gpus=slots.gpus, scheduling_strategy="SPREAD")
    waiting = deque(jobs)
    running: list[Any] = []
    try:
        while waiting or running:
            while waiting and len(running) < slots.count:
                running.append(task.remote(waiting.popleft(), slots.threads))
            [made], running = wait_for(running, {"CPU": slots.cpus, "GPU": slots.gpus})
            on_made(result_of(made))
    finally:
        for other in running:
            ray.cancel(other, force=True)


def result_of(reference: ray.ObjectRef[Any]) -> Any:
    """What a task returned; an `InputError` is raised as it was there, without Ray's wrapping."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise InputError(str(error.cause)) from None
        raise


def _make(job: SoupJob, threads: int) -> SoupResult:
    from raymask.training.soup_files import make_soups  # with torch, which the driver never loads

    return make_soups(job, threads)
