"""Tests of the scores against scikit-learn and against cases worked by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, classification_report, f1_score, precision_recall_fscore_support

from raymask.core.tasks import JOINT, MULTI, LabelSpace, Task, heads_of
from raymask.metrics.scores import SCORE_KINDS, accuracy, class_counts, macro_f1, score, score_heads, score_joint

SPACE = LabelSpace((Task("mask", "mask", ("worn", "wrong", "none")), Task("gender", "gender", ("male", "female"))))
PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


def by_definition(truth: np.ndarray, predicted: np.ndarray) -> float:
    """By its definition: over the classes that are in either, 0 where a class is never right."""
    scores = []
    for label in np.union1d(truth, predicted):
        hits = ((truth == label) & (predicted == label)).sum()
        scores.append(2 * hits / ((truth == label).sum() + (predicted == label).sum()))
    return float(np.mean(scores))


class TestScore:
    @settings(deadline=None)
    @given(PAIRS)
    def test_equals_the_definition_and_scikit_learn_with_classes_absent(self, pairs: list[tuple[int, int]]) -> None:
        truth, predicted = np.array(pairs).T
        of_sklearn = classification_report(truth, predicted, output_dict=True, zero_division=0.0)
        said = score(truth, predicted)
        assert said["f1"] == pytest.approx(by_definition(truth, predicted))
        assert said["f1"] == pytest.approx(of_sklearn["macro avg"]["f1-score"])
        assert said["accuracy"] == pytest.approx(accuracy_score(truth, predicted))

    def test_a_class_never_predicted_counts_as_0_without_a_warning(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            said = score([0, 0, 1, 2], [0, 0, 1, 1])
        assert said == {"f1": pytest.approx((1 + 2 / 3 + 0) / 3), "accuracy": 0.75}

    def test_a_class_in_neither_does_not_count(self) -> None:
        assert score([0, 2], [0, 2])["f1"] == 1.0

    def test_gives_plain_floats_that_json_can_hold(self) -> None:
        assert {type(value) for value in score(np.array([0, 1]), np.array([0, 1])).values()} == {float}


class TestCounts:
    @settings(deadline=None, max_examples=100)
    @given(st.integers(1, 20), st.integers(1, 12), st.integers(0, 2**32 - 1))
    def test_macro_f1_is_scikit_learns_to_the_last_digit_whichever_classes_there_are(
        self, classes: int, images: int, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        truth, predicted = rng.integers(0, classes, (2, images)) * rng.integers(0, 2)
        expected = f1_score(truth, predicted, average="macro", zero_division=0)
        assert macro_f1(truth, predicted, classes) == expected
        assert macro_f1(truth, predicted, classes + 3) == expected
        assert accuracy(truth, predicted) == accuracy_score(truth, predicted)

    @settings(deadline=None)
    @given(PAIRS)
    def test_precision_recall_and_f1_by_class_are_those_of_scikit_learn(self, pairs: list[tuple[int, int]]) -> None:
        truth, predicted = np.array(pairs).T
        counts = class_counts(truth, predicted, 6)
        expected = precision_recall_fscore_support(truth, predicted, labels=range(6), zero_division=0.0)
        for found, wanted in zip((counts.precision, counts.recall, counts.f1, counts.true), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
        assert float(counts.macro_f1) == pytest.approx(f1_score(truth, predicted, average="macro", zero_division=0.0))
        assert float(counts.accuracy) == accuracy_score(truth, predicted)

    def test_by_hand(self) -> None:
        truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 3, 1, 1])
        assert SCORE_KINDS["f1"].of_labels(truth, predicted, 4) == pytest.approx((2 / 3 + 1 + 0) / 3)
        assert SCORE_KINDS["accuracy"].of_labels(truth, predicted, 4) == 0.75

    def test_without_images_all_scores_are_0(self) -> None:
        nothing = np.array([], dtype=np.int64)
        assert score(nothing, nothing) == {"f1": 0.0, "accuracy": 0.0}


class TestHeads:
    def test_of_each_kind_of_member(self) -> None:
        assert heads_of("mask", SPACE) == {"mask": 3}
        assert heads_of(JOINT, SPACE) == {JOINT: 6}
        assert list(heads_of(MULTI, SPACE).items()) == [("mask", 3), ("gender", 2)]


def truth_of(mask: list[int], gender: list[int]) -> dict[str, np.ndarray]:
    truth = {"mask": np.array(mask), "gender": np.array(gender)}
    return {**truth, JOINT: SPACE.join(truth)}


class TestScoreHeads:
    TRUTH = truth_of([0, 1, 2, 0], [0, 1, 1, 0])
    MASK = np.eye(3)[[0, 1, 2, 1]]
    GENDER = np.eye(2)[[0, 1, 0, 0]]

    def test_a_specialist_has_its_task_alone(self) -> None:
        scores = score_heads(SPACE, {"mask": self.MASK}, self.TRUTH)
        assert scores == {"mask": score([0, 1, 2, 0], [0, 1, 2, 1])}

    def test_all_heads_together_make_a_joint_prediction(self) -> None:
        scores = score_heads(SPACE, {"gender": self.GENDER, "mask": self.MASK}, self.TRUTH)
        assert scores["gender"] == score([0, 1, 1, 0], [0, 1, 0, 0])
        assert scores[JOINT] == score([0, 3, 5, 0], [0, 3, 4, 2])
        assert scores[JOINT]["accuracy"] == 0.5

    def test_a_joint_head_is_split_into_the_tasks(self) -> None:
        scores = score_heads(SPACE, {JOINT: np.eye(6)[[0, 3, 4, 2]]}, self.TRUTH)
        assert scores == score_heads(SPACE, {"mask": self.MASK, "gender": self.GENDER}, self.TRUTH)

    def test_one_task_alone_has_a_joint_score_equal_to_its_own(self) -> None:
        space = LabelSpace((SPACE["mask"],))
        truth = {"mask": self.TRUTH["mask"], JOINT: self.TRUTH["mask"]}
        scores = score_heads(space, {"mask": self.MASK}, truth)
        assert scores["mask"] == scores[JOINT]

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=20))
    def test_scores_of_a_joint_prediction_are_those_of_its_parts(self, pairs: list[tuple[int, int]]) -> None:
        joint, predicted = np.array(pairs).T
        scores = score_joint(SPACE, predicted, {**SPACE.split(joint), JOINT: joint})
        assert scores["mask"] == score(joint // 2, predicted // 2)
        assert scores["gender"] == score(joint % 2, predicted % 2)
        assert scores[JOINT] == score(joint, predicted)
        assert scores[JOINT]["accuracy"] <= min(scores["mask"]["accuracy"], scores["gender"]["accuracy"]) + 1e-12
