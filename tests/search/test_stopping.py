"""Which trials end early, against the rules written out anew."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymask.search.stopping import Judge, goes_on_by_asha, goes_on_by_median, rungs

scores = st.lists(st.integers(0, 20).map(lambda number: number / 20), min_size=1, max_size=12)


@given(st.integers(1, 60), st.integers(1, 20) | st.none(), st.integers(2, 4))
def test_a_rung_comes_after_the_grace_and_leaves_something_to_save(epochs: int, grace: int | None, reduction: int) -> None:
    found = rungs("asha", epochs, grace, reduction)
    first = grace or max(1, epochs // 4)
    assert all(rung >= first and rung * reduction <= epochs for rung in found)
    assert all(later == reduction * earlier for earlier, later in itertools.pairwise(found))
    assert bool(found) == (first * reduction <= epochs)
    assert rungs("none", epochs, grace, reduction) == ()
    assert all(first <= rung < epochs for rung in rungs("median", epochs, grace, reduction))


@given(scores, st.integers(2, 4))
def test_of_the_trials_at_a_rung_the_best_part_goes_on(of_trials: list[float], reduction: int) -> None:
    curves = {number: {1: score} for number, score in enumerate(of_trials)}
    going_on = [number for number in curves if goes_on_by_asha(number, 1, curves, reduction)]
    assert len(going_on) == max(1, len(of_trials) // reduction)
    ended = [number for number in curves if number not in going_on]
    for number in going_on:
        assert all((of_trials[number], -number) > (of_trials[other], -other) for other in ended), "of equal ones the earlier"


@given(st.lists(st.lists(st.integers(0, 20), min_size=3, max_size=3), min_size=2, max_size=9))
def test_a_trial_below_the_median_of_the_others_ends(table: list[list[int]]) -> None:
    curves = {number: dict(zip((1, 2, 3), row, strict=True)) for number, row in enumerate(table)}
    for number, row in enumerate(table):
        for epoch in (1, 2, 3):
            others = [np.mean(other[:epoch]) for place, other in enumerate(table) if place != number]
            assert goes_on_by_median(number, epoch, curves) == (max(row[:epoch]) >= np.median(others) - 1e-12)


def test_a_trial_that_nobody_can_be_compared_with_goes_on() -> None:
    assert goes_on_by_asha(4, 2, {4: {2: 0.0}}, 3)
    assert goes_on_by_median(4, 2, {4: {2: 0.0}, 5: {1: 0.9}})


def test_trials_of_a_pack_are_judged_together_and_by_all_earlier_ones() -> None:
    models = {number: [f"{number}/fold-0", f"{number}/fold-1"] for number in (3, 4, 5, 6)}
    earlier = {0: {1: 0.9}, 1: {1: 0.1, 2: 0.8}, 2: {}}
    judge = Judge("asha", 2, models, dict.fromkeys(models, (1,)), {**earlier, **{number: {} for number in models}})
    f1 = {3: 0.5, 4: 0.7, 5: 0.2, 6: 0.6}
    first = {f"{number}/fold-0": (1, score + 0.1) for number, score in f1.items()}
    assert judge.take(first) == ([], []), "the other fold is not there yet"
    second = {f"{number}/fold-1": (1, score - 0.1) for number, score in f1.items()}
    assert judge.take(second) == ([3, 4, 5, 6], [3, 5]), "0.9, 0.7 and 0.6 are the best three of six"
    assert judge.curves[6] == pytest.approx({1: 0.6})
    assert judge.leader() == 4


def test_between_rungs_a_curve_grows_and_nobody_ends() -> None:
    judge = Judge("median", 2, {0: ["a"], 1: ["b"]}, {0: (2,), 1: (2,)}, {0: {}, 1: {}})
    assert judge.take({"a": (1, 0.9), "b": (1, 0.1)}) == ([0, 1], [])
    assert judge.take({"a": (2, 0.9), "b": (2, 0.1)}) == ([0, 1], [1])
