"""A timm backbone with a head for each task."""

from __future__ import annotations

import difflib
import hashlib
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from raymask.config import HeadConfig, Recipe
from raymask.errors import InputError, shortened
from raymask.kernels import fold_batch_norms
from raymask.run_files import check_weights, damaged

Logits = dict[str, Tensor]


class Classifier(nn.Module):
    """Pixels -> normalised images -> pooled features of a timm backbone -> logits by task.

    `forward` takes (B, 3, H, W) pixels from 0 to 255, uint8 or float; `classify` takes (B, F) features as `features` makes them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, width: int, heads: Mapping[str, int], head: HeadConfig) -> None:
        super().__init__()
        config = resolve_model_data_config(backbone)
        self.backbone = backbone
        self.classes = dict(heads)
        self.heads = nn.ModuleDict({_head(task): build_head(width, classes, head) for task, classes in heads.items()})
        self.statistics: tuple[float, ...] = (*config["mean"], *config["std"])
        """Mean and deviation of each channel of the images that the backbone was made for, on a scale from 0 to 1."""
        for name in ("mean", "std"):
            pixels = torch.tensor(config[name], dtype=torch.float32).mul(255).view(1, 3, 1, 1)
            self.register_buffer(name, pixels, persistent=False)

    def forward(self, pixels: Tensor) -> Logits:
        """Logits (B, C) by task from (B, 3, H, W) pixels from 0 to 255."""
        return self.classify(self.features(pixels))

    def features(self, pixels: Tensor) -> Tensor:
        """(B, F) features from (B, 3, H, W) pixels from 0 to 255."""
        return self.backbone(self.normalise(pixels))  # type: ignore[no-any-return]

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) float32 images of mean 0 and deviation 1, as the backbone takes them, from pixels from 0 to 255."""
        return pixels.to(torch.float32, copy=True).sub_(self.mean).div_(self.std)

    def classify(self, features: Tensor) -> Logits:
        """Logits (B, C) by task from (B, F) features."""
        return {task: self.heads[_head(task)](features) for task in self.classes}


def _head(task: str) -> str:
    """A name that no attribute of a module has, as a task's name such as `type` or `half` may."""
    return f"{task}-head"


def build_head(width: int, classes: int, config: HeadConfig) -> nn.Sequential:
    """(B, F) -> (B, C): normalisation without affine part (as for MAE's linear probes, He et al. 2022), hidden layer, dropout."""
    layers: list[nn.Module] = []
    if config.norm:
        layers.append(nn.BatchNorm1d(width, affine=False))
    if config.hidden:
        layers += [nn.Linear(width, config.hidden), nn.ReLU(inplace=True)]
        width = config.hidden
    if config.dropout:
        layers.append(nn.Dropout(config.dropout))
    layers.append(nn.Linear(width, classes))
    return nn.Sequential(*layers)


def build_classifier(recipe: Recipe, heads: Mapping[str, int]) -> Classifier:
    """A model of random weights, from torch's global generator.

    Raises:
        InputError: timm has no such backbone, or it cannot take images of this size.
    """
    backbone, width = _build(recipe)
    return Classifier(backbone, width, heads, recipe.head)


def _build(recipe: Recipe) -> tuple[nn.Module, int]:
    """A backbone of random weights and the width of its features."""
    height, width = recipe.height_width
    try:
        backbone = _create(recipe).eval()
        with torch.inference_mode():
            features = int(backbone(torch.zeros(1, 3, height, width)).shape[-1])
    except InputError:
        raise
    except Exception as error:  # each architecture refuses a size in its own way
        raise InputError(
            f"recipe.backbone '{recipe.backbone}' cannot be built for images of {height}×{width} pixels ({_reason(error)}); "
            "change recipe.image_size or recipe.backbone."
        ) from None
    return backbone.train(), features


