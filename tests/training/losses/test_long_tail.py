"""Tests of losses for classes of which some have far fewer images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raymask.config.components import LossConfig
from raymask.training.losses import build_loss
from raymask.training.losses.base import Loss

LOGITS = np.random.default_rng(0).normal(size=(12, 3)) * 2
LABELS = np.arange(12) % 3
COUNTS = [4, 30, 90]
OUTPUTS, TARGET = torch.tensor(LOGITS, dtype=torch.float32), torch.tensor(LABELS)


def loss_of(name: str, counts: Any = COUNTS, **arguments: Any) -> Loss:
    return build_loss(LossConfig.model_validate({"name": name, **arguments}), counts)


def cross_entropy_of(numerators: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) of unnormalised probabilities."""
    of_rows: np.ndarray = -np.log(numerators[np.arange(len(labels)), labels] / numerators.sum(axis=1))
    return of_rows


class TestLogitAdjusted:
    @pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
    def test_it_is_its_formula(self, tau: float) -> None:
        prior = np.array(COUNTS) / np.sum(COUNTS)
        expected = cross_entropy_of(np.exp(LOGITS) * prior**tau, LABELS).mean()
        assert float(loss_of("logit_adjusted", tau=tau)(OUTPUTS, TARGET)) == pytest.approx(expected, rel=1e-5)

    def test_with_tau_0_it_is_cross_entropy(self) -> None:
        adjusted, plain = loss_of("logit_adjusted", tau=0.0), loss_of("cross_entropy")
        torch.testing.assert_close(adjusted(OUTPUTS, TARGET), plain(OUTPUTS, TARGET))

    def test_what_is_the_same_for_all_images_is_learned_as_no_class_at_all(self) -> None:
        """The best constant logits are equal: the frequencies are in the adjustment, and not in them."""
        labels, logits = torch.arange(3).repeat_interleave(torch.tensor(COUNTS)), torch.zeros(3, requires_grad=True)
        loss_of("logit_adjusted")(logits.expand(len(labels), 3), labels).backward()
        assert logits.grad is not None
        torch.testing.assert_close(logits.grad, torch.zeros(3), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("name", ["logit_adjusted", "balanced_softmax"])
    def test_a_class_without_images_is_not_favoured(self, name: str) -> None:
        """It ends below each class that there is, as with cross-entropy."""
        labels = torch.arange(2).repeat_interleave(torch.tensor([10, 90]))
        logits = torch.zeros(3, requires_grad=True)
        loss, optimizer = loss_of(name, [10, 90, 0]), torch.optim.SGD([logits], lr=1.0)
        for _ in range(200):
            optimizer.zero_grad()
            loss(logits.expand(100, 3), labels).backward()
            optimizer.step()
        assert logits[2] < logits[:2].min() - 2


class TestBalancedSoftmax:
    def test_it_is_its_formula(self) -> None:
        expected = cross_entropy_of(np.exp(LOGITS) * np.array(COUNTS), LABELS).mean()
        assert float(loss_of("balanced_softmax")(OUTPUTS, TARGET)) == pytest.approx(expected, rel=1e-5)


def margins(counts: list[int], largest: float) -> np.ndarray:
    return np.array([largest * (min(counts) / count) ** 0.25 for count in counts])


def with_margins(logits: np.ndarray, labels: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """(N,) cross-entropy with the true logit lowered."""
    lowered = logits.copy()
    lowered[np.arange(len(labels)), labels] -= margin[labels]
    return cross_entropy_of(np.exp(lowered), labels)


class TestLdam:
    @pytest.mark.parametrize("largest", [0.1, 0.5, 3.0, 15.0])
    def test_it_is_its_formula(self, largest: float) -> None:
        expected = with_margins(LOGITS, LABELS, margins(COUNTS, largest)).mean()
        assert float(loss_of("ldam_drw", max_margin=largest)(OUTPUTS, TARGET)) == pytest.approx(expected, rel=1e-5)

    @settings(deadline=None)
    @given(st.integers(0, 2**31), st.floats(0.1, 40), st.floats(0.1, 15))
    def test_its_gradient_is_right_for_any_logits_and_margins(self, seed: int, size: float, largest: float) -> None:
        """That of logits less margins is the probability that they give, less 1 for the true class."""
        rng = np.random.default_rng(seed)
        logits, label = (rng.normal(size=3) * size).astype(np.float32), int(rng.integers(0, 3))
        outputs = torch.tensor(logits)[None].requires_grad_()
        loss_of("ldam_drw", max_margin=largest)(outputs, torch.tensor([label])).backward()
        lowered = logits.astype(np.float64)
        lowered[label] -= margins(COUNTS, largest)[label]
        expected = np.exp(lowered - lowered.max())
        expected /= expected.sum()
        expected[label] -= 1
        assert outputs.grad is not None
        np.testing.assert_allclose(outputs.grad[0].numpy(), expected, rtol=2e-3, atol=2e-5)

    @pytest.mark.parametrize("margin", [8.0, 16.0, 30.0])
    def test_a_margin_counts_where_the_probability_is_nearly_1(self, margin: float) -> None:
        outputs = torch.tensor([[margin, 0.0, 0.0]], requires_grad=True)
        loss = loss_of("ldam_drw", max_margin=margin)(outputs, torch.tensor([0]))
        loss.backward()
        assert float(loss.detach()) == pytest.approx(np.log(3), abs=1e-4)
        assert outputs.grad is not None
        torch.testing.assert_close(outputs.grad, torch.tensor([[-2 / 3, 1 / 3, 1 / 3]]), rtol=1e-4, atol=0)

    def test_the_rarest_class_has_the_largest_margin(self) -> None:
        logits = torch.zeros(1, 3)
        of_classes = [float(loss_of("ldam_drw")(logits, torch.tensor([label]))) for label in range(3)]
        assert of_classes == sorted(of_classes, reverse=True)
        assert of_classes[0] == pytest.approx(-np.log(np.exp(-0.5) / (np.exp(-0.5) + 2)), rel=1e-5)

    def test_a_class_without_images_changes_no_margin(self) -> None:
        labels = torch.tensor([0, 1])
        one = loss_of("ldam_drw", [4, 90])(torch.tensor([[1.0, 2], [3, 5]]), labels)
        padded = torch.tensor([[1.0, 2, -100], [3, 5, -100]])
        torch.testing.assert_close(loss_of("ldam_drw", [4, 90, 0])(padded, labels), one)


class TestDeferredWeights:
    @staticmethod
    def weighted(weights: np.ndarray) -> float:
        of_rows, weight = with_margins(LOGITS, LABELS, margins(COUNTS, 0.5)), weights[LABELS]
        return float((of_rows * weight).sum() / weight.sum())

    @staticmethod
    def value(loss: Loss, epoch: int, epochs: int) -> float:
        loss.begin_epoch(epoch, epochs)
        value: Tensor = loss(OUTPUTS, TARGET)
        return float(value)

    @pytest.mark.parametrize(
        ("arguments", "weights"),
        [
            ({}, [1 / (1 - 0.9999**count) for count in COUNTS]),
            ({"effective_number": 0.9}, [1 / (1 - 0.9**count) for count in COUNTS]),
            ({"class_weight_power": 0.5}, [count**-0.5 for count in COUNTS]),
        ],
    )
    def test_classes_are_weighted_in_the_last_fifth(self, arguments: dict[str, Any], weights: list[float]) -> None:
        loss = loss_of("ldam_drw", **arguments)
        unweighted, weighted = self.weighted(np.ones(3)), self.weighted(np.array(weights))
        assert float(loss(OUTPUTS, TARGET)) == pytest.approx(unweighted, rel=1e-5)
        for epoch in range(10):
            assert self.value(loss, epoch, 10) == pytest.approx(weighted if epoch >= 8 else unweighted, rel=1e-5)
        assert self.value(loss, 0, 10) == pytest.approx(unweighted, rel=1e-5)

    @pytest.mark.parametrize(
        ("share", "epochs", "first"), [(0.0, 5, 0), (1.0, 5, 5), (0.55, 100, 55), (0.8, 1, 1), (0.8, 3, 2), (0.3, 10, 3)]
    )
    def test_they_begin_at_a_share_of_the_epochs_rounded(self, share: float, epochs: int, first: int) -> None:
        loss, unweighted = loss_of("ldam_drw", drw_from=share), self.weighted(np.ones(3))
        weighs = [self.value(loss, epoch, epochs) != pytest.approx(unweighted, rel=1e-5) for epoch in range(epochs)]
        assert weighs == [epoch >= first for epoch in range(epochs)]
