"""CPUs and memory that this process may use: those of its container, where that has fewer than the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

CONTROLLERS = {"cpu": ("cpu", "cpu,cpuacct"), "memory": ("memory",)}
"""Folders of version 1 below `sys/fs/cgroup`; version 2 has one for all."""


@dataclass(frozen=True)
class Quota:
    """What the control groups of this process allow."""

    cpus: float | None
    memory: int | None
    """Bytes."""


def usable_cpus() -> int:
    """CPUs that this process may use, at least one: a quota of one and a half is one."""
    quota = read_quota(Path("/")).cpus
    allowed = len(os.sched_getaffinity(0))
    return max(1, min(allowed, int(quota)) if quota is not None else allowed)


def usable_memory() -> int:
    """Bytes of memory that this process may use."""
    installed = psutil.virtual_memory().total
    quota = read_quota(Path("/")).memory
    return min(installed, quota) if quota is not None else installed


def read_quota(root: Path) -> Quota:
    """The smallest limits of this process's control groups and those that hold them, of version 1 and 2.

    A container sees its own group as the root, or all groups of the machine, or its own as the root under a path that only the
    machine knows: what of the path is not there is passed over.

    Args:
        root: folder that holds `proc` and `sys`.
    """
    cpus = [limit for folder in _groups(root, "cpu") if (limit := _cpus(folder)) is not None]
    memory = [limit for folder in _groups(root, "memory") if (limit := _memory(folder)) is not None]
    return Quota(min(cpus, default=None), min(memory, default=None))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the groups that limit this process, from the innermost up."""
    lines = _text(root / "proc" / "self" / "cgroup").splitlines()
    for _, controllers, group in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        mounted = root / "sys" / "fs" / "cgroup"
        if not controllers:
            tops = [mounted, mounted / "unified"]
        elif controller in controllers.split(","):
            tops = [mounted / name for name in CONTROLLERS[controller]]
        else:
            continue
        parts = [part for part in group.split("/") if part not in ("", "..")]
        yield from (top.joinpath(*parts[:depth]) for top in tops for depth in range(len(parts), -1, -1))


def _cpus(group: Path) -> float | None:
    words = _text(group / "cpu.max").split() or [_text(group / f"cpu.cfs_{kind}_us").strip() for kind in ("quota", "period")]
    if len(words) != 2 or not all(word.isdecimal() and int(word) for word in words):
        return None  # `max`, or -1 in version 1: none
    return int(words[0]) / int(words[1])


def _memory(group: Path) -> int | None:
    word = (_text(group / "memory.max") or _text(group / "memory.limit_in_bytes")).strip()
    return int(word) if word.isdecimal() else None


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
