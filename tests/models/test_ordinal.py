"""Tests of the decoders of ordered heads: their class probabilities against sums and integrals written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from raymask.config.components import OrdinalConfig
from raymask.core.tasks import Scale
from raymask.models.ordinal import build_decoder

AGES = Scale((30.0, 60.0), low=18.0, high=78.0)
KINDS = [
    OrdinalConfig(name="corn"),
    OrdinalConfig(name="regression"),
    OrdinalConfig(name="bins"),
    OrdinalConfig(name="bins", decode="mass"),
    OrdinalConfig(name="bins", width=5),
]


@pytest.mark.parametrize("config", KINDS, ids=str)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), spread=st.sampled_from([0.1, 1.0, 10.0, 100.0]))
def test_probabilities_are_those_of_all_bands(config: OrdinalConfig, seed: int, spread: float) -> None:
    decoder = build_decoder(config, AGES)
    assert decoder is not None
    outputs = (torch.randn(7, decoder.outputs, generator=torch.Generator().manual_seed(seed)) * spread).requires_grad_()
    log_probabilities = decoder(outputs)
    assert log_probabilities.shape == (7, 3)
    torch.testing.assert_close(log_probabilities.exp().sum(dim=1), torch.ones(7), atol=1e-5, rtol=0)
    torch.testing.assert_close(log_probabilities.softmax(dim=1), log_probabilities.exp(), atol=1e-5, rtol=1e-4)
    log_probabilities.sum().backward()
    assert outputs.grad is not None
    assert torch.isfinite(outputs.grad).all()


def test_a_head_without_order_needs_no_decoder() -> None:
    assert build_decoder(OrdinalConfig(), AGES) is None


def test_corn_multiplies_the_conditions() -> None:
    decoder = build_decoder(OrdinalConfig(name="corn"), Scale((1.0, 2.0, 3.0), 0, 4))
    assert decoder is not None
    logits = torch.tensor([[0.3, -1.2, 2.0]])
    first, second, third = (1 / (1 + math.exp(-logit)) for logit in logits[0].tolist())
    expected = [1 - first, first * (1 - second), first * second * (1 - third), first * second * third]
    np.testing.assert_allclose(decoder(logits).exp()[0], expected, rtol=1e-6)


@pytest.mark.parametrize(("mean", "deviation"), [(45.0, 8.0), (31.0, 3.0), (29.9, 20.0), (90.0, 5.0)])
def test_regression_cuts_a_normal_distribution(mean: float, deviation: float) -> None:
    decoder = build_decoder(OrdinalConfig(name="regression"), AGES)
    assert decoder is not None
    outputs = torch.tensor([[(mean - 48) / 15, 2 * math.log(deviation / 15)]])
    below = norm.cdf([30, 60], mean, deviation)
    np.testing.assert_allclose(decoder(outputs).exp()[0], [below[0], below[1] - below[0], 1 - below[1]], atol=2e-6)


def test_the_mass_of_bins_is_summed_by_band() -> None:
    decoder = build_decoder(OrdinalConfig(name="bins", decode="mass"), AGES)
    assert decoder is not None
    assert decoder.outputs == 61
    logits = torch.randn(4, 61, generator=torch.Generator().manual_seed(0))
    of_bin = np.exp(logits.numpy().astype(np.float64))
    of_bin /= of_bin.sum(axis=1, keepdims=True)
    ages = np.arange(18, 79)
    expected = [of_bin[:, (low <= ages) & (ages < high)].sum(axis=1) for low, high in ((0, 30), (30, 60), (60, 99))]
    np.testing.assert_allclose(decoder(logits).exp(), np.stack(expected, axis=1), rtol=1e-5)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), sharpness=st.floats(0.5, 10))
def test_the_expected_number_decides_the_band(seed: int, sharpness: float) -> None:
    """DLDL-v2 predicts the mean of the bins, not the heaviest of them."""
    decoder = build_decoder(OrdinalConfig(name="bins"), AGES)
    assert decoder is not None
    logits = torch.randn(20, 61, generator=torch.Generator().manual_seed(seed)) * sharpness
    ages = np.arange(18, 79, dtype=np.float64)
    of_bin = logits.double().softmax(dim=1).numpy()
    mean = of_bin @ ages
    deviation = np.sqrt((of_bin * (ages - mean[:, None]) ** 2).sum(axis=1) + 1 / 12)
    probabilities = decoder(logits).exp().numpy()
    below = norm.cdf(np.array([30, 60]) - mean[:, None], scale=deviation[:, None])
    np.testing.assert_allclose(np.cumsum(probabilities, axis=1)[:, :2], below, atol=1e-4)
    clear = (np.abs(mean[:, None] - [30, 60]) > 0.01).all(axis=1) & (deviation < 12)
    assert (probabilities.argmax(axis=1) == np.digitize(mean, [30, 60]))[clear].all()


def test_a_number_on_an_edge_is_of_the_band_above() -> None:
    decoder = build_decoder(OrdinalConfig(name="bins", decode="mass"), AGES)
    assert decoder is not None
    logits = torch.full((1, 61), -50.0)
    logits[0, 60 - 18] = 50.0
    assert decoder(logits).argmax().item() == 2
