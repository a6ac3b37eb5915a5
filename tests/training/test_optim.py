"""Tests of the optimizer's groups and of the learning rate's schedule."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raymask.config.recipe import Recipe
from raymask.core.errors import InputError
from raymask.models.classifier import Classifier, build_classifier
from raymask.training.optim import build_optimizer, lr_factor, set_lr

STEPS = st.integers(1, 5000)
WARMUPS = st.floats(0, 0.99)


def recipe_of(**values: Any) -> Recipe:
    return Recipe.model_validate({"backbone": "test_byobnet", "pretrained": False, "image_size": 32, **values})


def built(**values: Any) -> tuple[Classifier, torch.optim.Optimizer]:
    recipe = recipe_of(**values)
    model = build_classifier(recipe, {"mask": 3})
    return model, build_optimizer(recipe, model)


class TestSchedule:
    @settings(deadline=None)
    @given(STEPS, WARMUPS)
    def test_rises_over_the_warm_up_then_falls_within_0_and_1(self, steps: int, warmup: float) -> None:
        rising = round(steps * warmup)
        factors = [lr_factor(step, steps, warmup) for step in range(steps)]
        assert all(0 < factor <= 1 for factor in factors)
        assert all(low < high for low, high in pairwise(factors[:rising]))
        assert all(high >= low for high, low in pairwise(factors[rising:]))

    @settings(deadline=None)
    @given(STEPS, WARMUPS)
    def test_is_highest_right_after_the_warm_up(self, steps: int, warmup: float) -> None:
        rising = round(steps * warmup)
        if rising < steps:
            assert lr_factor(rising, steps, warmup) == 1

    @settings(deadline=None)
    @given(STEPS, st.floats(0, 0.4))
    def test_is_0_at_the_end_and_stays_there(self, steps: int, warmup: float) -> None:
        assert lr_factor(steps, steps, warmup) == pytest.approx(0, abs=1e-12)
        assert lr_factor(steps + 7, steps, warmup) == pytest.approx(0, abs=1e-12)

    def test_by_hand(self) -> None:
        assert [lr_factor(step, 12, 0.25) for step in (0, 1, 2, 3)] == [0.25, 0.5, 0.75, 1.0]
        assert lr_factor(6, 12, 0.25) == pytest.approx(0.5 * (1 + math.cos(math.pi / 3)))
        assert lr_factor(0, 12, 0.0) == 1.0


class TestGroups:
    def test_norms_and_biases_are_not_decayed(self) -> None:
        model, optimizer = built(weight_decay=0.3)
        decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] > 0 for p in group["params"]}
        free = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]}
        assert decayed == {id(p) for p in model.parameters() if p.ndim > 1}
        assert free == {id(p) for p in model.parameters() if p.ndim <= 1}
        assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.3}

    def test_the_backbones_rate_is_scaled(self) -> None:
        model, optimizer = built(lr=0.01, backbone_lr_scale=0.1)
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert all(rates[id(p)] == pytest.approx(0.001) for p in model.backbone.parameters())
        assert all(rates[id(p)] == pytest.approx(0.01) for p in model.heads.parameters())

    def test_setting_the_rate_keeps_the_scale_and_does_not_pile_up(self) -> None:
        _, optimizer = built(lr=0.01, backbone_lr_scale=0.1)
        for factor in (0.5, 0.25, 0.5):
            set_lr(optimizer, factor)
        assert sorted({round(group["lr"], 9) for group in optimizer.param_groups}) == [0.0005, 0.005]

    def test_the_rate_reaches_the_weights(self) -> None:
        model, optimizer = built(optimizer="sgd", lr=0.5, weight_decay=0.0)
        set_lr(optimizer, 0.1)
        bias = model.heads["mask-head"][-1].bias
        before = bias.detach().clone()
        bias.grad = torch.ones_like(bias)
        for group in optimizer.param_groups:
            group["momentum"] = 0.0
            group["nesterov"] = False
        optimizer.step()
        torch.testing.assert_close(bias.detach(), before - 0.05)

    def test_a_frozen_backbone_has_no_group(self) -> None:
        recipe = recipe_of()
        model = build_classifier(recipe, {"mask": 3})
        model.backbone.requires_grad_(False)
        groups = build_optimizer(recipe, model).param_groups
        assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in model.heads.parameters()}

    @pytest.mark.parametrize("name", ["adamw", "sgd", "lamb", "lion", "nadamw", "adan"])
    def test_optimizers_of_timm_take_a_step(self, name: str) -> None:
        model, optimizer = built(optimizer=name, lr=0.1)
        before = model.heads["mask-head"][-1].weight.detach().clone()
        model(torch.full((4, 3, 32, 32), 9, dtype=torch.uint8))["mask"][:, 0].sum().backward()
        optimizer.step()
        assert not torch.equal(before, model.heads["mask-head"][-1].weight)


class TestRefusals:
    def refusal(self, name: str) -> str:
        with pytest.raises(InputError) as caught:
            built(optimizer=name)
        return str(caught.value)

    def test_an_unknown_optimizer_is_refused_with_the_nearest(self) -> None:
        said = self.refusal("adamww")
        assert said.startswith("recipe.optimizer is 'adamww', which timm does not have; the nearest are adamw,")

    def test_an_optimizer_like_no_other_is_refused_with_some_that_there_are(self) -> None:
        assert self.refusal("???").count(",") >= 4

    @pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU it may be had")
    def test_an_optimizer_that_needs_a_gpu_is_refused_without_one(self) -> None:
        assert self.refusal("fusedadam").startswith("recipe.optimizer 'fusedadam' cannot be used here (")

    def test_an_optimizer_of_second_order_is_refused(self) -> None:
        assert "second derivatives" in self.refusal("adahessian")
