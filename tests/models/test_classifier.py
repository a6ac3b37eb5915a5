"""Tests of the classifier: pixels in, logits out; weights in, weights out; and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from raymask.config.components import HeadConfig
from raymask.config.recipe import Recipe
from raymask.core.errors import InputError
from raymask.io.checked import DamagedFileError
from raymask.models.classifier import Classifier, build_classifier, load_classifier, save_classifier, to_pixels
from raymask.models.heads import Dropout, build_head
from raymask.models.pretrained import fetch_backbone, load_backbone

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
HEADS = {"mask": 3, "age": 2}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def recipe_of(**values: Any) -> Recipe:
    return Recipe.model_validate({"backbone": "test_resnet", "pretrained": False, "image_size": 64, **values})


def images(count: int = 2, side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


class TestForward:
    @pytest.mark.parametrize(("backbone", "mean_std"), [("test_byobnet", IMAGENET), ("test_resnet", HALVES)])
    def test_pixels_are_normalised_as_timm_normalises_images_from_0_to_1(self, backbone: str, mean_std: Any) -> None:
        model = build_classifier(recipe_of(backbone=backbone), HEADS).eval()
        pixels = to_pixels(images(), CPU)
        config = timm.data.resolve_model_data_config(model.backbone)
        assert (tuple(config["mean"]), tuple(config["std"])) == mean_std
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in mean_std)
        with torch.inference_mode():
            by_hand = model.backbone((pixels.float() / 255 - mean) / std)
            torch.testing.assert_close(model.features(pixels), by_hand, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(model.features(pixels.float()), by_hand, rtol=1e-4, atol=1e-5)

    def test_forward_classifies_the_features(self) -> None:
        model = build_classifier(recipe_of(head={"name": "mlp", "hidden": 4}), HEADS).eval()
        pixels = to_pixels(images(), CPU)
        with torch.inference_mode():
            features = model.features(pixels)
            assert features.shape == (2, 96)
            for task, logits in model(pixels).items():
                assert logits.shape == (2, HEADS[task])
                torch.testing.assert_close(logits, model.classify(features)[task])

    def test_the_model_leaves_its_pixels_as_they_are(self) -> None:
        given = images()
        before = given.copy()
        build_classifier(recipe_of(), HEADS)(to_pixels(given, CPU))
        np.testing.assert_array_equal(given, before)

    @pytest.mark.parametrize("task", ["half", "type", "train", "forward", "items", "keys", "pop", "T_destination"])
    def test_a_task_may_have_the_name_of_a_modules_attribute(self, task: str, tmp_path: Path) -> None:
        """A column named `type` is none too rare."""
        model = build_classifier(recipe_of(), {task: 4}).eval()
        assert model(to_pixels(images(), CPU))[task].shape == (2, 4)
        save_classifier(model, tmp_path / "model.safetensors")
        assert load_classifier(recipe_of(), {task: 4}, tmp_path / "model.safetensors").classes == {task: 4}

    def test_equal_seeds_make_equal_models(self) -> None:
        models = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            models.append(torch.cat([value.flatten() for value in build_classifier(recipe_of(), HEADS).parameters()]))
        assert torch.equal(models[0], models[1])
        assert not torch.equal(models[0], models[2])

    def test_a_new_model_is_in_training_mode(self) -> None:
        model = build_classifier(recipe_of(), HEADS)
        assert all(module.training for module in model.modules())


class TestHead:
    def test_is_one_linear_layer_by_default(self) -> None:
        head = build_head(7, 3, HeadConfig())
        assert [type(layer) for layer in head] == [nn.Linear]
        assert head(torch.zeros(5, 7)).shape == (5, 3)

    def test_normalises_then_has_a_hidden_layer_and_dropout(self) -> None:
        head = build_head(7, 3, HeadConfig(name="mlp", norm=True, hidden=4, dropout=0.25))
        assert [type(layer) for layer in head] == [nn.BatchNorm1d, nn.Linear, nn.ReLU, Dropout, nn.Linear]
        assert not head[0].affine
        assert (head[1].in_features, head[1].out_features, head[3].p) == (7, 4, 0.25)
        assert head(torch.randn(5, 7)).shape == (5, 3)

    def test_norm_makes_logits_free_of_the_features_scale(self) -> None:
        torch.manual_seed(0)
        head, features = build_head(7, 3, HeadConfig(norm=True)), torch.randn(50, 7)
        torch.testing.assert_close(head(features * 30 + 4), head(features), rtol=1e-3, atol=1e-3)

    def test_dropout_acts_in_training_alone(self) -> None:
        head, features = build_head(7, 3, HeadConfig(dropout=0.5)), torch.randn(5, 7)
        assert not torch.equal(head(features), head(features))
        head.eval()
        assert torch.equal(head(features), head(features))


class TestRefusals:
    def refusal(self, **values: Any) -> str:
        with pytest.raises(InputError) as caught:
            build_classifier(recipe_of(**values), HEADS)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_an_unknown_backbone_is_refused_with_the_nearest_names(self) -> None:
        assert self.refusal(backbone="mobilenetv3_smal_050").startswith(
            "recipe.backbone is 'mobilenetv3_smal_050', which timm does not have; the nearest are mobilenetv3_small_050"
        )

    def test_a_backbone_like_no_other_is_refused_without_a_hint(self) -> None:
        assert self.refusal(backbone="q") == "recipe.backbone is 'q', which timm does not have."

    def test_an_unknown_tag_of_a_known_backbone_is_refused(self) -> None:
        assert "'resnet18.nonesuch'" in self.refusal(backbone="resnet18.nonesuch")

    @pytest.mark.parametrize(
        ("backbone", "size"),
        [
            ("test_maxvit", (8, 8)),  # ZeroDivisionError in its constructor
            ("test_vit_relpos", (8, 8)),  # RuntimeError in its constructor
            ("test_maxvit", (50, 33)),  # AssertionError in its forward pass
            ("test_vit", (8, 64)),  # smaller than a patch
            ("test_vit", (50, 70)),  # no multiple of a patch
        ],
    )
    def test_a_size_that_a_backbone_cannot_take_is_refused(self, backbone: str, size: tuple[int, int]) -> None:
        said = self.refusal(backbone=backbone, image_size=size)
        assert f"'{backbone}' cannot be built for images of {size[0]}×{size[1]} pixels (" in said
        assert "change recipe.image_size" in said

    @pytest.mark.parametrize("size", [(32, 32), (64, 48), (160, 160)])
    def test_a_vision_transformer_is_adapted_to_the_size(self, size: tuple[int, int]) -> None:
        model = build_classifier(recipe_of(backbone="test_vit", image_size=size), HEADS).eval()
        pixels = torch.zeros(2, 3, *size, dtype=torch.uint8)
        assert model(pixels)["mask"].shape == (2, 3)


class TestWeights:
    @pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
    def test_a_saved_model_comes_back_with_equal_outputs(self, backbone: str, tmp_path: Path) -> None:
        recipe = recipe_of(backbone=backbone, head={"name": "mlp", "norm": True, "hidden": 5})
        model = build_classifier(recipe, HEADS)
        pixels = to_pixels(images(6), CPU)
        model(pixels)  # moves the statistics of its batch normalisation
        save_classifier(model.to(memory_format=torch.channels_last), tmp_path / "model.safetensors")
        loaded = load_classifier(recipe, HEADS, tmp_path / "model.safetensors")
        assert not loaded.training
        with torch.inference_mode():
            for task, logits in model.eval()(pixels).items():
                assert torch.equal(loaded(pixels)[task], logits)

    def test_a_model_of_other_heads_does_not_load(self, tmp_path: Path) -> None:
        save_classifier(build_classifier(recipe_of(), HEADS), tmp_path / "model.safetensors")
        with pytest.raises(DamagedFileError, match="age-head"):
            load_classifier(recipe_of(), {"mask": 3}, tmp_path / "model.safetensors")

    def local(self, tmp_path: Path, name: str, **kwargs: Any) -> tuple[Path, dict[str, torch.Tensor]]:
        torch.manual_seed(11)
        state = timm.create_model(name, **kwargs).state_dict()
        torch.save(state, tmp_path / f"{name}.pth")
        return tmp_path / f"{name}.pth", state

    def fetched(self, tmp_path: Path, weights: Path, backbone: str = "test_resnet") -> Classifier:
        recipe = recipe_of(backbone=backbone, pretrained=True, weights=weights)
        fetch_backbone(recipe, tmp_path / "start.safetensors")
        model = build_classifier(recipe, HEADS)
        load_backbone(model, tmp_path / "start.safetensors")
        return model

    def test_a_local_file_is_loaded_exactly_without_its_classifier(self, tmp_path: Path) -> None:
        weights, state = self.local(tmp_path, "test_resnet")
        loaded = self.fetched(tmp_path, weights).backbone.state_dict()
        assert state.keys() - loaded.keys() == {"fc.weight", "fc.bias"}
        assert all(torch.equal(value, state[name]) for name, value in loaded.items())
        assert load_file(str(tmp_path / "start.safetensors")).keys() == loaded.keys()

    def test_position_embeddings_of_a_local_file_are_fitted_to_the_size(self, tmp_path: Path) -> None:
        weights, state = self.local(tmp_path, "test_vit")
        loaded = self.fetched(tmp_path, weights, "test_vit").backbone.state_dict()
        assert loaded["pos_embed"].shape != state["pos_embed"].shape
        assert torch.equal(loaded["blocks.0.attn.qkv.weight"], state["blocks.0.attn.qkv.weight"])

    def refusal(self, tmp_path: Path, weights: Path, backbone: str = "test_resnet") -> str:
        with pytest.raises(InputError) as caught:
            fetch_backbone(recipe_of(backbone=backbone, pretrained=True, weights=weights), tmp_path / "start.safetensors")
        assert not (tmp_path / "start.safetensors").exists()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        assert self.refusal(tmp_path, tmp_path / "none.pth") == f"recipe.weights: there is no file '{tmp_path / 'none.pth'}'."

    @pytest.mark.parametrize("other", ["test_byobnet", "test_vit"])
    def test_weights_of_another_architecture_are_refused(self, other: str, tmp_path: Path) -> None:
        """timm itself loads nothing of them and says nothing."""
        weights, _ = self.local(tmp_path, other)
        said = self.refusal(tmp_path, weights)
        assert said.startswith(f"recipe.weights: '{weights}' does not fit the backbone 'test_resnet', since it lacks conv1.")

    def test_weights_of_another_width_are_refused(self, tmp_path: Path) -> None:
        torch.save(timm.create_model("test_resnet", stem_width=24).state_dict(), tmp_path / "wide.pth")
        assert "does not fit the backbone 'test_resnet' (" in self.refusal(tmp_path, tmp_path / "wide.pth")

    def test_weights_that_lack_a_single_tensor_are_refused_by_its_name(self, tmp_path: Path) -> None:
        weights, state = self.local(tmp_path, "test_resnet")
        del state["layer2.0.conv1.weight"]
        torch.save(state, weights)
        assert "since it lacks layer2.0.conv1.weight." in self.refusal(tmp_path, weights)

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    @pytest.mark.parametrize("content", [b"hello, these are no weights", b"", b"\x80\x04junk"])
    def test_a_file_that_holds_no_weights_is_refused(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "weights.pth").write_bytes(content)
        said = self.refusal(tmp_path, tmp_path / "weights.pth")
        assert said.startswith(f"recipe.weights: '{tmp_path / 'weights.pth'}' does not fit the backbone 'test_resnet' (")


class TestToPixels:
    def test_gives_uint8_in_channels_last_memory_without_changing_a_value(self) -> None:
        given = images(3, 8)
        pixels = to_pixels(given, CPU)
        assert pixels.shape == (3, 3, 8, 8)
        assert pixels.dtype is torch.uint8
        assert pixels.is_contiguous(memory_format=torch.channels_last)
        np.testing.assert_array_equal(pixels.permute(0, 2, 3, 1).numpy(), given)

    @pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
    def test_takes_read_only_arrays_and_slices_as_ray_gives_them(self) -> None:
        given = images(5, 8)[1:4]
        given.flags.writeable = False
        np.testing.assert_array_equal(to_pixels(given, CPU).permute(0, 2, 3, 1).numpy(), given)
