"""Dropout with quick masks."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raymask.models.heads import Dropout


@given(
    p=st.floats(0, 0.999999),
    shape=st.sampled_from([(1,), (7, 5), (64, 33), (3, 4, 5, 6)]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    seed=st.integers(0, 2**63 - 1),
)
def test_each_number_is_dropped_or_scaled(p: float, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> None:
    dropout, given_ = Dropout(p), torch.ones(shape, dtype=dtype, requires_grad=True)
    torch.manual_seed(seed)
    result = dropout(given_)
    assert (result.shape, result.dtype) == (given_.shape, dtype)
    share = min(round(p * 2**16), 2**16 - 1) / 2**16
    kept = torch.tensor(1 / (1 - share), dtype=torch.float32).to(dtype)
    assert bool(((result == 0) | (result == kept)).all())
    result.sum().backward()
    assert given_.grad is not None
    torch.testing.assert_close(given_.grad, result.detach(), rtol=0, atol=0)
    torch.manual_seed(seed)
    assert torch.equal(dropout(given_), result), "torch's seed decides"


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_as_many_are_dropped_as_by_torch_and_none_together(p: float) -> None:
    rows, columns = 2000, 64
    torch.manual_seed(0)
    dropped = (Dropout(p)(torch.ones(rows, columns)) == 0).double()
    deviation = math.sqrt(p * (1 - p))
    assert abs(dropped.mean() - p) < 4 * deviation / math.sqrt(rows * columns)
    assert ((dropped.mean(dim=0) - p).abs() < 5 * deviation / math.sqrt(rows)).all()
    together = torch.corrcoef(dropped.T) - torch.eye(columns, dtype=torch.float64)
    assert together.abs().max() < 5.5 / math.sqrt(rows)


def test_nothing_is_dropped_in_evaluation() -> None:
    numbers = torch.randn(3, 4)
    assert torch.equal(Dropout(0.5).eval()(numbers), numbers)
