"""Tests of backbones that are cut into stages."""

from __future__ import annotations

from itertools import pairwise

import pytest
import timm
import torch
from torch import Tensor, nn

from raymask.core.errors import InputError
from raymask.models.stages import check_stages, frozen_modules, frozen_parameters

CONVOLUTIONAL = {
    "resnet18": 4,
    "test_resnet": 4,
    "mobilenetv3_small_050": 6,
    "mobilenetv2_100": 7,
    "efficientnet_b0": 7,
    "test_efficientnet": 5,
    "test_convnext": 4,
    "test_byobnet": 4,
    "regnetx_002": 4,
    "densenet121": 4,
    "vgg11": 6,
    "dla34": 6,
}
"""Stages of each."""
TRANSFORMERS = {"test_vit": 6, "vit_tiny_patch16_224": 12, "deit_tiny_distilled_patch16_224": 12}
ALL = {**CONVOLUTIONAL, **TRANSFORMERS}


def backbone_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    kwargs = {"img_size": 64} if name in TRANSFORMERS else {"mlp_ratio": 0.01} if name == "vgg11" else {}
    backbone: nn.Module = timm.create_model(name, num_classes=0, **kwargs)
    return backbone.eval()


def images() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "stages"), ALL.items())
def test_so_many_stages_can_be_frozen_but_one_and_none_beyond(name: str, stages: int) -> None:
    backbone = backbone_of(name)
    frozen = [frozen_modules(backbone, count) for count in range(1, stages)]
    for fewer, more in pairwise(frozen):
        assert more[: len(fewer)] == fewer
        assert len(more) > len(fewer)
    for count in (stages, stages + 1):
        with pytest.raises(InputError) as caught:
            frozen_modules(backbone, count)
        assert str(caught.value) == (
            f"recipe.freeze.stages is {count}, but '{name}' has {stages} stages; freeze at most {stages - 1}, or all by "
            "recipe.freeze.part=backbone."
        )


@pytest.mark.parametrize(("name", "stages"), ALL.items())
def test_gradients_reach_every_weight_but_the_frozen_ones(name: str, stages: int) -> None:
    for count in {1, stages - 1}:
        backbone = backbone_of(name)
        frozen = {id(parameter) for parameter in frozen_parameters(backbone, count)}
        check_stages(backbone, count, images())
        for parameter in backbone.parameters():
            parameter.requires_grad_(id(parameter) not in frozen)
        backbone(images()).square().sum().backward()
        with_gradient = {id(parameter) for parameter in backbone.parameters() if parameter.grad is not None}
        assert with_gradient == {id(parameter) for parameter in backbone.parameters()} - frozen
        assert frozen


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_an_image_passes_through_the_modules_one_after_the_other(name: str) -> None:
    backbone, given = backbone_of(name), images()
    modules = frozen_modules(backbone, 2)
    seen: list[Tensor] = []
    with torch.inference_mode():
        hook = modules[-1][1].register_forward_hook(lambda module, inputs, output: seen.append(output))
        backbone(given)
        hook.remove()
        for module_name, module in modules:
            assert backbone.get_submodule(module_name) is module
            given = module(given)
    torch.testing.assert_close(given, seen[0])


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_of_a_transformer_tokens_and_position_embedding_are_frozen_too(name: str) -> None:
    backbone = backbone_of(name)
    frozen = {id(parameter) for parameter in frozen_parameters(backbone, 1)}
    names = {each for each, parameter in backbone.named_parameters() if id(parameter) in frozen}
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"} <= names
    assert not any(each.startswith(("blocks.1", "norm")) for each in names)


@pytest.mark.parametrize("name", ["inception_v3", "visformer_tiny", "crossvit_9_240"])
def test_a_backbone_without_stages_is_refused(name: str) -> None:
    with pytest.raises(InputError) as caught:
        frozen_modules(timm.create_model(name, num_classes=0), 1)
    assert str(caught.value).startswith(f"recipe.freeze.stages: '{name}' is not made of stages that can be cut; set ")


def test_a_backbone_whose_stages_are_entwined_is_refused() -> None:
    backbone = timm.create_model("twins_pcpvt_small", num_classes=0, img_size=64).eval()
    with pytest.raises(InputError, match=r"^recipe\.freeze\.stages: the stages of 'twins_pcpvt_small' do not come one after the"):
        check_stages(backbone, 1, images())
    assert not any(module._forward_pre_hooks for module in backbone.modules())
