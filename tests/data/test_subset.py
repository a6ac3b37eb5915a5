"""Tests of a share of the images: whole groups, of each class as many as the folds need."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymask.config.data import FoldsConfig
from raymask.core.tasks import LabelSpace, Task
from raymask.data import test_sets
from raymask.data.folds import assign_folds, rare_classes, reserve_rows
from raymask.data.sources import Source
from raymask.data.subset import FEWEST_TEST_IMAGES, sample_groups, sampled_source, sampled_test

SPACE = LabelSpace((Task("band", "band", ("young", "old", "ancient")),))


@st.composite
def labelled_groups(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """(N,) joint labels and (N,) groups of up to 30 groups of up to 4 images each."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=30))
    groups = np.repeat(np.arange(len(sizes)), sizes)
    joint = np.array(draw(st.lists(st.integers(0, 4), min_size=len(groups), max_size=len(groups))))
    return joint, groups


@given(labelled_groups(), st.floats(0.01, 1), st.integers(1, 6), st.integers(1, 12), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_each_class_keeps_its_share_of_whole_groups_and_no_group_is_drawn_for_nothing(
    data: tuple[np.ndarray, np.ndarray], share: float, per_class: int, in_all: int, seed: int
) -> None:
    joint, groups = data
    kept = sample_groups(joint, groups, share, per_class, in_all, seed)
    drawn = set(groups[kept].tolist())
    assert kept.tolist() == [group in drawn for group in groups.tolist()]
    most = 0
    for fewest, of_class in [(per_class, set(groups[joint == label])) for label in set(joint)] + [(in_all, set(groups))]:
        wanted = min(len(of_class), max(math.ceil(share * len(of_class)), fewest))
        assert len(drawn & of_class) >= wanted
        most += wanted
    assert len(drawn) <= most
    again = sample_groups(joint, groups, share, per_class, in_all, seed)
    np.testing.assert_array_equal(again, kept)


def test_without_rare_classes_a_share_is_that_of_the_groups() -> None:
    groups = np.repeat(np.arange(1000), 7)
    joint = (groups % 4) * 3 + np.tile([0, 0, 0, 0, 0, 1, 2], 1000)  # each person has three joint classes
    kept = sample_groups(joint, groups, 0.05, 10, 10, seed=0)
    drawn = np.unique(groups[kept])
    assert len(drawn) == 52  # 13 of each of the four kinds of people, as 5% of 250 are 12.5
    assert np.bincount(drawn % 4).tolist() == [13, 13, 13, 13]
    other = np.unique(groups[sample_groups(joint, groups, 0.05, 10, 10, seed=1)])
    assert len(np.intersect1d(drawn, other)) < 20


def source_of(people: int) -> Source:
    """Two images a person; of 40 people one is ancient and a quarter old."""
    number = np.repeat(np.arange(people), 2)
    label = np.where(number % 40 == 0, 2, np.where(number % 4 == 1, 1, 0))
    images = pd.DataFrame(
        {
            "image_id": [f"{person:05}/{place}" for person in range(people) for place in range(2)],
            "group": [f"p{person:05}" for person in number],
            "label_band": label,
            "label_joint": label,
        }
    )
    rejected = pd.DataFrame({"image_id": ["x", "y"], "reason": ["broken", "broken"]})
    return Source(images, rejected, SPACE, {}, ("said before",))


def test_a_share_of_1_is_the_source_itself() -> None:
    source, test = source_of(4), test_sets.TestSet(pd.DataFrame({"image_id": ["a"]}), None, None)
    assert sampled_source(source, 1.0, FoldsConfig(), 0) is source
    assert sampled_test(test, 1.0, 0) is test


@pytest.mark.parametrize("reserve", [0.0, 0.25, 0.02])
def test_folds_can_be_made_of_the_smallest_share_and_each_validates_each_class(reserve: float) -> None:
    source, folds = source_of(800), FoldsConfig(k=5, reserve=reserve)
    part = sampled_source(source, 0.001, folds, seed=3)
    assert len(part.images) + part.left_out == len(source.images)
    assert len(part.images) < len(source.images) / 4
    assert part.images["image_id"].is_monotonic_increasing
    assert part.images.index.tolist() == list(range(len(part.images)))
    left = part.images[~reserve_rows(part.images, folds, 3)].reset_index(drop=True)
    assert not rare_classes(left, SPACE.joint_classes, folds.k)
    fold = assign_folds(left, folds, 3)
    assert [set(left["label_joint"][fold == number]) for number in range(5)] == [{0, 1, 2}] * 5


def test_what_is_set_aside_stays_and_what_is_used_is_said() -> None:
    part = sampled_source(source_of(400), 0.1, FoldsConfig(k=2), seed=0)
    people = part.images["group"].nunique()
    assert part.rejected["image_id"].tolist() == ["x", "y"]
    said = f"{2 * people} of 800 images are used, those of {people} of 400 groups (data.share=0.1)"
    assert part.remarks == (said, "said before")
    assert 40 <= people <= 46


@pytest.mark.parametrize(("images", "share", "kept"), [(1000, 0.05, 50), (40, 0.05, FEWEST_TEST_IMAGES), (3, 0.05, 3)])
def test_test_images_keep_their_order_and_their_rows_of_the_test_file(images: int, share: float, kept: int) -> None:
    ids = [f"{(7 * number) % images:04}.jpg" for number in range(images)]
    test = test_sets.TestSet(pd.DataFrame({"image_id": ids}), pd.DataFrame({"ImageID": ids, "ans": "0"}), "ans")
    part = sampled_test(test, share, seed=1)
    assert part.template is not None
    assert part.template["ImageID"].tolist() == part.images["image_id"].tolist()
    assert len(part.images) == kept
    places = [ids.index(name) for name in part.images["image_id"]]
    assert places == sorted(places)
    assert part.left_out == images - kept
