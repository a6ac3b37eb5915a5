"""Tests of losses that ask of each class on its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from timm.loss import AsymmetricLossMultiLabel
from timm.loss import BinaryCrossEntropy as TimmBinaryCrossEntropy
from torch import Tensor

from raymask.config.components import LossConfig
from raymask.training.losses import build_loss
from raymask.training.losses.base import Loss

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(12, 3)) * 3
LABELS = np.arange(12) % 3
SOFT = RNG.dirichlet(np.ones(3), 12)
WEIGHT = RNG.uniform(0.1, 3, 12)
COUNTS = [4, 30, 90]
OUTPUTS, TARGET = torch.tensor(LOGITS, dtype=torch.float32), torch.tensor(LABELS)
PROBABILITIES = torch.tensor(SOFT, dtype=torch.float32)


def loss_of(name: str, **arguments: Any) -> Loss:
    return build_loss(LossConfig.model_validate({"name": name, **arguments}), COUNTS)


def gradient(loss: Any, target: Tensor) -> Tensor:
    outputs = OUTPUTS.clone().requires_grad_()
    loss(outputs, target).backward()
    assert outputs.grad is not None
    return outputs.grad


class TestBinaryCrossEntropy:
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_for_labels_it_is_timms(self, smoothing: float) -> None:
        ours, theirs = loss_of("bce", label_smoothing=smoothing), TimmBinaryCrossEntropy(smoothing=smoothing)
        torch.testing.assert_close(ours(OUTPUTS, TARGET), theirs(OUTPUTS, TARGET))
        torch.testing.assert_close(gradient(ours, TARGET), gradient(theirs, TARGET))

    def test_for_probabilities_it_is_timms(self) -> None:
        ours, theirs = loss_of("bce"), TimmBinaryCrossEntropy(smoothing=0.0)
        torch.testing.assert_close(ours(OUTPUTS, PROBABILITIES), theirs(OUTPUTS, PROBABILITIES))
        torch.testing.assert_close(gradient(ours, PROBABILITIES), gradient(theirs, PROBABILITIES))

    def test_weights_of_classes_and_rows_by_hand(self) -> None:
        p, weight = 1 / (1 + np.exp(-LOGITS)), WEIGHT * np.array(COUNTS)[LABELS] ** -0.5
        truth = np.equal(LABELS[:, None], np.arange(3))
        of_rows = -np.where(truth, np.log(p), np.log(1 - p)).mean(axis=1)
        loss = loss_of("bce", class_weight_power=0.5)(OUTPUTS, TARGET, torch.tensor(WEIGHT, dtype=torch.float32))
        assert float(loss) == pytest.approx((of_rows * weight).sum() / weight.sum(), rel=1e-5)


class TestAsymmetric:
    ARGUMENTS: tuple[dict[str, float], ...] = (
        {},
        {"clip": 0.0},
        {"clip": 0.3},
        {"gamma_negative": 1.5, "gamma_positive": 0.0},
        {"gamma_negative": 0.0, "gamma_positive": 2.5, "clip": 0.1},
    )

    @pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
    def test_for_labels_it_is_timms(self, arguments: dict[str, float]) -> None:
        config = LossConfig.model_validate({"name": "asymmetric", **arguments})
        ours = build_loss(config, COUNTS)
        of_timm = AsymmetricLossMultiLabel(config.gamma_negative, config.gamma_positive, config.clip)

        def theirs(outputs: Tensor, target: Tensor) -> Tensor:
            loss: Tensor = of_timm(outputs, torch.nn.functional.one_hot(target, 3))
            return loss

        torch.testing.assert_close(ours(OUTPUTS, TARGET), theirs(OUTPUTS, TARGET), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(gradient(ours, TARGET), gradient(theirs, TARGET), rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
    def test_for_probabilities_it_is_its_formula(self, arguments: dict[str, float]) -> None:
        config = LossConfig.model_validate({"name": "asymmetric", **arguments})
        p = 1 / (1 + np.exp(-LOGITS))
        q = np.maximum(p - config.clip, 0)
        present, absent = (1 - p) ** config.gamma_positive * np.log(p), q**config.gamma_negative * np.log(1 - q)
        expected = -(SOFT * present + (1 - SOFT) * absent).sum(axis=1).mean()
        assert float(build_loss(config, COUNTS)(OUTPUTS, PROBABILITIES)) == pytest.approx(expected, rel=1e-4)

    def test_without_focus_and_clip_it_is_the_sum_of_binary_cross_entropies(self) -> None:
        plain = loss_of("asymmetric", gamma_negative=0.0, gamma_positive=0.0, clip=0.0)
        torch.testing.assert_close(plain(OUTPUTS, PROBABILITIES), 3 * loss_of("bce")(OUTPUTS, PROBABILITIES))
