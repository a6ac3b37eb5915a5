"""Early stopping: by the loss on a part of the training folds that a fold model does not learn from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from raymask.core.errors import InputError
from raymask.core.tasks import JOINT
from raymask.training.keeping import copied
from raymask.training.targets import LabelTable


class EarlyStopping:
    """Ends a training when its loss has not fallen for a while, and goes back to the weights of the best epoch.

    The loss must be that of images which the model neither learns from nor is scored on, see `hold_out`.

    Args:
        part: the weights that are kept, of the model that predicts.
        patience: epochs without a lower loss before training ends.

    Source: Prechelt 1998, "Early Stopping - But When?".
    """

    def __init__(self, part: nn.Module, patience: int) -> None:
        self.part, self.patience = part, patience
        self.best_loss, self.best_epoch, self.waited = math.inf, 0, 0
        self.weights: dict[str, Tensor] = {}

    @property
    def ended(self) -> bool:
        """Whether the loss has not fallen for long enough."""
        return self.waited >= self.patience

    def end_epoch(self, epoch: int, loss: float) -> None:
        """Told after each epoch; epochs are counted from 1."""
        if loss < self.best_loss:
            self.best_loss, self.best_epoch, self.waited = loss, epoch, 0
            self.weights = copied(self.part.state_dict())
        else:
            self.waited += 1

    def restore(self) -> None:
        """Goes back to the weights of the best epoch."""
        self.part.load_state_dict(self.weights)

    def state(self) -> dict[str, Any]:
        """What it needs to go on from the end of an epoch."""
        return {"loss": self.best_loss, "epoch": self.best_epoch, "waited": self.waited, "weights": self.weights}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes back to what `state` gave."""
        self.best_loss, self.best_epoch, self.waited = state["loss"], state["epoch"], state["waited"]
        self.weights = dict(state["weights"])


def hold_out(labels: LabelTable, fold: int, share: float, seed: int) -> tuple[LabelTable, npt.NDArray[np.int64]]:
    """Holds some people out of those that the model of a fold learns from, to judge its training on.

    The fold itself stays out of it: an epoch that was chosen on it would be scored too well. The price is that the model learns
    from so many people fewer. People are lined up by a joint label of theirs, those of one label in a drawn order, and taken at
    even distances, so that the labels have about their shares.

    Args:
        labels: those that the model would learn from.
        fold: the model's.
        share: of the people who have labelled images, about; one of them at least.
        seed: decides who.

    Returns:
        The labels without all images of these people, and the rows of their labelled ones.

    Raises:
        InputError: there are fewer than two people.
    """
    learned = labels.learned(fold)
    labelled = np.all([truth >= 0 for truth in labels.truth.values()], axis=0)
    rows = np.flatnonzero(learned & labelled)
    groups = np.arange(len(labels.fold)) if labels.groups is None else labels.groups
    people, first, person = np.unique(groups[rows], return_index=True, return_inverse=True)
    if len(people) < 2:
        raise InputError(
            f"recipe.stop.patience needs two groups with labelled images to learn from, and there are {len(people)}: set it to 0."
        )
    drawn = np.random.default_rng(seed).permutation(len(people))
    in_line = drawn[np.argsort(labels.truth[JOINT][rows[first]][drawn], kind="stable")]
    count = max(1, round(share * len(people)))
    taken = in_line[((np.arange(count) + 0.5) * len(people) / count).astype(np.int64)]
    others = ~np.isin(groups, people[taken])
    trains = others if labels.trains is None else np.logical_and(others, labels.trains)
    return replace(labels, trains=trains), rows[np.isin(person, taken)]
