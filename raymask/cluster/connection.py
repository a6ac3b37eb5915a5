"""The Ray that a run works on: one that is there already, or one that it starts on this machine and ends again."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Read by Ray when it is imported: quiet driver logs, and Tune's old output, which alone can be silent. Of the loggers that Tune
# adds by itself, TensorBoard's imports torch in the driver, which takes 1.7 s.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends a run wherever it is, and ends it resumably

import ray
import ray.data
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymask.cluster.environment import address_to_join, beside_the_jobs, bytecode_folder, short_folder, why_not_joined
from raymask.cluster.resources import Node
from raymask.config.compute import ComputeConfig
from raymask.core.errors import InputError
from raymask.core.machine import usable_cpus, usable_memory
from raymask.ray_internals import agent_on_any_port, dashboard_url, store_share, system_memory

# What every worker of a run finds in its environment.
WORKER_ENVIRONMENT = {
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "PYTHONWARNINGS": "ignore",
    # By default glibc hands every large block back to the kernel, and each activation of a network on a CPU is mapped and zeroed
    # page by page again: that took more than half of a training step of mobilenetv2_100 at 160 px (38 ms an image, 17 without).
    # It must be in the environment: mallopt(3) comes too late for threads that have an arena already, as those of actors do.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
# What a Ray that is started here finds in its own.
LOCAL_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "120",  # its 30 s are too few on a machine that is busy
}
INIT: dict[str, Any] = {
    "log_to_driver": False,
    "logging_level": logging.ERROR,
}


@dataclass(frozen=True)
class Cluster:
    """A Ray that is running."""

    nodes: tuple[Node, ...]
    dashboard: str | None
    """URL of Ray's dashboard, None where it is off."""
    started_here: bool
    folder: Path | None = None
    """Where Ray keeps its files, if not in its usual place."""


@contextmanager
def connect(compute: ComputeConfig) -> Iterator[Cluster]:
    """Joins the Ray of `RAY_ADDRESS` (set inside a Ray job), or this process's own; else starts one and ends it afterwards.

    Raises:
        InputError: there is no Ray at the address.
    """
    _quiet()
    joined = ray.is_initialized()
    address = None if joined else address_to_join()
    folder = None if joined or address else short_folder()
    with _own_sigterm():
        if address:
            _join(address)
        elif not joined:
            _start(compute, folder)
    try:
        yield Cluster(_nodes(), dashboard_url(), started_here=not joined and not address, folder=folder)
    finally:
        if not joined:
            ray.shutdown()


def check_shared(folder: Path) -> None:
    """Makes sure that every node of the cluster sees the same folder.

    Raises:
        InputError: names the nodes that do not.
    """
    alive = alive_nodes()
    if len(alive) < 2:
        return
    token = folder / f".shared-{uuid.uuid4().hex[:8]}"
    token.touch()
    try:
        looks = {node["NodeManagerAddress"]: _look(token, node["NodeID"]) for node in alive}
        blind = [address for address, look in looks.items() if not ray.get(look)]
    finally:
        token.unlink()
    if blind:
        raise InputError(
            f"the node(s) {', '.join(blind)} do not see '{folder}'; on a cluster --runs must be a folder that all nodes "
            "share, such as an NFS mount."
        )


def _look(token: Path, node_id: str) -> ray.ObjectRef[bool]:
    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(num_cpus=0)(os.path.exists).options(scheduling_strategy=strategy).remote(str(token))


def _join(address: str) -> None:
    try:
        with _silent_stderr():
            ray.init(address=address, runtime_env={"env_vars": beside_the_jobs(WORKER_ENVIRONMENT)}, **INIT)
    except Exception as error:  # of many types: ConnectionError, RuntimeError of another version, Ray's own
        raise why_not_joined(address, error) from error


def _start(compute: ComputeConfig, folder: Path | None) -> None:
    cpus = compute.cpus or usable_cpus()
    # Workers inherit their environment; by way of a runtime environment Ray would start none of them ahead of need.
    wanted = WORKER_ENVIRONMENT | LOCAL_ENVIRONMENT | {"RAY_num_workers_soft_limit": str(2 * cpus + 2)}
    if "PYTHONDONTWRITEBYTECODE" in os.environ:
        # Without bytecode each worker compiles torch anew, 5 s of CPU; with a prefix the user's folders stay clean as wanted.
        wanted["PYTHONPYCACHEPREFIX"] = str(bytecode_folder())
    with _environment(wanted, folder), _silent_stderr(), agent_on_any_port():
        ray.init(
            address="local",
            num_cpus=cpus,
            num_gpus=compute.gpus,
            object_store_memory=_store_memory(),
            include_dashboard=True,
            _temp_dir=str(folder) if folder else None,
            **INIT,
        )


def _store_memory() -> int | None:
    """Bytes of the object store by Ray's own share, where Ray takes the container for larger than it is; else None."""
    memory = usable_memory()
    if memory >= system_memory():
        return None
    return int(memory * store_share())


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keeps what SIGTERM does: Ray, when it starts in the main thread, sets a handler of its own."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _environment(wanted: dict[str, str], folder: Path | None) -> Iterator[None]:
    """Variables that are set while Ray is started, where the user has not set them; others are never missing meanwhile.

    Where Ray's files have a folder of their own, that of temporary files is it too, as Ray's processes make sockets in both.
    """
    changed = {key: value for key, value in wanted.items() if key not in os.environ}
    changed |= {"TMPDIR": str(folder)} if folder else {}
    before = {key: os.environ.get(key) for key in (*changed, "PYTHONDONTWRITEBYTECODE")}
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.update(changed)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keeps what Ray's C++ part says while it starts from the screen; where it fails, it is noted with what is raised."""
    sys.stderr.flush()
    screen = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except BaseException as error:
            captured.seek(0)
            error.add_note(captured.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(screen, 2)
            os.close(screen)


def _quiet() -> None:
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the errors of its trials lie in their folders


def alive_nodes() -> list[dict[str, Any]]:
    """Ray's records of its machines."""
    return [node for node in ray.nodes() if node["Alive"]]


def _nodes() -> tuple[Node, ...]:
    resources = [node["Resources"] for node in alive_nodes()]
    return tuple(Node(offered["CPU"], offered.get("GPU", 0.0)) for offered in resources if offered.get("CPU"))
