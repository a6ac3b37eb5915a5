"""How often the state of a pack is kept between epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raymask.runs.directory import ReplicaId, Run
from raymask.training.checkpoints import MOST_OF_THE_TIME, Checkpoints
from raymask.training.learner import Learner


def kept_after(tmp_path: Path, writing: float, epoch: float, epochs: int) -> list[int]:
    """The epochs after which a checkpoint is written, where writing takes some time, and an epoch."""
    now, writes, kept = 0.0, 0, list[int]()

    class Model:
        def state(self) -> dict[str, Any]:
            nonlocal now, writes
            now, writes = now + writing, writes + 1
            return {}

    checkpoints = Checkpoints(Run(tmp_path), lambda: now)
    for number in range(1, epochs + 1):
        now, before = now + epoch, writes
        checkpoints.save([(ReplicaId("joint", 0), cast("Learner", Model()), [])])
        if writes > before:
            kept.append(number)
    return kept


def test_after_each_epoch_where_writing_is_cheap(tmp_path: Path) -> None:
    assert kept_after(tmp_path, writing=1, epoch=25, epochs=5) == [1, 2, 3, 4, 5]


@given(writing=st.floats(0.001, 100), epoch=st.floats(0.001, 1000), epochs=st.integers(20, 60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
def test_it_takes_a_twentieth_of_the_time_at_most(tmp_path: Path, writing: float, epoch: float, epochs: int) -> None:
    kept = kept_after(tmp_path, writing, epoch, epochs)
    assert kept[0] == 1
    assert (len(kept) - 1) * writing <= MOST_OF_THE_TIME * epochs * epoch * (1 + 1e-9)
    every = max(1, -(-writing / MOST_OF_THE_TIME // epoch))
    assert len(kept) >= (epochs - 1) // (every + 1)