def _create(recipe: Recipe, **kwargs: Any) -> nn.Module:
    name = recipe.backbone
    if not timm.is_model(name):
        near = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=3)
        hint = f"; the nearest are {', '.join(near)}" if near else ""
        raise InputError(f"recipe.backbone is '{name}', which timm does not have{hint}.")
    try:  # models with position embeddings want to know the image's size, the others refuse to hear of it
        backbone: nn.Module = timm.create_model(name, num_classes=0, img_size=recipe.height_width, **kwargs)
    except TypeError:
        backbone = timm.create_model(name, num_classes=0, **kwargs)
    return backbone


def fetch_backbone(recipe: Recipe, file: Path) -> None:
    """Writes the weights that a recipe's backbone starts from: timm's download, or the local file that it names.

    Raises:
        InputError: the weights cannot be had, or do not fit the backbone.
    """
    if recipe.weights and not recipe.weights.is_file():
        raise InputError(f"recipe.weights: there is no file '{recipe.weights}'.")
    _build(recipe)
    weights = _pretrained(recipe)
    if recipe.weights:  # timm passes over what a file lacks; that differs from one random start to the next
        again = _pretrained(recipe)
        lacking = [name for name, tensor in weights.items() if not torch.equal(tensor, again[name])]
        if lacking:
            raise InputError(
                f"recipe.weights: '{recipe.weights}' does not fit the backbone '{recipe.backbone}', "
                f"since it lacks {shortened(lacking, 2)}."
            )
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, str(file))


def _pretrained(recipe: Recipe) -> dict[str, Tensor]:
    overlay = {"file": str(recipe.weights)} if recipe.weights else None
    try:
        return _create(recipe, pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
    except Exception as error:  # the hub's client, torch and timm raise whatever they like here
        raise InputError(_why_no_weights(recipe, _reason(error))) from None


def _why_no_weights(recipe: Recipe, reason: str) -> str:
    if recipe.weights:
        return f"recipe.weights: '{recipe.weights}' does not fit the backbone '{recipe.backbone}' ({reason})."
    return (
        f"the pretrained weights of '{recipe.backbone}' cannot be downloaded ({reason}); set recipe.weights to a local file, "
        "or recipe.pretrained=false to start from random weights."
    )


def _reason(error: Exception) -> str:
    """What an error of another library says, on one line."""
    said = textwrap.shorten(str(error), 160, placeholder=" …").rstrip(".:")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def load_backbone(model: Classifier, file: Path) -> None:
    """Loads what `fetch_backbone` wrote."""
    model.backbone.load_state_dict(load_file(str(file)), strict=True)


def backbone_digest(model: Classifier) -> str:
    """Tells the weights of backbones apart by their values, wherever they came from."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.backbone.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_classifier(model: Classifier, file: Path) -> None:
    """Writes the weights as safetensors."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, str(file))


def load_classifier(recipe: Recipe, heads: Mapping[str, int], file: Path, sha256: str | None = None) -> Classifier:
    """The model that `save_classifier` wrote, in evaluation mode.

    Raises:
        DamagedFileError: the weights are not those that were written, or of another model.
    """
    model, weights = build_classifier(recipe, heads), read_weights(file, sha256)
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise damaged(file, _reason(error)) from None
    return model.eval()


def read_weights(file: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The weights that `save_classifier` wrote, by name.

    Args:
        file: where they are.
        sha256: the digest that the file must have; None where it is not known.

    Raises:
        DamagedFileError: they are not those that were written.
    """
    check_weights(file, sha256)
    return dict(load_file(str(file)))


def quicken_prediction(model: Classifier, recipe: Recipe) -> None:
    """Folds the batch norms of a model, which is in evaluation mode and on the CPU, into its convolutions."""
    example = torch.rand(1, 3, *recipe.height_width, generator=torch.Generator().manual_seed(0)) * 255
    model.backbone = fold_batch_norms(model.backbone, model.normalise(example))


def to_pixels(images: Any, device: torch.device) -> Tensor:
    """(B, H, W, 3) uint8 array -> (B, 3, H, W) uint8 tensor on the device, in channels-last memory."""
    return torch.as_tensor(images).to(device, non_blocking=True).permute(0, 3, 1, 2)
