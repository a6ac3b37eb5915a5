"""Several models' probabilities of a batch of images under every view, in one process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raymask.core.types import ByHead, Pixels
from raymask.data.specs import InputSpec, input_spec
from raymask.inference.definition import Models
from raymask.runs.models import read_model
from raymask.transforms.tta import VIEWS, ViewPlan, merge_views

if TYPE_CHECKING:
    from torch import Tensor

    from raymask.models.classifier import Classifier


BATCH = 64


class Predictor:
    """Models on one device; those with one frozen backbone, or equal frozen stages, share their forward pass."""

    def __init__(
        self, models: Models, views: ViewPlan, specs: Sequence[InputSpec], threads: int | None = None, *, exact: bool = False
    ) -> None:
        """Loads all models.

        Args:
            models: what predicts.
            views: test-time augmentations, how much each counts, and how they are merged.
            specs: how the images that will come are prepared.
            threads: torch threads of this process; None to leave them as they are.
            exact: whether to compute on the CPU in float32, whatever device there is and whatever precision the recipes set.
        """
        import torch

        from raymask.models.classifier import backbone_digest, fuse_for_inference, load_classifier
        from raymask.models.precision import mixed_precision, prepare_process
        from raymask.models.trunks import shared_cuts

        automatic = torch.device("cuda" if torch.cuda.is_available() and not exact else "cpu")
        self.device = automatic if threads is None else prepare_process(threads)
        self.views, self.names = views, list(models)
        self.groups: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        """Places of the models that share a backbone, by the place of the spec of their images."""
        self.models: list[Classifier] = []
        self.amp: list[Callable[[], AbstractContextManager[Any]]] = []
        recipes = []
        for index, (name, folder) in enumerate(models.items()):
            meta = read_model(folder)
            recipe = meta.recipe
            model = load_classifier(recipe, meta.heads, meta.weights, meta.sha256, meta.scales, meta.statistics)
            same = f"{recipe.backbone} {recipe.amp} {model.statistics}"
            shared = f"{same} {backbone_digest(model)}" if recipe.frozen else name
            group = self.groups[specs.index(input_spec(recipe))][shared]
            if group:
                model.backbone = self.models[group[0]].backbone
            else:
                fuse_for_inference(model, recipe)
            group.append(index)
            self.models.append(model.to(self.device))
            recipes.append(recipe)
            self.amp.append(nullcontext if exact else mixed_precision(recipe, self.device)[0])
        self.cuts = shared_cuts(zip(recipes, self.models, strict=True))

    def __call__(self, pixels: Sequence[npt.NDArray[np.uint8 | np.float32]], views: ViewPlan | None = None) -> list[ByHead]:
        """(n, C) float32 probabilities by head of each model, the views merged.

        Args:
            pixels: (n, H, W, 3) images from 0 to 255 for each spec.
            views: test-time augmentations (default: those of the predictor).
        """
        import torch

        from raymask.models.classifier import to_pixels
        from raymask.models.trunks import SharedPass

        views = views or self.views
        probabilities: dict[int, list[npt.NDArray[np.float32]]] = defaultdict(list)
        with torch.inference_mode():
            for spec, backbones in self.groups.items():
                images = to_pixels(np.ascontiguousarray(pixels[spec]), self.device).float()  # so that no view rounds
                for names in _views_by_pass(views, len(images)):
                    viewed = SharedPass(torch.cat([VIEWS[name](images) for name in names]))
                    for places in backbones.values():
                        model = self.models[places[0]]
                        with self.amp[places[0]]():
                            features = viewed.features(model, self.cuts.get(id(model)))
                            for index in places:
                                probabilities[index].append(_softmaxed(self.models[index].classify(features)))
        return [self._merged(index, np.concatenate(probabilities[index]), views) for index in range(len(self.models))]

    def probabilities(
        self, pixels: Sequence[npt.NDArray[np.uint8 | np.float32]], views: ViewPlan | None = None
    ) -> dict[str, ByHead]:
        """The same by the models' names."""
        return dict(zip(self.names, self(pixels, views), strict=True))

    def _merged(self, index: int, probabilities: npt.NDArray[np.float32], views: ViewPlan) -> ByHead:
        """(n, C) by head from (W × n, C of all heads), view after view."""
        classes = self.models[index].classes
        by_view = probabilities.reshape(len(views.names), -1, probabilities.shape[1])
        parts = np.split(by_view, np.cumsum(list(classes.values()))[:-1], axis=2)
        return {
            head: merge_views(part, views.weights, views.merge).astype(np.float32)
            for head, part in zip(classes, parts, strict=True)
        }


def _views_by_pass(views: ViewPlan, images: int) -> list[tuple[str, ...]]:
    """Of few images several views go through a model together, since a pass of few costs nearly as much as one of many."""
    together = max(1, BATCH // max(1, images))
    return [views.names[start : start + together] for start in range(0, len(views.names), together)]


def specs_of(models: Models) -> list[InputSpec]:
    """How files are prepared for these models, each way once."""
    return sorted({input_spec(read_model(folder).recipe) for folder in models.values()})


def _softmaxed(logits: Mapping[str, Tensor]) -> npt.NDArray[np.float32]:
    import torch

    return np.asarray(torch.cat([head_probs.float().softmax(dim=1) for head_probs in logits.values()], dim=1).cpu().numpy())


def stacked(read: Sequence[tuple[str, Sequence[Pixels]]], specs: Sequence[InputSpec]) -> list[Pixels]:
    """(n, H, W, 3) uint8 pixels for each spec of images that are read already; a broken one is black."""
    black = [np.zeros((*spec.size, 3), dtype=np.uint8) for spec in specs]
    return [np.stack([(images or black)[index] for _, images in read]) for index in range(len(specs))]
