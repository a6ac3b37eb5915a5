"""Tests of the weights of classes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from raymask.config.components import LossConfig
from raymask.training.losses.class_weights import build_class_weights, class_weights, effective_number_weights

COUNTS = arrays.arrays(np.int64, st.integers(1, 8), elements=st.integers(0, 100_000)).filter(lambda counts: counts.sum() > 0)
CONFIGS = st.one_of(
    st.floats(0.01, 1).map(lambda power: LossConfig(class_weight_power=power)),
    st.floats(0.01, 0.99999).map(lambda beta: LossConfig(effective_number=beta)),
)
Counts = npt.NDArray[np.int64]


def weights_of(config: LossConfig, counts: Counts) -> npt.NDArray[np.float64]:
    weights = build_class_weights(config, counts)
    assert weights is not None
    assert weights.dtype == torch.float32
    return weights.double().numpy()


@settings(deadline=None)
@given(COUNTS, CONFIGS)
def test_mean_over_the_images_is_1(counts: Counts, config: LossConfig) -> None:
    assert (weights_of(config, counts) * counts).sum() / counts.sum() == pytest.approx(1, rel=1e-4)


@settings(deadline=None)
@given(COUNTS, CONFIGS)
def test_rarer_classes_weigh_no_less_and_absent_ones_nothing(counts: Counts, config: LossConfig) -> None:
    weights = weights_of(config, counts)
    assert (weights[counts == 0] == 0).all()
    present = counts > 0
    assert (weights[present] > 0).all()
    by_count = weights[present][np.argsort(-counts[present], kind="stable")]
    assert (np.diff(by_count) >= -1e-5 * by_count[1:]).all()


@settings(deadline=None)
@given(COUNTS, CONFIGS)
def test_a_class_without_images_does_not_move_the_others(counts: Counts, config: LossConfig) -> None:
    more = weights_of(config, np.append(counts, 0))
    np.testing.assert_array_equal(more[:-1], weights_of(config, counts))


@pytest.mark.parametrize("config", [LossConfig(), LossConfig(name="focal"), LossConfig(name="ldam_drw")])
def test_without_power_and_effective_number_there_are_none(config: LossConfig) -> None:
    assert build_class_weights(config, [5, 0, 100]) is None


def test_power_0_weighs_all_alike() -> None:
    torch.testing.assert_close(class_weights([5, 1, 100], 0.0), torch.ones(3))


def test_power_1_gives_every_class_the_same_sum() -> None:
    counts = np.array([10, 30, 60])
    weights = class_weights(counts, 1.0)
    torch.testing.assert_close(weights, torch.tensor([100 / 30, 100 / 90, 100 / 180]))
    np.testing.assert_allclose(weights.numpy() * counts, 100 / 3, rtol=1e-5)


def test_power_one_half_by_hand() -> None:
    raw = np.array([1 / 2, 1 / 3])
    torch.testing.assert_close(class_weights([4, 9], 0.5), torch.tensor(raw * 13 / (raw @ [4, 9]), dtype=torch.float32))


def test_the_effective_number_is_the_sum_of_the_powers_of_beta() -> None:
    counts, beta = [2, 7, 50], 0.9
    weights = effective_number_weights(counts, beta).double().numpy()
    effective = np.array([sum(beta**power for power in range(count)) for count in counts])
    np.testing.assert_allclose(weights * effective, (weights * effective)[0], rtol=1e-6)


def test_the_effective_number_lies_between_equal_weights_and_full_ones() -> None:
    counts = [3, 40, 900]
    torch.testing.assert_close(effective_number_weights(counts, 1e-9), torch.ones(3))
    torch.testing.assert_close(effective_number_weights(counts, 1 - 1e-9), class_weights(counts, 1.0))


def test_less_than_one_image_weighs_as_one() -> None:
    for weights in (class_weights([0.25, 1, 8], 1.0), effective_number_weights([0.25, 1, 8], 0.99)):
        assert weights[0] == weights[1] > weights[2]
