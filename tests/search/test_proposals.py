"""Which trials are proposed: within their ranges, the same again for the same table, and near what scored well."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymask.config.search_space import Domain
from raymask.runs.schemas import Interval
from raymask.runs.search_schemas import CurvePoint, Trial
from raymask.search.proposals import grid_size, importances, propose

LR = Domain("recipe.optim.lr", "log", 1e-4, 1e-1)
DROPOUT = Domain("recipe.head.dropout", "range", 0.0, 0.5)
BATCH = Domain("recipe.batch_size", "range", 16, 128, whole=True, step=16)
MIX = Domain("recipe.mix", "choice", choices=({"name": "none"}, {"name": "mixup", "alpha": 0.4}, {"name": "cutmix"}))
SPACE = {domain.key: domain for domain in (LR, DROPOUT, BATCH, MIX)}


def searched(method: Any, count: int, seed: int, score: Callable[[dict[str, Any]], float], batch: int = 4) -> list[Trial]:
    known: list[Trial] = []
    while len(known) < count:
        for values in propose(SPACE, method, known, min(batch, count - len(known)), seed):
            of = score(values)
            known.append(
                Trial(number=len(known), values=values, state="finished", score=Interval(score=of, se=0, low=of, high=of))
            )
    return known


@pytest.mark.parametrize("method", ["tpe", "random"])
@given(st.integers(0, 2**31 - 1))
@settings(max_examples=8)
def test_proposals_are_within_their_ranges_and_the_same_again(method: Any, seed: int) -> None:
    trials = searched(method, 14, seed, lambda values: values["recipe.head.dropout"])
    for trial in trials:
        assert all(SPACE[key].holds(value) for key, value in trial.values.items())
        assert trial.values["recipe.batch_size"] % 16 == 0
    again = searched(method, 14, seed, lambda values: values["recipe.head.dropout"])
    assert [trial.values for trial in again] == [trial.values for trial in trials]
    assert len({str(trial.values) for trial in trials}) == len(trials), "no two are alike"


def test_trials_of_any_state_may_be_in_the_table() -> None:
    trials = searched("random", 12, 0, lambda values: 0.5)
    states: list[Any] = ["finished", "stopped", "failed", "running"]
    for trial, state in zip(trials, itertools.cycle(states), strict=False):
        trial.state, trial.curve = state, [CurvePoint(epoch=1, f1=0.3)] if state == "stopped" else []
        trial.score = trial.score if state == "finished" else None
    assert len(propose(SPACE, "tpe", trials, 3, 0)) == 3


def test_tpe_comes_nearer_to_the_best_than_chance() -> None:
    def score(values: dict[str, Any]) -> float:
        return float(-abs(math.log10(values["recipe.optim.lr"]) + 2) - (values["recipe.mix"]["name"] != "mixup"))

    def last(method: str) -> float:
        scores = [trial.score.score for seed in range(3) for trial in searched(method, 30, seed, score)[-8:] if trial.score]
        return sum(scores) / len(scores)

    assert last("tpe") > last("random") + 0.3


def test_a_grid_gives_each_point_once_whatever_the_batches() -> None:
    space = {"a": Domain("a", "range", 0.0, 1.0, points=3), "b": Domain("b", "choice", choices=("x", None))}
    assert grid_size(space) == 6
    known: list[Trial] = []
    for count in (4, 1, 5):
        known += [Trial(number=0, values=values) for values in propose(space, "grid", known, count, 7)]
    assert sorted((trial.values["a"], str(trial.values["b"])) for trial in known) == sorted(
        (a, b) for a in (0.0, 0.5, 1.0) for b in ("x", "None")
    )
    assert propose(space, "grid", known, 3, 7) == []


def test_the_key_that_decides_is_the_most_important() -> None:
    trials = searched("random", 40, 1, lambda values: values["recipe.head.dropout"])
    shares = importances(SPACE, trials, 0)
    assert next(iter(shares)) == "recipe.head.dropout"
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["recipe.head.dropout"] > 0.8


def test_what_too_few_trials_or_equal_scores_cannot_say_is_not_said() -> None:
    trials = searched("random", 12, 1, lambda values: 0.5)
    assert importances(SPACE, trials, 0) == {}
    assert importances(SPACE, trials[:3], 0) == {}
    stopped = [
        trial.model_copy(update={"state": "stopped"})
        for trial in searched("random", 12, 1, lambda values: values["recipe.head.dropout"])
    ]
    assert importances(SPACE, stopped, 0) == {}
