"""Which weights of a fold model predict: those of its last step, or a mean of several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.utils import ModelEmaV3
from torch import Tensor, nn

from raymask.config.recipe import Recipe
from raymask.models.classifier import Classifier


class LastWeights:
    """The weights as they are trained."""

    def __init__(self, model: Classifier) -> None:
        self.model = model
        """The model that predicts."""

    def end_step(self, step: int) -> None:
        """Told after each step of the optimizer; steps are counted from 1."""

    def end_epoch(self, epoch: int) -> None:
        """Told after each epoch; epochs are counted from 1."""

    def state(self) -> dict[str, Any] | None:
        """What it needs beside the trained weights to go on from the end of an epoch."""
        return None

    def load_state(self, state: Mapping[str, Any] | None) -> None:
        """Goes back to what `state` gave."""


class MovingAverage(LastWeights):
    """Weights and statistics of batch norms averaged over the steps, the last ones most, in a model of their own.

    Source: Polyak & Juditsky 1992; with a warm-up of the decay, by timm.
    """

    def __init__(self, model: Classifier, decay: float) -> None:
        self.trained, self.ema = model, ModelEmaV3(model, decay=decay, use_warmup=True)
        super().__init__(self.ema.module)

    def end_step(self, step: int) -> None:
        """See `LastWeights`."""
        self.ema.update(self.trained, step=step)

    def state(self) -> dict[str, Any]:
        """See `LastWeights`."""
        return dict(self.ema.state_dict())

    def load_state(self, state: Mapping[str, Any] | None) -> None:
        """See `LastWeights`."""
        assert state is not None, "a moving average has a state"
        self.ema.load_state_dict(state)


class MeanOfLastEpochs(LastWeights):
    """After the last epoch, the mean of the weights at the ends of the last few, each counting the same.

    The statistics of batch norms are averaged like the weights, where Izmailov et al. pass over the images once more to find
    those of the averaged weights: over the last epochs of a falling learning rate they hardly differ.

    Args:
        model: which is trained; after the last epoch it holds the mean.
        part: of it, that is trained.
        epochs: in all.
        last: number of the last ones whose weights count.

    Source: stochastic weight averaging, Izmailov et al. 2018 (arXiv:1803.05407), under any schedule.
    """

    def __init__(self, model: Classifier, part: nn.Module, epochs: int, last: int) -> None:
        super().__init__(model)
        self.part, self.epochs, self.last = part, epochs, last
        self.mean: dict[str, Tensor] = {}

    def end_epoch(self, epoch: int) -> None:
        """See `LastWeights`."""
        count = epoch - (self.epochs - self.last)
        if count < 1:
            return
        weights = self.part.state_dict()
        if count == 1:
            self.mean = copied(weights)
        for name, mean in self.mean.items():
            if mean.is_floating_point():
                mean.lerp_(weights[name], 1 / count)
            else:
                mean.copy_(weights[name])
        if epoch == self.epochs:
            self.part.load_state_dict(self.mean)

    def state(self) -> dict[str, Any]:
        """See `LastWeights`."""
        return self.mean

    def load_state(self, state: Mapping[str, Any] | None) -> None:
        """See `LastWeights`."""
        assert state is not None, "a mean has a state"
        self.mean = dict(state)


def build_keeper(recipe: Recipe, model: Classifier) -> LastWeights:
    """What a recipe keeps of a model's weights."""
    if recipe.optim.ema:
        return MovingAverage(model, recipe.optim.ema)
    if recipe.schedule.average_last > 1:
        return MeanOfLastEpochs(model, trained_part(recipe, model), recipe.schedule.epochs, recipe.schedule.average_last)
    return LastWeights(model)


def trained_part(recipe: Recipe, model: Classifier) -> nn.Module:
    """The heads where the backbone is frozen to the end, and may be shared by other models; else the whole model."""
    return model.heads if recipe.frozen else model


def copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy that training leaves as it is."""
    return {name: weight.clone() for name, weight in weights.items()}
