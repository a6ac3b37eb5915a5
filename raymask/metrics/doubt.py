"""How much a vote doubts, and how that compares with the training images, each predicted by models that never saw its group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raymask.core.types import Probabilities

STEPS = 1000
ALARM = 0.99
"""Place among the training images beyond which an image is told of."""
Vector = npt.NDArray[np.float64]


def entropy(probabilities: Probabilities) -> Vector:
    """(N,) Shannon entropies in nats of (N, C) probabilities.

    Example:
        >>> entropy(np.array([[1.0, 0.0], [0.5, 0.5]])).round(4).tolist()
        [0.0, 0.6931]
    """
    given = np.asarray(probabilities, dtype=np.float64)
    logs = np.log(given, where=given > 0, out=np.zeros_like(given))
    return np.asarray(np.maximum(0.0, 0.0 - (given * logs).sum(axis=1)))


@dataclass(frozen=True, eq=False)
class DoubtReference:
    """The entropies of training images out of fold, which tell how usual that of a new image is."""

    quantiles: Vector
    """(Q,) from the least to the greatest, evenly spaced by rank."""

    def places(self, doubt: Vector) -> npt.NDArray[np.float32]:
        """(N,) float32 share of the training images that were doubted less, from 0 to 1."""
        return (np.searchsorted(self.quantiles, doubt, side="left") / len(self.quantiles)).astype(np.float32)


def fit_reference(joint: Probabilities) -> DoubtReference:
    """The reference of (N, J) probabilities of training images, each by what never saw its group."""
    return DoubtReference(np.quantile(entropy(joint), np.linspace(0, 1, STEPS + 1)))
