"""Tests of backbones in two parts: a trunk and a tail that together are the whole."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from raymask.models.stages import following_module, frozen_parameters
from raymask.models.trunks import CutBackbone

BACKBONES = {
    "resnet18": 4,
    "mobilenetv3_small_050": 6,
    "mobilenetv2_100": 7,
    "efficientnet_b0": 7,
    "test_convnext": 4,
    "test_byobnet": 4,
    "regnetx_002": 4,
    "densenet121": 4,
    "test_vit": 6,
    "vit_tiny_patch16_224": 12,
    "deit_tiny_distilled_patch16_224": 12,
}
"""Stages of each."""


def backbone_of(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    backbone: nn.Module = timm.create_model(name, num_classes=0, **({"img_size": 64} if "it_" in name else {}))
    return backbone


def images() -> Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "stages"), BACKBONES.items())
def test_trunk_and_tail_are_the_whole_to_the_bit(name: str, stages: int) -> None:
    backbone = backbone_of(name)
    names = [each for each, _ in backbone.named_modules()]
    for count in {1, stages // 2, stages - 1}:
        cut = CutBackbone(backbone, count)
        assert cut.agrees(images())
        assert all(module.training for module in backbone.modules()), "it stays in the mode that it was in"
        assert [each for each, _ in backbone.named_modules()] == names
        backbone.eval()
        with torch.no_grad():
            assert torch.equal(cut.tail(cut.trunk(images())), backbone(images()))
        backbone.train()


@pytest.mark.parametrize("name", ["mobilenetv2_100", "test_vit"])
def test_gradients_of_the_tail_are_those_of_the_whole(name: str) -> None:
    backbone = backbone_of(name).eval()
    frozen = {id(parameter) for parameter in frozen_parameters(backbone, 2)}
    for parameter in backbone.parameters():
        parameter.requires_grad_(id(parameter) not in frozen)
    backbone(images()).square().sum().backward()
    expected = {key: parameter.grad for key, parameter in backbone.named_parameters()}
    backbone.zero_grad()
    cut = CutBackbone(backbone, 2)
    features = cut.trunk(images())
    assert not features.requires_grad
    cut.tail(features).square().sum().backward()  # type: ignore[no-untyped-call]
    for key, parameter in backbone.named_parameters():
        assert (parameter.grad is None) == (expected[key] is None)
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[key], rtol=0, atol=0)


def test_a_backbone_that_does_more_between_its_parts_does_not_agree() -> None:
    class Doubling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer1, self.layer2 = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)

        def forward(self, given: Tensor) -> Tensor:
            return self.layer2(2 * self.layer1(given))  # type: ignore[no-any-return]

    assert not CutBackbone(Doubling(), 1).agrees(images())


@pytest.mark.parametrize("name", ["mobilenetv2_100", "test_vit"])
def test_the_backbone_stays_whole_while_its_parts_run(name: str) -> None:
    """So that several threads may predict with one model."""
    backbone = backbone_of(name).eval()
    cut, before = CutBackbone(backbone, 2), dict(backbone.named_modules())
    seen: list[bool] = []

    def look(module: nn.Module, given: object) -> None:
        seen.append(dict(backbone.named_modules()) == before and "_pos_embed" not in vars(backbone))

    backbone.get_submodule(following_module(backbone, 2)).register_forward_pre_hook(look)
    with torch.no_grad():
        cut.tail(cut.trunk(images()))
    assert seen == [True]


def test_equal_trunks_are_known_by_their_weights_and_become_one() -> None:
    one, same, other = (CutBackbone(backbone_of("test_resnet", seed), 2) for seed in (0, 0, 1))
    with torch.no_grad():
        next(same.backbone.layer4.parameters()).add_(1.0)  # type: ignore[union-attr]
    assert one.digest() == same.digest() != other.digest()
    same.share(one)
    assert same.backbone.conv1 is one.backbone.conv1
    assert same.backbone.layer3 is not one.backbone.layer3
    assert same.agrees(images())
