"""Ray in the background of a run."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
import ray
from rich.console import Console

from raymask.cluster.session import RaySession
from raymask.config.compute import ComputeConfig
from raymask.core.console import Display
from raymask.core.errors import InputError


def quiet() -> Display:
    return Display(Console(file=io.StringIO()))


def test_a_session_joins_the_ray_that_is_there_and_leaves_it_running(ray_session: None) -> None:
    said = io.StringIO()
    with RaySession(ComputeConfig(), Display(Console(file=said))) as session:
        session.begin()
        session.begin()
        assert session.connect() is session.connect()
        assert not session.connect().started_here
    assert said.getvalue().count("joined") == 1
    assert ray.is_initialized()


def test_a_ray_of_ones_own_is_not_asked_for_an_autoscaler(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never has one, and what Ray says of that comes after seconds only."""
    asked: list[int] = []

    def autoscales() -> bool:
        asked.append(1)
        return False

    monkeypatch.setattr("raymask.cluster.capacity.autoscales", autoscales)
    with RaySession(ComputeConfig(), quiet()) as session:
        session.nodes(gpus=3)
        assert asked == [1], "this one was joined"
        monkeypatch.setattr(session, "_cluster", replace(session.connect(), started_here=True))
        assert len(session.nodes(gpus=3)) == 1
    assert asked == [1]


def test_a_session_that_nobody_needs_connects_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raymask.cluster.session.connect", lambda compute: pytest.fail("it connected"))
    with RaySession(ComputeConfig(), quiet()):
        pass


def test_why_ray_cannot_be_had_is_said_to_whom_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{unused.getsockname()[1]}")
        with RaySession(ComputeConfig(), quiet()) as session:
            session.begin()
            with pytest.raises(InputError, match="no Ray answers there"):
                session.connect()


def test_what_fails_meanwhile_ends_a_ray_that_is_still_starting() -> None:
    code = (
        "from raymask.config.schema import ComputeConfig\n"
        "from raymask.core.console import Display\n"
        "from raymask.cluster.session import RaySession\n"
        "with RaySession(ComputeConfig(cpus=1, gpus=0), Display()) as session:\n"
        "    session.begin()\n"
        "    raise SystemExit(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=550)
    assert done.returncode == 7, done.stderr
    assert "Traceback" not in done.stderr
