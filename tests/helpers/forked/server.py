"""Forks Ray's workers and the scripts of the tests from one process that has imported torch once: `python server.py SOCKET`.

That import takes each 4 s of CPU, and the tests start several hundred. `sitecustomize.py` beside this file, which every Python
finds that the tests start, sends here what Ray starts as a worker, and the scripts of the folder above. Each has its own
arguments, environment, folder and streams, and runs its own file; only the packages below are there already. Ray is not among
them, as it reads its environment when it is imported, nor is raymask. `multiprocessing.forkserver` preloads by the same idea,
but for one parent. `RAYMASK_FORKED_WORKERS= pytest` does without.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import random
import runpy
import signal
import socket
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import sitecustomize  # type: ignore[import-not-found]  # the file beside this one

PRELOADED = ("torch", "torch._dynamo", "timm", "timm.data", "albumentations", "pandas", "pyarrow.dataset", "pyarrow.parquet")
STREAMS = 3


def serve(listener: socket.socket) -> None:
    """Forks a worker for each caller, who stays connected with it until it ends; ends with the process that started this one."""
    parent = os.getppid()
    for name in PRELOADED:
        import_module(name)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no child is waited for
    listener.settimeout(1.0)
    while os.getppid() == parent:
        try:
            caller, _ = listener.accept()
        except TimeoutError:
            continue
        _, streams, *_ = socket.recv_fds(caller, 1, STREAMS)
        with caller.makefile() as file:
            start = json.loads(file.readline())
        if not os.fork():
            listener.close()
            threading.Thread(target=end_with, args=(caller,), daemon=True).start()
            caller.sendall(bytes([become(streams, **start)]))
            os._exit(0)
        for descriptor in (*streams, caller.detach()):
            os.close(descriptor)


def end_with(caller: socket.socket) -> None:
    """Who kills the process that stands for this one means this one."""
    caller.recv(1)
    os._exit(1)


def become(streams: list[int], arguments: list[str], environment: dict[str, str], folder: str, path: list[str]) -> int:
    """Runs a Python file in this process as Python itself would, and returns its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)  # Ray kills the whole process group of a worker that has ended
    for place, descriptor in enumerate(streams):
        os.dup2(descriptor, place)
        os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv, sys.path[:] = arguments, [str(Path(arguments[0]).parent), *path]
    seed_anew()
    code: Any = 0
    try:
        sitecustomize.import_wanted()
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


def seed_anew() -> None:
    """Processes that are forked from one would draw the same numbers; a Python that starts takes them from the machine."""
    import numpy as np
    import torch

    random.seed()
    np.random.seed()  # noqa: NPY002
    torch.seed()


if __name__ == "__main__":
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen(128)
        serve(listener)
