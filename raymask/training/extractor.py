"""A frozen backbone in a process of its own: from images to features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from raymask.config.recipe import Recipe
from raymask.core.types import Pixels
from raymask.models.classifier import build_classifier, fuse_for_inference, to_pixels
from raymask.models.precision import mixed_precision, prepare_process
from raymask.models.pretrained import load_backbone
from raymask.transforms.tta import VIEWS


class FeatureExtractor:
    """A backbone in evaluation mode, on the GPU where this process has one.

    Args:
        recipe: the backbone's.
        weights: file of its weights.
        threads: CPU threads of torch.
    """

    def __init__(self, recipe: Recipe, weights: Path, threads: int) -> None:
        self.device = prepare_process(threads)
        self.model = build_classifier(recipe, {}).eval()
        load_backbone(self.model, weights)
        fuse_for_inference(self.model, recipe)
        self.model.to(self.device).to(memory_format=torch.channels_last)
        self.amp = mixed_precision(recipe, self.device)[0]

    def __call__(self, images: Pixels, view: str) -> npt.NDArray[np.float32]:
        """(n, F) features of (n, H, W, 3) images under one view."""
        with torch.inference_mode(), self.amp():
            pixels = to_pixels(images, self.device).float()  # so that no view rounds
            return np.asarray(self.model.features(VIEWS[view](pixels)).float().cpu().numpy())
