"""The Tune shell around packs: what is said of one that fails."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from raymask.cluster.resources import Slots
from raymask.config.recipe import Recipe
from raymask.core.errors import RunError
from raymask.core.tasks import LabelSpace, Task
from raymask.data.specs import stream_spec
from raymask.runs.directory import ReplicaId, Run
from raymask.training.launch import first_of, train
from raymask.training.packs import Job, Pack, Plan


@pytest.mark.usefixtures("ray_session")
def test_a_pack_that_fails_for_good_is_one_sentence_with_its_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def fill_the_disk(*_: Any) -> None:  # inside the test, so that it travels to a worker that knows no tests
        import pathlib

        with pathlib.Path("/dev/full").open("w") as file:
            file.write("a")

    space = LabelSpace((Task("mask", "mask", ("worn", "none")),))
    job = Job(Run(tmp_path), space, {}, ("original",), {}, {}, {}, 2**20)
    packs = [Pack(f"pack-{number}", (ReplicaId("mask", number),), stream_spec(Recipe(), 0), 1) for number in range(2)]
    with pytest.raises(RunError) as caught:
        train(job, Plan(tuple(packs), Slots(2, 0.5, 0.0, 1, 0.5)), 1, lambda report: None, fill_the_disk)
    said = str(caught.value)
    assert re.match(r"2 of 2 packs failed \(a disk is full; free are .*\); the whole error lies in /", said)
    assert said.endswith("Once its cause is gone, the same command goes on with what is unfinished.")
    assert "\n" not in said
    assert "No space left on device" in Path(re.search(r"/\S+/error\.txt", said)[0]).read_text()  # type: ignore[index]
    assert capfd.readouterr() == ("", "")


def test_of_several_refusals_the_first_is_told_and_how_many_others_there_are() -> None:
    refusals = [f"mask/fold-{fold} was given up: lower recipe.optim.lr." for fold in (2, 0, 1)]
    assert first_of(refusals[:1]) == refusals[0]
    assert first_of([*refusals[:2], *refusals]) == (
        "mask/fold-2 was given up: lower recipe.optim.lr; 2 others cannot be trained either."
    )
