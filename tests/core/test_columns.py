"""Tests of the columns named after tasks, classes and models: every name that is built is split again."""

from __future__ import annotations

import doctest

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from raymask.core import columns
from raymask.core.columns import by_column, by_head, is_label_column, label_column, probability_columns, train_label_column
from raymask.core.tasks import JOINT, LabelSpace, Task

CLASSES = st.lists(st.text(min_size=1, max_size=6), min_size=2, max_size=3, unique=True).map(tuple)
MODELS = st.lists(st.text("ab|/-", max_size=6), max_size=3, unique=True)


@settings(deadline=None, max_examples=30)
@given(CLASSES, CLASSES, MODELS)
def test_what_is_built_is_split_again(first: tuple[str, ...], second: tuple[str, ...], folders: list[str]) -> None:
    space = LabelSpace((Task("a", "a", first), Task("b", "b", second)))
    said = {head: np.random.default_rng(0).random((2, len(space.classes(head)))) for head in ("b", JOINT)}
    models = ["", *(f"{folder}/fold-{number}" for number, folder in enumerate(folders))]
    for place, model in enumerate(models):
        table = pd.DataFrame(by_column(said, space, model))
        assert list(table) == probability_columns({head: space.classes(head) for head in said}, model)
        found = by_head(table, model)
        assert list(found) == list(said)
        for head, of_head in said.items():
            np.testing.assert_array_equal(found[head], of_head)
        others = {name: by_column(said, space, name) for name in models if name}
        if place:
            whole = pd.DataFrame({name: values for of_model in others.values() for name, values in of_model.items()})
            np.testing.assert_array_equal(by_head(whole, model)["b"], said["b"])


def test_columns_of_labels_are_known() -> None:
    assert [label_column("x"), train_label_column("x")] == ["label_x", "train_label_x"]
    assert is_label_column("label_x")
    assert is_label_column("train_label_joint")
    assert not is_label_column("x_label")


def test_examples_of_the_docstrings_hold() -> None:
    assert doctest.testmod(columns).failed == 0
