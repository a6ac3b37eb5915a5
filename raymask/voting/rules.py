"""Voting rules: how several voters' probabilities become one. Each is a pair of pure functions on arrays: fit, then combine.

A rule without anything to fit ignores the evidence. What a rule has fitted is a dictionary of numbers and arrays, so that it can
be written down and used anywhere, one image at a time.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from raymask.core.errors import InputError, one_of
from raymask.core.types import Ballots, Labels, Probabilities, Weights
from raymask.metrics.scores import SCORE_KINDS, Aim
from raymask.voting.trees import constant, tree_probabilities, trees_of, wrong_with_trees

Params = Mapping[str, Any]

FLOOR = 1e-7
"""Least probability that a logarithm is taken of: what float32 can tell from 0 in a row that sums to 1."""
TIE = 1e-6
"""Weight of the probabilities beside a count of votes: less than any difference of votes, so that it settles ties alone."""
BAGS = 10
ROUNDS = 20
STEPS = (0.5, 0.2, 0.1, 0.05, 0.02)


@dataclass(frozen=True)
class Evidence:
    """What a rule is fitted on: voters' predictions of images that they were not trained on, beside the truth."""

    ballots: Ballots
    labels: Labels
    """(N,) true labels."""
    aim: Aim
    """The metric to maximise."""
    seed: int


Fit = Callable[[Evidence], Params]
Combine = Callable[[Ballots, Params], Probabilities]


@dataclass(frozen=True)
class Rule:
    """A way to combine voters."""

    name: str
    complexity: int
    """Place among the rules from the simplest to the most intricate: of equally good ones the simplest is taken."""
    combine: Combine
    fit: Fit = lambda evidence: {}
    levels: tuple[str, ...] = ("joint", "task")
    wrong: Callable[[Params, int, int], str] = lambda params, voters, classes: ""
    """What keeps params that were read from a file from being used for so many voters and classes; "" for nothing."""


def normalised(scores: npt.NDArray[np.floating]) -> Probabilities:
    """Rows that sum to 1; a row of zeros becomes even."""
    total = scores.sum(axis=-1, keepdims=True)
    return np.asarray(np.where(total > 0, scores / np.where(total > 0, total, 1.0), 1.0 / scores.shape[-1]))


def votes_of(ballots: Ballots) -> Ballots:
    """(V, N, C) one vote each for the most probable class, the lower one where two are."""
    return np.asarray(np.eye(ballots.shape[2])[ballots.argmax(axis=2)])


def soft_vote(ballots: Ballots) -> Probabilities:
    """(N, C) mean of the voters' probabilities."""
    return np.asarray(ballots.mean(axis=0))


def geometric_vote(ballots: Ballots) -> Probabilities:
    """(N, C) geometric mean of the voters' probabilities, normalised: the mean of their logits (a logarithmic opinion pool)."""
    logs = np.log(np.maximum(ballots, FLOOR)).mean(axis=0)
    return normalised(np.exp(logs - logs.max(axis=1, keepdims=True)))


def rank_vote(ballots: Ballots) -> Probabilities:
    """(N, C) Borda count: for each voter a class scores the number of classes that it beats, a draw counting half.

    Ties go to the greatest sum of probabilities. The classes' scores are taken as shares.
    """
    beaten = np.zeros(ballots.shape[1:])
    for ballot in ballots:
        for label in range(ballots.shape[2]):
            given = ballot[:, label, None]
            beaten[:, label] += (ballot < given).sum(axis=1) + ((ballot == given).sum(axis=1) - 1) / 2
    return normalised(beaten / max(1, len(ballots)) + TIE * soft_vote(ballots))


def hard_vote(ballots: Ballots) -> Probabilities:
    """(N, C) shares of the voters whose most probable class it is.

    Ties go to the class with the greatest sum of probabilities. Should the sums be equal too, the lower class is elected, as by
    argmax.
    """
    counted = votes_of(ballots).sum(axis=0) + TIE * ballots.sum(axis=0)  # sums, which are exact where a mean is not
    return np.asarray(counted / (len(ballots) * (1 + TIE)))


def weighted_vote(ballots: Ballots, params: Params) -> Probabilities:
    """(N, C) mean of the voters' probabilities by `weights`, (V,) shares that sum to 1."""
    return np.asarray(np.tensordot(np.asarray(params["weights"]), ballots, axes=1))


def weighted_hard_vote(ballots: Ballots, params: Params) -> Probabilities:
    """(N, C) sum of the `weights` of the voters whose most probable class it is; ties as in `hard_vote`."""
    weights = np.asarray(params["weights"])
    counted = np.tensordot(weights, votes_of(ballots), axes=1).round(9)
    return np.asarray((counted + TIE * np.tensordot(weights, ballots, axes=1)) / (1 + TIE))


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


def score_of(evidence: Evidence, scores: npt.NDArray[np.floating]) -> float:
    """The metric of predicting each image's class of the greatest (N, C) score."""
    return SCORE_KINDS[evidence.aim].of_labels(evidence.labels, scores.argmax(axis=1), scores.shape[1])


def log_features(ballots: Ballots) -> npt.NDArray[np.float64]:
    """(N, V·C) centred log-probabilities, what stacking learns from."""
    logs = np.log(np.maximum(ballots, FLOOR))
    logs -= logs.mean(axis=2, keepdims=True)
    return np.asarray(logs.transpose(1, 0, 2).reshape(ballots.shape[1], -1))


