"""A timm backbone with a head for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from raymask.config.recipe import Recipe
from raymask.core.tasks import Scale
from raymask.io.checked import check_weights, damaged
from raymask.io.hashing import new_digest
from raymask.models.backbones import build_backbone, reason_of
from raymask.models.heads import build_head, head_key
from raymask.models.ops import fold_batch_norms
from raymask.models.ordinal import build_decoder

Logits = dict[str, Tensor]


class Classifier(nn.Module):
    """Pixels -> normalised images -> pooled features of a timm backbone -> logits by task.

    `forward` takes (B, 3, H, W) pixels from 0 to 255, uint8 or float; `classify` takes (B, F) features as `features` makes them.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        width: int,
        heads: Mapping[str, int],
        recipe: Recipe,
        scales: Mapping[str, Scale] | None = None,
        statistics: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.classes = dict(heads)
        decoders = {task: build_decoder(recipe.ordinal, scale) for task, scale in (scales or {}).items()}
        self.decoders = nn.ModuleDict({head_key(task): decoder for task, decoder in decoders.items() if decoder})
        self.scales = {task: scale for task, scale in (scales or {}).items() if decoders[task]}
        """What the ordered heads' numbers are cut at, by head."""
        outputs = {task: decoder.outputs if (decoder := decoders.get(task)) else classes for task, classes in heads.items()}
        self.heads = nn.ModuleDict({head_key(task): build_head(width, outputs[task], recipe.head) for task in heads})
        self.statistics = tuple(statistics or recipe.statistics or pretrained_statistics(backbone))
        """Mean and then deviation of each channel that images are normalised by, on a scale from 0 to 1."""
        for name, values in (("mean", self.statistics[:3]), ("std", self.statistics[3:])):
            pixels = torch.tensor(values, dtype=torch.float32).mul(255).view(1, 3, 1, 1)
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
        """Logits (B, C) by task from (B, F) features, which of ordered heads are log-probabilities."""
        return {task: self.decode(task, outputs) for task, outputs in self.outputs(features).items()}

    def outputs(self, features: Tensor) -> dict[str, Tensor]:
        """(B, K) by task from (B, F) features: what losses are made of, logits but for ordered heads."""
        return {task: self.heads[head_key(task)](features) for task in self.classes}

    def decode(self, task: str, outputs: Tensor) -> Tensor:
        """(B, C) logits of a task from its head's outputs."""
        key = head_key(task)
        return self.decoders[key](outputs.float()) if key in self.decoders else outputs


def pretrained_statistics(backbone: nn.Module) -> tuple[float, ...]:
    """Mean and then deviation of each channel of the images that a backbone was made for."""
    config = resolve_model_data_config(backbone)
    return (*config["mean"], *config["std"])


def build_classifier(
    recipe: Recipe,
    heads: Mapping[str, int],
    scales: Mapping[str, Scale] | None = None,
    statistics: Sequence[float] | None = None,
) -> Classifier:
    """A model of random weights, from torch's global generator.

    Args:
        recipe: its backbone, heads and size of images.
        heads: classes by head.
        scales: the numbers behind the bands of heads of tasks with edges, which `recipe.ordinal` is for.
        statistics: mean and then deviation of each channel, from 0 to 1 (default: the recipe's, or those of the backbone).

    Raises:
        InputError: timm has no such backbone, or it cannot take images of this size or has not what the heads need.
    """
    backbone, width = build_backbone(recipe)
    return Classifier(backbone, width, heads, recipe, scales, statistics)


def backbone_digest(model: Classifier) -> str:
    """Tells the weights of backbones apart by their values, wherever they came from."""
    return weights_digest(model.backbone.state_dict())


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Tells weights apart by their names, types, shapes and values."""
    digest = new_digest()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_classifier(model: Classifier, file: Path) -> None:
    """Writes the weights as safetensors."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, str(file))


def load_classifier(
    recipe: Recipe,
    heads: Mapping[str, int],
    file: Path,
    sha256: str | None = None,
    scales: Mapping[str, Scale] | None = None,
    statistics: Sequence[float] | None = None,
) -> Classifier:
    """The model that `save_classifier` wrote, in evaluation mode.

    Args:
        recipe: what it was trained by.
        heads: classes by head.
        file: its weights.
        sha256: the digest that the file must have; None where it is not known.
        scales: as for `build_classifier`.
        statistics: as for `build_classifier`.

    Raises:
        DamagedFileError: the weights are not those that were written, or of another model.
    """
    model, weights = build_classifier(recipe, heads, scales, statistics), read_weights(file, sha256)
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise damaged(file, reason_of(error)) from None
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


def fuse_for_inference(model: Classifier, recipe: Recipe) -> None:
    """Folds the batch norms of a model, which is in evaluation mode and on the CPU, into its convolutions."""
    example = torch.rand(1, 3, *recipe.height_width, generator=torch.Generator().manual_seed(0)) * 255
    model.backbone = fold_batch_norms(model.backbone, model.normalise(example))


def to_pixels(images: Any, device: torch.device) -> Tensor:
    """(B, H, W, 3) uint8 array -> (B, 3, H, W) uint8 tensor on the device, in channels-last memory."""
    return torch.as_tensor(images).to(device, non_blocking=True).permute(0, 3, 1, 2)
