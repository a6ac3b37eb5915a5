"""Tests of calibration: known temperatures and priors found again, cases by hand, scikit-learn and scipy, and properties."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss as log_loss_of_sklearn

from raymask.core.errors import InputError
from raymask.metrics.calibration import (
    FLOOR,
    brier,
    calibration_quality,
    expected_calibration_error,
    floored_log,
    log_loss,
    reliability,
)
from raymask.voting.calibration import (
    CALIBRATIONS,
    Calibration,
    cross_fitted,
    fit_calibration,
    fit_temperature,
    fit_vector,
    softmax,
)


def drawn(seed: int, images: int, classes: int, spread: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Random probabilities, and labels drawn from them: calibrated as they are."""
    rng = np.random.default_rng(seed)
    honest = softmax(rng.normal(0, spread, (images, classes)))
    below = honest.cumsum(axis=1) < rng.random((images, 1))
    return honest, np.minimum(below.sum(axis=1), classes - 1)


def sharpened(honest: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities that this temperature makes honest."""
    return softmax(np.log(honest) * temperature)


HONEST, LABELS = drawn(0, 4000, 5)
SHARP = sharpened(HONEST, 3.0)
PARTS = np.arange(4000) % 4


@st.composite
def guesses(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Any probabilities, many of them 0 or alike, and labels that need not go with them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images, classes = draw(st.integers(1, 30)), draw(st.integers(2, 6))
    given = rng.dirichlet(np.full(classes, draw(st.sampled_from([0.01, 0.3, 1.0, 50.0]))), images)
    given = given if draw(st.booleans()) else np.eye(classes)[given.argmax(axis=1)]
    labels = given.argmax(axis=1) if draw(st.booleans()) else rng.integers(0, classes, images)
    return given, labels


class TestTemperature:
    @pytest.mark.parametrize("temperature", [0.2, 0.5, 1.0, 3.0, 6.0])
    def test_finds_the_one_that_labels_were_drawn_with(self, temperature: float) -> None:
        assert fit_temperature(sharpened(HONEST, temperature), LABELS) == pytest.approx(temperature, rel=0.05)

    @settings(deadline=None, max_examples=50)
    @given(guesses())
    def test_is_as_good_as_what_scipy_finds(self, case: tuple[np.ndarray, np.ndarray]) -> None:
        given, labels = case

        def loss(inverse: float) -> float:
            return log_loss(softmax(floored_log(given) * inverse), labels)

        best = minimize_scalar(loss, bounds=(1 / 20, 1 / 0.05), method="bounded").fun
        assert loss(1 / fit_temperature(given, labels)) <= best + 1e-6

    def test_keeps_to_its_range(self) -> None:
        right, wrong = np.array([[0.6, 0.4], [0.4, 0.6]]), np.array([[0.4, 0.6], [0.6, 0.4]])
        assert fit_temperature(np.repeat(right, 50, axis=0), np.repeat([0, 1], 50)) == pytest.approx(0.05)
        assert fit_temperature(np.repeat(wrong, 50, axis=0), np.repeat([0, 1], 50)) == pytest.approx(20)

    def test_changes_nothing_where_nothing_is_to_be_gained(self) -> None:
        assert fit_temperature(np.full((9, 3), 1 / 3), np.arange(9) % 3) == 1
        assert fit_temperature(np.eye(3), np.arange(3)) == 1
        assert fit_temperature(np.empty((0, 3)), np.empty(0, int)) == 1

    @settings(deadline=None)
    @given(guesses())
    def test_elects_the_same_classes(self, case: tuple[np.ndarray, np.ndarray]) -> None:
        given, labels = case
        calibrated = fit_calibration("temperature", given, labels).apply(given)
        elected = given.argmax(axis=1)
        np.testing.assert_array_equal(calibrated[np.arange(len(given)), elected], calibrated.max(axis=1))

    def test_a_known_one_by_hand(self) -> None:
        halved = Calibration(np.full(2, 0.5), np.zeros(2)).apply([[0.8, 0.2]])
        np.testing.assert_allclose(halved, [[2 / 3, 1 / 3]])  # square roots of 4 and 1


class TestVector:
    def test_a_bias_finds_a_shifted_prior_again(self) -> None:
        shift = np.array([1.0, -1.0, 0.5, 0.0, -0.5])
        scale, bias = fit_vector(softmax(np.log(HONEST) - shift), LABELS)
        np.testing.assert_allclose(scale, 1, atol=0.15)
        np.testing.assert_allclose(bias - bias.mean(), shift - shift.mean(), atol=0.15)

    def test_a_scale_for_each_class_is_found_again(self) -> None:
        scale = np.array([0.5, 0.8, 1.0, 1.2, 1.5])
        rng = np.random.default_rng(1)
        given = rng.dirichlet(np.ones(5), 4000)
        honest = softmax(np.log(given) * scale)
        labels = (honest.cumsum(axis=1) < rng.random((4000, 1))).sum(axis=1)
        np.testing.assert_allclose(fit_vector(given, labels)[0], scale, atol=0.15)

    @settings(deadline=None, max_examples=50)
    @given(guesses(), st.integers(0, 2**32 - 1))
    def test_nothing_near_has_a_smaller_loss(self, case: tuple[np.ndarray, np.ndarray], seed: int) -> None:
        given, labels = case

        def loss(scale: np.ndarray, bias: np.ndarray) -> float:
            likelihood = len(labels) * log_loss(Calibration(scale, bias).apply(given), labels)
            return likelihood + (((scale - 1) ** 2).sum() + (bias**2).sum()) / 2

        scale, bias = fit_vector(given, labels)
        found = loss(scale, bias)
        for aside in np.random.default_rng(seed).normal(0, 0.01, (5, 2, given.shape[1])):
            assert found <= loss(scale + aside[0], bias + aside[1]) + 1e-7

    def test_a_class_without_images_gets_a_finite_bias(self) -> None:
        scale, bias = fit_vector(HONEST[LABELS != 2], LABELS[LABELS != 2])
        assert np.isfinite([scale, bias]).all()
        assert bias.argmin() == 2

    def test_no_image_leaves_the_identity(self) -> None:
        scale, bias = fit_vector(np.empty((0, 3)), np.empty(0, int))
        np.testing.assert_array_equal([scale, bias], [[1, 1, 1], [0, 0, 0]])


class TestFits:
    @settings(deadline=None)
    @given(guesses(), st.sampled_from(CALIBRATIONS.names))
    def test_labels_are_no_less_likely_and_rows_sum_to_1(self, case: tuple[np.ndarray, np.ndarray], method: str) -> None:
        given, labels = case
        calibrated = fit_calibration(method, given, labels).apply(given)
        assert np.isfinite(calibrated).all()
        np.testing.assert_allclose(calibrated.sum(axis=1), 1)
        assert log_loss(calibrated, labels) <= log_loss(given, labels) + 1e-9

    def test_none_gives_back_what_was_given(self) -> None:
        given = SHARP.astype(np.float32)
        calibrated = fit_calibration("none", given, LABELS).apply(given)
        assert calibrated.dtype == np.float64
        np.testing.assert_array_equal(calibrated, given)

    def test_another_name_is_refused_with_the_nearest(self) -> None:
        with pytest.raises(InputError, match=r"vote.calibrate is 'temprature'; it may be 'temperature' \(the nearest\)"):
            fit_calibration("temprature", HONEST, LABELS)

    @pytest.mark.parametrize("method", CALIBRATIONS.names)
    def test_json_keeps_it_exactly(self, method: str) -> None:
        calibration = fit_calibration(method, SHARP, LABELS)
        written = json.loads(json.dumps(calibration.to_json()))
        again = Calibration(np.asarray(written["scale"]), np.asarray(written["bias"]))
        np.testing.assert_array_equal(again.apply(SHARP), calibration.apply(SHARP))

    def test_unlabelled_images_are_no_labels(self) -> None:
        with pytest.raises(AssertionError, match="unlabelled"):
            fit_temperature(HONEST[:2], [0, -1])


class TestCrossFitted:
    @pytest.mark.parametrize("method", ["temperature", "vector"])
    def test_a_part_is_not_calibrated_by_its_own_labels(self, method: str) -> None:
        own = PARTS == 2
        other_labels = LABELS.copy()
        other_labels[own] = np.random.default_rng(0).permutation(LABELS[own])
        before, after = (cross_fitted(method, SHARP, labels, PARTS) for labels in (LABELS, other_labels))
        np.testing.assert_array_equal(before[own], after[own])
        assert (before[~own] != after[~own]).any(axis=1).all()

    def test_is_what_is_fitted_on_the_others(self) -> None:
        for part in range(4):
            own = part == PARTS
            expected = fit_calibration("vector", SHARP[~own], LABELS[~own]).apply(SHARP[own])
            np.testing.assert_array_equal(cross_fitted("vector", SHARP, LABELS, PARTS)[own], expected)

    def test_a_single_part_is_fitted_on_itself(self) -> None:
        expected = fit_calibration("temperature", SHARP, LABELS).apply(SHARP)
        np.testing.assert_array_equal(cross_fitted("temperature", SHARP, LABELS, np.zeros(4000, int)), expected)

    @pytest.mark.parametrize("method", ["temperature", "vector"])
    def test_sharpened_probabilities_are_honest_again(self, method: str) -> None:
        before = calibration_quality(SHARP, LABELS)
        after = calibration_quality(cross_fitted(method, SHARP, LABELS, PARTS), LABELS)
        assert before["ece"] > 0.1
        assert after["ece"] < 0.03
        assert after["nll"] < before["nll"]
        assert after["brier"] < before["brier"]


class TestQuality:
    def test_brier_by_hand(self) -> None:
        given = [[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]]
        assert brier(given, [0, 2]) == pytest.approx(((0.09 + 0.04 + 0.01) + (0 + 1 + 1)) / 2)

    @settings(deadline=None)
    @given(guesses())
    def test_brier_is_its_definition_and_log_loss_that_of_scikit_learn(self, case: tuple[np.ndarray, np.ndarray]) -> None:
        given, labels = case
        classes = given.shape[1]
        assert brier(given, labels) == pytest.approx(((given - np.eye(classes)[labels]) ** 2).sum(axis=1).mean(), abs=1e-12)
        floored = np.maximum(given, FLOOR)
        floored /= floored.sum(axis=1, keepdims=True)
        assert log_loss(given, labels) == pytest.approx(log_loss_of_sklearn(labels, floored, labels=range(classes)), abs=1e-9)

    def test_a_perfect_predictor(self) -> None:
        assert calibration_quality(np.eye(3)[[0, 2, 1]], [0, 2, 1]) == {"ece": 0, "brier": 0, "nll": 0}

    def test_a_useless_predictor_is_calibrated_all_the_same(self) -> None:
        quality = calibration_quality(np.full((9, 3), 1 / 3), np.arange(9) % 3)
        assert quality == pytest.approx({"ece": 0, "brier": 2 / 3, "nll": np.log(3)})

    def test_a_predictor_that_is_always_surely_wrong(self) -> None:
        quality = calibration_quality(np.eye(2)[[0, 1]], [1, 0])
        assert quality == pytest.approx({"ece": 1, "brier": 2, "nll": -np.log(FLOOR)})

    def test_calibration_error_by_hand(self) -> None:
        confidence = [0.15, 0.2, 0.95, 0.85, 1.0]
        correct = [False, True, True, False, True]
        bins = reliability(confidence, correct)
        assert bins["images"].tolist() == [0, 2, 0, 0, 0, 0, 0, 0, 1, 2]  # 0.2 belongs to (0.1, 0.2]
        by_hand = 2 / 5 * abs(0.5 - 0.175) + 1 / 5 * abs(0.0 - 0.85) + 2 / 5 * abs(1.0 - 0.975)
        assert expected_calibration_error(bins) == pytest.approx(by_hand)

    def test_calibrated_confidence_has_no_error(self) -> None:
        assert expected_calibration_error(reliability([0.5] * 4, [1, 0, 1, 0])) == 0.0
        assert reliability([0.0, 1.0, 0.3, 0.7], [1] * 4)["images"].tolist() == [1, 0, 1, 0, 0, 0, 1, 0, 0, 1]
