"""Tests of the comparison of backbones: its numbers, what it advises, and its table and picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import f1_score

from raymask.core.tasks import LabelSpace, Task
from raymask.io.atomic import write_table
from raymask.metrics.bootstrap import Metric
from raymask.report.bakeoff import Probed, as_table, scored, shown, verdict, write_plot
from raymask.runs.schemas import BackboneScore, BakeOff

SPACE = LabelSpace((Task("mask", "mask", ("worn", "none")), Task("age", "age", ("young", "old", "ancient"))))
IMAGES, PEOPLE = 600, 120
RNG = np.random.default_rng(5)
TRUTH = RNG.integers(0, SPACE.joint_size, IMAGES)
GROUPS = np.arange(IMAGES) % PEOPLE


def said(share_right: float, seed: int) -> np.ndarray:
    """Joint labels of which so many are right."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(IMAGES) < share_right, TRUTH, rng.integers(0, SPACE.joint_size, IMAGES))


def probed(name: str, labels: np.ndarray, ms: float) -> Probed:
    return Probed(name, f"timm_{name}", (96, 64), labels, 2_500_000, 512, ms)


def compared(*backbones: Probed, **more: Any) -> BakeOff:
    rows = scored(backbones, Metric("joint", "f1"), SPACE, TRUTH, GROUPS, seed=0)
    return BakeOff(metric="joint.f1", images=IMAGES, groups=PEOPLE, device="a CPU", rows=[*rows, *more.get("refused", [])])


GOOD, ALIKE, WORSE = said(0.8, 1), said(0.79, 2), said(0.5, 3)
REFUSED = BackboneScore(name="far", backbone="far", height=96, width=96, problem="the hub cannot be reached.")


def test_scores_are_those_of_scikit_learn() -> None:
    [row] = compared(probed("a", GOOD, 1.0)).rows
    parts = {"mask": (TRUTH // 3, GOOD // 3), "age": (TRUTH % 3, GOOD % 3), "joint": (TRUTH, GOOD)}
    for target, (true, predicted) in parts.items():
        assert row.scores[target].score == pytest.approx(f1_score(true, predicted, average="macro"))
    assert row.score == row.scores["joint"]


def test_a_single_task_has_one_column_of_scores() -> None:
    space = LabelSpace((Task("mask", "mask", ("worn", "none")),))
    labels = replace(probed("a", GOOD, 1.0), labels=GOOD // 3)
    [row] = scored([labels], Metric("joint", "f1"), space, TRUTH // 3, GROUPS, seed=0)
    assert list(row.scores) == ["mask"]
    assert row.score == row.scores["mask"]


def by_hand(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Macro-F1 of labels of which each class is there."""
    scores = []
    for label in range(SPACE.joint_size):
        of_class, said_so = truth == label, predicted == label
        scores.append(2 * (of_class & said_so).sum() / (of_class.sum() + said_so.sum()))
    return float(np.mean(scores))


def test_the_difference_to_the_best_is_taken_on_the_same_resamples_of_people() -> None:
    best, other = compared(probed("worse", ALIKE, 1.0), probed("best", GOOD, 1.0)).rows
    assert (best.name, other.name) == ("best", "worse")
    draws, differences = np.random.default_rng(9), []
    for _ in range(400):
        people = draws.integers(0, PEOPLE, PEOPLE)
        rows = np.concatenate([np.flatnonzero(person == GROUPS) for person in people])
        f1 = [by_hand(TRUTH[rows], labels[rows]) for labels in (ALIKE, GOOD)]
        differences.append(f1[0] - f1[1])
    assert other.behind is not None
    assert best.behind is not None
    assert other.behind.score == pytest.approx(other.scores["joint"].score - best.scores["joint"].score)
    assert other.behind.low == pytest.approx(np.quantile(differences, 0.025), abs=0.01)
    assert other.behind.high == pytest.approx(np.quantile(differences, 0.975), abs=0.01)
    assert (best.behind.score, best.behind.low, best.behind.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("ms", "chosen", "sentence"),
    [
        (
            (9.0, 3.0, 1.0),
            "alike",
            "of 2 whose difference to the best by joint.f1, good, may be 0 (95% intervals) it is the fastest, 3 ms",
        ),
        (
            (3.0, 9.0, 1.0),
            "good",
            "it is the best by joint.f1, and of those whose difference to it may be 0 (95%",
        ),
    ],
)
def test_of_those_level_with_the_best_the_cheapest_is_to_be_fine_tuned(
    ms: tuple[float, float, float], chosen: str, sentence: str
) -> None:
    names = zip(("good", "alike", "worse"), (GOOD, ALIKE, WORSE), ms, strict=True)
    result = compared(*(probed(*each) for each in names), refused=[REFUSED])
    assert [row.name for row in result.rows] == ["good", "alike", "worse", "far"]
    assert [row.level for row in result.rows] == [True, True, False, False]
    assert [row.name for row in result.rows if row.chosen] == [chosen]
    assert verdict(result).startswith(f"fine-tune {chosen}: {sentence}")


def test_one_that_stands_alone_is_named_whatever_it_costs() -> None:
    result = compared(probed("worse", WORSE, 1.0), probed("good", GOOD, 100.0))
    assert verdict(result).startswith("fine-tune good: it is the best by joint.f1, and no other's difference to it may be 0")


def test_another_metric_decides_otherwise() -> None:
    right_of_age = TRUTH % 3 + 3 * RNG.integers(0, 2, IMAGES)
    backbones = [probed("joint", GOOD, 1.0), probed("age", right_of_age, 1.0)]
    names = [scored(backbones, Metric(name, "f1"), SPACE, TRUTH, GROUPS, 0)[0].name for name in ("joint", "age")]
    assert names == ["joint", "age"]


def test_the_table_has_a_row_for_each_and_a_reason_where_one_cannot_be_had(tmp_path: Path) -> None:
    result = compared(probed("good", GOOD, 4.0), probed("worse", WORSE, 1.0), refused=[REFUSED])
    columns, rows = shown(result)
    assert {len(row) for row in rows} == {len(columns)}
    assert rows[0][:5] == ["good", "96×64", "2.5", "512", "4"]
    assert rows[0][-1] == "fine-tune it"
    assert rows[2] == ["far", "96", *["-"] * 7, "cannot be had"]
    table = as_table(result)
    assert table["name"].tolist() == ["good", "worse", "far"]
    assert table["joint_f1"].tolist()[:2] == [row.scores["joint"].score for row in result.rows[:2]]
    assert (table["joint_f1_low"] < table["joint_f1"])[:2].all()
    assert table["problem"].tolist() == ["", "", "the hub cannot be reached."]
    write_table(tmp_path / "t.csv", table)


def test_the_picture_is_written_also_of_one_backbone(tmp_path: Path) -> None:
    one = probed("good", GOOD, 0.04)
    for number, result in enumerate(
        (compared(one), compared(one, replace(one, name="slow", ms_an_image=900.0), refused=[REFUSED]))
    ):
        write_plot(result, tmp_path / f"{number}.png")
        picture = Image.open(tmp_path / f"{number}.png")
        assert picture.size == (1050, 690)
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20
