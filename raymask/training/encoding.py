"""What the rows of a batch are to be learned as, head by head: labels, or what the loss of an ordered head is made of.

What is encoded is linear in what it is mixed of, so that a mix of two rows' targets has the mix of their losses; but the expected
number of `bins` is compared with the mixed number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from raymask.config.components import OrdinalConfig
from raymask.config.recipe import Recipe
from raymask.core.tasks import Scale
from raymask.models.classifier import Classifier
from raymask.models.ordinal import LOG_VARIANCE, middle_and_unit
from raymask.training.losses import build_loss
from raymask.training.losses.base import Loss
from raymask.training.losses.class_weights import build_class_weights
from raymask.training.targets import LabelTable


class Targets(nn.Module):
    """(N,) rows of the manifest -> targets of one head, on the device of its buffers."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, rows: Tensor) -> Tensor:
        """(B,) int64 rows -> (B,) int64 labels, or (B, C) float32 probabilities."""
        return self.table[rows]


class NumberTargets(Targets):
    """Targets that are made of a number, and for rows that a teacher gives class probabilities, of those.

    Args:
        numbers: (N,) float64; NaN where it is not known.
        classes: (N, C) float32 probabilities of the bands, which stand for numbers that are not known.
        learned: (N,) whose numbers tell what the numbers of a band are.
    """

    classes: Tensor
    of_class: Tensor

    def __init__(self, numbers: Tensor, classes: Tensor, learned: Tensor) -> None:
        super().__init__(numbers.float())
        self.register_buffer("classes", classes)
        known = learned & numbers.isfinite()
        encoded = self.encode(numbers[known].float())
        weights = classes[known].to(encoded.dtype)
        # A band without images has the mean of all.
        of_class = (weights.T @ encoded + TINY * encoded.mean(dim=0)) / (weights.sum(dim=0)[:, None] + TINY)
        self.register_buffer("of_class", of_class)

    def forward(self, rows: Tensor) -> Tensor:
        """(B,) int64 rows -> (B, K) float32."""
        numbers = self.table[rows]
        known = numbers.isfinite()[:, None]
        return torch.where(known, self.encode(numbers.nan_to_num()), self.classes[rows] @ self.of_class)

    def encode(self, numbers: Tensor) -> Tensor:
        """(B,) numbers -> (B, K) float32."""
        raise NotImplementedError


TINY = 1e-6


class BinTargets(NumberTargets):
    """A distribution over bins around each number, and last the number itself."""

    def __init__(self, config: OrdinalConfig, scale: Scale, numbers: Tensor, classes: Tensor, learned: Tensor) -> None:
        self.scale, self.width, self.sigma = scale, config.width, config.sigma
        super().__init__(numbers, classes, learned)

    def encode(self, numbers: Tensor) -> Tensor:
        """See `NumberTargets`: K is the number of bins, and one more."""
        centres = torch.from_numpy(self.scale.bins(self.width)).to(numbers)
        distance = centres - numbers[:, None]
        if self.sigma:
            bins = (-0.5 * (distance / self.sigma) ** 2).softmax(dim=1)
        else:
            bins = F.one_hot(distance.abs().argmin(dim=1), len(centres)).to(numbers)
        return torch.cat([bins, numbers[:, None]], dim=1)


class RegressionTargets(NumberTargets):
    """Each number in the network's units, and its square."""

    def __init__(self, scale: Scale, numbers: Tensor, classes: Tensor, learned: Tensor) -> None:
        self.scale = scale
        super().__init__(numbers, classes, learned)

    def encode(self, numbers: Tensor) -> Tensor:
        """See `NumberTargets`: K is 2."""
        middle, unit = middle_and_unit(self.scale)
        scaled = (numbers - middle) / unit
        return torch.stack([scaled, scaled**2], dim=1)


def build_targets(labels: LabelTable, head: str, fold: int, ordinal: OrdinalConfig, scale: Scale | None, classes: int) -> Targets:
    """The targets of one head of the model of a fold.

    Args:
        labels: of all rows.
        head: the head.
        fold: the model's.
        ordinal: how ordered heads learn.
        scale: of the head's numbers; None for a head without order.
        classes: C.
    """
    table = labels.train[head]
    if scale is None or ordinal.name in ("none", "corn"):
        return Targets(torch.tensor(table))
    numbers = torch.tensor(labels.numbers_to_learn(head))
    probabilities = one_hot(torch.tensor(table), classes)
    learned = torch.tensor(labels.learned(fold))
    if ordinal.name == "bins":
        return BinTargets(ordinal, scale, numbers, probabilities, learned)
    return RegressionTargets(scale, numbers, probabilities, learned)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """(N, C) float32 of (N,) labels, zeros where there is none; probabilities stay as they are."""
    if labels.ndim == 2:
        return labels.float()
    return (labels[:, None] == torch.arange(classes, device=labels.device)).float()


