"""Tests of the HTTP server on real sockets, with models that are made up: slow heads, the drain, clients that go."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from requested import image_bytes, told_of

from raymask.core.errors import InputError
from raymask.core.types import Pixels
from raymask.data.specs import InputSpec
from raymask.serving.admission import CLOSED, Gate
from raymask.serving.app import Backend, PredictionResult, build
from raymask.serving.listener import bound, listening, writing_down
from raymask.serving.requests import Limits
from raymask.serving.schemas import About

ABOUT = About(name="run", models="folds", number=1, members=["mask"], versions={}, server="1")


class Server:
    """An app on a port of its own, whose models answer when they are let."""

    def __init__(self, **limits: Any) -> None:
        self.let, self.began, self.said = threading.Event(), threading.Semaphore(0), []
        self.gate = Gate(Limits(**limits))
        self.listener = bound("127.0.0.1", 0)
        self.port = self.listener.getsockname()[1]
        backend = Backend(ABOUT, [InputSpec(8, 8, 1.0)], self.ask, self.ready)
        self.app = build(backend, self.gate.limits, 2, gate=self.gate)
        self.url = f"http://127.0.0.1:{self.port}"

    async def ask(self, pixels: Sequence[Pixels]) -> PredictionResult:
        self.began.release()
        while not self.let.is_set():  # noqa: ASYNC110 (another thread sets it)
            await asyncio.sleep(0.01)
        return told_of(pixels)

    async def ready(self) -> bool:
        return True

    def post(self) -> int:
        return httpx.post(f"{self.url}/predict", files={"image": image_bytes()}, timeout=30).status_code

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=8)


@contextmanager
def running(drain_s: float = 10.0, **limits: Any) -> Iterator[Server]:
    server = Server(**limits)
    with listening(server.app, server.listener, server.gate, drain_s, server.said.append):
        yield server


def is_closed(connection: socket.socket) -> bool:
    """Waits for it as long as the connection's timeout, which is less than the server waits where nothing is patched."""
    return connection.recv(1000) == b""


def test_it_answers_and_then_is_gone() -> None:
    with running() as server:
        server.let.set()
        assert server.post() == 200
        assert httpx.head(f"{server.url}/health").status_code == 200
    assert server.said == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)


def test_requests_under_way_are_answered_before_it_ends() -> None:
    with ThreadPoolExecutor(9) as clients:
        with running() as server:
            under_way = [clients.submit(server.post) for _ in range(8)]
            for _ in under_way:
                server.began.acquire(timeout=10)
            idle = server.connect()
            threading.Timer(0.5, server.let.set).start()
            late = clients.submit(lambda: time.sleep(0.2) or server.post())
        assert [answer.result() for answer in under_way] == [200] * 8
        assert late.result() == 503
    assert server.said == ["8 requests are under way, answered within 10 s; Ctrl-C again ends at once"]
    assert is_closed(idle)


def test_what_is_not_answered_in_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raymask.serving.listener.LAST_S", 1.0)
    with ThreadPoolExecutor(1) as clients:
        with running(drain_s=0.2) as server:
            answer = clients.submit(server.post)
            server.began.acquire(timeout=10)
        assert answer.result() == 503
    assert server.said[-1] == "one request is not answered within 0.2 s"


def test_a_second_signal_ends_the_drain() -> None:
    """Ctrl-C raises in the thread that drains; the server ends all the same."""

    class Impatient:
        limits = Limits()
        draining = False

        @property
        def under_way(self) -> int:
            raise KeyboardInterrupt

    server = Server()
    with pytest.raises(KeyboardInterrupt), listening(server.app, server.listener, Impatient(), 10, print):  # type: ignore[arg-type]
        pass
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)


@pytest.mark.parametrize("head", [b"", b"GET /hea", b"POST /predict HTTP/1.1\r\nHost: x\r\n"])
def test_a_head_that_does_not_come_is_not_waited_for(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raymask.serving.listener.IDLE_S", 1.0)
    with running() as server, server.connect() as connection:
        for place in range(len(head)):  # letter by letter, none of which gives it more time
            connection.sendall(head[place : place + 1])
            time.sleep(0.02)
        assert is_closed(connection)


def test_a_connection_is_kept_between_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raymask.serving.listener.IDLE_S", 1.0)
    with running() as server, server.connect() as connection:
        for _ in range(3):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(4000)
            assert answer.startswith(b"HTTP/1.1 200")
            time.sleep(0.5)
        assert is_closed(connection)


def test_a_client_that_goes_is_499_in_metrics_and_log(tmp_path: Path) -> None:
    with writing_down(tmp_path / "log"), running() as server:
        body = b'{"image": "' + b"A" * 1000
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2000\r\n\r\n"
        with server.connect() as connection:  # it goes while it sends
            connection.sendall(head + body)
        with pytest.raises(httpx.TimeoutException):  # and it goes while the models compute
            httpx.post(f"{server.url}/predict", files={"image": image_bytes()}, timeout=0.5)
        for _ in range(100):
            text = httpx.get(f"{server.url}/metrics").text
            if f'raymask_requests_total{{status="{CLOSED}"}} 2.0' in text:
                break
            time.sleep(0.05)
        else:
            raise AssertionError(text)
        assert 'status="500"' not in text
        assert "raymask_waiting_requests 0.0" in text
    assert (tmp_path / "log").read_text().count(f"POST /predict {CLOSED} ") == 2


def test_a_failure_is_in_the_log_with_its_place(tmp_path: Path) -> None:
    with writing_down(tmp_path / "log"), running() as server:

        async def fail(pixels: Sequence[Pixels]) -> PredictionResult:
            raise RuntimeError("the reason")

        server.app = build(Backend(ABOUT, [InputSpec(8, 8, 1.0)], fail, server.ready), Limits(), 1)
        other = bound("127.0.0.1", 0)
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        with listening(server.app, other, Gate(Limits()), 1, print):
            assert httpx.post(f"{url}/predict", files={"image": image_bytes()}).status_code == 500
    written = (tmp_path / "log").read_text()
    assert "RuntimeError: the reason" in written
    assert "POST /predict 500 " in written


@pytest.mark.parametrize("request_line", [b"\x16\x03\x01\x02\x00\x01\x00\x01", b"G\r\n\r\n"])
def test_what_is_no_http_is_refused(request_line: bytes) -> None:
    with running() as server, server.connect() as connection:
        connection.sendall(request_line + b"\r\n" * 5)
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")


def test_an_enormous_head_is_refused() -> None:
    with running() as server, server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 431")
    with running() as server, server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000)
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(("host", "said"), [("127.0.0.1", "Address already in use"), ("192.0.2.1", "Cannot assign")])
def test_a_place_that_cannot_be_had(host: str, said: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match=said):
            bound(host, taken.getsockname()[1])


def test_stalled_uploads_leave_room() -> None:
    """The connections of thirty stalled uploads are open while others are answered, and then given up."""
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2000\r\n\r\n{"
    with running(idle_s=1.0, waiting=2) as server:
        server.let.set()
        stalled = [server.connect() for _ in range(30)]
        for connection in stalled:
            connection.sendall(head)
        assert [server.post() for _ in range(5)] == [200] * 5
        assert all(connection.recv(1000).startswith(b"HTTP/1.1 408") for connection in stalled)
