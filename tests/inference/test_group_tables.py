"""Tests of tables whose tasks are voted by group: in memory and in shards alike, and images alone as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymask.core.tasks import LabelSpace, Task
from raymask.inference.group_tables import of_several, vote_shards_by_group, voted_by_group
from raymask.io.atomic import write_table
from raymask.runs.folders import PredictionFolder
from raymask.runs.predictions import prediction_table
from raymask.voting.grouping import Grouping

SPACE = LabelSpace((Task("mask", "m", ("a", "b", "c")), Task("gender", "g", ("m", "f"))))
GENDER = Grouping(("gender",), "geometric")


def table_of(images: int) -> pd.DataFrame:
    joint = np.random.default_rng(0).dirichlet(np.ones(6), images)
    problems = pd.Series(["broken" if number % 5 == 4 else "" for number in range(images)])
    ids = pd.Series([f"{number:03d}" for number in range(images)])
    table = prediction_table(ids, problems, joint, SPACE)
    table.insert(2, "agreement", np.linspace(0, 1, images, dtype=np.float32))
    return table


@given(st.lists(st.integers(0, 6), min_size=1, max_size=20))
def test_groups_of_several_images_are_numbered_anew(groups: list[int]) -> None:
    numbers = of_several(np.array(groups))
    for place, group in enumerate(groups):
        assert (numbers[place] == -1) == (groups.count(group) == 1)
        for other, number in zip(groups, numbers, strict=True):
            if number >= 0:
                assert (number == numbers[place]) == (other == group)
    assert set(numbers[numbers >= 0].tolist()) == set(range(int(numbers.max()) + 1))


def test_rows_of_images_alone_are_as_they_were_and_others_agree_with_themselves() -> None:
    table, groups = table_of(11), np.array([0, 1, 0, 2, 0, 3, 3, 4, 5, 6, 6])
    voted = voted_by_group(table, groups, GENDER, SPACE)
    alone = [1, 3, 7, 8, 10]  # of which the last two are with none, and with a broken one
    pd.testing.assert_frame_equal(voted.iloc[alone], table.iloc[alone], check_exact=True)
    assert voted.dtypes.to_dict() == table.dtypes.to_dict()
    assert list(voted) == list(table)
    own = table[["gender:m", "gender:f"]].to_numpy()
    raised = np.sqrt(own[0] * own[2])
    for image in (0, 2, 4):
        np.testing.assert_allclose(voted[["gender:m", "gender:f"]].to_numpy()[image], raised / raised.sum())
    np.testing.assert_allclose(voted[["gender:m", "gender:f"]].to_numpy()[9], own[10])
    joint = voted[[name for name in map(str, voted) if name.startswith("joint:")]].to_numpy()
    np.testing.assert_array_equal(voted["joint"], joint.argmax(axis=1))
    np.testing.assert_array_equal(voted["joint"], 2 * voted["mask_label"] + voted["gender_label"])
    assert [SPACE.classes("gender")[label] for label in voted["gender_label"]] == voted["gender"].tolist()
    pd.testing.assert_series_equal(voted["agreement"], table["agreement"])


def test_nothing_is_done_without_a_task_that_is_voted_by_group() -> None:
    table = table_of(3)
    assert voted_by_group(table, np.zeros(3, dtype=np.int64), Grouping(), SPACE) is table
    assert voted_by_group(table[:0], np.zeros(0, dtype=np.int64), GENDER, SPACE).empty


@pytest.mark.parametrize("size", [1, 4, 30])
def test_shards_hold_what_one_table_would(tmp_path: Path, size: int) -> None:
    """Groups lie in several shards."""
    table, groups = table_of(23), np.random.default_rng(1).integers(0, 8, 23)
    alone, into = PredictionFolder(tmp_path, "each-alone"), PredictionFolder(tmp_path)
    for number, start in enumerate(range(0, 23, size)):
        write_table(alone.shard(number), table[start : start + size].reset_index(drop=True))
    for _ in range(2):
        vote_shards_by_group(alone, into, groups, GENDER, SPACE)
        parts = [pd.read_parquet(shard) for shard in into.shards()]
        assert list(map(len, parts)) == [len(pd.read_parquet(shard)) for shard in alone.shards()]
        expected = voted_by_group(table, groups, GENDER, SPACE)
        pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), expected, rtol=1e-12, check_dtype=False)
        contents = {shard: shard.read_bytes() for shard in into.shards()}
    vote_shards_by_group(alone, into, groups, GENDER, SPACE)
    assert {shard: shard.read_bytes() for shard in into.shards()} == contents
