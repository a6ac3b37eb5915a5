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

from raymask.errors import InputError, shortened
from raymask.tasks import JOINT, UNLABELLED, LabelSpace, Task, band, band_names, class_name, infer_classes

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


def test_train_edges_change_the_labels_of_the_loss_alone() -> None:
    plain, shifted = STANDARD["age"], Task("age", "age", ("<30", "30-60", ">=60"), edges=(30, 60), train_edges=(29, 58))
    ages = pd.Series(["28", "29", "30", "57", "58", "60", "old"])
    np.testing.assert_array_equal(shifted.labels(ages), plain.labels(ages))
    np.testing.assert_array_equal(plain.train_labels(ages), plain.labels(ages))
    assert shifted.labels(ages).tolist() == [0, 0, 1, 1, 1, 2, UNLABELLED]
    assert shifted.train_labels(ages).tolist() == [0, 1, 1, 1, 2, 2, UNLABELLED]


# --- classes


@pytest.mark.parametrize("value", [1, 1.0, "1", " 1 ", np.int64(1), np.float32(1)])
def test_one_is_one_class_however_it_is_written(value: Any) -> None:
    assert class_name(value) == "1"


@pytest.mark.parametrize(
    ("value", "name"), [(1.5, "1.5"), ("1.50", "1.50"), ("worn", "worn"), (True, "True"), (float("nan"), "nan")]
)
def test_other_values_are_named_as_they_are_written(value: Any, name: str) -> None:
    assert class_name(value) == name


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


def test_classes_that_are_equal_as_numbers_are_in_one_order_in_any_process() -> None:
    same = [f"1.{'0' * zeros}" for zeros in range(20)]  # a set of them has another order under each hash seed
    assert infer_classes("t", pd.Series(["2", *same, "0"])) == ("0", *same, "2")


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
        "task 'weight' has 12 distinct values (000, 001, 002 and 9 more); if the column is a number, set the task's edges to cut "
        "it into bands."
    )


def test_long_lists_of_names_are_shortened() -> None:
    assert shortened(["a", "b"], 2) == "a, b"
    assert shortened(["a", "b", "c", "d"], 2) == "a, b and 2 more"
