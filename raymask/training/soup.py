"""Model soups (Wortsman et al. 2022): one network of the averaged weights of a member's fold models, which share a start."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from raymask.config.recipe import Recipe
from raymask.core.errors import InputError, shortened
from raymask.core.tasks import JOINT, LabelSpace, Scale
from raymask.core.types import Labels
from raymask.data.cache import PreparedImages
from raymask.data.folds import stratified_group_folds
from raymask.metrics.scores import Score, score_heads
from raymask.models.classifier import Classifier, fuse_for_inference, load_classifier, to_pixels
from raymask.models.precision import mixed_precision
from raymask.training.learner import EVALUATION_BATCH, ByHead
from raymask.transforms.tta import VIEWS, ViewPlan, merge_views

CALIBRATION_IMAGES = 1024

Mixed = TypeVar("Mixed")
State = Mapping[str, Tensor]
Chosen = tuple[int, ...]
"""Numbers of ingredients."""


@dataclass(frozen=True)
class Ingredient:
    """A finished fold model."""

    name: str
    file: Path
    """Its weights, as `save_classifier` writes them."""
    score: float
    """On its own fold, higher is better: the order in which the greedy soup tries it."""
    sha256: str | None = None
    """Of the file."""


@dataclass(frozen=True)
class Images:
    """Some rows of prepared images."""

    prepared: PreparedImages
    rows: Labels
    """(n,) int64."""

    def batches(self, device: torch.device) -> Iterator[Tensor]:
        """(B, 3, H, W) uint8 pixels in the rows' order; batches differ by an image at most in size, so that none is of one."""
        for rows in np.array_split(self.rows, -(-len(self.rows) // EVALUATION_BATCH)) if len(self.rows) else ():
            yield to_pixels(self.prepared.read(rows), device)


@dataclass(frozen=True)
class Reserved:
    """Images of people whom no ingredient saw."""

    images: Images
    truth: Mapping[str, Labels]
    """(n,) true labels by task, and the joint, of `images.rows`."""
    groups: npt.NDArray[np.generic]
    """(n,) people."""


@dataclass(frozen=True)
class Soup:
    """An averaged model and what it is worth."""

    model: Classifier
    """In evaluation mode, on the CPU."""
    ingredients: tuple[str, ...]
    """Names, in the order in which they were added."""
    predictions: ByHead
    """(n, C) float32 probabilities of the reserved images, the views merged; those of the greedy soup are cross-fitted."""
    scores: dict[str, Score]
    """Of `predictions`, by target."""


def average_weights(states: Sequence[State]) -> dict[str, Tensor]:
    """The mean of several models' weights, summed in float64; what is not floating is taken from the first.

    Raises:
        InputError: there are none, or they are not of one architecture.
    """
    if not states:
        raise InputError("there are no models to average.")
    shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in states]
    differing = sorted({name for other in shapes[1:] for name, _ in shapes[0].items() ^ other.items()})
    if differing:
        raise InputError(f"models of different layers cannot be averaged: they differ in {shortened(differing, 3)}.")
    return {name: _mean([state[name] for state in states]) for name in states[0]}


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    first = tensors[0].detach()
    if not first.is_floating_point():
        return first.clone()
    total = torch.zeros_like(first, dtype=torch.float64)
    for tensor in tensors:
        total += tensor.detach()
    return (total / len(tensors)).to(first.dtype)


def uniform_soup(models: Sequence[Classifier]) -> Classifier:
    """A new model of the mean of all weights, in evaluation mode; its batch norms want `recalibrate_batch_norms`.

    Raises:
        InputError: the models are not of one architecture.
    """
    weights = average_weights([model.state_dict() for model in models])
    soup = copy.deepcopy(models[0])
    soup.load_state_dict(weights, strict=True)
    return soup.eval()


def greedy_soup(
    order: Sequence[int], mix: Callable[[Chosen], Mixed], score: Callable[[Mixed], float]
) -> tuple[Mixed, tuple[int, ...]]:
    """The greedy soup of Wortsman et al. 2022 (recipe 1): an ingredient is kept if the score does not fall with it.

    Args:
        order: numbers of the ingredients, the best first, with which the soup begins.
        mix: what some ingredients make together.
        score: higher is better.

    Returns:
        The soup, and the numbers of its ingredients in the order in which they were added.
    """
    chosen: Chosen = (order[0],)
    soup = mix(chosen)
    best = score(soup)
    for number in order[1:]:
        tried = mix((*chosen, number))
        reached = score(tried)
        if reached >= best:
            soup, chosen, best = tried, (*chosen, number), reached
    return soup, chosen


def cross_fitted(
    halves: Labels,
    order: Sequence[int],
    predict: Callable[[Chosen], ByHead],
    score: Callable[[ByHead, Labels], float],
) -> tuple[ByHead, tuple[Chosen, Chosen]]:
    """What greedy soups that are chosen on one half of the people say of the other half.

    Args:
        halves: (n,) 0 or 1, the half of each image.
        order: as for `greedy_soup`.
        predict: (n, C) probabilities by head of what some ingredients make together.
        score: of such predictions on the images at some places, higher is better.

    Returns:
        (n, C) probabilities by head, and the soups that predicted half 0 and half 1.
    """

    def chosen_on(half: int) -> Chosen:
        at = np.flatnonzero(halves == half)
        return greedy_soup(order, predict, lambda probabilities: score(probabilities, at))[1]

    soups = chosen_on(1), chosen_on(0)
    first, second = map(predict, soups)
    return {head: np.where((halves == 0)[:, None], first[head], second[head]) for head in first}, soups


def recalibrate_batch_norms(model: Classifier, batches: Iterable[Tensor], frozen: bool = False) -> None:
    """Sets the running statistics of every batch norm anew, since those of an averaged network are not the averaged ones.

    They become the means of the batches' own (Izmailov et al. 2018), each batch counting alike. The model is in evaluation mode
    then; nothing happens to one without batch norms.

    Args:
        model: on the batches' device.
        batches: (B, 3, H, W) pixels from 0 to 255, two or more to a batch.
        frozen: leave the backbone as it is, which the heads were trained on.

    Raises:
        InputError: there are batch norms but no batches.
    """
    model.eval()
    norms = [module for module in (model.heads if frozen else model).modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    with torch.no_grad():
        if frozen:  # of the backbone in evaluation mode, and a list, since each head takes them
            features = [model.features(pixels).float() for pixels in batches]
            for head in model.heads.values():
                update_bn(features, head)
        else:
            update_bn(batches, model)
    if not any(norm.num_batches_tracked for norm in norms):
        raise InputError("batch norms cannot be set anew without training images.")


def predict_images(model: Classifier, recipe: Recipe, images: Images, views: ViewPlan, device: torch.device) -> ByHead:
    """(n, C) float32 probabilities by head, the views merged; the model, in evaluation mode, stays as it is."""
    quick = copy.deepcopy(model).cpu()
    fuse_for_inference(quick, recipe)
    quick.to(device)
    parts: dict[str, list[npt.NDArray[np.float64]]] = {head: [] for head in quick.classes}
    with torch.inference_mode(), mixed_precision(recipe, device)[0]():
        for pixels in images.batches(device):
            by_view = [quick(VIEWS[view](pixels.float())) for view in views.names]
            for head, head_probs in parts.items():
                probabilities = torch.stack([logits[head].float().softmax(dim=1) for logits in by_view])
                head_probs.append(merge_views(probabilities.cpu().numpy(), views.weights, views.merge))
    return {head: np.concatenate(head_probs).astype(np.float32) for head, head_probs in parts.items()}


def halves_of(reserved: Reserved, seed: int) -> Labels:
    """(n,) 0 or 1: the reserved people in two halves, stratified by the joint label.

    Raises:
        InputError: there are too few people.
    """
    groups, names = pd.factorize(reserved.groups, sort=True)
    try:
        if len(names) < 2:
            raise ValueError(f"there is only {len(names)} group")
        return stratified_group_folds(np.asarray(reserved.truth[JOINT]), groups, 2, seed)
    except ValueError as error:
        raise InputError(
            f"the reserved images cannot be halved by group to choose a greedy soup: {error}; reserve more."
        ) from None


@dataclass(frozen=True)
class SoupSpec:
    """What decides a member's soups, beside the models and the images."""

    recipe: Recipe
    """What all fold models were trained by."""
    heads: Mapping[str, int]
    """Classes by head."""
    space: LabelSpace
    views: ViewPlan
    """What is predicted under."""
    seed: int
    """Draws training images and the halves."""
    scales: Mapping[str, Scale] = field(default_factory=dict)
    """Numbers behind the bands of ordered heads."""


class SoupBuilder:
    """Mixes the fold models of a member, and scores the mixtures on reserved images.

    Args:
        spec: what decides the soups.
        ingredients: the fold models.
        training: images of which `CALIBRATION_IMAGES` at most set batch norms anew.
        reserved: images that choose and score.
        device: where networks run.
    """

    def __init__(
        self, spec: SoupSpec, ingredients: Sequence[Ingredient], training: Images, reserved: Reserved, device: torch.device
    ) -> None:
        self.spec, self.ingredients, self.reserved, self.device = spec, ingredients, reserved, device
        self.models = [load_classifier(spec.recipe, spec.heads, each.file, each.sha256, spec.scales) for each in ingredients]
        self.calibration = _drawn(training, spec.seed)
        self._predictions: dict[Chosen, ByHead] = {}

    def mix(self, chosen: Chosen) -> Classifier:
        """The uniform soup of some ingredients, its batch norms set anew, on the CPU."""
        soup = uniform_soup([self.models[number] for number in sorted(chosen)]).to(self.device)
        with mixed_precision(self.spec.recipe, self.device)[0]():
            recalibrate_batch_norms(soup, self.calibration.batches(self.device), self.spec.recipe.frozen)
        return soup.cpu()

    def predict(self, chosen: Chosen) -> ByHead:
        """(n, C) probabilities by head of the reserved images; computed once for each set of ingredients."""
        key = tuple(sorted(chosen))
        if key not in self._predictions:
            model = self.mix(key)
            self._predictions[key] = predict_images(model, self.spec.recipe, self.reserved.images, self.spec.views, self.device)
        return self._predictions[key]

    def scores(self, probabilities: ByHead, at: Labels) -> dict[str, Score]:
        """Scores by target of predictions, on the reserved images at some places."""
        truth = {target: np.asarray(labels)[at] for target, labels in self.reserved.truth.items()}
        return score_heads(self.spec.space, {head: head_probs[at] for head, head_probs in probabilities.items()}, truth)

    def f1(self, probabilities: ByHead, at: Labels) -> float:
        """F1 of the joint label, or of the task where the member has but one."""
        by_target = self.scores(probabilities, at)
        return (by_target.get(JOINT) or next(iter(by_target.values())))["f1"]

    def soup(self, chosen: Chosen, probabilities: ByHead) -> Soup:
        """The soup of some ingredients with the predictions that it is scored by."""
        names = tuple(self.ingredients[number].name for number in chosen)
        everywhere = np.arange(len(self.reserved.groups))
        return Soup(self.mix(chosen), names, probabilities, self.scores(probabilities, everywhere))


def soup_of_member(
    spec: SoupSpec, ingredients: Sequence[Ingredient], training: Images, reserved: Reserved, device: torch.device
) -> tuple[Soup, Soup]:
    """The uniform and the greedy soup of a member's fold models, their batch norms set anew even where one ingredient is all.

    The greedy soup is chosen on all reserved people, by F1 of the joint label, or of the task where the member has but one. What
    it is worth is told by soups that are chosen on either half of the people and predict the other.

    Args:
        spec: what decides the soups.
        ingredients: the fold models.
        training: images of which `CALIBRATION_IMAGES` at most, drawn by the seed, set batch norms anew.
        reserved: images that choose and score.
        device: where networks run.

    Raises:
        InputError: the reserved people are too few, or the ingredients of different architectures.
    """
    halves = halves_of(reserved, spec.seed)
    builder = SoupBuilder(spec, ingredients, training, reserved, device)
    everywhere = np.arange(len(halves))
    order = tuple(sorted(range(len(ingredients)), key=lambda number: -ingredients[number].score))
    _, chosen = greedy_soup(order, builder.predict, lambda probabilities: builder.f1(probabilities, everywhere))
    cross_predictions = cross_fitted(halves, order, builder.predict, builder.f1)[0]
    return builder.soup(order, builder.predict(order)), builder.soup(chosen, cross_predictions)


def _drawn(images: Images, seed: int) -> Images:
    """At most `CALIBRATION_IMAGES` of these images, in the order of the rows."""
    count = min(len(images.rows), CALIBRATION_IMAGES)
    return Images(images.prepared, np.sort(np.random.default_rng(seed).choice(images.rows, count, replace=False)))
