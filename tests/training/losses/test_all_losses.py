"""Tests of what holds for every loss: labels and probabilities, weights of rows and classes, and finite numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from raymask.config.components import LossConfig
from raymask.training.losses import LOSSES, build_loss
from raymask.training.losses.base import Loss

CLASSES = 4
COUNTS = [5, 20, 100, 7]
ONE_VS_ALL = ("bce", "asymmetric")


def config_of(name: str, **arguments: Any) -> LossConfig:
    return LossConfig.model_validate({"name": name, **arguments})


PLAIN = [config_of(name) for name in LOSSES.names]
BY_EFFECTIVE_NUMBER = [config_of(name, effective_number=0.9) for name in LOSSES.names]
SMOOTHED = [config_of(name, class_weight_power=1.0, label_smoothing=0.1) for name in LOSSES.names if name != "asymmetric"]
CONFIGS = PLAIN + BY_EFFECTIVE_NUMBER + SMOOTHED
LINEAR = [config for config in CONFIGS if config.name != "soft_f1"]
SHARP = [
    LossConfig(name="focal", gamma=0.3),
    LossConfig(name="focal", gamma=0.0),
    LossConfig(name="ldam_drw", max_margin=30.0),
    LossConfig(name="asymmetric", gamma_negative=0.3, gamma_positive=0.3),
    LossConfig(name="asymmetric", gamma_negative=0.3, gamma_positive=0.3, clip=0.0),
    LossConfig(name="asymmetric", gamma_negative=0.0, gamma_positive=0.0, clip=0.0),
    LossConfig(name="logit_adjusted", tau=5.0),
    LossConfig(name="soft_f1", cross_entropy_weight=0.0),
]


def words(config: LossConfig) -> str:
    return "-".join(f"{value}" for value in config.model_dump(exclude_defaults=True).values()) or config.name


each_loss = pytest.mark.parametrize("config", CONFIGS, ids=words)
each_linear_one = pytest.mark.parametrize("config", LINEAR, ids=words)
each_sharp_one = pytest.mark.parametrize("config", CONFIGS + SHARP, ids=words)
each_name = pytest.mark.parametrize("name", LOSSES.names)
some = settings(deadline=None, max_examples=10)
seeds = st.integers(0, 2**31)


@dataclass(frozen=True)
class Made:
    outputs: Tensor
    labels: Tensor
    soft: Tensor
    weight: Tensor


def made(seed: int, rows: int = 9, spread: float = 3.0) -> Made:
    rng = np.random.default_rng(seed)
    return Made(
        torch.tensor(rng.normal(size=(rows, CLASSES)) * spread, dtype=torch.float32),
        torch.tensor(rng.integers(0, CLASSES, rows)),
        torch.tensor(rng.dirichlet(np.ones(CLASSES), rows), dtype=torch.float32),
        torch.tensor(rng.uniform(0.1, 3, rows), dtype=torch.float32),
    )


def built(config: LossConfig, counts: Any = COUNTS) -> Loss:
    """In an epoch of the last fifth, so that every loss weights classes that it is told to."""
    loss = build_loss(config, counts)
    loss.begin_epoch(9, 10)
    return loss


def with_gradient(loss: Loss, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    leaf = outputs.clone().requires_grad_()
    value = loss(leaf, target, weight)
    assert value.shape == ()
    assert value.dtype == torch.float32
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def assert_same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> None:
    for ours, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


class TestTargets:
    @each_sharp_one
    @some
    @given(seeds, st.booleans())
    def test_a_probability_of_1_is_the_same_as_the_label(self, config: LossConfig, seed: int, weighted: bool) -> None:
        batch, loss = made(seed), built(config)
        weight = batch.weight if weighted else None
        confident = functional.one_hot(batch.labels, CLASSES).float()
        by_label = with_gradient(loss, batch.outputs, batch.labels, weight)
        assert_same(with_gradient(loss, batch.outputs, confident, weight), by_label)

    @each_linear_one
    @some
    @given(seeds, st.floats(0, 1))
    def test_the_loss_of_a_mixed_target_is_the_mix_of_the_losses(self, config: LossConfig, seed: int, share: float) -> None:
        batch, other, loss = made(seed), made(seed + 1).soft, built(config)
        of_class = torch.ones(CLASSES) if loss.class_weight is None else loss.class_weight
        assert isinstance(of_class, Tensor)

        def total(target: Tensor) -> Tensor:
            return torch.as_tensor(loss(batch.outputs, target, batch.weight)) * (batch.weight[:, None] * target * of_class).sum()

        mixed = total(share * batch.soft + (1 - share) * other)
        torch.testing.assert_close(mixed, share * total(batch.soft) + (1 - share) * total(other), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("name", [name for name in LOSSES.names if name != "soft_f1"])
    def test_the_loss_of_a_row_is_the_mean_of_its_classes_losses(self, name: str) -> None:
        batch, loss = made(3, rows=1), build_loss(config_of(name), COUNTS)
        of_labels = torch.stack([loss(batch.outputs, torch.tensor([label])) for label in range(CLASSES)])
        torch.testing.assert_close(loss(batch.outputs, batch.soft), (batch.soft[0] * of_labels).sum())

    @pytest.mark.parametrize("name", [config.name for config in SMOOTHED])
    def test_smoothing_mixes_the_target_with_the_uniform_one(self, name: str) -> None:
        batch = made(5)
        smoothing, plain = build_loss(config_of(name, label_smoothing=0.1), COUNTS), build_loss(config_of(name), COUNTS)
        smoothed = 0.9 * functional.one_hot(batch.labels, CLASSES) + 0.1 / CLASSES
        torch.testing.assert_close(smoothing(batch.outputs, batch.labels), plain(batch.outputs, smoothed))

    @each_name
    def test_descending_on_it_gives_every_row_its_label(self, name: str) -> None:
        batch, loss = made(1), build_loss(config_of(name), COUNTS)
        outputs = batch.outputs.clone().requires_grad_()
        optimizer = torch.optim.Adam([outputs], lr=0.3)
        for _ in range(100):
            optimizer.zero_grad()
            loss(outputs, batch.labels).backward()
            optimizer.step()
        assert torch.equal(outputs.argmax(dim=1), batch.labels)
        assert not torch.equal(batch.outputs.argmax(dim=1), batch.labels)


class TestRowWeights:
    @each_sharp_one
    @some
    @given(seeds, st.lists(st.booleans(), min_size=9, max_size=9).filter(any), st.booleans())
    def test_a_row_of_weight_0_counts_as_absent(self, config: LossConfig, seed: int, kept: list[bool], soft: bool) -> None:
        batch, loss, keep = made(seed), built(config), torch.tensor(kept)
        target = batch.soft if soft else batch.labels
        outputs, weight = batch.outputs.clone(), torch.where(keep, batch.weight, 0)
        outputs[~keep] = torch.nan
        left_out = target.clone()
        left_out[~keep] = torch.nan if soft else -1
        value, gradient = with_gradient(loss, outputs, left_out, weight)
        expected, of_kept = with_gradient(loss, batch.outputs[keep], target[keep], batch.weight[keep])
        assert_same((value, gradient[keep]), (expected, of_kept))
        assert (gradient[~keep] == 0).all()

    @each_sharp_one
    @pytest.mark.parametrize("soft", [False, True])
    def test_without_any_row_loss_and_gradient_are_0(self, config: LossConfig, soft: bool) -> None:
        batch = made(0)
        target = batch.soft if soft else torch.full_like(batch.labels, -1)
        value, gradient = with_gradient(built(config), batch.outputs, target, torch.zeros(9))
        assert value == 0
        assert (gradient == 0).all()

    @each_loss
    @pytest.mark.parametrize("soft", [False, True])
    @pytest.mark.parametrize("weight", [0.01, 1.0, 100.0])
    def test_equal_weights_are_none(self, config: LossConfig, soft: bool, weight: float) -> None:
        batch, loss = made(9), built(config)
        target = batch.soft if soft else batch.labels
        weighted = with_gradient(loss, batch.outputs, target, torch.full((9,), weight))
        assert_same(weighted, with_gradient(loss, batch.outputs, target))

    @each_loss
    @pytest.mark.parametrize("soft", [False, True])
    def test_a_row_of_weight_3_counts_as_three(self, config: LossConfig, soft: bool) -> None:
        batch, loss = made(8), built(config)
        target = batch.soft if soft else batch.labels
        times = torch.tensor([1, 3, 2, 1, 1, 2, 1, 3, 1])
        repeated = loss(batch.outputs.repeat_interleave(times, dim=0), target.repeat_interleave(times, dim=0))
        torch.testing.assert_close(loss(batch.outputs, target, times.float()), repeated)

    @pytest.mark.parametrize("config", BY_EFFECTIVE_NUMBER, ids=words)
    def test_the_weight_of_a_class_is_that_of_its_rows(self, config: LossConfig) -> None:
        batch, plain = made(4), build_loss(config_of(config.name), COUNTS)
        weights = torch.tensor([(1 - 0.9) / (1 - 0.9**count) for count in COUNTS])
        of_rows = with_gradient(plain, batch.outputs, batch.labels, weights[batch.labels])
        assert_same(with_gradient(built(config), batch.outputs, batch.labels), of_rows)
        assert not torch.allclose(of_rows[0], with_gradient(plain, batch.outputs, batch.labels)[0])


class TestNumbers:
    ABSENT = (
        [5, 0, 100, 7],
        [0, 0, 100, 7],
        [0, 0, 0, 2],
        [0.2, 1e-12, 3.5, 0],
    )

    @each_sharp_one
    @pytest.mark.parametrize("counts", ABSENT, ids=str)
    def test_classes_without_images_leave_loss_and_gradient_finite(self, config: LossConfig, counts: list[float]) -> None:
        batch, loss = made(2), built(config, counts)
        of_seen = torch.full_like(batch.labels, int(np.argmax(counts)))
        for target in (of_seen, batch.soft):
            for weight in (None, batch.weight):
                value, gradient = with_gradient(loss, batch.outputs, target, weight)
                assert torch.isfinite(value)
                assert value > 0
                assert torch.isfinite(gradient).all()
        one_of_absent = of_seen.clone()
        one_of_absent[0] = int(np.argmin(counts))
        value, gradient = with_gradient(loss, batch.outputs, one_of_absent)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()

    @each_sharp_one
    @pytest.mark.parametrize("size", [20.0, 80.0, 120.0, 1e4])
    @pytest.mark.parametrize("soft", [False, True])
    def test_logits_of_any_size_leave_loss_and_gradient_finite(self, config: LossConfig, size: float, soft: bool) -> None:
        loss = built(config)
        outputs = (
            torch.tensor([[1.0, -1, -1, -1], [-1, 1, -1, -1], [0, 0, 0, 0], [1, 1, 0, -1], [1, 1, 1, 1], [-1, -1, -1, -1]]) * size
        )
        labels = torch.tensor([0, 0, 2, 3, 1, 1])
        target = functional.one_hot(labels, CLASSES) * 0.7 + 0.3 * functional.one_hot(labels.flip(0), CLASSES) if soft else labels
        for weight in (None, torch.ones(6)):
            value, gradient = with_gradient(loss, outputs, target, weight)
            assert torch.isfinite(value)
            assert torch.isfinite(gradient).all()

    @pytest.mark.parametrize("config", [config for config in CONFIGS + SHARP if config.name not in ONE_VS_ALL], ids=words)
    @some
    @given(seeds, st.floats(-20, 20))
    def test_a_constant_of_a_row_changes_nothing_of_a_softmax(self, config: LossConfig, seed: int, constant: float) -> None:
        batch, loss = made(seed), built(config)
        moved = batch.outputs + torch.linspace(0, constant, 9)[:, None]
        one = with_gradient(loss, batch.outputs, batch.soft, batch.weight)
        assert_same(one, with_gradient(loss, moved, batch.soft, batch.weight))
        torch.testing.assert_close(one[1].sum(dim=1), torch.zeros(9), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("name", ONE_VS_ALL)
    def test_a_constant_of_a_row_counts_where_there_is_none(self, name: str) -> None:
        batch, loss = made(0), build_loss(config_of(name), COUNTS)
        assert not torch.allclose(loss(batch.outputs, batch.labels), loss(batch.outputs + 2, batch.labels))

    @each_loss
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("soft", [False, True])
    def test_autocast_rounds_nothing(self, config: LossConfig, dtype: torch.dtype, soft: bool) -> None:
        batch, loss = made(6), built(config)
        target = batch.soft if soft else batch.labels
        for weight in (None, batch.weight):
            with torch.autocast("cpu", dtype=dtype):
                rounded = loss(batch.outputs, target, weight)
            assert torch.equal(rounded, loss(batch.outputs, target, weight))

    @each_loss
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_outputs_of_low_precision_are_taken_as_float32(self, config: LossConfig, dtype: torch.dtype) -> None:
        batch, loss = made(6), built(config)
        outputs = batch.outputs.to(dtype)
        assert torch.equal(loss(outputs, batch.labels), loss(outputs.float(), batch.labels))

    @each_loss
    def test_all_that_it_holds_moves_to_a_device(self, config: LossConfig) -> None:
        loss = build_loss(config, COUNTS).to("meta")
        loss.begin_epoch(9, 10)
        held = [value for value in vars(loss).values() if isinstance(value, Tensor)]
        assert held == []
        assert all(buffer.device.type == "meta" for buffer in loss.buffers())

    @each_name
    def test_only_deferred_weights_change_with_the_epoch(self, name: str) -> None:
        batch, loss = made(7), build_loss(config_of(name, class_weight_power=1.0), COUNTS)
        values = []
        for epoch in range(5):
            loss.begin_epoch(epoch, 5)
            values.append(float(loss(batch.outputs, batch.labels)))
        assert len(set(values)) == (2 if name == "ldam_drw" else 1)
