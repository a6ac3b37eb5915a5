"""Tests of what is said of tasks voted by group, and of what is refused before anything is trained. Without Ray."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from tiny import tiny_config

from raymask.core.console import Display
from raymask.core.errors import InputError
from raymask.core.tasks import LabelSpace, Task
from raymask.runs.schemas import Groups
from raymask.workflows.group_vote import grouping_line, mistaken
from raymask.workflows.setup import read_labelled, resolve

SPACE = LabelSpace((Task("mask", "m", ("a", "b")), Task("gender", "g", ("m", "f"))))


def people(number: int, wrong: int) -> pd.DataFrame:
    """Two images a person, with and without a mask, and some people of two genders."""
    gender = np.repeat(np.arange(number) % 2, 2)
    gender[: 2 * wrong : 2] ^= 1
    joint = SPACE.join({"mask": np.arange(2 * number) % 2, "gender": gender})
    return pd.DataFrame({"group": [f"person {place // 2}" for place in range(2 * number)], "label_joint": joint})


@pytest.mark.parametrize(("number", "wrong", "told"), [(100, 2, True), (100, 3, False), (100, 0, False), (20, 1, False)])
def test_a_task_that_differs_in_few_groups_alone_is_told_of(number: int, wrong: int, told: bool) -> None:
    sentence = (
        f"gender is not voted by group, since it differs within {wrong} of {number} groups of several images, such as 'person 0'"
    )
    assert mistaken(people(number, wrong), SPACE) == ([sentence] if told else [])


def test_images_alone_are_no_groups_to_be_mistaken_in() -> None:
    alone = people(100, 0).assign(group=[str(number) for number in range(200)])
    assert mistaken(alone, SPACE) == []
    assert mistaken(pd.concat([alone, people(3, 1)]), SPACE) == []


def test_what_was_decided_is_told_in_a_sentence() -> None:
    interval = {"score": 0.5, "se": 0.1, "low": 0.4, "high": 0.6}
    base = {"candidates": ["gender", "age"], "pool": "mean", "estimate": {**interval, "optimism": 0.0}}
    none = Groups.model_validate({**base, "tasks": []})
    assert grouping_line(none, "joint.f1") == (
        "by group: voting gender + age over all images of a group would gain nothing that is sure"
    )
    size = {**interval, "images": 7, "gain": interval}
    chosen = Groups.model_validate({**base, "tasks": ["age"], "gain": {**interval, "low": -0.1}, "sizes": [size]})
    assert grouping_line(chosen, "joint.f1") == (
        "by group: age by mean; where new images come with groups of 7 images, joint.f1 of 0.5000 (0.4000 to 0.6000) is "
        "expected, +0.5000 (-0.1000 to +0.6000)"
    )
    alone = chosen.model_copy(update={"sizes": [chosen.sizes[0].model_copy(update={"images": 1})]})
    assert "come with groups like those of the training images, joint.f1" in grouping_line(alone, "joint.f1")
    assert grouping_line(None, "joint.f1") == ""


def test_a_task_that_differs_within_a_group_is_refused_before_anything_is_trained(photos: Path, tmp_path: Path) -> None:
    config = resolve(tiny_config(tmp_path / "runs", photos, vote={"groups": ["gender", "mask"]}))
    with pytest.raises(
        InputError, match=r"^vote.groups names 'mask', which differs within a group: '000001' has '.*' and '.*'; "
    ):
        read_labelled(config, Display(Console(file=io.StringIO())))
    assert not (tmp_path / "runs" / "tiny").exists()
