"""Tests of the label algebra."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from raymask.core.errors import InputError, shortened
from raymask.core.spelling import canonical
from raymask.core.tasks import (
    JOINT,
    MAX_CLASSES,
    UNLABELLED,
    LabelSpace,
    Task,
    alike,
    band,
    band_names,
    check_task_names,
    infer_classes,
)

STANDARD = LabelSpace(
    (
        Task("mask", "mask", ("worn", "incorrect", "none")),
        Task("gender", "gender", ("male", "female")),
        Task("age", "age", ("<30", "30-60", ">=60"), edges=(30, 60)),
    )
)
SHAPES = st.lists(st.integers(2, 5), min_size=1, max_size=4).map(tuple)


def space_of(shape: tuple[int, ...]) -> LabelSpace:
    return LabelSpace(tuple(Task(f"t{i}", f"t{i}", tuple(f"c{i}{label}" for label in range(n))) for i, n in enumerate(shape)))


# --- the joint label


def test_the_joint_label_of_the_competition_is_mask_times_6_and_gender_times_3_and_age() -> None:
    mask, gender, age = (axis.ravel() for axis in np.meshgrid(range(3), range(2), range(3), indexing="ij"))
    joint = STANDARD.join({"age": age, "mask": mask, "gender": gender})
    assert joint.tolist() == (mask * 6 + gender * 3 + age).tolist() == list(range(18))
    assert STANDARD.joint_size == 18


def test_the_joint_classes_are_named_in_the_order_of_the_joint_label() -> None:
    assert STANDARD.joint_classes[0] == "worn male <30"
    assert STANDARD.joint_classes[1 * 6 + 1 * 3 + 2] == "incorrect female >=60"
    assert len(set(STANDARD.classes(JOINT))) == 18
    assert STANDARD.classes("gender") == ("male", "female")


@given(shape=SHAPES, data=st.data())
def test_joining_and_splitting_are_inverse(shape: tuple[int, ...], data: st.DataObject) -> None:
    space = space_of(shape)
    rows = data.draw(st.integers(0, 6))
    labels = {
        name: data.draw(hnp.arrays(np.int64, rows, elements=st.integers(0, n - 1)))
        for name, n in zip(space.names, shape, strict=True)
    }
    joint = space.join(labels)
    assert joint.dtype == np.int64
    assert ((joint >= 0) & (joint < space.joint_size)).all()
    for name, part in space.split(joint).items():
        np.testing.assert_array_equal(part, labels[name])


@given(shape=SHAPES)
def test_every_joint_label_is_that_of_one_combination(shape: tuple[int, ...]) -> None:
    space = space_of(shape)
    every = np.arange(space.joint_size)
    np.testing.assert_array_equal(space.join(space.split(every)), every)
    assert space.joint_size == math.prod(shape) == len(set(space.joint_classes))


def test_a_row_without_one_of_its_labels_has_no_joint_label() -> None:
    joint = STANDARD.join({"mask": [2, -1, 0], "gender": [1, 0, 0], "age": [2, 0, -1]})
    assert joint.tolist() == [17, UNLABELLED, UNLABELLED]


def test_a_row_without_joint_label_has_no_labels() -> None:
    parts = STANDARD.split([17, UNLABELLED])
    assert {name: labels.tolist() for name, labels in parts.items()} == {"mask": [2, -1], "gender": [1, -1], "age": [2, -1]}


def test_a_label_outside_of_its_task_cannot_be_joined() -> None:
    with pytest.raises(ValueError, match="invalid entry"):
        STANDARD.join({"mask": [3], "gender": [0], "age": [0]})


# --- probabilities


def probabilities(data: st.DataObject, rows: int, classes: int) -> np.ndarray:
    weights = data.draw(hnp.arrays(np.float64, (rows, classes), elements=st.floats(0.01, 1)))
    return weights / weights.sum(axis=1, keepdims=True)


@given(shape=SHAPES, rows=st.integers(1, 4), data=st.data())
@settings(deadline=None)
def test_the_marginals_of_a_product_are_its_factors(shape: tuple[int, ...], rows: int, data: st.DataObject) -> None:
    space = space_of(shape)
    factors = {name: probabilities(data, rows, n) for name, n in zip(space.names, shape, strict=True)}
    joint = space.product(factors)
    assert joint.shape == (rows, space.joint_size)
    np.testing.assert_allclose(joint.sum(axis=1), 1)
    for name, factor in factors.items():
        np.testing.assert_allclose(space.marginal(joint, name), factor)


@given(shape=SHAPES, data=st.data())
@settings(deadline=None)
def test_marginals_of_any_joint_distribution_sum_to_1(shape: tuple[int, ...], data: st.DataObject) -> None:
    space = space_of(shape)
    joint = probabilities(data, 3, space.joint_size)
    for name, classes in zip(space.names, shape, strict=True):
        marginal = space.marginal(joint, name)
        assert marginal.shape == (3, classes)
        np.testing.assert_allclose(marginal.sum(axis=1), 1)


@given(shape=SHAPES, data=st.data())
@settings(deadline=None)
def test_the_product_of_sure_tasks_is_sure_of_their_joint_label(shape: tuple[int, ...], data: st.DataObject) -> None:
    space = space_of(shape)
    labels = {name: [data.draw(st.integers(0, n - 1))] for name, n in zip(space.names, shape, strict=True)}
    joint = space.product({name: np.eye(len(space.classes(name)))[labels[name]] for name in space.names})
    assert joint[0, space.join(labels)[0]] == joint.sum() == 1


def test_a_marginal_counts_every_joint_class_of_the_label() -> None:
    joint = np.zeros((1, 18))
    joint[0, [0, 3, 17]] = 0.5, 0.25, 0.25  # worn male <30, worn female <30, none female >=60
    assert STANDARD.marginal(joint, "mask").tolist() == [[0.75, 0, 0.25]]
    assert STANDARD.marginal(joint, "gender").tolist() == [[0.5, 0.5]]
    assert STANDARD.marginal(joint, "age").tolist() == [[0.75, 0, 0.25]]


# --- bands


def test_a_band_begins_at_its_edge() -> None:
    ages = pd.Series([-5, 0, 29, 29.999, 30, 30.001, 59.999, 60, 120])
    assert STANDARD["age"].labels(ages).tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2]
    assert STANDARD["age"].labels(ages.astype(str)).tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("value", [None, np.nan, np.inf, -np.inf, "nan", "inf", "", "young", "30 years"])
def test_what_is_no_number_is_in_no_band(value: Any) -> None:
    assert band(pd.Series(["29", value, "61"], dtype=object), (30, 60)).tolist() == [0, UNLABELLED, 2]


@given(edges=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4, unique=True).map(sorted), number=st.floats(-2e6, 2e6))
def test_a_number_is_in_the_band_of_as_many_edges_as_it_reaches(edges: list[float], number: float) -> None:
    assert band(pd.Series([number]), edges).tolist() == [sum(edge <= number for edge in edges)]


def test_bands_are_named_by_their_edges() -> None:
    assert band_names((30, 60)) == ("<30", "30-60", ">=60")
    assert band_names((0.5,)) == ("<0.5", ">=0.5")
    assert band_names((1_000_000, 1_000_001)) == ("<1000000", "1000000-1000001", ">=1000001")


@given(edges=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=6, unique=True).map(sorted))
def test_bands_of_different_edges_have_different_names(edges: list[float]) -> None:
    assert len({canonical(name) for name in band_names(edges)}) == len(edges) + 1


def test_bands_of_neighbouring_large_edges_have_different_names() -> None:
    edges = [math.nextafter(10.0**power, np.inf) * step for power in range(0, 300, 7) for step in (1, 1 + 2e-16, 1 + 1e-7)]
    assert len(set(band_names(sorted(set(edges))))) == len(set(edges)) + 1


def test_train_edges_change_the_labels_of_the_loss_alone() -> None:
    plain, shifted = STANDARD["age"], Task("age", "age", ("<30", "30-60", ">=60"), edges=(30, 60), train_edges=(29, 58))
    ages = pd.Series(["28", "29", "30", "57", "58", "60", "old"])
    np.testing.assert_array_equal(shifted.labels(ages), plain.labels(ages))
    np.testing.assert_array_equal(plain.train_labels(ages), plain.labels(ages))
    assert shifted.labels(ages).tolist() == [0, 0, 1, 1, 1, 2, UNLABELLED]
    assert shifted.train_labels(ages).tolist() == [0, 1, 1, 1, 2, 2, UNLABELLED]


# --- classes


def test_labels_are_places_in_the_classes_and_strangers_have_none() -> None:
    task = Task("colour", "colour", ("red", "10", "blue"))
    values = pd.Series(["blue", " red ", 10, 10.0, "10", "green", "", None, np.nan, "RED"], dtype=object)
    assert task.labels(values).tolist() == [2, 0, 1, 1, 1, -1, -1, -1, -1, -1]
    assert task.train_labels(values).tolist() == task.labels(values).tolist()


def test_no_values_have_no_labels() -> None:
    empty = pd.Series([], dtype=str)
    for task in STANDARD.tasks:
        assert task.labels(empty).dtype == np.int64
        assert len(task.labels(empty)) == 0


def test_a_task_is_found_by_its_name() -> None:
    assert STANDARD["gender"].classes == ("male", "female")
    assert STANDARD.names == ("mask", "gender", "age")
    assert STANDARD.shape == (3, 2, 3)


def test_classes_that_are_numbers_are_in_the_order_of_their_size() -> None:
    assert infer_classes("t", pd.Series(["10", "9", "-1", "100", "9", "0.5"])) == ("-1", "0.5", "9", "10", "100")
    assert infer_classes("t", pd.Series([10.0, 9.0, np.nan])) == ("9", "10")


def test_classes_that_are_words_are_in_the_order_of_the_alphabet() -> None:
    assert infer_classes("t", pd.Series(["b", "10", "a", " a", "9", ""])) == ("10", "9", "a", "b")


def test_a_class_that_is_written_in_several_ways_is_one_and_named_as_most_often() -> None:
    same = [f"1.{'0' * zeros}" for zeros in range(20)]
    values = pd.Series(["2", *same, "0", "1.0 "])
    assert infer_classes("t", values) == ("0", "1.0", "2")
    assert Task("t", "t", ("0", "1.0", "2")).labels(values).tolist() == [2, *[1] * 20, 0, 1]
    words = pd.Series(["caf\u00e9", "cafe\u0301", "caf\u00e9 ", "\u200btea", "tea", "Tea"])
    assert infer_classes("t", words) == ("Tea", "caf\u00e9", "tea")
    assert Task("t", "t", ("tea", "caf\u00e9")).labels(words).tolist() == [1, 1, 1, 0, 0, UNLABELLED]


def test_classes_that_are_equal_as_numbers_are_in_one_order_in_any_process() -> None:
    same = [f"{'0' * zeros}1" for zeros in range(20)]  # a set of them has another order under each hash seed
    assert infer_classes("t", pd.Series(["2", *same, "0"])) == ("0", *sorted(same), "2")


def test_missing_values_are_no_classes_unless_they_are_listed() -> None:
    values = pd.Series(["hat", "None", "nan", "N/A", "cap", "none", "NULL", ""])
    assert infer_classes("t", values) == ("cap", "hat", "none")
    assert Task("t", "t", ("hat", "None")).labels(values).tolist() == [0, 1, *[UNLABELLED] * 6]


def test_classes_that_are_likely_one_are_found() -> None:
    assert alike(["Dog", "cat", "dog", "1.5", "DOG", "1.50", "x"]) == [("Dog", "dog", "DOG"), ("1.5", "1.50")]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (["a", "a", " a"], "only the value 'a'"),
        ([], "no value"),
        (["", "", " "], "no value"),
        ([None, "a"], "only the value 'a'"),
    ],
)
def test_fewer_than_two_classes_are_refused(values: list[Any], problem: str) -> None:
    with pytest.raises(InputError) as caught:
        infer_classes("colour", pd.Series(values, dtype=object))
    assert str(caught.value) == f"task 'colour' has {problem} in its column; a task needs at least two classes."


def test_too_many_classes_are_refused_with_a_way_out() -> None:
    values = pd.Series([f"{number:03}" for number in range(12)])
    assert len(infer_classes("weight", values, most=12)) == 12
    with pytest.raises(InputError) as caught:
        infer_classes("weight", values, most=11)
    assert str(caught.value) == (
        "task 'weight' has 12 distinct values (000, 001, 002 and 9 more); if they are no classes, name another column, else cut "
        "the number into bands by tasks.weight.edges."
    )
    with pytest.raises(InputError, match=r"else list them in tasks\.city\.classes\.$"):
        infer_classes("city", pd.Series([f"city {number}" for number in range(12)]), most=11)


def test_long_lists_of_names_are_shortened() -> None:
    assert shortened(["a", "b"], 2) == "a, b"
    assert shortened(["a", "b", "c", "d"], 2) == "a, b and 2 more"


# --- names


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["image_id"], "'image_id' is a column of raymask's predictions and cannot name a task; name it otherwise: "
         '--set "tasks={my_image_id: {column: image_id}}".'),
        (["mask", "mask_label"],
         "'mask_label' cannot name a task beside 'mask', whose numbers go by that name in the predictions; "
         'name it otherwise: --set "tasks={my_mask_label: {column: mask_label}}".'),
        (["a b"], "'a b' cannot name a task, which takes a letter and then at most 99 letters, digits and _; name it otherwise: "
         "--set \"tasks={a_b: {column: 'a b'}}\"."),
        (["mean"], "'mean' is the mean over tasks in vote.metric and cannot name a task; "
         'name it otherwise: --set "tasks={my_mean: {column: mean}}".'),
    ],
)  # fmt: skip
def test_a_name_that_a_task_cannot_have_is_refused_with_another(names: list[str], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        check_task_names(names)
    assert str(caught.value) == f"tasks: {sentence}"


@given(
    st.lists(st.one_of(st.text(max_size=120), st.sampled_from(["joint", "x", "x_label", "problem", "나이", "9a"])), max_size=4)
)
def test_the_other_name_that_is_proposed_is_free(names: list[str]) -> None:
    try:
        check_task_names(names)
    except InputError as error:
        sentence = str(error)
    else:
        return
    assert "\n" not in sentence
    proposed = sentence.split("tasks={")[1].split(":")[0]
    check_task_names([*(name for name in names if name == "x"), proposed])


@pytest.mark.parametrize("tasks", [24, 40, 5000])
def test_more_joint_classes_than_can_be_voted_on_are_refused_before_anything_is_made(tasks: int) -> None:
    with pytest.raises(InputError, match=rf"^tasks: their {tasks} tasks make \d+ joint classes, and raymask takes 4096 at most"):
        space_of((2,) * tasks)
    with pytest.raises(InputError, match=r"^tasks: 't0' has 4097 joint classes"):
        space_of((MAX_CLASSES + 1,))
    assert space_of((2,) * 12).joint_size == MAX_CLASSES
