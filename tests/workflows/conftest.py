"""Finished runs that several files of tests start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import run_and_read, tiny_config, trials_here

from raymask.runs.directory import Run


@pytest.fixture(autouse=True)
def packs_in_this_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """As in `trials_here`, but for tests that are marked with `tune`. The finished runs below come from Tune's trials."""
    if request.node.get_closest_marker("tune"):
        yield
    else:
        with trials_here():
            yield


@pytest.fixture(scope="session")
def finished(ray_session: None, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    """Specialists, a multi-head and a joint model, voted."""
    members = [{"task": "mask"}, {"task": "gender"}, {"task": "age"}, {"task": "multi"}, {"task": "joint", "seeds": 2}]
    return run_and_read(tiny_config(tmp_path_factory.mktemp("runs"), photos, members=members))


@pytest.fixture(scope="session")
def reserving(ray_session: None, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    """A joint model, a quarter of the people being held out."""
    folds = {"k": 2, "reserve": 0.25}
    return run_and_read(tiny_config(tmp_path_factory.mktemp("runs"), photos, folds=folds, members=[{"task": "joint"}]))
