"""The learning-rate range test: what it suggests, and that a model learns until it diverges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymask.training.range_test import RangeTest, has_diverged, rising, smoothed

RATES = tuple(np.geomspace(1e-6, 1, 80).tolist())


@given(st.floats(-4.5, -1.5), st.integers(0, 1000))
def test_the_steepest_fall_is_found_through_noise(place: float, seed: int) -> None:
    logs = np.log10(RATES)
    falling = -1 / (1 + np.exp(-4 * (logs - place)))
    rising_again = np.exp(3 * (logs - place - 2))
    loss = 2 + falling + rising_again + np.random.default_rng(seed).normal(0, 0.005, len(RATES))
    found = RangeTest(RATES, tuple(loss.tolist()))
    assert abs(math.log10(found.suggested) - place) < 0.6
    assert found.suggested < found.lowest


def test_a_loss_that_only_rises_suggests_the_lowest_rate() -> None:
    assert RangeTest(RATES, tuple(np.linspace(1, 2, len(RATES)).tolist())).suggested == RATES[0]


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30))
def test_the_smoothed_loss_is_a_mean_that_forgets(losses: list[float]) -> None:
    course = smoothed(losses)
    for step in range(1, len(losses) + 1):
        weights = 0.9 ** np.arange(step)[::-1]
        assert course[step - 1] == pytest.approx(np.average(losses[:step], weights=weights), abs=1e-9)


def test_what_has_diverged() -> None:
    assert has_diverged([1.0, math.nan])
    assert has_diverged([1.0] * 10 + [100.0] * 3)
    assert not has_diverged([1.0] * 10 + [2.0] * 30)
    assert not has_diverged([])


@given(st.floats(1e-8, 1e-3), st.floats(1.1, 1e6), st.integers(2, 50), st.floats(1e-5, 10))
def test_rates_rise_by_equal_factors_from_the_first_to_the_last(low: float, factor: float, steps: int, of: float) -> None:
    schedule = rising(low, low * factor, steps, of)
    rates = [of * schedule.factor(step) for step in range(steps)]
    assert rates[0] == pytest.approx(low)
    assert rates[-1] == pytest.approx(low * factor)
    assert np.allclose(np.diff(np.log(rates)), np.log(factor) / (steps - 1))
