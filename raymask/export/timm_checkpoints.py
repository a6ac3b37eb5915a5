"""A model's weights as checkpoints of timm's own model of that name."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from raymask.config.recipe import Recipe
from raymask.core.types import ByHead
from raymask.data.specs import input_spec
from raymask.export.record import TOLERANCE, Bundle, Images
from raymask.inference.definition import Models
from raymask.inference.predictor import Predictor, specs_of
from raymask.io.checked import within
from raymask.models.classifier import read_weights
from raymask.runs.models import read_model


def write_checkpoints(bundle: Bundle, models: Models, predictor: Predictor, images: Images, singly: Mapping[str, ByHead]) -> None:
    """Each head that is linear on the backbone's features as a checkpoint of timm's own model, proved on the images."""
    specs, built = specs_of(models), dict[Any, nn.Module]()
    for (name, folder), model in zip(models.items(), predictor.models, strict=True):
        meta, member = read_model(folder), name.rpartition("/")[0]
        recipe = meta.recipe
        pixels = model.normalise(images.tensors()[specs.index(input_spec(recipe))])
        state = read_weights(meta.weights, meta.sha256)
        for head, classes in meta.classes.items():
            key = recipe.backbone, recipe.height_width, len(classes)
            built[key] = built.get(key) or timm_model(recipe, len(classes))
            why = fill_timm_model(built[key], state, head, recipe, meta.scales)
            far = 0.0 if why else _distance(built[key], pixels, singly[name][head])
            if why or not far <= TOLERANCE:
                why = why or "timm's model of this name computes something else"
                bundle.left_out.append(f"The head '{head}' of the member '{member}' is no checkpoint of timm: {why}.")
                continue
            file = f"timm/{member}-{folder.name}{f'-{head}' if len(model.classes) > 1 else ''}.safetensors"
            bundle.differences[file] = far
            bundle.timm[file] = {
                "model_name": recipe.backbone,
                "num_classes": len(classes),
                "head": head,
                "classes": classes,
                "image_size": list(recipe.height_width),
                "mean": list(model.statistics[:3]),
                "std": list(model.statistics[3:]),
            }
            within(bundle.root, *file.split("/")).parent.mkdir(parents=True, exist_ok=True)
            tensors = {key: tensor.contiguous() for key, tensor in built[key].state_dict().items()}
            save_file(tensors, bundle.root / file, {"model": recipe.backbone, "classes": json.dumps(classes)})
    bundle.left_out = list(dict.fromkeys(bundle.left_out))


def _distance(model: nn.Module, normalised: Tensor, expected: npt.NDArray[np.floating]) -> float:
    with torch.inference_mode():
        return float(np.abs(model(normalised).softmax(dim=1).numpy() - expected).max())


def timm_model(recipe: Recipe, classes: int) -> nn.Module:
    """Timm's own model of a recipe's backbone with random weights, in evaluation mode."""
    try:
        model: nn.Module = timm.create_model(recipe.backbone, num_classes=classes, img_size=recipe.height_width)
    except TypeError:
        model = timm.create_model(recipe.backbone, num_classes=classes)
    return model.eval()


def fill_timm_model(
    model: nn.Module, state: Mapping[str, Tensor], head: str, recipe: Recipe, scales: Collection[str] = ()
) -> str:
    """Gives timm's model a raymask model's weights; or says why it cannot hold them."""
    classifier = model.get_classifier()  # type: ignore[operator]
    name = next((name for name, module in model.named_modules() if module is classifier), "")
    if recipe.head.name != "linear":
        return "it has a hidden layer"
    if head in scales:
        return "it learns the number behind its classes"
    if type(classifier) is not nn.Linear or not name:
        return "timm's model does not end in one linear layer"
    backbone = {key.removeprefix("backbone."): tensor for key, tensor in state.items() if key.startswith("backbone.")}
    weight, bias = linear_head(state, head, recipe)
    try:
        model.load_state_dict({**backbone, f"{name}.weight": weight, f"{name}.bias": bias}, strict=True)
    except RuntimeError:
        return "timm's model of this name has other weights beside it"
    return ""


def linear_head(state: Mapping[str, Tensor], head: str, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """(C, F) weight and (C,) bias of a head without hidden layer, its batch norm, if it has one, being part of them."""
    start = f"heads.{head}-head."
    head_probs = {key.removeprefix(start): tensor for key, tensor in state.items() if key.startswith(start)}
    (weight,) = (tensor.double() for key, tensor in head_probs.items() if key.endswith(".weight"))
    (bias,) = (tensor.double() for key, tensor in head_probs.items() if key.endswith(".bias"))
    if recipe.head.norm:
        weight = weight / (head_probs["0.running_var"].double() + nn.BatchNorm1d(1).eps).sqrt()
        bias = bias - weight @ head_probs["0.running_mean"].double()
    return weight.float(), bias.float()
