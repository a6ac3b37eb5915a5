"""Tests of the soft macro-F1."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from raymask.config.components import LossConfig
from raymask.training.losses import build_loss
from raymask.training.losses.base import Loss

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(14, 3)) * 2
LABELS = np.append(np.arange(12) % 2, [2, 2])
SOFT = RNG.dirichlet(np.ones(3), 14)
WEIGHT = RNG.uniform(0.1, 3, 14)
COUNTS = [4, 30, 90]
OUTPUTS = torch.tensor(LOGITS, dtype=torch.float32)


def loss_of(share: float = 0.0, **arguments: Any) -> Loss:
    return build_loss(LossConfig.model_validate({"name": "soft_f1", "cross_entropy_weight": share, **arguments}), COUNTS)


def one_minus_f1(p: np.ndarray, labels: np.ndarray, weight: np.ndarray) -> float:
    """By expected counts of hits, false alarms and misses."""
    of_classes = []
    for label in np.unique(labels):
        of_class = labels == label
        hits = (weight * p[:, label])[of_class].sum()
        false_alarms = (weight * p[:, label])[~of_class].sum()
        misses = (weight * (1 - p[:, label]))[of_class].sum()
        of_classes.append(2 * hits / (2 * hits + false_alarms + misses))
    return 1 - float(np.mean(of_classes))


def softmax(logits: np.ndarray) -> np.ndarray:
    shares: np.ndarray = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return shares


@pytest.mark.parametrize("labels", [LABELS, LABELS.clip(max=1)], ids=["all classes", "without one"])
def test_it_is_its_formula(labels: np.ndarray) -> None:
    expected = one_minus_f1(softmax(LOGITS), labels, np.ones(14))
    assert float(loss_of()(OUTPUTS, torch.tensor(labels))) == pytest.approx(expected, rel=1e-5)
    expected = one_minus_f1(softmax(LOGITS), labels, WEIGHT)
    weight = torch.tensor(WEIGHT, dtype=torch.float32)
    assert float(loss_of()(OUTPUTS, torch.tensor(labels), weight)) == pytest.approx(expected, rel=1e-5)


def test_the_weight_of_a_class_is_that_of_its_rows() -> None:
    weight = np.array(COUNTS)[LABELS] ** -0.5
    expected = one_minus_f1(softmax(LOGITS), LABELS, weight)
    assert float(loss_of(class_weight_power=0.5)(OUTPUTS, torch.tensor(LABELS))) == pytest.approx(expected, rel=1e-5)


def test_for_certain_predictions_it_is_the_macro_f1() -> None:
    predicted = np.where(np.arange(14) % 4 == 0, (LABELS + 1) % 3, LABELS)
    certain = 100.0 * np.equal(predicted[:, None], np.arange(3))
    expected = 1 - f1_score(LABELS, predicted, average="macro")
    loss = loss_of()(torch.tensor(certain, dtype=torch.float32), torch.tensor(LABELS))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("arguments", [{}, {"class_weight_power": 1.0, "label_smoothing": 0.1}])
def test_it_is_mixed_with_cross_entropy(share: float, arguments: dict[str, Any]) -> None:
    labels = torch.tensor(LABELS)
    plain = build_loss(LossConfig.model_validate(arguments), COUNTS)(OUTPUTS, labels)
    expected = share * plain + (1 - share) * loss_of(0.0, **arguments)(OUTPUTS, labels)
    torch.testing.assert_close(loss_of(share, **arguments)(OUTPUTS, labels), expected)


def test_soft_targets_by_hand() -> None:
    p, of_classes = softmax(LOGITS), []
    for label in range(3):
        difference = np.abs(p[:, label] - SOFT[:, label]).sum()
        of_classes.append(1 - difference / (p[:, label] + SOFT[:, label]).sum())
    loss = loss_of()(OUTPUTS, torch.tensor(SOFT, dtype=torch.float32))
    assert float(loss) == pytest.approx(1 - np.mean(of_classes), rel=1e-5)


def test_it_is_0_where_the_probabilities_are_the_targets_and_nowhere_else() -> None:
    target = torch.tensor(SOFT, dtype=torch.float32)
    assert float(loss_of()(target.log(), target)) == pytest.approx(0, abs=1e-6)
    for temperature in (0.5, 0.9, 1.1, 2.0):
        assert float(loss_of()(target.log() / temperature, target)) > 1e-3
