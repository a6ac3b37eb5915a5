"""Tests of an epoch's losses and of the first that is not finite."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raymask.training.failures import EpochLosses

CPU = torch.device("cpu")


@given(st.lists(st.floats(0, 5, width=32) | st.sampled_from([math.nan, math.inf, -math.inf]), min_size=1, max_size=12))
def test_the_first_batch_whose_loss_is_not_finite_is_found_at_the_end(values: list[float]) -> None:
    losses = EpochLosses(CPU)
    for epoch in (1, 2):  # the second as if the first had not been
        for number, value in enumerate(values):
            losses.add(torch.tensor(value, requires_grad=True), 2 * number, np.array([number, 7]))
        bad = [number for number, value in enumerate(values) if not math.isfinite(value)]
        failure = losses.failure(epoch)
        if bad:
            assert failure is not None
            assert (failure.epoch, failure.step, failure.rows.tolist()) == (epoch, 2 * bad[0] + 1, [bad[0], 7])
        else:
            assert failure is None
            assert losses.mean == pytest.approx(np.mean(values), rel=1e-5, abs=1e-6)
        losses.clear()
    assert losses.failure(3) is None


def test_a_failure_may_be_found_after_the_last_batch() -> None:
    losses = EpochLosses(CPU)
    for step in (0, 1, 3):
        losses.add(torch.tensor(1.0), step, np.array([step]))
    last = losses.at(-1, 2, "its weights are not finite after it")
    assert (last.epoch, last.step, last.rows.tolist()) == (2, 4, [3])
