"""What the environment says of Ray: addresses that can be joined and those that cannot, a job's variables, folders."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raymask.cluster import environment
from raymask.cluster.connection import WORKER_ENVIRONMENT
from raymask.cluster.environment import address_to_join, beside_the_jobs, short_folder, why_not_joined
from raymask.core.errors import InputError


@contextmanager
def listener(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a server that is no Ray."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        kept = []

        def accept() -> None:
            while True:
                try:
                    kept.append(server.accept()[0])
                except OSError:
                    return
                answer(kept[-1])

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def silent(knocking: socket.socket) -> None:
    pass


def web_server(knocking: socket.socket) -> None:
    knocking.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def hangs_up(knocking: socket.socket) -> None:
    knocking.close()


@pytest.mark.parametrize(
    ("answer", "why"),
    [(silent, "nothing within"), (web_server, "something else listens"), (hangs_up, "Connection reset|something else")],
)
def test_a_server_that_is_no_ray_is_told_at_once(
    answer: Callable[[socket.socket], None], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "PATIENCE_S", 0.5)
    with listener(answer) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(InputError, match=rf"^RAY_ADDRESS is '{address}', but no Ray answers there \((?:{why}).*\)\.$"):
            address_to_join()


@pytest.mark.usefixtures("ray_session")
def test_a_ray_is_known_by_its_greeting(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert address_to_join() == address


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("http://127.0.0.1:8265", "the job server's, which takes jobs alone"),
        ("https://head/ray", "the job server's, which takes jobs alone"),
        ("ray://head:10001", "that of Ray Client"),
        ("127.0.0.1:1", r"no Ray answers there \(Connection refused\)"),
        ("127.0.0.1:99999", "there is no port 99999"),
        ("no-such-host.invalid:6379", "no Ray answers there"),
        ("[::1]:1", "no Ray answers there"),
    ],
)
def test_an_address_that_cannot_be_joined_is_explained(address: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=rf"^RAY_ADDRESS is '.*{sentence}.*\.$"):
        address_to_join()


@pytest.mark.parametrize("address", ["", " ", "local"])
def test_without_an_address_a_ray_is_started(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert address_to_join() is None


def test_another_version_is_named_with_ours() -> None:
    from ray._private.utils import check_version_info

    with pytest.raises(RuntimeError) as caught:
        check_version_info({"ray_version": "2.49.0", "python_version": "3.10.4"}, "node")
    said = str(why_not_joined("head:6379", caught.value))
    assert "a cluster of Ray 2.49.0 on Python 3.10.4, but raymask has Ray 2." in said
    assert "\n" not in said


def test_a_cluster_that_asks_for_a_token_is_told_from_one_that_is_not_there() -> None:
    error = ConnectionError("Failed to connect to Ray cluster at head:6379")
    assert "no Ray answers there (Failed to connect" in str(why_not_joined("head:6379", error))
    error.add_note("gcs_client.cc:210: Unauthenticated: RPC error: InvalidAuthToken: it is missing or incorrect")
    assert "RAY_AUTH_MODE=token" in str(why_not_joined("head:6379", error))


def test_the_jobs_own_variables_go_before_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.runtime_env.runtime_env import _merge_runtime_env

    job = {"env_vars": {"MALLOC_ARENA_MAX": "4", "OTHER": "x"}, "working_dir": "gcs://package.zip"}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": job, "metadata": {}}))
    assert _merge_runtime_env(job, {"env_vars": WORKER_ENVIRONMENT}) is None, "Ray refuses to have both"
    merged = _merge_runtime_env(job, {"env_vars": beside_the_jobs(WORKER_ENVIRONMENT)})
    assert merged
    assert merged["env_vars"] == {**WORKER_ENVIRONMENT, **job["env_vars"]}


@pytest.mark.parametrize("config", ["{}", '{"runtime_env": null}', '{"runtime_env": {"env_vars": null}}', None])
def test_a_job_without_variables_changes_none(config: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    if config is not None:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", config)
    assert beside_the_jobs(WORKER_ENVIRONMENT) == WORKER_ENVIRONMENT


def test_ray_has_a_short_folder_where_the_temporary_one_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.utils import validate_socket_filepath

    for letters in range(1, 60):
        chosen = Path("/tmp") / ("x" * letters)
        monkeypatch.setenv("TMPDIR", str(chosen))
        folder = short_folder()
        used = folder or chosen / "ray"
        validate_socket_filepath(f"{used}/session_2026-11-25_14-22-54_308156_{2**22}/sockets/plasma_store")
        assert folder in (None, Path(f"/tmp/raymask-{os.getuid()}"))
    monkeypatch.setenv("TMPDIR", "")
    assert short_folder()
    monkeypatch.setenv("TMPDIR", "/proc/nothing")
    with pytest.raises(InputError, match=r"^nothing can be written to '/proc/nothing' \(.*\); give another TMPDIR\.$"):
        short_folder()
