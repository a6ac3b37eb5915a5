"""Tests of bootstrap by group: scores of resamples are those of scikit-learn on the rows repeated, intervals hold the score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from raymask.core.errors import InputError
from raymask.core.tasks import JOINT, LabelSpace, Task
from raymask.metrics.bootstrap import (
    Metric,
    compare,
    count,
    interval,
    of_new_groups,
    parse_metric,
    resample,
    score_counts,
    unit_weights,
)
from raymask.metrics.scores import SCORE_KINDS

SPACE = LabelSpace((Task("mask", "mask", ("worn", "wrong", "none")), Task("gender", "gender", ("male", "female"))))
METRICS = [Metric(target, kind) for target in (JOINT, "mean", "mask", "gender") for kind in SCORE_KINDS]


def of_sklearn(metric: Metric, truth: np.ndarray, elected: np.ndarray) -> float:
    def one(target: str) -> float:
        true, said = ((labels if target == JOINT else SPACE.split(labels)[target]) for labels in (truth, elected))
        return f1_score(true, said, average="macro", zero_division=0) if metric.kind == "f1" else accuracy_score(true, said)

    return float(np.mean([one(target) for target in metric.targets(SPACE)]))


def predictions(seed: int, images: int, groups: int, right: float = 0.5, classes: int = 6) -> tuple[np.ndarray, ...]:
    """Truth, what is elected, and groups, each with an image at least."""
    rng = np.random.default_rng(seed)
    truth, guessed = rng.integers(0, classes, (2, images))
    return truth, np.where(rng.random(images) < right, truth, guessed), rng.permutation(np.arange(images) % groups)


PREDICTIONS = st.builds(
    lambda seed, images, groups, right, classes: predictions(seed, images, min(groups, images), right, classes),
    st.integers(0, 2**32 - 1),
    st.integers(1, 20),
    st.integers(1, 6),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(1, 6),
)


class TestScores:
    @settings(deadline=None, max_examples=40)
    @given(PREDICTIONS)
    def test_everyone_once_is_the_score_of_scikit_learn(self, drawn: tuple[np.ndarray, ...]) -> None:
        truth, elected, groups = drawn
        for metric in METRICS:
            counts = count(metric, SPACE, truth, elected, groups)
            (found,) = score_counts(metric, counts, unit_weights(groups.max() + 1))
            assert found == pytest.approx(of_sklearn(metric, truth, elected), abs=1e-6), metric

    @settings(deadline=None, max_examples=40)
    @given(PREDICTIONS, st.integers(0, 99))
    def test_a_group_drawn_twice_counts_as_its_images_repeated(self, drawn: tuple[np.ndarray, ...], seed: int) -> None:
        truth, elected, groups = drawn
        weights = np.random.default_rng(seed).integers(0, 4, (2, groups.max() + 1)).astype(np.float32)
        weights[:, groups[0]] += 1  # someone is there
        repeated = [np.repeat(np.arange(len(truth)), of_one[groups].astype(int)) for of_one in weights]
        for metric in METRICS:
            found = score_counts(metric, count(metric, SPACE, truth, elected, groups), weights)
            expected = [of_sklearn(metric, truth[rows], elected[rows]) for rows in repeated]
            np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=str(metric))

    def test_no_one_at_all_scores_0(self) -> None:
        truth, elected, groups = predictions(0, 12, 3)
        for metric in METRICS:
            assert score_counts(metric, count(metric, SPACE, truth, elected, groups), np.zeros((1, 3), np.float32)) == [0]

    def test_counts_by_hand(self) -> None:
        truth, elected, groups = np.array([0, 1, 5]), np.array([0, 0, 4]), np.array([0, 1, 1])
        counts = count(Metric("mask", "f1"), SPACE, truth, elected, groups)
        np.testing.assert_array_equal(counts, [[[[1, 0, 0], [1, 0, 1]], [[1, 0, 0], [1, 0, 1]], [[1, 0, 0], [1, 0, 1]]]])
        counts = count(Metric("mean", "f1"), SPACE, truth, elected, groups)
        np.testing.assert_array_equal(counts[1], [[[1, 0, 0], [0, 0, 0]], [[1, 0, 0], [0, 2, 0]], [[1, 0, 0], [2, 0, 0]]])


class TestResample:
    def test_draws_as_many_groups_as_there_are_and_repeats_by_seed(self) -> None:
        drawn = resample(30, 1, 200)
        assert drawn.shape == (200, 30)
        assert drawn.dtype == np.float32
        np.testing.assert_array_equal(drawn.sum(axis=1), 30)
        np.testing.assert_array_equal(drawn, resample(30, 1, 200))
        assert (drawn != resample(30, 2, 200)).any()
        assert drawn.mean(axis=0) == pytest.approx(1, abs=0.25)
        assert (drawn == 0).mean() == pytest.approx(1 / np.e, abs=0.03)

    def test_a_groups_images_stay_together(self) -> None:
        """Of two groups, one all right and one all wrong, no resample is right on a part of either."""
        groups = np.repeat([0, 1], 50)
        truth, elected = np.zeros(100, int), groups.copy()
        _, resampled = compare(Metric("joint", "accuracy"), SPACE, truth, [elected], groups, 0)
        assert set(resampled[0]) == {0.0, 0.5, 1.0}
        _, alone = compare(Metric("joint", "accuracy"), SPACE, truth, [elected], np.arange(100), 0)
        assert alone.std() < resampled.std() / 4

    def test_predictions_are_compared_on_the_same_resamples(self) -> None:
        truth, elected, groups = predictions(0, 300, 40)
        scores, resampled = compare(Metric(JOINT, "f1"), SPACE, truth, [elected, elected, truth], groups, 3)
        np.testing.assert_array_equal(resampled[0], resampled[1])
        assert scores[0] == scores[1] == pytest.approx(of_sklearn(Metric(JOINT, "f1"), truth, elected), abs=1e-6)
        assert scores[2] == 1
        np.testing.assert_array_equal(resampled[2], 1)


class TestInterval:
    def test_by_hand(self) -> None:
        found = interval(0.5, np.linspace(0, 1, 201))
        assert (found["score"], found["low"], found["high"]) == (0.5, pytest.approx(0.025), pytest.approx(0.975))
        assert found["se"] == pytest.approx(np.linspace(0, 1, 201).std(ddof=1))

    @pytest.mark.parametrize("metric", METRICS, ids=str)
    @pytest.mark.parametrize("seed", range(3))
    def test_holds_the_score_of_reasonable_predictions(self, metric: Metric, seed: int) -> None:
        truth, elected, groups = predictions(seed, 1000, 250, right=0.7)
        scores, resampled = compare(metric, SPACE, truth, [elected], groups, seed)
        found = interval(float(scores[0]), resampled[0])
        assert found["low"] < found["score"] < found["high"]
        assert 0.005 < found["se"] < 0.03
        assert found["high"] - found["low"] == pytest.approx(4 * found["se"], rel=0.15)

    def test_the_standard_error_of_accuracy_is_that_of_a_share(self) -> None:
        truth, elected, _ = predictions(0, 1000, 1, right=0.6)
        scores, resampled = compare(Metric(JOINT, "accuracy"), SPACE, truth, [elected], np.arange(1000), 0)
        share = scores[0]
        assert interval(share, resampled[0])["se"] == pytest.approx(np.sqrt(share * (1 - share) / 1000), rel=0.1)

    def test_holds_the_true_score_about_as_often_as_it_says(self) -> None:
        held = 0
        for seed in range(100):
            rng = np.random.default_rng(seed)
            groups = np.repeat(np.arange(60), 5)
            right = rng.random(60)[groups] < 0.7  # all images of a person or none
            scores, resampled = compare(
                Metric("gender", "accuracy"), SPACE, np.zeros(300, int), [np.where(right, 0, 1)], groups, seed
            )
            found = interval(float(scores[0]), resampled[0])
            held += found["low"] <= 0.7 <= found["high"]
        assert held >= 88


class TestMetric:
    @pytest.mark.parametrize(
        "text", [f"{target}.{kind}" for target in ("joint", "mean", "mask", "gender") for kind in SCORE_KINDS]
    )
    def test_says_what_it_is(self, text: str) -> None:
        metric = parse_metric(text, SPACE)
        assert str(metric) == text
        assert metric.targets(SPACE) == (SPACE.names if metric.target == "mean" else (metric.target,))

    @pytest.mark.parametrize("text", ["", "f1", "joint", "joint.f2", "age.f1", "joint.f1.f1", "Joint.f1", "mask.auc", ".f1"])
    def test_what_is_not_there_is_refused_in_one_sentence(self, text: str) -> None:
        with pytest.raises(
            InputError, match=rf"^vote.metric is '{text}'; it may be '.* or 'gender\.accuracy'( \(the nearest\))?\.$"
        ):
            parse_metric(text, SPACE)

    def test_the_nearest_comes_first(self) -> None:
        with pytest.raises(InputError, match=r"it may be 'gender.f1' \(the nearest\), 'joint.f1', "):
            parse_metric("gendr.f1", SPACE)


def test_the_score_of_so_many_new_groups_lies_where_it_is_expected_in_95_of_100_cases() -> None:
    rng = np.random.default_rng(0)
    known, new, held = 60, 25, []
    for _ in range(2000):
        seen, unseen = rng.normal(0.5, 0.2, known), rng.normal(0.5, 0.2, new)
        low, high = of_new_groups(seen.mean(), seen.std(ddof=1) / np.sqrt(known), known, new)
        held.append(low <= unseen.mean() <= high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)
