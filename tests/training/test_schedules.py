"""Tests of the learning rate's schedules."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymask.config.components import ScheduleConfig
from raymask.training.schedules import build_schedule

STEPS = st.integers(1, 5000)
WARMUPS = st.floats(0, 0.99)


def factor(step: int, steps: int, warmup: float) -> float:
    return build_schedule(ScheduleConfig(warmup=warmup), steps).factor(step)


class TestCosine:
    @settings(deadline=None)
    @given(STEPS, WARMUPS)
    def test_rises_over_the_warm_up_then_falls_within_0_and_1(self, steps: int, warmup: float) -> None:
        rising = round(steps * warmup)
        factors = [factor(step, steps, warmup) for step in range(steps)]
        assert all(0 < value <= 1 for value in factors)
        assert all(low < high for low, high in pairwise(factors[:rising]))
        assert all(high >= low for high, low in pairwise(factors[rising:]))

    @settings(deadline=None)
    @given(STEPS, WARMUPS)
    def test_is_highest_right_after_the_warm_up(self, steps: int, warmup: float) -> None:
        rising = round(steps * warmup)
        if rising < steps:
            assert factor(rising, steps, warmup) == 1

    @settings(deadline=None)
    @given(STEPS, st.floats(0, 0.4))
    def test_is_0_at_the_end_and_stays_there(self, steps: int, warmup: float) -> None:
        assert factor(steps, steps, warmup) == pytest.approx(0, abs=1e-12)
        assert factor(steps + 7, steps, warmup) == pytest.approx(0, abs=1e-12)

    def test_by_hand(self) -> None:
        assert [factor(step, 12, 0.25) for step in (0, 1, 2, 3)] == [0.25, 0.5, 0.75, 1.0]
        assert factor(6, 12, 0.25) == pytest.approx(0.5 * (1 + math.cos(math.pi / 3)))
        assert factor(0, 12, 0.0) == 1.0
