"""Tests of the tables of folds, against counts made image by image."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymask.config.data import FoldsConfig
from raymask.data.fold_tables import SCHEMES, fold_table, fold_tables
from raymask.data.folds import TRAIN_ONLY


def manifest(groups: list[int], labels: list[int]) -> pd.DataFrame:
    return pd.DataFrame({"group": [f"g{group:03d}" for group in groups], "label_joint": labels})


ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(-1, 3)), min_size=1, max_size=30)


@given(rows=ROWS)
def test_a_table_is_what_counting_image_by_image_gives(rows: list[tuple[int, int, int]]) -> None:
    groups, labels, folds = map(list, zip(*rows, strict=True))
    table = fold_table("any", np.array(folds), manifest(groups, labels), classes=4)
    assert set(table.folds) == set(folds)
    assert TRAIN_ONLY not in table.folds[:-1]
    whole = Counter(labels)
    for place, fold in enumerate(table.folds):
        here = [(group, label) for group, label, other in rows if other == fold]
        counts = Counter(label for _, label in here)
        assert table.images[place] == len(here)
        assert table.groups[place] == len({group for group, _ in here})
        assert table.counts[place].tolist() == [counts[label] for label in range(4)]
        assert table.lacking[place] == len(whole.keys() - counts.keys())
        apart = sum(abs(counts[label] / len(here) - whole[label] / len(rows)) for label in range(4)) / 2
        assert table.unevenness[place] == pytest.approx(apart)
    several = {group for group in groups if len({fold for other, _, fold in rows if other == group}) > 1}
    assert table.split_groups == len(several)


def test_schemes_by_group_split_none_and_schemes_by_image_nearly_all() -> None:
    images = manifest([place // 7 for place in range(210)], [place % 3 for place in range(210)])
    tables = {table.scheme: table for table in fold_tables(images, FoldsConfig(k=5), 0, classes=3)}
    assert set(tables) == set(SCHEMES)
    assert [tables[scheme].split_groups for scheme in ("stratified_group", "group", "holdout")] == [0, 0, 0]
    assert min(tables["stratified"].split_groups, tables["kfold"].split_groups) > 25
    assert tables["holdout"].folds == (0, TRAIN_ONLY)
    assert all(sum(table.images) == 210 for table in tables.values())


def test_what_cannot_be_divided_says_why() -> None:
    tables = {table.scheme: table for table in fold_tables(manifest([0] * 12, [0, 1] * 6), FoldsConfig(k=3), 0, classes=2)}
    assert tables["stratified_group"].problem == "folds.k is 3, but there are only 1 groups."
    assert not tables["stratified_group"].folds
    assert tables["kfold"].images == (4, 4, 4)


def test_images_that_are_held_out_are_not_counted() -> None:
    images = manifest([place // 2 for place in range(200)], [place // 2 % 2 for place in range(200)])
    for table in fold_tables(images, FoldsConfig(k=4, reserve=0.25), 0, classes=2):
        assert sum(table.images) == 150
