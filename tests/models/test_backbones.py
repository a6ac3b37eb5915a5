"""Tests of timm's backbones as recipes want them: their stochastic depth."""

from __future__ import annotations

import pytest
import torch
from timm.layers import DropPath

from raymask.config.recipe import Recipe
from raymask.core.errors import InputError
from raymask.models.backbones import create_backbone


def recipe_of(backbone: str, drop_path: float) -> Recipe:
    return Recipe.model_validate({"backbone": backbone, "pretrained": False, "image_size": 64, "drop_path": drop_path})


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "mobilenetv3_small_050", "test_convnext"])
def test_residual_blocks_are_skipped_in_training_alone(name: str) -> None:
    torch.manual_seed(0)
    backbone, given = create_backbone(recipe_of(name, 0.5)), torch.rand(4, 3, 64, 64)
    rates = [module.drop_prob for module in backbone.modules() if isinstance(module, DropPath)]
    assert max(rates) == pytest.approx(0.5, abs=0.15)  # timm's grow towards the last block, where there may be none to skip
    plain = create_backbone(recipe_of(name, 0.0))
    with torch.no_grad():
        for parameter in backbone.parameters():  # a block whose last norm is 0 at first would not be missed
            parameter.fill_(1.0) if parameter.ndim == 1 else None
        plain.load_state_dict(backbone.state_dict())
        torch.testing.assert_close(backbone.eval()(given), plain.eval()(given))
        for module in backbone.modules():
            module.train(isinstance(module, DropPath))
        assert not torch.allclose(backbone(given), plain(given))


@pytest.mark.parametrize("name", ["vgg11", "densenet121", "lcnet_050"])
def test_a_backbone_without_blocks_to_skip_is_refused(name: str) -> None:
    with pytest.raises(InputError) as caught:
        create_backbone(recipe_of(name, 0.25))
    assert str(caught.value) == (
        f"recipe.drop_path is 0.25, but '{name}' has no residual blocks that timm can skip; set it to 0, or choose another "
        "recipe.backbone."
    )
    create_backbone(recipe_of("lcnet_050", 0.0))
