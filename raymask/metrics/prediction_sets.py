"""Sets of classes in place of one class: which classes are in a set, and how often sets hold the true one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raymask.core.tasks import JOINT, LabelSpace
from raymask.core.types import Labels, Probabilities
from raymask.metrics.bootstrap import Interval, interval, resample

BETWEEN = "|"
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class PredictionSets:
    """Which classes an image may be of, by target: those whose probability reaches what its class asks for."""

    space: LabelSpace
    least: Mapping[str, npt.NDArray[np.float64]]
    """(C,) by target: the probability from which on a class is in the set; 0 for a class that is in every set."""

    def masks(self, joint: Probabilities, broken: Mask | None = None) -> dict[str, Mask]:
        """(N, C) by target: whether a class is in an image's set.

        The elected class is always in the set, so that none is empty; of an image that cannot be read all classes are.

        Args:
            joint: (N, J) probabilities of the vote.
            broken: (N,) whether an image cannot be read (default: none).
        """
        elected = joint.argmax(axis=1)
        labels, masks = {**self.space.split(elected), JOINT: elected}, {}
        for target, least in self.least.items():
            held = self.probabilities(joint, target) >= least
            held[np.arange(len(joint)), labels[target]] = True
            if broken is not None:
                held[broken] = True
            masks[target] = held
        return masks

    def probabilities(self, joint: Probabilities, target: str) -> Probabilities:
        """(N, C) probabilities of a target from (N, J) joint ones."""
        return np.asarray(joint if target == JOINT else self.space.marginal(joint, target))

    def texts(self, joint: Probabilities, broken: Mask | None = None) -> dict[str, npt.NDArray[np.object_]]:
        """(N,) by target: the classes of each set in the task's order, with a bar between them; see `masks`."""
        return {
            target: _joined(mask, np.asarray(self.space.classes(target), dtype=object))
            for target, mask in self.masks(joint, broken).items()
        }

    def names(self, joint: Probabilities) -> list[dict[str, list[str]]]:
        """The classes of each image's sets by target; see `masks`."""
        masks = self.masks(joint)
        return [
            {
                target: [name for name, held in zip(self.space.classes(target), mask[image], strict=True) if held]
                for target, mask in masks.items()
            }
            for image in range(len(joint))
        ]


def _joined(mask: Mask, classes: npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
    kinds, of = np.unique(mask, axis=0, return_inverse=True)
    texts = np.array([BETWEEN.join(classes[kind]) for kind in kinds], dtype=object)
    return np.asarray(texts[of.reshape(-1)] if len(mask) else np.zeros(0, dtype=object))


@dataclass(frozen=True)
class Coverage:
    """How often sets hold the true class, and how large they are, each group counting once."""

    images: int
    groups: int
    coverage: Interval
    size: float
    """Mean number of classes of a set."""
    single: float
    """Share of the sets that hold one class alone."""


def coverage_of(mask: Mask, labels: Labels, groups: Labels, seed: int) -> Coverage:
    """The coverage of the sets of at least one image, with the bootstrap's interval over groups.

    Args:
        mask: (N, C) whether a class is in an image's set.
        labels: (N,) true classes.
        groups: (N,) what tells groups apart.
        seed: of the bootstrap.
    """
    of = np.unique(groups, return_inverse=True)[1]
    share, number = 1 / np.bincount(of)[of], int(of.max()) + 1
    sizes = mask.sum(axis=1)
    held = np.bincount(of, weights=share * mask[np.arange(len(labels)), labels])
    drawn = resample(number, seed) @ held.astype(np.float32) / number
    return Coverage(
        images=len(labels),
        groups=number,
        coverage=interval(float(held.mean()), drawn),
        size=float((share * sizes).sum() / number),
        single=float((share * (sizes == 1)).sum() / number),
    )
