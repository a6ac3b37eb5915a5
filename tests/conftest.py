"""One Ray for all tests that need it, and tiny data sets that are drawn once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each of Ray's many processes would compile torch anew, for five seconds

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from raymask.config.compute import ComputeConfig
from raymask.data.demo.dataset import write_demo

settings.register_profile("untimed", deadline=None)  # how long an example takes depends on what else the machine does
settings.load_profile("untimed")

FAMILIES = {
    "finished": ("test_train.py", "test_resume.py", "test_refit.py"),
    "reserving": ("test_soup.py", "test_distill.py", "test_add.py"),
}
"""Files of tests/workflows that start from one run: they go to one process, which makes that run once."""
SLOWEST = (
    "workflows",
    "cluster",
    "serving",
    "whole",
    "inference",
    "data/test_careful",
    "export",
    "training/test_launch",
    "training/test_soup",
)
"""Where tests wait for Ray's processes; they begin first, so that the two processes end together."""


FAMILY_OF = {f"tests/workflows/{file}": family for family, files in FAMILIES.items() for file in files}


class ByFamily(LoadScopeScheduling):  # type: ignore[misc]
    """Sends the files of a family, and else the tests of a file, to one process."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return FAMILY_OF.get(file, file)


def pytest_configure(config: pytest.Config) -> None:
    """Starts what forks Ray's workers and the scripts of the tests, once for all processes of the tests."""
    if "RAYMASK_FORKED_WORKERS" in os.environ:  # empty: all start as they do for users
        return
    from raymask.cluster.connection import LOCAL_ENVIRONMENT, WORKER_ENVIRONMENT

    folder = tempfile.mkdtemp(prefix="raymask-tests-")
    socket = f"{folder}/workers"
    forked = Path(__file__).parent / "helpers" / "forked"
    environment = {**os.environ, **WORKER_ENVIRONMENT, **LOCAL_ENVIRONMENT}
    server = subprocess.Popen([sys.executable, str(forked / "server.py"), socket], env=environment, stdin=subprocess.DEVNULL)
    os.environ["RAYMASK_FORKED_WORKERS"] = socket
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(forked), os.environ.get("PYTHONPATH")]))

    def end() -> None:
        server.kill()
        server.wait()
        shutil.rmtree(folder)

    config.add_cleanup(end)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFamily:
    return ByFamily(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((n for n, part in enumerate(SLOWEST) if f"tests/{part}" in item.nodeid), len(SLOWEST)))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    from raymask.cluster.connection import connect

    with connect(ComputeConfig(cpus=2, gpus=0)):
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch on one thread, so that sums have one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set in the competition's layout: 16 + 4 people, 96×128 pixels."""
    return write_demo(tmp_path_factory.mktemp("photos") / "demo", people=16, test_people=4, size=(96, 128))
