"""Tests of the nearest neighbour in other folds, against a search written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import recall_score

from raymask.metrics.nearest_neighbour import BLOCK, balanced_accuracy, nearest_in_other_folds, thumbnail_features

POINTS = st.lists(
    st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=25
)


@given(points=POINTS)
def test_it_is_the_nearest_of_another_fold(points: list[tuple[int, int, int, int]]) -> None:
    features = np.array([point[:2] for point in points], np.float32)
    assignments = [np.array([point[place] for point in points]) for place in (2, 3)]
    for nearest, folds in zip(nearest_in_other_folds(features, assignments), assignments, strict=True):
        for row, (x, y, *_) in enumerate(points):
            others = [
                ((x - points[other][0]) ** 2 + (y - points[other][1]) ** 2, other)
                for other in range(len(points))
                if folds[other] != folds[row]
            ]
            assert nearest[row] == (min(others)[1] if others else -1)


def test_more_rows_than_are_compared_at_a_time_are_all_compared() -> None:
    rows = BLOCK + 3
    features = np.repeat(np.arange(rows, dtype=np.float32)[:, None], 2, axis=1)
    [nearest] = nearest_in_other_folds(features, [np.arange(rows) % 2])
    np.testing.assert_array_equal(np.abs(nearest - np.arange(rows)), 1)


def test_light_and_contrast_decide_nothing() -> None:
    thumbnail = np.random.default_rng(0).integers(0, 100, (1, 4, 4)).astype(np.uint8)
    brighter = (thumbnail * 2 + 50).astype(np.uint8)
    np.testing.assert_allclose(thumbnail_features(thumbnail), thumbnail_features(brighter), atol=1e-6)
    assert not thumbnail_features(np.full((1, 4, 4), 7, np.uint8)).any()


@given(rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_balanced_accuracy_is_the_mean_recall_of_scikit_learn(rows: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(rows).T
    expected = recall_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0)
    assert balanced_accuracy(truth, predicted, 4) == pytest.approx(expected)
    assert balanced_accuracy(truth[:0], truth[:0], 4) == 0
