"""What all benchmarks share: generated photos, the machine's description, a table on the terminal and its numbers as JSON."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from raymask.core.machine import usable_cpus
from raymask.data.demo.dataset import write_demo

WORK = Path(os.environ.get("RAYMASK_BENCHMARKS", "runs/benchmarks")).absolute()
"""Folder of generated photos, caches and results."""


def photos(people: int, test_people: int = 0, size: tuple[int, int] = (384, 512)) -> Path:
    """A drawn data set in the competition's layout, seven photos a person; drawn once and kept."""
    folder = WORK / f"photos-{people}-{test_people}-{size[0]}x{size[1]}"
    return write_demo(folder, people=people, test_people=test_people, size=size)


def keep_memory() -> None:
    """Starts this program again with the environment of raymask's workers, whose allocator reads it when a process begins."""
    from raymask.cluster.connection import WORKER_ENVIRONMENT

    if "RAYMASK_BENCHMARK_STARTED" not in os.environ:
        environment = {**os.environ, **WORKER_ENVIRONMENT, "RAYMASK_BENCHMARK_STARTED": "1"}
        os.execvpe(sys.executable, [sys.executable, *sys.argv], environment)


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables that processes find which are started meanwhile."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def rate_on_all_cores(measure: Callable[..., None], arguments: Sequence[Any], values: Mapping[str, str]) -> float:
    """The sum of what one process on each core puts into a queue.

    Args:
        measure: called in each process with the arguments, a barrier for all of them, and the queue.
        arguments: its first ones.
        values: variables that the processes find.
    """
    spawn = multiprocessing.get_context("spawn")
    cores = usable_cpus()
    gate, rates = spawn.Barrier(cores), spawn.Queue()
    processes = [spawn.Process(target=measure, args=(*arguments, gate, rates)) for _ in range(cores)]
    with environment(values):
        for process in processes:
            process.start()
    total = sum(rates.get() for _ in processes)
    for process in processes:
        process.join()
    return float(total)


@dataclass
class Memory:
    """Most memory that a process and all its descendants held together."""

    peak: int = 0
    """Bytes, as proportional set size: a page that n processes share counts 1/n in each."""
    by_name: dict[str, int] = field(default_factory=dict)
    """Bytes by the processes' names at that moment."""


@contextmanager
def watch_memory(root: int, every: float = 1.0) -> Iterator[Memory]:
    """Samples the proportional set size of a process and all its descendants, which those of its own Ray are."""
    memory, stop = Memory(), threading.Event()

    def watch() -> None:
        while not stop.wait(every):
            by_name = _pss_by_name(root)
            if sum(by_name.values()) > memory.peak:
                memory.peak, memory.by_name = sum(by_name.values()), by_name

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        stop.set()
        thread.join()


def _pss_by_name(root: int) -> dict[str, int]:
    sizes: dict[str, int] = {}
    try:
        processes = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    except psutil.Error:  # it has just ended
        return sizes
    for process in processes:
        try:
            name = "driver" if process.pid == root else process.cmdline()[0].split("/")[-1].split()[0][:40]
            sizes[name] = sizes.get(name, 0) + process.memory_full_info().pss
        except (psutil.Error, IndexError):
            continue
    return sizes


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    names = ("ray", "torch", "timm", "albumentations", "numpy")
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return {
        "cpu": model,
        "cores": usable_cpus(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names if find_spec(name)},
    }


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Prints a table."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row))
    Console(width=150).print(table)


def write_results(name: str, results: Any) -> Path:
    """Writes figures with the machine, the command and the time; returns the file."""
    command = " ".join(["python", *(os.path.relpath(part) if os.path.exists(part) else part for part in sys.argv)])
    when = datetime.now(UTC).isoformat(timespec="seconds")
    whole = {"command": command, "time": when, "machine": machine(), "results": results}
    file = WORK / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(whole, indent=2) + "\n")
    print(f"written to {file}")
    return file
