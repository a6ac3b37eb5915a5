"""What the environment says of Ray: the one to join, a job's own variables, and where a Ray that is started keeps its files."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path

from raymask.core.errors import InputError
from raymask.core.paths import check_writable

LONGEST_SOCKET = 103
"""Bytes of a Unix socket's path on macOS; Linux has four more."""
SOCKET = "/ray/session_2026-01-01_00-00-00_000000_1000000/sockets/plasma_store"
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # and an empty frame of settings
SETTINGS = 4
PATIENCE_S = 10
LAST_PORT = 65535


def address_to_join() -> str | None:
    """What `RAY_ADDRESS` names; None where this process is to start a Ray of its own.

    Raises:
        InputError: nothing that can be joined is there.
    """
    given = os.environ.get("RAY_ADDRESS", "").strip()
    if given in ("", "local"):
        return None
    scheme = given.partition("://")[0].lower()
    if scheme in ("http", "https"):
        raise InputError(
            f"RAY_ADDRESS is '{given}', the job server's, which takes jobs alone: send this command there with `ray job submit`, "
            "or join its Ray by RAY_ADDRESS=HEAD:6379."
        )
    if scheme == "ray":
        raise InputError(
            f"RAY_ADDRESS is '{given}', that of Ray Client, by which nothing can be trained: send this command there with `ray "
            "job submit`, or start it on a node of the cluster with RAY_ADDRESS=auto."
        )
    _check_answers(given)
    return given


def _check_answers(address: str) -> None:
    """Refuses an address where no Ray listens; Ray itself would knock there for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdecimal():
        return  # a name that Ray resolves itself, such as `auto`
    if int(port) > LAST_PORT:
        raise InputError(f"RAY_ADDRESS is '{address}', but there is no port {port}.")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE_S) as knocking:
            why = "" if os.environ.get("RAY_USE_TLS") == "1" or _speaks_grpc(knocking) else "something else listens there"
    except TimeoutError:
        why = f"nothing within {PATIENCE_S} s"
    except OSError as error:
        why = error.strerror or str(error)
    if why:
        raise InputError(f"RAY_ADDRESS is '{address}', but no Ray answers there ({why}).")


def _speaks_grpc(knocking: socket.socket) -> bool:
    """Whether HTTP/2's greeting is answered by its settings, as any gRPC server does."""
    knocking.sendall(HTTP2_PREFACE)
    answer = knocking.recv(4)
    return len(answer) == 4 and answer[3] == SETTINGS


def why_not_joined(address: str, error: Exception) -> InputError:
    """The sentence for what Ray raises, and notes, when it is joined."""
    words = "\n".join([str(error), *getattr(error, "__notes__", ())])
    versions = re.findall(r"Ray: (\S+)\s+Python: (\S+)", words)
    if "Version mismatch" in words and versions:
        theirs, ours = (f"Ray {ray} on Python {python}" for ray, python in (versions[0], versions[-1]))
        return InputError(f"RAY_ADDRESS is '{address}', a cluster of {theirs}, but raymask has {ours}: let them be the same.")
    if "AuthToken" in words or "Unauthenticated" in words:
        return InputError(
            f"RAY_ADDRESS is '{address}', a cluster that asks for a token: set RAY_AUTH_MODE=token, with the cluster's token in "
            "RAY_AUTH_TOKEN or ~/.ray/auth_token."
        )
    first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return InputError(f"RAY_ADDRESS is '{address}', but no Ray answers there ({first}).")


def beside_the_jobs(variables: Mapping[str, str]) -> dict[str, str]:
    """Variables for workers without those that the Ray job itself sets, which go first; Ray would refuse to have both."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    own = ((job.get("runtime_env") or {}).get("env_vars") or {}) if isinstance(job, dict) else {}
    return {name: value for name, value in variables.items() if name not in own}


def short_folder() -> Path | None:
    """A folder for the files of a Ray that is started here; None where its own choice is short enough for its sockets.

    Raises:
        InputError: nothing can be written there.
    """
    chosen = os.environ.get("RAY_TMPDIR", os.environ.get("TMPDIR", "/tmp"))  # as Ray chooses
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    if os.path.isabs(chosen) and len(os.fsencode(chosen + SOCKET)) <= LONGEST_SOCKET:
        check_writable(Path(chosen), name)
        return None
    folder = Path(f"/tmp/raymask-{os.getuid()}")
    check_writable(folder, name)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def bytecode_folder() -> Path:
    """Where compiled Python is kept when it must not lie beside its source."""
    home = os.path.expanduser("~")
    return Path(home if os.path.isabs(home) else "/tmp") / ".cache" / "raymask" / "bytecode"