def fit_logistic(evidence: Evidence) -> Params:
    """Stacking by multinomial logistic regression on log-probabilities (Wolpert 1992), with an L2 penalty; of scikit-learn."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    features = log_features(evidence.ballots)
    centre, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    present, labels = np.unique(evidence.labels, return_inverse=True)
    few = features.shape[1] * len(present) <= 500  # then Newton's method takes its matrix of second derivatives for little
    model = LogisticRegression(C=0.03, max_iter=100, tol=1e-3, solver="newton-cholesky" if few else "lbfgs")
    classes = evidence.ballots.shape[2]
    coefficients, intercepts = np.zeros((classes, features.shape[1])), np.full(classes, np.log(FLOOR))
    if len(present) == 1:  # nothing to learn: what is always so
        intercepts[present] = 0.0
        return {"coefficients": coefficients, "intercepts": intercepts}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # digits that no vote depends on
        model.fit((features - centre) / spread, labels)
    fitted, bias = (model.coef_, model.intercept_)
    if len(present) == 2:  # scikit-learn gives the second class's log-odds alone
        fitted, bias = np.concatenate([np.zeros_like(fitted), fitted]), np.concatenate([[0.0], bias])
    coefficients[present] = fitted / spread
    intercepts[present] = bias - (fitted / spread) @ centre
    return {"coefficients": coefficients, "intercepts": intercepts}


def combine_logistic(ballots: Ballots, params: Params) -> Probabilities:
    """(N, C) softmax of `coefficients` (C, V·C) times the log-probabilities, plus `intercepts` (C,)."""
    logits = log_features(ballots) @ np.asarray(params["coefficients"]).T + np.asarray(params["intercepts"])
    return normalised(np.exp(logits - logits.max(axis=1, keepdims=True)))


def fit_boosted(evidence: Evidence) -> Params:
    """Stacking by gradient boosting of small trees on log-probabilities; scikit-learn's histogram method."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        max_iter=40,
        learning_rate=0.15,
        max_leaf_nodes=8,
        min_samples_leaf=40,
        l2_regularization=1.0,
        max_bins=63,
        early_stopping=False,
        random_state=evidence.seed,
    )
    if len(np.unique(evidence.labels)) < 2:
        return constant(int(evidence.labels[0]))
    with one_thread():
        return trees_of(model.fit(log_features(evidence.ballots), evidence.labels))


def one_thread() -> AbstractContextManager[Any]:
    """Trees of so few leaves take longer to divide among threads than to grow."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, user_api="openmp")  # type: ignore[no-any-return]


def combine_boosted(ballots: Ballots, params: Params) -> Probabilities:
    """(N, C) probabilities of boosted trees, see `raymask.voting.trees`; what they never learned of gets none."""
    combined = np.zeros(ballots.shape[1:])
    combined[:, params["classes"]] = tree_probabilities(params, log_features(ballots))
    return combined


def _plain(combine: Callable[[Ballots], Probabilities]) -> Combine:
    return lambda ballots, params: combine(ballots)


def _wrong_weights(params: Params, voters: int, classes: int) -> str:
    weights = params.get("weights")
    fits = _numbers(weights, (voters,)) and bool((weights >= 0).all())
    return "" if fits else f"needs `weights` of {voters} voters"


def _wrong_logistic(params: Params, voters: int, classes: int) -> str:
    fits = _numbers(params.get("coefficients"), (classes, voters * classes)) and _numbers(params.get("intercepts"), (classes,))
    return "" if fits else f"needs `coefficients` and `intercepts` of {voters} voters and {classes} classes"


def _numbers(values: Any, shape: tuple[int, ...]) -> TypeGuard[npt.NDArray[Any]]:
    return (
        isinstance(values, np.ndarray) and values.dtype.kind in "if" and values.shape == shape and bool(np.isfinite(values).all())
    )


def _wrong_boosted(params: Params, voters: int, classes: int) -> str:
    return wrong_with_trees(params, voters * classes, classes)


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("soft", 0, _plain(soft_vote)),
        Rule("geometric", 1, _plain(geometric_vote)),
        Rule("rank", 2, _plain(rank_vote)),
        Rule("hard", 3, _plain(hard_vote)),
        Rule("best", 4, weighted_vote, fit_best, wrong=_wrong_weights),
        Rule("weighted", 5, weighted_vote, fit_weights, wrong=_wrong_weights),
        Rule("greedy", 6, weighted_vote, fit_greedy, wrong=_wrong_weights),
        Rule("weighted_hard", 7, weighted_hard_vote, fit_hard_weights, wrong=_wrong_weights),
        Rule("logistic", 8, combine_logistic, fit_logistic, wrong=_wrong_logistic),
        Rule("boosted", 9, combine_boosted, fit_boosted, levels=("task",), wrong=_wrong_boosted),
    )
}


def find_rule(name: str) -> Rule:
    """A rule by its name, or a user's own by import path: `package.module:function`.

    The function takes (V, N, C) ballots and gives (N, C) probabilities; or it is a `Rule`, which may fit on evidence too.

    Raises:
        InputError: there is no such rule, or the path leads nowhere.
    """
    if name in RULES:
        return RULES[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise InputError(f"vote.rule is '{name}'; it may be {one_of(['auto', *RULES], name)}, or a path such as 'my.votes:rule'.")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"vote.rule: '{name}' cannot be imported ({error}).") from None
    if isinstance(found, Rule):
        return found
    if not callable(found):
        raise InputError(f"vote.rule: '{name}' is neither a function of ballots nor a raymask.voting.rules.Rule.")
    return Rule(name, len(RULES), _plain(found))
