"""One Ray for all tests that need it, and tiny data sets that are drawn once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each of Ray's many processes would compile torch anew, for five seconds

import pytest

from raymask.config.compute import ComputeConfig
from raymask.data.demo.dataset import write_demo


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
