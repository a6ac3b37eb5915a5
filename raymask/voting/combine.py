"""From several voters' probabilities to one distribution an image: the part of each rule that is used on new images.

Every function takes arrays of numpy or tensors of torch alike, so that a graph votes by the same code: `array_namespace`
gives the functions of the library that the arrays are of (the Python array API standard); torch is not imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from raymask.core.arrays import Array
from raymask.voting.trees import tree_probabilities

Params = Mapping[str, Any]
"""What a rule has fitted: numbers and arrays by name."""

FLOOR = 1e-7
"""Least probability that a logarithm is taken of: what float32 can tell from 0 in a row that sums to 1."""
TIE = 1e-6
"""Weight of the probabilities beside a count of votes: less than any difference of votes, so that it settles ties alone."""


def normalised(scores: Array) -> Array:
    """Rows that sum to 1; a row of zeros becomes even.

    Example:
        >>> normalised(np.array([[1.0, 3.0], [0.0, 0.0]])).tolist()
        [[0.25, 0.75], [0.5, 0.5]]
    """
    xp = array_namespace(scores)
    total = xp.sum(scores, axis=-1, keepdims=True)
    present = total > 0
    even = xp.full_like(scores, 1.0 / scores.shape[-1])
    return xp.where(present, scores / xp.where(present, total, xp.ones_like(total)), even)


def softmax(logits: Array) -> Array:
    """(N, C) probabilities, in proportion to the exponentials of (N, C) logits."""
    xp = array_namespace(logits)
    return normalised(xp.exp(logits - xp.max(logits, axis=1, keepdims=True)))


def votes_of(ballots: Array) -> Array:
    """(V, N, C) float64 one vote each for the most probable class, the lower one where two are."""
    xp = array_namespace(ballots)
    classes = xp.arange(ballots.shape[2], device=ballots.device)
    return xp.astype(xp.argmax(ballots, axis=2, keepdims=True) == classes, xp.float64)


def soft_vote(ballots: Array) -> Array:
    """(N, C) mean of the voters' probabilities (a linear opinion pool).

    Args:
        ballots: (V, N, C) probabilities of V voters.

    Example:
        >>> soft_vote(np.array([[[0.5, 0.5]], [[0.75, 0.25]]])).tolist()
        [[0.625, 0.375]]
    """
    return array_namespace(ballots).mean(ballots, axis=0)


def geometric_vote(ballots: Array) -> Array:
    """(N, C) geometric mean of (V, N, C) probabilities, normalised: the mean of their logits (a logarithmic opinion pool).

    Source:
        Genest & Zidek, Combining Probability Distributions, 1986.
    """
    xp = array_namespace(ballots)
    return softmax(xp.mean(xp.log(ballots.clip(FLOOR)), axis=0))


def rank_vote(ballots: Array) -> Array:
    """(N, C) Borda count of (V, N, C) probabilities: by each voter a class scores a point for each class that it beats.

    A draw counts half a point. Ties go to the greatest sum of probabilities. Points are given as shares.

    Example:
        >>> rank_vote(np.array([[[0.5, 0.3, 0.2]], [[0.1, 0.6, 0.3]]])).argmax(axis=1).tolist()  # 2 points, 3 points and 1
        [1]
    """
    xp = array_namespace(ballots)
    points = []
    for label in range(ballots.shape[2]):
        own = ballots[:, :, label, None]
        beaten = xp.sum(xp.astype(ballots < own, xp.float64), axis=2)
        drawn = xp.sum(xp.astype(ballots == own, xp.float64), axis=2) - 1
        points.append(xp.sum(beaten + drawn / 2, axis=0))
    return normalised(xp.stack(points, axis=1) / ballots.shape[0] + TIE * soft_vote(ballots))


def hard_vote(ballots: Array) -> Array:
    """(N, C) shares of the voters whose most probable class it is.

    Ties go to the class with the greatest sum of probabilities. Should the sums be equal too, the lower class is predicted, as by
    argmax.

    Example:
        >>> hard_vote(np.array([[[0.6, 0.4]], [[0.55, 0.45]], [[0.1, 0.9]]])).argmax(axis=1).tolist()
        [0]
    """
    xp = array_namespace(ballots)
    counted = xp.sum(votes_of(ballots), axis=0) + TIE * xp.sum(ballots, axis=0)  # sums, which are exact where a mean is not
    return counted / (ballots.shape[0] * (1 + TIE))


def weighted_vote(ballots: Array, params: Params) -> Array:
    """(N, C) mean of the voters' probabilities by `weights`, (V,) shares that sum to 1."""
    return array_namespace(ballots).tensordot(params["weights"], ballots, axes=1)


def weighted_hard_vote(ballots: Array, params: Params) -> Array:
    """(N, C) sum of the `weights` of the voters whose most probable class it is; ties as in `hard_vote`."""
    xp, weights = array_namespace(ballots), params["weights"]
    counted = xp.round(xp.tensordot(weights, votes_of(ballots), axes=1) * 1e9) / 1e9
    return (counted + TIE * xp.tensordot(weights, ballots, axes=1)) / (1 + TIE)


def log_features(ballots: Array) -> Array:
    """(N, V·C) centred log-probabilities, the features of stacking."""
    xp = array_namespace(ballots)
    logs = xp.log(ballots.clip(FLOOR))
    logs = logs - xp.mean(logs, axis=2, keepdims=True)
    return xp.permute_dims(logs, (1, 0, 2)).reshape(ballots.shape[1], -1)


def combine_logistic(ballots: Array, params: Params) -> Array:
    """(N, C) softmax of `coefficients` (C, V·C) times the log-probabilities, plus `intercepts` (C,)."""
    return softmax(log_features(ballots) @ params["coefficients"].T + params["intercepts"])


def combine_boosted(ballots: Array, params: Params) -> Array:
    """(N, C) probabilities of boosted trees, see `raymask.voting.trees`, by numpy alone; an unlearned class gets none."""
    combined = np.zeros(ballots.shape[1:])
    combined[:, params["classes"]] = tree_probabilities(params, log_features(ballots))
    return combined


def adjusted(combined: Array, factors: Array | None) -> Array:
    """(N, C) probabilities, of `FLOOR` at least as where the factors are fitted, times (C,) factors, normalised again."""
    return combined if factors is None else normalised(combined.clip(FLOOR) * factors)
