"""What is waited for when no machine of the cluster offers what a run needs: it is said, and given up after a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.data import DataContext

from raymask.cluster.connection import alive_nodes
from raymask.core.errors import RunError
from raymask.ray_internals import ExecutionCallback, call_after_each_step, unfinished_needs

SECONDS_BETWEEN_LOOKS = 5.0

Need = Mapping[str, float]
Say = Callable[[str], None]


class Watch:
    """Looks whether the cluster's machines can run what is to run.

    Args:
        minutes: that are waited until a run is given up.
        say: told when it waits, and when it goes on.
        offered: resources of each machine that is alive.
        clock: seconds.
    """

    def __init__(
        self, minutes: float, say: Say, offered: Callable[[], list[Need]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.minutes, self.say, self.offered, self.clock = minutes, say, offered, clock
        self.looked, self.since = -SECONDS_BETWEEN_LOOKS, 0.0
        self.awaited: str | None = None

    def check(self, needs: Sequence[Need]) -> None:
        """Called now and then with what each process or task of the work under way needs of one machine.

        Raises:
            RunError: no machine offered one of them for too long.
        """
        now = self.clock()
        if now - self.looked < SECONDS_BETWEEN_LOOKS:
            return
        self.looked = now
        missing = unplaceable(needs, self.offered())
        if missing is None:
            if self.awaited:
                self.say(f"there is {self.awaited} again")
            self.awaited = None
        elif self.awaited is None:
            self.awaited, self.since = awaited(missing), now
            self.say(
                f"waiting for {self.awaited}: no machine of the cluster has {described(missing)} now; after {self.minutes:g} "
                "minutes (compute.wait_minutes) the run stops"
            )
        elif now - self.since >= 60 * self.minutes:
            raise RunError(
                f"no machine of the cluster had {described(missing)} for {self.minutes:g} minutes (compute.wait_minutes); the "
                "same command goes on with what is unfinished when there is one."
            )


def unplaceable(needs: Sequence[Need], offered: Sequence[Need]) -> Need | None:
    """The first need that is more than any machine offers; None where there is none."""
    for need in needs:
        if not any(all(machine.get(kind, 0.0) >= amount for kind, amount in need.items()) for machine in offered):
            return need
    return None


def awaited(need: Need) -> str:
    """What is waited for, in a word."""
    return "a GPU" if need.get("GPU") else "a CPU"


def described(need: Need) -> str:
    """A need in words, such as `0.5 CPUs and 1 GPU`."""
    words = (("CPU", "CPUs"), ("GPU", "GPUs"))
    amounts = [f"{need[kind]:g} {kind if need[kind] == 1 else many}" for kind, many in words if need.get(kind)]
    return " and ".join(amounts)


_watch: Watch | None = None


@contextmanager
def watched(minutes: float, say: Say) -> Iterator[None]:
    """Watches over all that this process runs on Ray."""
    global _watch  # noqa: PLW0603 -- the threads of Ray Data look at it too
    context, before = DataContext.get_current(), _watch
    _watch = Watch(minutes, say, lambda: [node["Resources"] for node in alive_nodes()])
    call_after_each_step(Watchman, context)
    try:
        yield
    finally:
        _watch = before


def check(needs: Sequence[Need]) -> None:
    """See `Watch.check`; nothing where no one watches."""
    if _watch:
        _watch.check(needs)


class Watchman(ExecutionCallback):  # type: ignore[misc]
    """Checks what each step of a Ray Data execution needs; what it raises ends the execution, and reaches its reader."""

    def on_execution_step(self, executor: Any) -> None:
        """Called by the execution's loop after each of its steps."""
        if _watch is not None:
            check(unfinished_needs(executor))


def wait_for(references: list[ray.ObjectRef[Any]], need: Need) -> tuple[list[ray.ObjectRef[Any]], list[ray.ObjectRef[Any]]]:
    """`ray.wait` for the first of some tasks that each need the same.

    Raises:
        RunError: no machine offered it for too long.
    """
    while True:
        ready, others = ray.wait(references, num_returns=1, timeout=SECONDS_BETWEEN_LOOKS)
        if ready:
            return ready, others
        check([need])
