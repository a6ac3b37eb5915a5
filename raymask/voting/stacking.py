"""Stacking: a model fitted on the voters' log-probabilities (Wolpert, Stacked Generalization, 1992).

scikit-learn is imported where a model is fitted: actors and servers read rules too, and fit nothing.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from raymask.voting.combine import FLOOR, Params, log_features
from raymask.voting.evidence import Evidence
from raymask.voting.trees import constant, trees_of


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
    return threadpool_limits(1, user_api="openmp")  # type: ignore[no-any-return]
