"""CPUs and memory of drawn containers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymask.core.machine import Quota, read_quota, usable_cpus, usable_memory

GIB = 2**30
UNLIMITED = str(2**63 - 4096)
NONE = Quota(None, None)


def draw(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """A machine's `proc` and `sys`."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(cgroup)
    for name, text in files.items():
        file = root / "sys" / "fs" / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "quota"),
    [
        pytest.param("0::/\n", {"cpu.max": "150000 100000", "memory.max": str(2 * GIB)}, Quota(1.5, 2 * GIB), id="docker"),
        pytest.param("0::/\n", {"cpu.max": "max 100000", "memory.max": "max"}, NONE, id="a container without limits"),
        pytest.param("0::/init.scope\n", {"init.scope/cgroup.procs": "1"}, NONE, id="a machine"),
        pytest.param(
            "0::/a/b/c\n",
            {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000", "a/b/c/cpu.max": "800000 100000", "a/memory.max": "512"},
            Quota(3.0, 512),
            id="the smallest on the way up",
        ),
        pytest.param(
            "0::/system.slice/docker-1.scope\n",
            {"cpu.max": "50000 100000", "memory.max": "77"},
            Quota(0.5, 77),
            id="a path that only the machine knows",
        ),
        pytest.param("0::/../../kubepods\n", {"cpu.max": "200000 100000"}, Quota(2.0, None), id="a path above its own root"),
        pytest.param(
            "4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "100000",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": str(GIB),
            },
            Quota(1.0, GIB),
            id="version 1 in docker",
        ),
        pytest.param(
            "2:memory:/a/b\n1:cpu:/a\n0::/\n",
            {
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
                "cpu/a/cpu.cfs_quota_us": "25000",
                "cpu/a/cpu.cfs_period_us": "50000",
                "memory/memory.limit_in_bytes": UNLIMITED,
                "memory/a/memory.limit_in_bytes": "4096",
                "memory/a/b/memory.limit_in_bytes": "8192",
            },
            Quota(0.5, 4096),
            id="version 1 nested",
        ),
        pytest.param(
            "2:memory:/\n1:name=systemd:/x\n0::/x\n",
            {"memory/memory.limit_in_bytes": "4096", "unified/x/cpu.max": "100000 100000"},
            Quota(1.0, 4096),
            id="both versions",
        ),
        pytest.param("", {}, NONE, id="no control groups"),
        pytest.param("0::/\n", {"cpu.max": "", "memory.max": "none"}, NONE, id="nothing that can be read"),
    ],
)
def test_limits(tmp_path: Path, cgroup: str, files: dict[str, str], quota: Quota) -> None:
    assert read_quota(draw(tmp_path, cgroup, files)) == quota


def test_a_machine_without_proc(tmp_path: Path) -> None:
    assert read_quota(tmp_path) == NONE


@given(st.lists(st.one_of(st.none(), st.integers(1, 10**7)), min_size=1, max_size=5))
def test_the_smallest_quota_of_any_depth_counts(tmp_path_factory: pytest.TempPathFactory, quotas: list[int | None]) -> None:
    files = {"/".join([*map(str, range(depth)), "cpu.max"]): f"{quota or 'max'} 1000" for depth, quota in enumerate(quotas)}
    root = draw(tmp_path_factory.mktemp("machine"), "0::/" + "/".join(map(str, range(len(quotas) - 1))), files)
    limits = [quota / 1000 for quota in quotas if quota]
    assert read_quota(root).cpus == min(limits, default=None)


def test_cpus_that_a_process_is_pinned_to() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from raymask.core.machine import usable_cpus; print(usable_cpus())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


@pytest.mark.parametrize(("quota", "cpus"), [(None, 2), (0.2, 1), (1.5, 1), (2.9, 2), (64.0, 2)])
def test_a_quota_bounds_cpus_and_memory(monkeypatch: pytest.MonkeyPatch, quota: float | None, cpus: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr("raymask.core.machine.read_quota", lambda root: Quota(quota, None if quota is None else 4096))
    assert usable_cpus() == cpus
    assert (usable_memory() == 4096) == (quota is not None)
