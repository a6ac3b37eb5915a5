"""Tests of what a run learns from another: who is taught what by whom, and what it gains."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymask.config.loading import load_config
from raymask.config.schema import TeacherConfig
from raymask.core.errors import InputError
from raymask.core.tasks import JOINT, LabelSpace, Task
from raymask.core.types import ByHead
from raymask.metrics.bootstrap import Metric
from raymask.runs.directory import ANY_FOLD, WHOLE
from raymask.training.pseudo_labels import confident, labelled_targets, least_confidences, unlabelled_targets
from raymask.workflows.compare_runs import gained, taught_by_class
from raymask.workflows.teacher import predictions_by_fold

SPACE = LabelSpace((Task("colour", "colour", ("red", "green", "blue")), Task("half", "half", ("top", "bottom"))))
COLUMNS = [f"{JOINT}:{name}" for name in SPACE.joint_classes]


def saying(*said: tuple[int, float], classes: int = 6) -> np.ndarray:
    """(N, J) probabilities that elect these labels with these confidences."""
    joint = np.array([[(1 - confidence) / (classes - 1)] * classes for _, confidence in said])
    for row, (label, confidence) in enumerate(said):
        joint[row, label] = confidence
    return joint


def drawn(seed: int, images: int, right: float) -> tuple[np.ndarray, np.ndarray]:
    """(N, J) probabilities, in tenths so that confidences are often equal, and the truth."""
    rng = np.random.default_rng(seed)
    joint = np.round(rng.dirichlet(np.full(6, 0.5), images), 1)
    return joint, np.where(rng.random(images) < right, joint.argmax(axis=1), rng.integers(0, 6, images))


DRAWN = st.builds(drawn, st.integers(0, 2**32 - 1), st.integers(1, 200), st.sampled_from([0.0, 0.5, 0.9, 1.0]))


class TestLeastConfidences:
    def test_by_hand(self) -> None:
        joint = saying((0, 0.9), (0, 0.8), (0, 0.7), (0, 0.6), (1, 0.9), (1, 0.9), (1, 0.5))
        truth = np.array([0, 0, 1, 0, 1, 2, 1])
        least = least_confidences(joint, truth, 0.75, evidence=2)
        assert least.tolist() == [0.6, *[np.inf] * 5], "class 1 is right half of the time at 0.9, two of three times at 0.5"
        assert least_confidences(joint, truth, 0.8, evidence=2)[:2].tolist() == [0.8, np.inf]
        assert least_confidences(joint, truth, 0.6, evidence=2)[:2].tolist() == [0.6, 0.5]
        assert least_confidences(joint, truth, 0.8, evidence=3)[0] == np.inf

    def test_precision_0_takes_every_image(self) -> None:
        joint, truth = drawn(0, 50, 0.0)
        assert confident(joint, least_confidences(joint, truth, 0.0)).all()

    @settings(deadline=None, max_examples=100)
    @given(DRAWN, st.floats(0.01, 1), st.integers(1, 12))
    def test_it_is_the_least_of_all_that_are_good_enough(
        self, drawn_: tuple[np.ndarray, np.ndarray], precision: float, evidence: int
    ) -> None:
        joint, truth = drawn_
        least, elected, confidence = least_confidences(joint, truth, precision, evidence), joint.argmax(1), joint.max(1)
        for label in range(6):
            good = []
            for level in np.unique(confidence[elected == label]):
                taken = (elected == label) & (confidence >= level)
                if taken.sum() >= evidence and (truth[taken] == label).sum() / taken.sum() >= precision:
                    good.append(level)
            assert least[label] == min(good, default=np.inf)

    @settings(deadline=None, max_examples=50)
    @given(DRAWN, st.floats(0, 1), st.floats(0, 1))
    def test_who_asks_for_more_is_sure_of_fewer(self, drawn_: tuple[np.ndarray, np.ndarray], first: float, second: float) -> None:
        joint, truth = drawn_
        few, many = (
            confident(joint, least_confidences(joint, truth, precision)) for precision in (max(first, second), min(first, second))
        )
        assert not (few & ~many).any()


class TestTargets:
    def test_the_truth_and_what_was_said_are_mixed(self) -> None:
        said = saying((1, 0.5), (2, 1.0))
        table = labelled_targets(["a", "b"], np.array([0, 2]), said, 0.3, SPACE)
        assert table["fold"].tolist() == [ANY_FOLD] * 2
        expected = np.array([[0.37, 0.35, 0.07, 0.07, 0.07, 0.07], [0, 0, 1, 0, 0, 0]])
        np.testing.assert_allclose(table[COLUMNS].to_numpy(), expected, atol=1e-6)

    @settings(deadline=None, max_examples=50)
    @given(DRAWN, st.floats(0, 0.99))
    def test_targets_are_shares(self, drawn_: tuple[np.ndarray, np.ndarray], truth: float) -> None:
        said, labels = drawn_[0] + 0.01, drawn_[1]
        ids = [str(row) for row in range(len(labels))]
        soft = unlabelled_targets(ids, {0: said}, np.zeros(6), hard=False, space=SPACE)
        for table in (labelled_targets(ids, labels, said, truth, SPACE), soft):
            assert table["image_id"].tolist() == ids
            np.testing.assert_allclose(table[COLUMNS].sum(axis=1), 1, atol=1e-5)
            assert (table[COLUMNS] >= 0).all(axis=None)

    def test_where_the_truth_alone_counts_labels_stay_what_they_are(self) -> None:
        table = labelled_targets(["a"], np.array([0]), saying((1, 0.5)), 1.0, SPACE)
        assert table.empty
        assert list(table) == ["image_id", "fold", *COLUMNS]

    def test_each_fold_is_taught_what_its_own_replicas_are_sure_of(self) -> None:
        least = np.array([0.6, 0.9, *[np.inf] * 4])
        said = {0: saying((0, 0.7), (1, 0.8)), 1: saying((0, 0.5), (1, 0.95)), WHOLE: saying((0, 0.6), (2, 0.99))}
        hard = unlabelled_targets(["test/a", "test/b"], said, least, hard=True, space=SPACE)
        assert list(zip(hard["image_id"], hard["fold"], strict=True)) == [("test/a", 0), ("test/b", 1), ("test/a", WHOLE)]
        assert hard[COLUMNS].to_numpy().tolist() == np.eye(6)[[0, 1, 0]].tolist()
        soft = unlabelled_targets(["test/a", "test/b"], said, least, hard=False, space=SPACE)
        np.testing.assert_allclose(soft[COLUMNS], saying((0, 0.7), (1, 0.95), (0, 0.6)), atol=1e-6)

    def test_a_fold_hears_no_other_and_all_people_hear_every_fold(self) -> None:
        rounds: list[dict[str, ByHead]] = [{"a": {JOINT: saying((label, 0.8))}} for label in (0, 1)]

        def vote(members: dict[str, ByHead]) -> np.ndarray:
            return np.asarray(members["a"][JOINT])

        said = predictions_by_fold(vote, rounds, (0, 3))  # type: ignore[arg-type]
        assert list(said) == [0, 3, WHOLE]
        np.testing.assert_array_equal(said[3], saying((1, 0.8)))
        np.testing.assert_allclose(said[WHOLE], [[0.42, 0.42, 0.04, 0.04, 0.04, 0.04]])
        some = predictions_by_fold(vote, rounds, (0,))  # type: ignore[arg-type]
        assert list(some) == [0, WHOLE]  # of fold 3 some member has no model, so that its round knows people of fold 3
        np.testing.assert_array_equal(some[WHOLE], said[WHOLE])


class TestGain:
    def test_the_difference_is_that_of_the_scores_on_the_same_people(self) -> None:
        truth = np.arange(60) % 6
        worse = np.where(np.arange(60) < 12, (truth + 1) % 6, truth)
        told = gained(SPACE, Metric(JOINT, "accuracy"), truth, worse, truth, np.arange(60) // 2, seed=0)
        assert (told["before"], told["after"]) == pytest.approx((0.8, 1.0))
        assert told["gain"]["score"] == pytest.approx(0.2)
        assert 0 < told["gain"]["low"] < 0.2 < told["gain"]["high"]
        assert (told["images"], told["groups"]) == (60, 30)
        nothing = gained(SPACE, Metric(JOINT, "f1"), truth, worse, worse, np.arange(60) // 2, seed=0)
        assert nothing["gain"] == {"score": 0, "se": 0, "low": 0, "high": 0}, "equal on each resample"

    def test_taught_images_are_counted_by_class_and_part(self) -> None:
        said = {0: saying((0, 0.9), (1, 0.9)), WHOLE: saying((1, 0.9), (1, 0.9))}
        tables = [
            labelled_targets(["a"], np.array([0]), saying((3, 0.5)), 0.5, SPACE),
            unlabelled_targets(["b", "c"], said, np.zeros(6), hard=False, space=SPACE),
        ]
        counts = taught_by_class(pd.concat(tables), SPACE)
        assert {part: [*of_class.values()] for part, of_class in counts.items()} == {
            "fold-0": [1, 1, 0, 0, 0, 0],
            "all": [0, 2, 0, 0, 0, 0],
        }
        assert json.dumps(counts)


class TestConfig:
    def test_a_teacher_that_teaches_nothing_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"^teacher: with truth 1 and unlabelled none there is nothing to learn"):
            load_config("demo", ["teacher.run=runs/x"])

    @pytest.mark.parametrize(
        ("setting", "sentence"),
        [
            ("teacher.truth=2", r"^'teacher.truth' is 2; "),
            ("teacher.unlabelled=firm", r"^'teacher.unlabelled' is 'firm'; it may be .*'hard'"),
            ("teacher.truths=0.5", r"there is no key 'teacher.truths'; it may be 'truth' \(the nearest\)"),
        ],
    )
    def test_a_mistake_is_named(self, setting: str, sentence: str) -> None:
        with pytest.raises(InputError, match=sentence):
            load_config("demo", ["teacher.run=runs/x", "teacher.unlabelled=soft", setting])

    def test_the_precision_is_asked_for_by_default(self) -> None:
        assert TeacherConfig(run=Path("x"), unlabelled="hard") == TeacherConfig(
            run=Path("x"), truth=1, unlabelled="hard", precision=0.95
        )
