"""Weights of voters, fitted on the evidence: the best voter alone, direct search on the simplex, greedy selection."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raymask.core.types import Ballots, Weights
from raymask.voting.combine import TIE, Params, votes_of
from raymask.voting.evidence import Evidence, score_of

BAGS = 10
ROUNDS = 20
STEPS = (0.5, 0.2, 0.1, 0.05, 0.02)


def fit_best(evidence: Evidence) -> Params:
    """All weight to the voter that scores best alone; of equally good ones the first."""
    scores = [score_of(evidence, ballot) for ballot in evidence.ballots]
    return {"weights": np.eye(len(scores))[int(np.argmax(scores))]}


def fit_weights(evidence: Evidence) -> Params:
    """Weights by direct search on the simplex, from even ones: a share of all weight moves to or away from one voter."""
    return {"weights": search_weights(evidence.ballots.astype(np.float32), evidence)}


def fit_hard_weights(evidence: Evidence) -> Params:
    """As `fit_weights`, for the votes that the voters cast; ties are settled by probabilities, too little for float32."""
    votes = votes_of(evidence.ballots) + TIE * evidence.ballots
    return {"weights": search_weights(votes, evidence)}


def search_weights(ballots: Ballots, evidence: Evidence) -> Weights:
    """(V,) weights of a local optimum: a coordinate pattern search with the steps of `STEPS`.

    Args:
        ballots: (V, N, C) what is weighted.
        evidence: labels and aim.
    """
    kind = ballots.dtype.type
    weights = np.full(len(ballots), 1 / len(ballots))
    total = np.tensordot(weights.astype(kind), ballots, axes=1)
    best = score_of(evidence, total)
    for step in STEPS:
        improved = True
        while improved:
            improved = False
            for voter in range(len(ballots)):
                for change in (step, -min(step, weights[voter])):
                    if change == 0 or weights.sum() + change < 1e-6:  # someone must weigh something
                        continue
                    trial = total + kind(change) * ballots[voter]
                    if (found := score_of(evidence, trial)) > best + 1e-12:
                        best, total, improved = found, trial, True
                        weights[voter] += change
            scale = weights.sum()
            weights, total = weights / scale, total / kind(scale)
    return weights


def fit_greedy(evidence: Evidence) -> Params:
    """Weights by greedy selection with replacement (Caruana et al. 2004), from the best voter on, averaged over bags of voters.

    The first bag holds all voters, the others a random half of them each.
    """
    rng = np.random.default_rng(evidence.seed)
    voters = len(evidence.ballots)
    ballots = evidence.ballots.astype(np.float32)
    bags = [np.arange(voters)]
    if voters > 2:
        bags += [np.sort(rng.choice(voters, -(-voters // 2), replace=False)) for _ in range(BAGS - 1)]
    return {"weights": np.mean([select_greedily(ballots, bag, evidence) for bag in bags], axis=0)}


def select_greedily(ballots: npt.NDArray[np.floating], bag: npt.NDArray[np.int64], evidence: Evidence) -> Weights:
    """(V,) weights of one greedy selection among the voters of a bag: the best of its rounds, the earliest of equals."""
    counts = np.zeros(len(ballots))
    total = np.zeros(ballots.shape[1:], dtype=ballots.dtype)
    best, best_counts = -1.0, counts
    for _ in range(ROUNDS):
        scores = [score_of(evidence, total + ballots[voter]) for voter in bag]
        chosen = int(bag[int(np.argmax(scores))])
        total += ballots[chosen]
        counts[chosen] += 1
        if max(scores) > best + 1e-12:
            best, best_counts = max(scores), counts.copy()
    return np.asarray(best_counts / best_counts.sum())
