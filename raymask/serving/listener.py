"""The HTTP server in a thread of this process: where it listens, what it writes down, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from raymask.core.errors import InputError
from raymask.serving.admission import Gate

IDLE_S = 10.0
"""How long a connection may be open without a whole request head."""
LAST_S = 5.0
"""After the drain: for answers that are being sent."""
QUIET_S = 0.3
"""Without a request under way, so that one that is just being read is not cut off."""
MAX_CONNECTIONS = 4096
LOG_BYTES, LOGS_KEPT = 10 * 2**20, 3
LOGGERS = ("raymask.requests", "raymask.server", "uvicorn.error")
LINE = "%(asctime)s %(message)s"


class Protocol(H11Protocol):
    """uvicorn's, which waits for ever for a request's head that comes letter by letter."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Gives the first head its time."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        """Lets the time run on until the head is whole."""
        timer, self.timeout_keep_alive_task = self.timeout_keep_alive_task, None
        super().data_received(data)
        answering = self.cycle is not None and not self.cycle.response_complete
        if timer is not None and (answering or self.timeout_keep_alive_task is not None):
            timer.cancel()
        elif timer is not None:
            self.timeout_keep_alive_task = timer


def bound(host: str, port: int) -> socket.socket:
    """A socket that will listen; until then connections to it are refused.

    Raises:
        InputError: the port is taken, or the address is none of this machine's.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"port {port} of {host} cannot be served ({why}); name others by --host and --port.") from None
    return listener


@contextmanager
def listening(app: ASGIApp, listener: socket.socket, gate: Gate, drain_s: float, say: Callable[[str], None]) -> Iterator[None]:
    """Serves an app; at the end what is under way is answered first.

    Args:
        app: what answers.
        listener: where, see `bound`.
        gate: counts what is under way, and sends away what comes when the server ends.
        drain_s: longest time until all is answered.
        say: told how the end goes.
    """
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(IDLE_S),
        timeout_graceful_shutdown=int(LAST_S),
        limit_concurrency=MAX_CONNECTIONS,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="http", daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield
    finally:
        try:
            drain(gate, drain_s, say)
        finally:
            server.should_exit = True
            thread.join(2 * LAST_S)


def drain(gate: Gate, longest_s: float, say: Callable[[str], None]) -> None:
    """Sends new requests away, and returns when those under way are answered, or when the time is over."""
    gate.draining = True
    began = quiet = time.monotonic()
    if gate.under_way:
        say(f"{_requests(gate.under_way)} under way, answered within {longest_s:g} s; Ctrl-C again ends at once")
    while (now := time.monotonic()) < began + longest_s and (gate.under_way or now < quiet + QUIET_S):
        quiet = now if gate.under_way else quiet
        time.sleep(0.02)
    if gate.under_way:
        say(f"{_requests(gate.under_way)} not answered within {longest_s:g} s")


def _requests(number: int) -> str:
    return "one request is" if number == 1 else f"{number} requests are"


def log_path(wanted: Path | None, folder: Path, port: int) -> Path:
    """The file that a server writes down what it does in: the wanted one, else one in the run's folder, or a temporary one.

    Raises:
        InputError: the wanted one cannot be written.
    """
    for place in [wanted] if wanted else [folder / f"serve-{port}.log", Path(tempfile.gettempdir()) / f"raymask-{port}.log"]:
        try:
            with place.open("a"):
                return place
        except OSError as error:
            why = error.strerror or str(error)
    raise InputError(f"the log '{place}' cannot be written ({why}); name another by --log.")


@contextmanager
def writing_down(file: Path | None) -> Iterator[None]:
    """Requests and failures as lines of a file, begun anew at 10 MB and kept three times; None for the terminal."""
    handler = (
        RotatingFileHandler(file, maxBytes=LOG_BYTES, backupCount=LOGS_KEPT, encoding="utf-8")
        if file
        else logging.StreamHandler()
    )
    handler.setFormatter(logging.Formatter(LINE))
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
        handler.close()
