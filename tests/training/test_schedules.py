"""Tests of the learning rate's schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raymask.config.components import ScheduleConfig
from raymask.training.schedules import SCHEDULES, Plateau, build_schedule

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


def of_torch(make: Callable[[torch.optim.Optimizer], Any], steps: int) -> list[float]:
    """The rate of each step by a scheduler of torch, with 1 as the highest."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < steps:
            scheduler.step()
    return rates


def ours(config: ScheduleConfig, steps: int) -> list[float]:
    schedule = build_schedule(config, steps)
    return [schedule.factor(step) for step in range(steps)]


def warm_up(steps: int, warmup: float) -> list[float]:
    """By torch's LinearLR, over the same steps."""
    rising = round(steps * warmup)
    if not rising:
        return [1.0] * steps
    return of_torch(lambda o: torch.optim.lr_scheduler.LinearLR(o, 1 / (rising + 1), total_iters=rising), steps)


EPOCHS = st.integers(1, 8)
PER_EPOCH = st.integers(1, 9)


class TestLikeTorch:
    @settings(deadline=None, max_examples=40)
    @given(EPOCHS, PER_EPOCH, WARMUPS)
    def test_constant(self, epochs: int, per_epoch: int, warmup: float) -> None:
        steps = epochs * per_epoch
        given_rates = ours(ScheduleConfig(name="constant", epochs=epochs, warmup=warmup), steps)
        assert given_rates == pytest.approx(warm_up(steps, warmup), rel=1e-9)

    @settings(deadline=None, max_examples=40)
    @given(EPOCHS, PER_EPOCH, WARMUPS, st.integers(1, 4), st.floats(0.05, 0.95))
    def test_step(self, epochs: int, per_epoch: int, warmup: float, every: int, factor: float) -> None:
        steps = epochs * per_epoch
        falling = of_torch(lambda o: torch.optim.lr_scheduler.StepLR(o, every * per_epoch, factor), steps)
        config = ScheduleConfig(name="step", epochs=epochs, warmup=warmup, every=every, factor=factor)
        expected = [high * low for high, low in zip(warm_up(steps, warmup), falling, strict=True)]
        assert ours(config, steps) == pytest.approx(expected, rel=1e-9)

    @settings(deadline=None, max_examples=60)
    @given(st.integers(2, 60), WARMUPS)
    def test_one_cycle(self, steps: int, warmup: float) -> None:
        if warmup * steps == 1:  # where torch's first phase has no length, and it divides by that
            return
        expected = of_torch(
            lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1.0, steps, pct_start=warmup, cycle_momentum=False), steps
        )
        given_rates = ours(ScheduleConfig(name="one_cycle", epochs=1, warmup=warmup), steps)
        assert given_rates == pytest.approx(expected, rel=1e-9, abs=1e-12)

    @settings(deadline=None, max_examples=60)
    @given(
        st.lists(st.floats(0.0, 3.0) | st.sampled_from([1.0, 0.99995, 0.5]), max_size=25), st.integers(1, 4), st.floats(0.3, 0.9)
    )
    def test_plateau(self, losses: list[float], patience: int, factor: float) -> None:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        reduce = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=factor, patience=patience, eps=0.0)
        schedule = build_schedule(ScheduleConfig(name="plateau", patience=patience, factor=factor, warmup=0.0), 100)
        for loss in losses:
            assert schedule.factor(7) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
            reduce.step(loss)
            schedule.end_epoch(loss)
        assert schedule.factor(7) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)


class TestPlateau:
    CONFIG = ScheduleConfig(name="plateau", patience=1, factor=0.5, warmup=0.2)

    def test_it_falls_during_the_warm_up_too(self) -> None:
        schedule = Plateau(self.CONFIG, 10)
        for loss in (1.0, 1.0, 1.0):
            schedule.end_epoch(loss)
        assert [schedule.factor(step) for step in range(4)] == pytest.approx([1 / 6, 1 / 3, 0.5, 0.5])

    @given(st.lists(st.floats(0.0, 3.0), max_size=12), st.integers(0, 12))
    def test_taken_up_again_it_goes_on_as_if_it_had_not_been_interrupted(self, losses: list[float], after: int) -> None:
        whole, first, again = (Plateau(self.CONFIG, 10) for _ in range(3))
        for loss in losses:
            whole.end_epoch(loss)
        for loss in losses[:after]:
            first.end_epoch(loss)
        again.load_state(first.state())
        for loss in losses[after:]:
            again.end_epoch(loss)
        assert again.state() == whole.state()
        assert again.factor(9) == whole.factor(9)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(SCHEDULES.names), EPOCHS, PER_EPOCH, WARMUPS)
def test_rates_lie_within_0_and_1(name: str, epochs: int, per_epoch: int, warmup: float) -> None:
    config = ScheduleConfig.model_validate({"name": name, "epochs": epochs, "warmup": warmup})
    assert all(0 < rate <= 1 for rate in ours(config, epochs * per_epoch))
