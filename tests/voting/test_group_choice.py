"""Tests of whether tasks are voted by group: decided by what it gains, with what choosing flatters taken off."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from raymask.config.vote import VoteConfig
from raymask.core.tasks import LabelSpace, Task
from raymask.core.types import Probabilities
from raymask.metrics.bootstrap import Metric
from raymask.voting.group_choice import choose_grouping, gain, groupings, pooled_with, summary, usual_size
from raymask.voting.grouping import ALONE, Grouping, pooled
from raymask.voting.selection import OofPredictions

SPACE = LabelSpace((Task("mask", "m", ("a", "b")), Task("gender", "g", ("m", "f")), Task("age", "a", ("y", "o"))))
METRIC = Metric("joint", "f1")
CONSTANT = ("gender", "age")


def drawn(people: int = 60, each: int = 5, noise: float = 1.0, age_noise: float = 0.1) -> tuple[OofPredictions, Probabilities]:
    """People of one gender and one age, whose images say so with noise: little of the age, which pooling so cannot better."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(people), each)
    labels = {name: rng.integers(0, 2, people)[groups] for name in CONSTANT} | {"mask": rng.integers(0, 2, len(groups))}
    said = {}
    for name, of_task in (("mask", 0.1), ("gender", noise), ("age", age_noise)):
        logits = (2 * labels[name] - 1) + of_task * rng.normal(0, 2, len(groups))
        said[name] = np.stack([1 / (1 + np.exp(logits)), 1 / (1 + np.exp(-logits))], axis=1)
    return OofPredictions(SPACE, {}, SPACE.join(labels), groups, groups % 4), SPACE.product(said)


def test_the_task_that_gains_is_chosen_and_no_other() -> None:
    evidence, joint = drawn()
    choice = choose_grouping(evidence, joint, CONSTANT, VoteConfig(), METRIC, 0)
    assert choice is not None
    assert choice.chosen == Grouping(("gender",), "mean")
    assert choice.candidates == CONSTANT
    assert len(choice.rows) == 7
    grouped = pooled(SPACE, joint, evidence.groups, choice.chosen).argmax(axis=1)
    alone = joint.argmax(axis=1)
    found = f1_score(evidence.truth, grouped, average="macro") - f1_score(evidence.truth, alone, average="macro")
    assert choice.gain is not None
    assert choice.gain["score"] == pytest.approx(found, abs=1e-6)
    assert choice.gains["joint"] == choice.gain
    assert choice.gains["mask"]["score"] == 0
    assert choice.gain["low"] > 0


def test_where_nothing_is_gained_each_image_is_voted_on_alone() -> None:
    evidence, joint = drawn(noise=0.05)
    choice = choose_grouping(evidence, joint, CONSTANT, VoteConfig(), METRIC, 0)
    assert choice is not None
    assert choice.chosen == ALONE
    assert choice.gain is None
    written = summary(choice, 0.0)
    assert written["tasks"] == written["sizes"] == []
    assert written["gain"] is None


def test_without_a_candidate_or_where_it_is_not_wanted_nothing_is_compared() -> None:
    evidence, joint = drawn()
    assert choose_grouping(evidence, joint, (), VoteConfig(), METRIC, 0) is None
    assert choose_grouping(evidence, joint, CONSTANT, VoteConfig(groups="none"), METRIC, 0) is None


def test_tasks_that_are_fixed_are_compared_by_pool_alone() -> None:
    evidence, joint = drawn()
    choice = choose_grouping(evidence, joint, CONSTANT, VoteConfig(groups=("age",)), METRIC, 0)
    assert choice is not None
    assert {row.grouping for row in choice.rows} == {Grouping(("age",), "mean"), Grouping(("age",), "geometric")}
    assert choice.chosen.tasks == ("age",)


def test_what_choosing_flatters_is_taken_off_the_estimate_beside_what_the_vote_flatters() -> None:
    evidence, joint = drawn(people=14, noise=1.5, age_noise=1.5)
    choice = choose_grouping(evidence, joint, CONSTANT, VoteConfig(), METRIC, 0)
    assert choice is not None
    assert choice.chosen.tasks
    assert choice.optimism > 0
    assert choice.gain is not None
    written = summary(choice, 0.25)
    assert written["estimate"]["score"] == pytest.approx(choice.score["score"] - 0.25 - choice.optimism)
    assert written["estimate"]["high"] - written["estimate"]["low"] == pytest.approx(choice.score["high"] - choice.score["low"])
    assert written["gain"]["low"] == pytest.approx(choice.gain["low"] - choice.optimism)
    assert written["sizes"][-1]["gain"] == written["gain"]
    assert written["sizes"][-1]["score"] == pytest.approx(written["estimate"]["score"])
    assert [row["images"] for row in written["sizes"]] == [2, 3, 5]
    assert [row["chosen"] for row in written["rows"]].count(True) == 1


def test_the_interval_of_a_gain_is_of_differences_on_the_same_people() -> None:
    evidence, joint = drawn()
    labels = joint.argmax(axis=1)
    same = gain(METRIC, evidence, (labels, labels), 0)
    assert same == {"score": 0, "se": 0, "low": 0, "high": 0}


class TestSizes:
    def test_each_image_is_voted_on_with_so_many_of_its_group(self) -> None:
        evidence, joint = drawn(people=4, each=5)
        grouping = Grouping(("gender",), "mean")
        result = pooled_with(evidence, joint, grouping, 3, 0)
        own, said = SPACE.marginal(joint, "gender"), SPACE.marginal(result, "gender")
        for image, group in enumerate(evidence.groups):
            members = np.flatnonzero(evidence.groups == group)
            others = [(a, b) for a in members for b in members if a < b and image not in (a, b)]
            near = [np.allclose(said[image], own[[image, *pair]].mean(axis=0), atol=1e-12) for pair in others]
            assert sum(near) == 1
        used = [len({tuple(np.round(said[evidence.groups == group][:, 0], 9))}) for group in range(4)]
        assert used == [1, 1, 1, 1]

    @pytest.mark.parametrize("size", [5, 9])
    def test_of_as_many_or_more_than_there_are_it_is_the_whole_group(self, size: int) -> None:
        evidence, joint = drawn(people=6, each=5)
        grouping = Grouping(("gender", "age"), "geometric")
        whole = pooled(SPACE, joint, evidence.groups, grouping)
        np.testing.assert_allclose(pooled_with(evidence, joint, grouping, size, 0), whole, rtol=1e-9)

    def test_one_image_is_voted_on_alone(self) -> None:
        evidence, joint = drawn(people=3)
        assert pooled_with(evidence, joint, Grouping(("gender",)), 1, 0).tobytes() == joint.tobytes()

    def test_the_usual_size_is_that_of_most_images(self) -> None:
        assert usual_size(np.repeat(np.arange(12), [1] * 10 + [30, 7])) == 30


def test_of_many_tasks_not_all_subsets_are_tried() -> None:
    few, many = groupings(["a", "b", "c"]), groupings([f"task{number}" for number in range(9)])
    assert len(few) == len(set(few)) == 1 + 2 * 7
    assert len(many) == len(set(many)) == 1 + 2 * (9 + 9 + 1)
    assert groupings([]) == [ALONE]
