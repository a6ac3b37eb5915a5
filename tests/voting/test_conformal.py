"""Tests of sets of classes: they hold the true class as often as they promise on people whom nothing was fitted on."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymask.core.tasks import JOINT, LabelSpace, Task
from raymask.metrics.prediction_sets import PredictionSets, coverage_of
from raymask.voting.conformal import (
    cross_fitted_masks,
    decide_sets,
    enough_groups,
    fit_sets,
    least_by_class,
    least_probability,
)
from raymask.voting.grouping import Grouping
from raymask.voting.selection import OofPredictions

SPACE = LabelSpace((Task("mask", "m", ("a", "b|c", "d")), Task("gender", "g", ("m", "f"))))


def drawn(people: int, seed: int, most: int = 7) -> tuple[Any, Any, Any]:
    """Joint probabilities of a middling model, joint labels and groups; photos of a person are alike, and differ in number."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(people), rng.integers(1, most + 1, people))
    truth = rng.choice(6, people, p=[0.4, 0.3, 0.15, 0.1, 0.03, 0.02])[groups]
    logits = rng.normal(0, 1.2, (people, 6))[groups] + rng.normal(0, 0.3, (len(groups), 6)) + 2 * np.eye(6)[truth]
    probs = np.exp(logits)
    return probs / probs.sum(axis=1, keepdims=True), truth, groups


@given(
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])), min_size=1, max_size=30),
    st.sampled_from([0.3, 0.5, 0.75, 0.9]),
)
@settings(max_examples=200)
def test_the_least_probability_is_the_weighted_quantile_by_its_definition(
    images: list[tuple[int, float]], coverage: float
) -> None:
    groups, of_truth = np.array([group for group, _ in images]), np.array([value for _, value in images])
    people = sorted(set(groups.tolist()))

    def reached(least: float) -> float:
        shares = [np.mean([value >= least for group, value in images if group == person]) for person in people]
        return float(sum(shares)) / (len(people) + 1)

    enough = [least for least in sorted(set(of_truth.tolist())) if reached(least) >= coverage - 1e-9]
    assert least_probability(of_truth, groups, coverage) == (enough[-1] if enough else 0.0)


def test_one_image_a_group_is_split_conformal_as_it_is_written_in_textbooks() -> None:
    scores = np.random.default_rng(0).random(57)
    rank = int(np.ceil(58 * 0.9))  # of the score 1 - p, from the smallest on
    assert least_probability(scores, np.arange(57), 0.9) == pytest.approx(1 - np.sort(1 - scores)[rank - 1])


def test_a_person_of_many_photos_counts_as_one_of_a_single_photo() -> None:
    of_truth, groups = np.array([0.9, 0.8, 0.7, *[0.1] * 1000]), np.array([0, 1, 2, *[3] * 1000])
    assert least_probability(of_truth, groups, 0.6) == 0.7
    assert least_probability(of_truth, np.arange(1003), 0.6) == 0.1


def test_on_new_people_sets_hold_the_true_class_as_often_as_promised_and_hardly_more() -> None:
    held: dict[tuple[str, str], list[float]] = {}
    for seed in range(40):
        joint, truth, groups = drawn(300, seed)
        new, new_truth, new_groups = drawn(300, 1000 + seed)
        masks = fit_sets(SPACE, joint, truth, groups, 0.8).masks(new)
        labels = {**SPACE.split(new_truth), JOINT: new_truth}
        for target, mask in masks.items():
            held.setdefault((target, "all"), []).append(coverage_of(mask, labels[target], new_groups, 0).coverage["score"])
            for label in (0, 1):
                here = labels[target] == label
                found = coverage_of(mask[here], labels[target][here], new_groups[here], 0).coverage["score"]
                held.setdefault((target, str(label)), []).append(found)
    assert len(held) == 9
    for values in held.values():
        assert 0.785 < np.mean(values) < 0.87  # 0.8, and up to what elected classes add


