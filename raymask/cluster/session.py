"""Ray for a run: joined or started in the background, while the run reads its data."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from raymask.cluster.capacity import look_for_cuda, offered_of, usable_nodes
from raymask.cluster.connection import Cluster, connect
from raymask.cluster.resources import Node
from raymask.cluster.waiting import watched
from raymask.config.compute import ComputeConfig
from raymask.core.console import Display


class RaySession:
    """Ray, joined or started when it is first needed, and left or ended with the context.

    Example:
        >>> with RaySession(ComputeConfig(), Display()) as session:  # doctest: +SKIP
        ...     nodes = session.nodes(gpus=1)
    """

    def __init__(self, compute: ComputeConfig, display: Display) -> None:
        self._compute, self._display = compute, display
        self._cluster: Cluster | None = None
        self._error: BaseException | None = None
        self._connected = False
        self._said: set[str] = set()
        self._most_gpus = sys.maxsize
        self._ready, self._ended = threading.Event(), threading.Event()
        # Linux ends the processes of Ray with the thread that started them, so that thread lives as long as the session.
        self._thread = threading.Thread(target=self._hold, name="ray-session", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        if self._thread.ident:
            self._thread.join()

    def begin(self) -> None:
        """Connects in the background."""
        if not self._thread.ident:
            self._thread.start()

    def connect(self) -> Cluster:
        """The running Ray, once it is there.

        Raises:
            InputError: there is no Ray to join, or none can be started.
        """
        self.begin()
        self._ready.wait()
        if self._error:
            raise self._error
        assert self._cluster, "a session that is ready has a cluster or an error"
        if not self._connected:
            _handle_signals_first()
            self._display.line("ray", _described(self._cluster))
            self._connected = True
        return self._cluster

    def nodes(self, gpus: int) -> tuple[Node, ...]:
        """The machines that a plan may count on, see `usable_nodes`; `gpus` is how many there is work for."""
        grows = not self.connect().started_here
        nodes = usable_nodes(self._compute, min(gpus, self._most_gpus), self._say, grows=grows)
        if (present := offered_of("GPU")) < gpus:
            self._most_gpus = int(present)  # so that no later stage waits for those that did not come
        return nodes

    def _say(self, sentence: str) -> None:
        """Once, whatever else is said meanwhile."""
        if sentence not in self._said:
            self._display.line("ray", sentence)
        self._said.add(sentence)

    def _hold(self) -> None:
        try:
            with ExitStack() as stack, connect(self._compute) as cluster:
                look_for_cuda()
                stack.enter_context(watched(self._compute.wait_minutes, lambda sentence: self._display.line("wait", sentence)))
                self._cluster = cluster
                self._ready.set()
                self._ended.wait()
        except BaseException as error:  # handed to the thread that asks for the cluster
            self._error = error
            self._ready.set()


def _handle_signals_first() -> None:
    """Puts Python's handler of SIGTERM before that of Ray's C++ part, which prints a stack."""
    handler = signal.getsignal(signal.SIGTERM)
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _described(cluster: Cluster) -> str:
    cpus, gpus = (sum(getattr(node, kind) for node in cluster.nodes) for kind in ("cpus", "gpus"))
    nodes = f"{len(cluster.nodes)} nodes, " if len(cluster.nodes) > 1 else ""
    dashboard = f", dashboard at {cluster.dashboard}" if cluster.dashboard else ""
    how = "started" if cluster.started_here else "joined"
    folder = f"; its files are in {cluster.folder}, as TMPDIR is too long for its sockets" if cluster.folder else ""
    return f"{how} with {nodes}{cpus:g} CPUs and {gpus:g} GPUs{dashboard}{folder}"
