"""Tests of the histograms' bins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymask.report.eda_plots import MOST_BINS, bins_of, plot_shares

FINITE = st.floats(-1e6, 1e6, allow_nan=False)


@given(values=st.one_of(st.lists(FINITE, min_size=1), st.lists(st.integers(-500, 500).map(float), min_size=1)))
def test_bins_hold_every_number_and_are_equally_wide(values: list[float]) -> None:
    bins = bins_of(np.array(values))
    assert 1 <= len(bins) - 1 <= MOST_BINS
    assert np.histogram(np.array(values), bins)[0].sum() == len(values)
    assert np.diff(bins) == pytest.approx(np.diff(bins)[0])


@given(values=st.lists(st.integers(-500, 500).map(float), min_size=1))
def test_whole_numbers_never_lie_on_an_edge(values: list[float]) -> None:
    assert not np.isin(bins_of(np.array(values)), values).any()


def test_a_plot_takes_the_pages_colours() -> None:
    plot = plot_shares(np.array([1.0, 2.0]), np.array([3.0]), "brightness")
    assert plot.startswith("<svg ")
    assert "var(--good)" in plot
    assert "#00000" not in plot
