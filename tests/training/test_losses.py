"""Tests of the loss and its class weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.nn import functional

from raymask.config.components import LossConfig
from raymask.training.losses import build_loss, class_weights

COUNTS = arrays.arrays(np.int64, st.integers(1, 8), elements=st.integers(0, 100_000)).filter(lambda counts: counts.sum() > 0)


class TestClassWeights:
    @settings(deadline=None)
    @given(COUNTS, st.floats(0, 1))
    def test_mean_over_the_images_is_1(self, counts: np.ndarray, power: float) -> None:
        weights = class_weights(counts, power).double().numpy()
        assert (weights * counts).sum() / counts.sum() == pytest.approx(1, rel=1e-4)

    @settings(deadline=None)
    @given(COUNTS, st.floats(0, 1))
    def test_rarer_classes_weigh_no_less_and_absent_ones_nothing(self, counts: np.ndarray, power: float) -> None:
        weights = class_weights(counts, power).numpy()
        assert (weights[counts == 0] == 0).all()
        present = counts > 0
        assert (weights[present] > 0).all()
        by_count = weights[present][np.argsort(-counts[present], kind="stable")]
        assert (np.diff(by_count) >= -1e-5 * by_count[1:]).all()

    def test_power_0_weighs_all_alike(self) -> None:
        torch.testing.assert_close(class_weights([5, 1, 100], 0.0), torch.ones(3))

    def test_power_1_gives_every_class_the_same_sum(self) -> None:
        counts = np.array([10, 30, 60])
        weights = class_weights(counts, 1.0)
        torch.testing.assert_close(weights, torch.tensor([100 / 30, 100 / 90, 100 / 180]))
        np.testing.assert_allclose(weights.numpy() * counts, 100 / 3, rtol=1e-5)

    def test_power_one_half_by_hand(self) -> None:
        raw = np.array([1 / 2, 1 / 3])
        torch.testing.assert_close(class_weights([4, 9], 0.5), torch.tensor(raw * 13 / (raw @ [4, 9]), dtype=torch.float32))

    def test_a_class_without_images_does_not_move_the_others(self) -> None:
        torch.testing.assert_close(class_weights([4, 0, 9], 0.5)[[0, 2]], class_weights([4, 9], 0.5))


class TestLoss:
    LOGITS = torch.tensor(np.random.default_rng(0).normal(size=(16, 3)), dtype=torch.float32)
    LABELS = torch.arange(16) % 3

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    @pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
    def test_equals_the_weighted_cross_entropy_of_torch(self, power: float, smoothing: float) -> None:
        loss = build_loss(LossConfig(class_weight_power=power, label_smoothing=smoothing), [5, 20, 100])
        weight = torch.tensor([5, 20, 100]) ** -power
        expected = functional.cross_entropy(self.LOGITS, self.LABELS, weight=weight, label_smoothing=smoothing)
        torch.testing.assert_close(loss(self.LOGITS, self.LABELS), expected)

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    @pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
    def test_a_probability_of_1_is_the_same_as_the_label(self, power: float, smoothing: float) -> None:
        loss = build_loss(LossConfig(class_weight_power=power, label_smoothing=smoothing), [5, 20, 100])
        confident = functional.one_hot(self.LABELS, 3).float()
        torch.testing.assert_close(loss(self.LOGITS, confident), loss(self.LOGITS, self.LABELS))

    def test_probabilities_by_hand(self) -> None:
        soft = torch.tensor(np.random.default_rng(1).dirichlet(np.ones(3), 16), dtype=torch.float32)
        of_image = -soft * self.LOGITS.log_softmax(dim=1)
        torch.testing.assert_close(build_loss(LossConfig(), [1, 1, 1])(self.LOGITS, soft), of_image.sum(dim=1).mean())
        counts = soft.sum(dim=0)
        weight = class_weights(counts, 1.0)
        weighted = build_loss(LossConfig(class_weight_power=1.0), counts)(self.LOGITS, soft)
        torch.testing.assert_close(weighted, (of_image * weight).sum() / (soft * weight).sum())

    def test_weights_of_probabilities_are_not_rounded_by_autocast(self) -> None:
        loss = build_loss(LossConfig(class_weight_power=1.0), [5, 20, 100])
        soft = self.LOGITS.softmax(dim=1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = loss(self.LOGITS, soft)
        torch.testing.assert_close(rounded, loss(self.LOGITS, soft))

    def test_by_hand_without_weights_and_smoothing(self) -> None:
        truth = self.LOGITS.softmax(dim=1)[torch.arange(16), self.LABELS]
        torch.testing.assert_close(build_loss(LossConfig(), [1, 1, 1])(self.LOGITS, self.LABELS), -truth.log().mean())

    def test_without_power_it_has_no_weights(self) -> None:
        assert build_loss(LossConfig(), [5, 0, 100]).weight is None

    def test_a_class_without_training_images_leaves_the_loss_finite(self) -> None:
        loss = build_loss(LossConfig(class_weight_power=1.0), [5, 0, 100])
        assert torch.isfinite(loss(self.LOGITS, torch.where(self.LABELS == 1, 0, self.LABELS)))
