"""Tests of the optimizer and its parameter groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raymask.config.components import OptimConfig
from raymask.config.recipe import Recipe
from raymask.core.errors import InputError
from raymask.models.classifier import Classifier, build_classifier
from raymask.training.optim import build_optimizer, check_optimizer
from raymask.training.schedules import set_lr


def recipe_of(**values: Any) -> Recipe:
    return Recipe.model_validate({"backbone": "test_byobnet", "pretrained": False, "image_size": 32, **values})


def built(backbone: str = "test_byobnet", **optim: Any) -> tuple[Classifier, torch.optim.Optimizer]:
    recipe = recipe_of(optim=optim, backbone=backbone)
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


def rates_of(model: Classifier, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(names)
    assert all(group["lr"] == group["base_lr"] for group in optimizer.param_groups)
    return rates


class TestLayerDecay:
    def test_each_block_of_a_transformer_has_a_part_of_the_rate_of_the_block_above_it(self) -> None:
        model, optimizer = built("test_vit", lr=0.01, backbone_lr_scale=0.5, layer_decay=0.7, weight_decay=0.3)
        for name, rate in rates_of(model, optimizer).items():
            if name.startswith("heads."):
                expected = 0.01
            elif name.startswith("backbone.blocks."):
                expected = 0.005 * 0.7 ** (5 - int(name.split(".")[2]))
            else:  # what comes after the blocks belongs to the last of them, what comes before has a layer of its own
                expected = 0.005 if name.startswith("backbone.norm") else 0.005 * 0.7**6
            assert rate == pytest.approx(expected), name

    def test_each_block_of_a_residual_network_has_a_layer(self) -> None:
        model, optimizer = built("test_resnet", lr=0.01, layer_decay=0.5)
        rates = rates_of(model, optimizer)
        blocks = [rates[f"backbone.{name}.0.conv1.weight"] for name in ("layer1", "layer2", "layer3", "layer4")]
        assert blocks == pytest.approx([0.00125, 0.0025, 0.005, 0.01])
        assert rates["backbone.bn1.weight"] == pytest.approx(0.000625)

    def test_weight_decay_is_that_without_it(self) -> None:
        model, optimizer = built("test_vit", layer_decay=0.7, weight_decay=0.3)
        decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        assert all(decays[id(p)] == (0.3 if p.ndim > 1 else 0.0) for p in model.parameters())

    def test_1_leaves_the_groups_as_they_are(self) -> None:
        shapes = [
            [(group["lr"], group["weight_decay"], [p.shape for p in group["params"]]) for group in built(**more)[1].param_groups]
            for more in ({}, {"layer_decay": 1.0})
        ]
        assert shapes[0] == shapes[1]
        assert len(shapes[0]) == 4

    def test_a_backbone_whose_layers_are_not_known_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        recipe = recipe_of(optim={"layer_decay": 0.5})
        model = build_classifier(recipe, {"mask": 3})
        monkeypatch.setattr(model.backbone, "group_matcher", lambda coarse: {"all": "."}, raising=False)
        with pytest.raises(InputError, match=r"^recipe\.optim\.layer_decay is 0\.5, but timm does not tell the layers of this"):
            build_optimizer(recipe.optim, model)


class TestMuon:
    def test_heads_vectors_and_embeddings_are_left_to_adamw(self) -> None:
        model, optimizer = built("test_vit", name="muon", lr=0.01)
        model(torch.full((2, 3, 32, 32), 9, dtype=torch.uint8))["mask"][:, 0].sum().backward()
        optimizer.step()
        by_muon = {
            name
            for name, parameter in model.named_parameters()
            if parameter.grad is not None and optimizer.state[parameter]["use_muon"]
        }
        matrices = {name for name, p in model.named_parameters() if p.ndim > 1 and name.startswith("backbone.blocks.")}
        assert by_muon == matrices | {"backbone.patch_embed.proj.weight"}

    def test_others_have_no_such_mark(self) -> None:
        assert all("use_fallback" not in group for group in built()[1].param_groups)


class TestArguments:
    def test_they_reach_the_optimizer(self) -> None:
        for name, arguments in (
            ("sgd", {"momentum": 0.5, "nesterov": False}),
            ("adamp", {"betas": [0.8, 0.95], "wd_ratio": 0.2}),
            ("adamw", {"betas": [0.8, 0.95], "eps": 1e-6, "foreach": True}),
            ("lion", {"betas": [0.8, 0.95]}),
            ("muon", {"momentum": 0.7, "ns_steps": 3}),
        ):
            optimizer = built(name=name, arguments=arguments)[1]
            check_optimizer(OptimConfig(name=name, arguments=arguments))
            for group in optimizer.param_groups:
                for key, value in arguments.items():
                    assert group[key] == value or list(group[key]) == value

    def test_a_step_of_sgd_with_momentum_by_hand(self) -> None:
        model, optimizer = built(name="sgd", lr=0.5, weight_decay=0.0, arguments={"momentum": 0.25, "nesterov": False})
        bias = model.heads["mask-head"][-1].bias
        before = bias.detach().clone()
        for gradient in (1.0, 2.0):
            bias.grad = torch.full_like(bias, gradient)
            optimizer.step()
        torch.testing.assert_close(bias.detach(), before - 0.5 * 1.0 - 0.5 * (0.25 * 1.0 + 2.0))


class TestRefusals:
    def refusal(self, name: str, **more: Any) -> str:
        with pytest.raises(InputError) as caught:
            built(name=name, **more)
        return str(caught.value)

    @pytest.mark.parametrize("check", [check_optimizer, lambda config: built(**config.model_dump())])
    def test_an_argument_that_the_optimizer_does_not_take_is_refused_with_the_nearest(self, check: Any) -> None:
        with pytest.raises(InputError) as caught:
            check(OptimConfig(name="sgd", arguments={"momentun": 0.9}))
        assert str(caught.value).startswith(
            "recipe.optim.arguments sets 'momentun', which 'sgd' does not take; it may be 'momentum' (the nearest), 'dampening', "
        )

    @pytest.mark.parametrize("name", ["lr", "weight_decay"])
    def test_an_argument_with_a_key_of_its_own_is_refused(self, name: str) -> None:
        said = self.refusal("sgd", arguments={name: 0.1})
        assert said == f"recipe.optim.arguments sets {name}, which has a key of its own: set recipe.optim.{name} instead."

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("sgd", {"momentum": "much"}),
            ("sgd", {"momentum": 0.0}),  # timm's is Nesterov's, which needs some
            ("adamw", {"betas": [0.9, 1.5]}),
            ("adamp", {"betas": [0.9]}),  # found by a step alone
            ("muon", {"conv_mode": "rolled"}),
            ("kron", {"mu_dtype": "half"}),
        ],
    )
    @pytest.mark.filterwarnings("ignore:It is highly recommended to have 'opt_einsum'")
    def test_a_value_that_the_optimizer_does_not_take_is_refused(self, name: str, arguments: dict[str, Any]) -> None:
        with pytest.raises(InputError) as caught:
            check_optimizer(OptimConfig(name=name, arguments=arguments))
        said = str(caught.value)
        assert said.startswith(f"recipe.optim.name '{name}' cannot be used with recipe.optim.arguments={arguments} (")
        assert said.endswith("change what it names, or leave it out.")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU it may be had")
    def test_an_optimizer_that_needs_a_gpu_is_not_tried_without_one(self) -> None:
        check_optimizer(OptimConfig(name="fusedadam"))

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
