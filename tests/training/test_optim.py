"""Tests of the optimizer and its parameter groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raymask.config.recipe import Recipe
from raymask.core.errors import InputError
from raymask.models.classifier import Classifier, build_classifier
from raymask.training.optim import build_optimizer
from raymask.training.schedules import set_lr


def recipe_of(**values: Any) -> Recipe:
    return Recipe.model_validate({"backbone": "test_byobnet", "pretrained": False, "image_size": 32, **values})


def built(**optim: Any) -> tuple[Classifier, torch.optim.Optimizer]:
    recipe = recipe_of(optim=optim)
    model = build_classifier(recipe, {"mask": 3})
    return model, build_optimizer(recipe.optim, model)


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
        model, optimizer = built(name="sgd", lr=0.5, weight_decay=0.0)
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
        groups = build_optimizer(recipe.optim, model).param_groups
        assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in model.heads.parameters()}

    @pytest.mark.parametrize("name", ["adamw", "sgd", "lamb", "lion", "nadamw", "adan"])
    def test_optimizers_of_timm_take_a_step(self, name: str) -> None:
        model, optimizer = built(name=name, lr=0.1)
        before = model.heads["mask-head"][-1].weight.detach().clone()
        model(torch.full((4, 3, 32, 32), 9, dtype=torch.uint8))["mask"][:, 0].sum().backward()
        optimizer.step()
        assert not torch.equal(before, model.heads["mask-head"][-1].weight)


class TestRefusals:
    def refusal(self, name: str) -> str:
        with pytest.raises(InputError) as caught:
            built(name=name)
        return str(caught.value)

    def test_an_unknown_optimizer_is_refused_with_the_nearest(self) -> None:
        said = self.refusal("adamww")
        assert said.startswith("recipe.optim.name is 'adamww', which timm does not have; the nearest are adamw,")

    def test_an_optimizer_like_no_other_is_refused_with_some_that_there_are(self) -> None:
        assert self.refusal("???").count(",") >= 4

    @pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU it may be had")
    def test_an_optimizer_that_needs_a_gpu_is_refused_without_one(self) -> None:
        assert self.refusal("fusedadam").startswith("recipe.optim.name 'fusedadam' cannot be used here (")

    def test_an_optimizer_of_second_order_is_refused(self) -> None:
        assert "second derivatives" in self.refusal("adahessian")
