"""What rules and adjustments are fitted on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raymask.core.types import Ballots, Labels
from raymask.metrics.scores import SCORE_KINDS, Aim


@dataclass(frozen=True)
class Evidence:
    """Voters' predictions of images that they were not trained on, beside the truth."""

    ballots: Ballots
    """(V, N, C) probabilities of V voters."""
    labels: Labels
    """(N,) true labels."""
    aim: Aim
    """The metric to maximise."""
    seed: int


def score_of(evidence: Evidence, scores: npt.NDArray[np.floating]) -> float:
    """The metric of predicting each image's class of the greatest (N, C) score."""
    return SCORE_KINDS[evidence.aim].of_labels(evidence.labels, scores.argmax(axis=1), scores.shape[1])
