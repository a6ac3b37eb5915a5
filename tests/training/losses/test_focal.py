"""Tests of the focal loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raymask.config.components import LossConfig
from raymask.training.losses import build_loss

LOGITS = np.random.default_rng(0).normal(size=(12, 3)) * 2
LABELS = np.arange(12) % 3
COUNTS = [4, 30, 90]
OUTPUTS, TARGET = torch.tensor(LOGITS, dtype=torch.float32), torch.tensor(LABELS)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_it_is_its_formula(gamma: float) -> None:
    of_rows = []
    for logits, label in zip(LOGITS, LABELS, strict=True):
        p = np.exp(logits[label]) / np.exp(logits).sum()
        of_rows.append(-((1 - p) ** gamma) * np.log(p))
    loss = build_loss(LossConfig(name="focal", gamma=gamma), COUNTS)
    assert float(loss(OUTPUTS, TARGET)) == pytest.approx(np.mean(of_rows), rel=1e-5)


def test_with_gamma_0_it_is_cross_entropy() -> None:
    given = {"class_weight_power": 0.5, "label_smoothing": 0.1}
    focal = build_loss(LossConfig.model_validate({"name": "focal", "gamma": 0.0, **given}), COUNTS)
    plain = build_loss(LossConfig.model_validate(given), COUNTS)
    torch.testing.assert_close(focal(OUTPUTS, TARGET), plain(OUTPUTS, TARGET))


def test_what_is_learned_counts_far_less_than_what_is_not() -> None:
    easy, hard = torch.tensor([[4.0, 0, 0]]), torch.tensor([[0.0, 1, 0]])
    focal, plain = build_loss(LossConfig(name="focal"), COUNTS), build_loss(LossConfig(), COUNTS)
    label = torch.tensor([0])
    assert focal(easy, label) / plain(easy, label) < 0.01
    assert focal(hard, label) / plain(hard, label) > 0.5