def test_a_class_of_enough_people_has_its_own_quantile_and_rare_ones_share_theirs() -> None:
    rng = np.random.default_rng(1)
    labels = np.array([0] * 60 + [1] * 19 + [2] * 12)
    probs = rng.dirichlet(np.ones(3), len(labels))
    groups = np.arange(len(labels))
    least, own = least_by_class(probs, labels, groups, 0.9)
    of_truth = probs[groups, labels]
    assert own.tolist() == [True, False, False]
    assert least[0] == least_probability(of_truth[:60], groups[:60], 0.9)
    assert least[1] == least[2] == least_probability(of_truth[60:], groups[60:], 0.9)
    few, _ = least_by_class(probs[:70], labels[:70], groups[:70], 0.9)
    assert few[1] == few[2] == least_probability(of_truth[:70], groups[:70], 0.9)
    assert (enough_groups(0.5), enough_groups(0.95)) == (20, 40)


def test_too_few_people_for_the_promise_give_every_class() -> None:
    joint, truth, groups = drawn(8, 0)
    assert all((least == 0).all() for least in fit_sets(SPACE, joint, truth, groups, 0.9).least.values())
    assert all(mask.all() for mask in fit_sets(SPACE, joint[:0], truth[:0], groups[:0], 0.9).masks(joint).values())


def test_sets_are_never_empty_hold_what_is_elected_and_are_whole_for_broken_images() -> None:
    joint, truth, _ = drawn(30, 2)
    sets = PredictionSets(SPACE, {"mask": np.ones(3), "gender": np.ones(2), JOINT: np.ones(6)})
    broken = np.arange(len(joint)) == 1
    texts = sets.texts(joint, broken)
    elected = joint.argmax(axis=1)
    for image in np.flatnonzero(~broken):
        mask, gender = list(product("abd", "mf"))[elected[image]]
        assert texts["mask"][image] == {"a": "a", "b": "b|c", "d": "d"}[mask]
        assert texts["gender"][image] == gender
        assert texts[JOINT][image] == SPACE.joint_classes[elected[image]]
    assert texts["mask"][1] == "a|b|c|d"
    assert texts["gender"][1] == "m|f"
    assert {target: of[:0].tolist() for target, of in sets.texts(joint[:0]).items()} == {"mask": [], "gender": [], JOINT: []}
    assert sets.names(joint)[0]["gender"] == [texts["gender"][0]]
    assert len(truth) == len(texts["mask"])


def test_cross_fitted_sets_are_those_of_what_the_other_parts_fit() -> None:
    joint, truth, groups = drawn(120, 3)
    folds = groups % 4
    masks = cross_fitted_masks(OofPredictions(SPACE, {}, truth, groups, folds), joint, 0.8, 0)
    others = folds != 2
    expected = fit_sets(SPACE, joint[others], truth[others], groups[others], 0.8).masks(joint[~others])
    for target, mask in masks.items():
        np.testing.assert_array_equal(mask[~others], expected[target])


def test_coverage_counts_each_person_once() -> None:
    mask = np.array([[True, False], [True, True], [True, True], [False, True]])
    found = coverage_of(mask, np.array([0, 0, 1, 0]), np.array([0, 0, 0, 1]), 0)
    assert (found.images, found.groups) == (4, 2)
    assert found.coverage["score"] == pytest.approx((1 + 0) / 2)
    assert found.size == pytest.approx(((1 + 2 + 2) / 3 + 1) / 2)
    assert found.single == pytest.approx((1 / 3 + 1) / 2)


def test_what_is_kept_has_all_targets_by_all_classes_and_sets_of_their_own_for_groups() -> None:
    joint, truth, groups = drawn(150, 4)
    truth = SPACE.join({"mask": SPACE.split(truth)["mask"], "gender": groups % 2})
    evidence = OofPredictions(SPACE, {}, truth, groups, groups % 5)
    alone = decide_sets(evidence, joint, Grouping(), 0.9, 0)
    assert alone is not None
    assert {(row["target"], row["task"], row["label"]) for row in alone["rows"]} == {
        (target, *group) for target in ("mask", "gender", JOINT) for group in
        [("", ""), ("mask", "a"), ("mask", "b|c"), ("mask", "d"), ("gender", "m"), ("gender", "f")]
    }  # fmt: skip
    assert alone["own"]["gender"] == ["m", "f"]
    assert "least_by_group" not in alone
    together = decide_sets(evidence, joint, Grouping(("gender",), "mean"), 0.9, 0)
    assert together is not None
    assert together["least_by_group"]["gender"] != together["least"]["gender"]
    several = int((np.bincount(groups)[groups] > 1).sum())
    assert {row["images"] for row in together["rows_by_group"] if not row["task"]} == {several}
    assert decide_sets(evidence, joint, Grouping(), None, 0) is None