class OrdinalLoss(Loss):
    """(B, K) outputs, (B, T) targets and (B,) weights, None for 1 each -> the weighted mean over the rows."""

    def forward(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """See the class."""
        losses = self.of_rows(outputs, target)
        if weight is None:
            return losses.mean()
        return (losses * weight).sum() / weight.sum().clamp(min=TINY)

    def of_rows(self, outputs: Tensor, target: Tensor) -> Tensor:
        """(B,) losses."""
        raise NotImplementedError


class CornLoss(OrdinalLoss):
    """Binary cross-entropy of being above each band, for what is above the one before.

    Own code, since dlordinal's and coral-pytorch's take no probabilities as targets, and so nothing that is mixed.

    Source: CORN, Shi, Cao & Raschka 2023 (arXiv:2111.08851).
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """See `OrdinalLoss`: the mean is over all conditions of all rows, as in the paper."""
        probabilities = one_hot(target, self.classes)
        if weight is not None:
            probabilities = probabilities * weight[:, None]
        # reaching[:, k] is P(y >= k), so that reaching[:, k + 1] is P(y > k)
        reaching = probabilities.flip(1).cumsum(dim=1).flip(1)
        above, reached = reaching[:, 1:], reaching[:, :-1]
        losses = -(above * F.logsigmoid(outputs) + (reached - above) * F.logsigmoid(-outputs))
        return losses.sum() / reached.sum().clamp(min=TINY)


class BinsLoss(OrdinalLoss):
    """Cross-entropy with the soft label, and the absolute error of the expected number, in quarters of the numbers' range.

    Source: DLDL-v2, Gao et al. 2018 (arXiv:1807.07386v2). Its Kullback-Leibler divergence is cross-entropy but for a constant.
    """

    centres: Tensor

    def __init__(self, config: OrdinalConfig, scale: Scale) -> None:
        super().__init__()
        self.expectation, self.unit = config.expectation, middle_and_unit(scale)[1]
        self.register_buffer("centres", torch.from_numpy(scale.bins(config.width)).float(), persistent=False)

    def of_rows(self, outputs: Tensor, target: Tensor) -> Tensor:
        """See `OrdinalLoss`: K bins, and T = K + 1."""
        log_probabilities = outputs.log_softmax(dim=1)
        bins, number = target[:, :-1], target[:, -1]
        expected = (log_probabilities.exp() * self.centres).sum(dim=1)
        return -(bins * log_probabilities).sum(dim=1) + self.expectation * (expected - number).abs() / self.unit


class RegressionLoss(OrdinalLoss):
    """Negative log-likelihood of the number under a normal distribution, exact for mixed numbers by their mean square.

    Source: Nix & Weigend 1994 (doi:10.1109/ICNN.1994.374138).
    """

    def of_rows(self, outputs: Tensor, target: Tensor) -> Tensor:
        """See `OrdinalLoss`: outputs are mean and log-variance, targets the number and its square."""
        mean, log_variance = outputs[:, 0], outputs[:, 1].clamp(*LOG_VARIANCE)
        square = mean**2 - 2 * mean * target[:, 0] + target[:, 1]
        return 0.5 * (log_variance + square * torch.exp(-log_variance) + math.log(2 * math.pi))


def build_ordinal_loss(config: OrdinalConfig, scale: Scale) -> OrdinalLoss:
    """The loss of an ordered head."""
    if config.name == "corn":
        return CornLoss(len(scale.edges) + 1)
    return BinsLoss(config, scale) if config.name == "bins" else RegressionLoss()


def row_weights(labels: LabelTable, head: str, of_class: Tensor | None) -> Tensor | None:
    """(N,) float32 weight of each row in the loss of a head: 0 where its number is left out; None for 1 each.

    Args:
        labels: of all rows.
        head: the head.
        of_class: (C,) weights of the classes, for losses that do not weight them themselves.
    """
    left_out = labels.left_out(head)
    if of_class is None and not left_out.any():
        return None
    weights = torch.tensor(np.where(left_out, 0.0, 1.0), dtype=torch.float32)
    if of_class is not None:
        weights = weights * (one_hot(torch.tensor(labels.train[head]), len(of_class)) @ of_class)
    return weights


@dataclass(frozen=True)
class HeadTargets:
    """What one head learns."""

    loss: Loss
    targets: Targets
    weights: Tensor | None
    """(N,) float32 weight of each row; None for 1 each."""


def build_head_targets(recipe: Recipe, labels: LabelTable, fold: int, model: Classifier) -> dict[str, HeadTargets]:
    """Loss, targets and row weights of each head of the model of a fold.

    Classes of ordered heads are weighted by their rows, those of others by the loss itself.
    """
    built = {}
    for head, classes in model.classes.items():
        counts, scale = labels.counts(head, classes, fold), model.scales.get(head)
        targets = build_targets(labels, head, fold, recipe.ordinal, scale, classes)
        if scale is None:
            built[head] = HeadTargets(build_loss(recipe.loss, counts), targets, row_weights(labels, head, None))
        else:
            weights = row_weights(labels, head, build_class_weights(recipe.loss, counts))
            built[head] = HeadTargets(build_ordinal_loss(recipe.ordinal, scale), targets, weights)
    return built
