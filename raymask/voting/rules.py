"""The voting rules: how several voters' probabilities become one. A new rule is one entry of `RULES`.

A rule fits numbers and arrays on the evidence, which can be written down, and combines any number of images by them. A rule that
has nothing to fit ignores the evidence.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from raymask.core.arrays import Array
from raymask.core.errors import InputError
from raymask.core.registry import Registry
from raymask.voting.combine import (
    Params,
    combine_boosted,
    combine_logistic,
    geometric_vote,
    hard_vote,
    rank_vote,
    soft_vote,
    weighted_hard_vote,
    weighted_vote,
)
from raymask.voting.evidence import Evidence
from raymask.voting.stacking import fit_boosted, fit_logistic
from raymask.voting.trees import wrong_with_trees
from raymask.voting.weights import fit_best, fit_greedy, fit_hard_weights, fit_weights

Fit = Callable[[Evidence], Params]
Combine = Callable[[Array, Params], Array]
Check = Callable[[Params, int, int], str]


def fit_nothing(_: Evidence) -> Params:
    """The fit of a rule that has nothing to fit."""
    return {}


@dataclass(frozen=True)
class Rule:
    """A way to combine voters."""

    name: str
    complexity: int
    """Rank among the rules from the simplest to the most intricate: of equally good ones the simplest is chosen."""
    combine: Combine
    """(N, C) probabilities from (V, N, C) ballots and the params."""
    fit: Fit = fit_nothing
    words: str = ""
    """What decides, for the report and the model card: `a weighted mean of the voters' probabilities`."""
    levels: tuple[str, ...] = ("joint", "task")
    wrong: Check = lambda params, voters, classes: ""
    """What keeps params that were read from a file from being used for so many voters and classes; "" for nothing."""
    stacks: bool = False
    """Whether it learns a model of the voters' probabilities, so that it differs from the others where there is one voter."""
    counts_votes: bool = False
    """Whether its probabilities are shares of votes."""
    exportable: bool = False
    """Whether `combine` takes torch's tensors too, as an exported graph needs it."""

    @property
    def fits(self) -> bool:
        """Whether it fits anything on the evidence."""
        return self.fit is not fit_nothing


def _without_params(combine: Callable[[Array], Array]) -> Combine:
    return lambda ballots, params: combine(ballots)


def _wrong_weights(params: Params, voters: int, _: int) -> str:
    weights = params.get("weights")
    fits = _numbers(weights, (voters,)) and bool((weights >= 0).all())
    return "" if fits else f"needs `weights` of {voters} voters"


def _wrong_logistic(params: Params, voters: int, classes: int) -> str:
    fits = _numbers(params.get("coefficients"), (classes, voters * classes)) and _numbers(params.get("intercepts"), (classes,))
    return "" if fits else f"needs `coefficients` and `intercepts` of {voters} voters and {classes} classes"


def _wrong_boosted(params: Params, voters: int, classes: int) -> str:
    return wrong_with_trees(params, voters * classes, classes)


def _numbers(values: Any, shape: tuple[int, ...]) -> TypeGuard[npt.NDArray[Any]]:
    return (
        isinstance(values, np.ndarray) and values.dtype.kind in "if" and values.shape == shape and bool(np.isfinite(values).all())
    )


RULES: Registry[Rule] = Registry(
    "vote.rule",
    {
        rule.name: rule
        for rule in (
            Rule(
                name="soft",
                complexity=0,
                combine=_without_params(soft_vote),
                words="the mean of the voters' probabilities",
                exportable=True,
            ),
            Rule(
                name="geometric",
                complexity=1,
                combine=_without_params(geometric_vote),
                words="the geometric mean of the voters' probabilities",
                exportable=True,
            ),
            Rule(
                name="rank",
                complexity=2,
                combine=_without_params(rank_vote),
                words="a Borda count of the voters' rankings",
                exportable=True,
            ),
            Rule(
                name="hard",
                complexity=3,
                combine=_without_params(hard_vote),
                words="the majority of the voters",
                counts_votes=True,
                exportable=True,
            ),
            Rule(
                name="best",
                complexity=4,
                combine=weighted_vote,
                fit=fit_best,
                words="the prediction of the single best voter",
                wrong=_wrong_weights,
                exportable=True,
            ),
            Rule(
                name="weighted",
                complexity=5,
                combine=weighted_vote,
                fit=fit_weights,
                words="a weighted mean of the voters' probabilities",
                wrong=_wrong_weights,
                exportable=True,
            ),
            Rule(
                name="greedy",
                complexity=6,
                combine=weighted_vote,
                fit=fit_greedy,
                words="the mean of greedily selected voters' probabilities",
                wrong=_wrong_weights,
                exportable=True,
            ),
            Rule(
                name="weighted_hard",
                complexity=7,
                combine=weighted_hard_vote,
                fit=fit_hard_weights,
                words="a weighted majority of the voters",
                wrong=_wrong_weights,
                counts_votes=True,
                exportable=True,
            ),
            Rule(
                name="logistic",
                complexity=8,
                combine=combine_logistic,
                fit=fit_logistic,
                words="a logistic regression on the voters' log-probabilities",
                wrong=_wrong_logistic,
                stacks=True,
                exportable=True,
            ),
            Rule(
                name="boosted",
                complexity=9,
                combine=combine_boosted,
                fit=fit_boosted,
                words="boosted trees on the voters' log-probabilities",
                levels=("task",),
                wrong=_wrong_boosted,
                stacks=True,
            ),
        )
    },
    alternative="'auto' or a path such as 'my.votes:rule'",
)


def find_rule(name: str) -> Rule:
    """A rule by its name, or a user's own by import path: `package.module:function`.

    The function takes (V, N, C) ballots and gives (N, C) probabilities; or it is a `Rule`, which may fit on evidence too.

    Raises:
        InputError: there is no such rule, or the path leads nowhere.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        return RULES.get(name)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"vote.rule: '{name}' cannot be imported ({error}).") from None
    if isinstance(found, Rule):
        return found
    if not callable(found):
        raise InputError(f"vote.rule: '{name}' is neither a function of ballots nor a raymask.Rule.")
    return Rule(name, len(RULES.names), _without_params(found))


def rule_in_words(name: str) -> str:
    """What decides by a rule, in a few words; a user's own rule by its name, without importing it."""
    return RULES.get(name).words if name in RULES.names else f"your own rule {name}"
