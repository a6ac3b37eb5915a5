"""Tests of tasks that are voted over all images of a group: pooled by the definition, and put back without another word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymask.core.errors import InputError
from raymask.core.tasks import LabelSpace, Task
from raymask.voting.grouping import POOLS, Grouping, GroupVote, check_tasks, constant_tasks, first_difference, pooled

SPACE = LabelSpace((Task("mask", "m", ("a", "b", "c")), Task("gender", "g", ("m", "f")), Task("age", "a", ("y", "o", "z"))))
CHOICES = [("gender",), ("age",), ("mask",), ("gender", "age"), ("mask", "age"), ("mask", "gender", "age")]


@st.composite
def voted(draw: st.DrawFn) -> tuple[Any, ...]:
    """Joint probabilities with zeros among them, groups, which images count, and a grouping."""
    images = draw(st.integers(1, 12))
    row = st.lists(st.sampled_from([0.0, 0.0, 1e-310, 1e-9, 0.2, 1.0]), min_size=18, max_size=18)
    numbers = draw(st.lists(row, min_size=images, max_size=images))
    joint = np.array(numbers)
    joint[joint.sum(axis=1) < 1e-12] = 1.0
    joint /= joint.sum(axis=1, keepdims=True)
    groups = np.array(draw(st.lists(st.integers(0, 4), min_size=images, max_size=images)))
    counted = np.array(draw(st.lists(st.sampled_from([True, True, True, False]), min_size=images, max_size=images)))
    return joint, groups, counted, Grouping(draw(st.sampled_from(CHOICES)), draw(st.sampled_from(POOLS.names)))


def marginal(joint: Any, tasks: tuple[str, ...]) -> Any:
    """(N, S) probabilities of several tasks together, written out."""
    parts = {name: SPACE.split(np.arange(18))[name] for name in tasks}
    keys = list(zip(*(parts[name].tolist() for name in tasks), strict=True))
    return np.stack([sum(joint[:, label] for label in range(18) if keys[label] == key) for key in sorted(set(keys))], axis=1)


def pool_of(rows: Any, how: str) -> Any:
    """One distribution of several, written out."""
    raised = rows.mean(axis=0) if how == "mean" else np.prod(np.maximum(rows, 1e-7), axis=0) ** (1 / len(rows))
    return raised / raised.sum()


@given(voted())
@settings(max_examples=200)
def test_images_of_a_group_agree_on_what_the_definition_says(given_votes: tuple[Any, ...]) -> None:
    joint, groups, counted, grouping = given_votes
    result = pooled(SPACE, joint, groups, grouping, counted)
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result.sum(axis=1), 1, atol=1e-12)
    said = marginal(result, grouping.tasks)
    for group in set(groups.tolist()):
        members = np.flatnonzero(groups == group)
        whole = members[counted[members]]
        for image in members:
            if set(whole.tolist()) - {image}:
                expected = pool_of(marginal(joint[whole], grouping.tasks), grouping.pool)
                np.testing.assert_allclose(said[image], expected, atol=1e-12)
            else:
                assert result[image].tobytes() == joint[image].tobytes()


@given(voted(), st.integers(1, 12))
def test_images_that_come_in_chunks_are_voted_alike(given_votes: tuple[Any, ...], size: int) -> None:
    joint, groups, counted, grouping = given_votes
    vote = GroupVote(SPACE, grouping, int(groups.max()) + 1)
    chunks = [slice(start, start + size) for start in range(0, len(joint), size)]
    for chunk in chunks:
        vote.add(joint[chunk], groups[chunk], counted[chunk])
    parts = [vote.put_back(joint[chunk], groups[chunk], counted[chunk]) for chunk in chunks]
    np.testing.assert_allclose(np.concatenate(parts), pooled(SPACE, joint, groups, grouping, counted), rtol=1e-12)


@given(voted())
def test_what_an_image_says_of_the_other_tasks_given_the_chosen_ones_is_kept(given_votes: tuple[Any, ...]) -> None:
    joint, groups, counted, grouping = given_votes
    result = pooled(SPACE, joint, groups, Grouping(("gender",), grouping.pool), counted)
    before, after = joint.reshape(-1, 3, 2, 3), result.reshape(-1, 3, 2, 3)
    for image in range(len(joint)):
        for gender in (0, 1):
            total, new = before[image, :, gender].sum(), after[image, :, gender].sum()
            if total >= 1e-300 and new >= 1e-300:
                np.testing.assert_allclose(after[image, :, gender] / new, before[image, :, gender] / total, atol=1e-9)


def test_independent_tasks_are_multiplied_by_the_pool_over_their_own() -> None:
    """The form in which it may be written for independent tasks: joint · pooled / marginal."""
    rng = np.random.default_rng(0)
    parts = {name: rng.dirichlet(np.ones(size), 6) for name, size in zip(SPACE.names, SPACE.shape, strict=True)}
    joint, groups = SPACE.product(parts), np.array([0, 0, 0, 1, 1, 1])
    of_group = parts["gender"].reshape(2, 3, 2).mean(axis=1)[groups]
    ratio = (of_group / parts["gender"])[:, None, :, None]
    expected = (joint.reshape(-1, 3, 2, 3) * ratio).reshape(-1, 18)
    np.testing.assert_allclose(pooled(SPACE, joint, groups, Grouping(("gender",))), expected, rtol=1e-12)


def test_an_image_that_cannot_be_read_counts_for_nobody_and_is_told_what_its_group_says() -> None:
    rng = np.random.default_rng(1)
    joint, groups = rng.dirichlet(np.ones(18), 4), np.array([0, 0, 1, 1])
    prior = np.full(18, 1 / 18)
    joint[[1, 3]] = prior
    result = pooled(SPACE, joint, groups, Grouping(("age",)), np.array([True, False, True, False]))
    assert result[[0, 2]].tobytes() == joint[[0, 2]].tobytes()
    np.testing.assert_allclose(marginal(result[[1, 3]], ("age",)), marginal(joint[[0, 2]], ("age",)))
    np.testing.assert_allclose(marginal(result[[1, 3]], ("mask",)), 1 / 3)
    none = pooled(SPACE, joint, groups, Grouping(("age",)), np.zeros(4, dtype=bool))
    assert none.tobytes() == joint.tobytes()


def test_nothing_is_pooled_without_tasks_or_images() -> None:
    joint = np.random.default_rng(2).dirichlet(np.ones(18), 3)
    assert pooled(SPACE, joint, np.zeros(3, dtype=np.int64), Grouping()) is joint
    assert len(pooled(SPACE, joint[:0], np.zeros(0, dtype=np.int64), Grouping(("age",)))) == 0


def test_of_equal_gains_fewer_tasks_and_the_plainer_pool_are_simpler() -> None:
    order = [Grouping(), Grouping(("age",)), Grouping(("age",), "geometric"), Grouping(("age", "mask"))]
    complexities = [grouping.complexity for grouping in order]
    assert complexities == sorted(set(complexities))
    assert str(order[3]) == "age + mask by mean"


@given(st.lists(st.tuples(st.integers(0, 17), st.integers(0, 4)), min_size=1, max_size=12))
def test_constant_tasks_are_those_of_one_label_a_group(rows: list[tuple[int, int]]) -> None:
    truth, groups = (np.array(column) for column in zip(*rows, strict=True))
    found = constant_tasks(SPACE, truth, groups)
    for name, labels in SPACE.split(truth).items():
        ways = {group: set(labels[groups == group].tolist()) for group in set(groups.tolist())}
        places = first_difference(labels, groups)
        constant = all(len(of_group) == 1 for of_group in ways.values())
        assert (places is None) == constant
        assert (name in found) == (constant and len(ways) < len(rows))
        if places:
            one, other = places
            assert one < other
            assert groups[one] == groups[other]
            assert labels[one] != labels[other]


class TestCheck:
    TRUTH = SPACE.join({"mask": [0, 1, 2, 0], "gender": [0, 0, 1, 1], "age": [0, 0, 2, 2]})
    NAMES = np.array(["ann", "ann", "bob", "bob"], dtype=object)

    def test_what_is_constant_is_taken(self) -> None:
        check_tasks(SPACE, ("gender", "age"), self.TRUTH, self.NAMES)

    @pytest.mark.parametrize(
        ("wanted", "names", "message"),
        [
            (
                ("gendre",),
                NAMES,
                r"vote.groups: there is no task 'gendre'; it may be 'gender' \(the nearest\), 'mask' or 'age'\.",
            ),
            (("age", "age"), NAMES, r"vote.groups names 'age' twice; name each task once\."),
            (
                ("age", "mask"),
                NAMES,
                r"vote.groups names 'mask', which differs within a group: 'ann' has 'a' and 'b'; leave it out, or mend the "
                r"labels\.",
            ),
            (
                ("age",),
                np.array(["1", "2", "3", "4"], dtype=object),
                r"vote.groups names 'age', but no group of the training data has two images; name their column by "
                r"data.group_column, or set vote.groups to none\.",
            ),
        ],
    )
    def test_what_is_not_is_refused_in_one_sentence(self, wanted: tuple[str, ...], names: Any, message: str) -> None:
        with pytest.raises(InputError, match=f"^{message}$"):
            check_tasks(SPACE, wanted, self.TRUTH, names)
