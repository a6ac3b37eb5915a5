"""Has Ray's workers and the scripts of the tests forked by `server.py`, see there.

Python imports this file when it starts, before what it was started for.
"""

import os
import sys
from typing import NoReturn

FORKED = os.path.dirname(os.path.abspath(__file__))
HELPERS = os.path.dirname(FORKED)


def wanted(started: list[str]) -> list[str] | None:
    """The file and its arguments, if Python was started with one that is forked; else None.

    Ray starts a worker in two steps, of which the first sets the environment that a task wants; if it wants none, it is left out.
    """
    file, rest = (started[1], started[2:]) if len(started) > 1 else ("", [])
    if os.path.dirname(file) == HELPERS or file.endswith("/ray/_private/workers/default_worker.py"):
        return [file, *rest]
    if not file.endswith("/ray/_private/workers/setup_worker.py"):
        return None
    of_first = [argument for argument in rest if argument.startswith(("--serialized-runtime-env-context=", "--language="))]
    if not set(of_first) <= {"--serialized-runtime-env-context={}", "--language=PYTHON"}:
        return None
    return [argument for argument in rest if argument not in of_first and argument not in ("-s", "-S")]


def hand_over(address: str, arguments: list[str]) -> NoReturn:
    """Sends what this process was started for, stays as long as it runs elsewhere, and ends."""
    import json
    import socket

    folder = os.getcwd()  # noqa: PTH109
    start = {"arguments": arguments, "environment": dict(os.environ), "folder": folder, "path": sys.path}
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [b"."], [0, 1, 2])
        server.sendall(json.dumps(start).encode() + b"\n")
        code = server.recv(1) or b"\1"  # nothing, where it was killed
    os._exit(code[0])


def import_wanted() -> None:
    """Imports what a test wants in all its processes."""
    for name in os.environ.get("RAYMASK_TESTS_IMPORT", "").split():
        __import__(name)


if (address := os.environ.get("RAYMASK_FORKED_WORKERS")) and (arguments := wanted(sys.orig_argv)):
    hand_over(address, arguments)
import_wanted()
