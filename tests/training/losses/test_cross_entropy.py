"""Tests of cross-entropy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from raymask.config.components import LossConfig
from raymask.training.losses import build_loss
from raymask.training.losses.class_weights import class_weights

LOGITS = torch.tensor(np.random.default_rng(0).normal(size=(16, 3)), dtype=torch.float32)
LABELS = torch.arange(16) % 3
SOFT = torch.tensor(np.random.default_rng(1).dirichlet(np.ones(3), 16), dtype=torch.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_equals_the_weighted_cross_entropy_of_torch(power: float, smoothing: float) -> None:
    loss = build_loss(LossConfig(class_weight_power=power, label_smoothing=smoothing), [5, 20, 100])
    weight = torch.tensor([5, 20, 100]) ** -power
    expected = functional.cross_entropy(LOGITS, LABELS, weight=weight, label_smoothing=smoothing)
    torch.testing.assert_close(loss(LOGITS, LABELS), expected)
    torch.testing.assert_close(loss(LOGITS, LABELS, torch.ones(16)), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_weights_it_is_to_the_bit_that_of_torch(smoothing: float) -> None:
    loss = build_loss(LossConfig(label_smoothing=smoothing), [5, 20, 100])
    for target in (LABELS, SOFT):
        assert torch.equal(loss(LOGITS, target), functional.cross_entropy(LOGITS, target, label_smoothing=smoothing))


def test_probabilities_by_hand() -> None:
    of_image = -SOFT * LOGITS.log_softmax(dim=1)
    torch.testing.assert_close(build_loss(LossConfig(), [1, 1, 1])(LOGITS, SOFT), of_image.sum(dim=1).mean())
    counts = SOFT.sum(dim=0)
    weight = class_weights(counts, 1.0)
    weighted = build_loss(LossConfig(class_weight_power=1.0), counts)(LOGITS, SOFT)
    torch.testing.assert_close(weighted, (of_image * weight).sum() / (SOFT * weight).sum())


def test_weights_of_rows_by_hand() -> None:
    of_class, of_row = torch.tensor([5, 20, 100]) ** -0.5, torch.linspace(0, 2, 16)
    loss = build_loss(LossConfig(class_weight_power=0.5), [5, 20, 100])(LOGITS, LABELS, of_row)
    total = whole = 0.0
    for logits, label, weight in zip(LOGITS.double().numpy(), LABELS.tolist(), of_row.tolist(), strict=True):
        total -= weight * float(of_class[label]) * (logits[label] - np.log(np.exp(logits).sum()))
        whole += weight * float(of_class[label])
    assert float(loss) == pytest.approx(total / whole, rel=1e-5)


def test_by_hand_without_weights_and_smoothing() -> None:
    truth = LOGITS.softmax(dim=1)[torch.arange(16), LABELS]
    torch.testing.assert_close(build_loss(LossConfig(), [1, 1, 1])(LOGITS, LABELS), -truth.log().mean())
