"""Tests of the comparison of fewer models with the whole ensemble: who votes, what is averaged, and how it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raymask.core.columns import by_head
from raymask.core.tasks import JOINT, LabelSpace, Task
from raymask.core.types import ByHead, Labels
from raymask.inference.timing import seconds_of
from raymask.io.atomic import write_json
from raymask.io.hashing import file_digest
from raymask.metrics.bootstrap import parse_metric
from raymask.runs.directory import GREEDY_SOUP, SOUP, ReplicaId, Run
from raymask.runs.models import soups_are_made
from raymask.runs.schemas import Interval
from raymask.training.soup_files import reserve_table
from raymask.transforms.tta import even
from raymask.voting.calibration import Calibration
from raymask.voting.comparison import Strategy, mean_scores, rows_of, scores_of_members, shown, strategies_of
from raymask.voting.selection import Candidate, Fitted
from raymask.voting.vote import Vote

SPACE = LabelSpace((Task("colour", "colour", ("red", "green", "blue")), Task("half", "half", ("top", "bottom"))))
IMAGES, PEOPLE = 60, 12
GROUPS = np.arange(IMAGES) % PEOPLE
JOINTS = np.random.default_rng(0).integers(0, 6, IMAGES)
TRUTH = {**SPACE.split(JOINTS), JOINT: JOINTS}
METRIC = parse_metric("joint.f1", SPACE)


def confident(labels: Labels) -> ByHead:
    """Specialist or not, a member of the head `joint` that says these labels."""
    return {JOINT: np.eye(6)[labels]}


def plain_vote(*names: str) -> Vote:
    fitted = Fitted(Candidate("soft", JOINT, "none"), {JOINT: {}}, {JOINT: None})
    same = Calibration(np.ones(6), np.zeros(6))
    return Vote(SPACE, even(["original"]), {name: {JOINT: same} for name in names}, fitted, same)


def wrong(share: float, seed: int = 1) -> Labels:
    """The truth, but for a share of it."""
    rng = np.random.default_rng(seed)
    at = rng.permutation(IMAGES)[: round(share * IMAGES)]
    labels = JOINTS.copy()
    labels[at] = (labels[at] + rng.integers(1, 6, len(at))) % 6
    return labels


class TestWays:
    def test_folds_vote_together_and_one_by_one(self) -> None:
        said = [JOINTS, JOINTS, wrong(1.0)]
        rounds: list[Mapping[str, ByHead]] = [{"a": confident(labels)} for labels in said]
        whole, fold = strategies_of(plain_vote("a"), rounds, {})
        assert (whole.name, whole.models, fold.name, fold.models) == ("ensemble", 3, "fold", 1)
        np.testing.assert_array_equal(whole.predicted, [JOINTS])  # two against one
        np.testing.assert_array_equal(fold.predicted, said)
        assert strategies_of(plain_vote("a"), rounds, {}, models=2)[0].models == 2  # one of which goes round

    def test_soups_are_a_way_where_all_members_have_one(self) -> None:
        rounds = [{"a": confident(JOINTS), "b": confident(JOINTS)}] * 2
        said = {
            "all": {"a": confident(JOINTS), "b": confident(JOINTS)},
            "soup": {"b": confident(JOINTS)},
            "greedy-soup": {"b": confident(wrong(0.5)), "a": confident(wrong(0.5))},
        }
        ways = strategies_of(plain_vote("a", "b"), rounds, said)
        assert [(way.name, way.models) for way in ways] == [("ensemble", 4), ("fold", 2), ("greedy-soup", 2), ("all", 2)]
        np.testing.assert_array_equal(ways[2].predicted, [wrong(0.5)])

    def test_members_alone_are_told_where_others_lack_one(self) -> None:
        rounds = [{"a": confident(JOINTS), "b": confident(wrong(share))} for share in (0.0, 1.0)]
        told = scores_of_members(SPACE, rounds, {"soup": {"a": confident(wrong(1.0))}}, TRUTH)
        assert {name: list(ways) for name, ways in told.items()} == {"a": ["fold", "soup"], "b": ["fold"]}
        assert told["a"]["soup"][JOINT]["accuracy"] == 0
        assert told["a"]["fold"][JOINT]["accuracy"] == 1
        assert told["b"]["fold"][JOINT]["accuracy"] == 0.5


class TestRows:
    WAYS = (
        Strategy("ensemble", 3, (wrong(0.1),)),
        Strategy("fold", 1, (wrong(0.1), wrong(0.3, 2), wrong(0.5, 3))),
        Strategy("soup", 1, (wrong(0.1),)),
    )

    def test_scores_of_folds_are_means(self) -> None:
        rows = rows_of(self.WAYS, METRIC, SPACE, TRUTH, GROUPS, 0, (9.0, 3.0))
        alone = [
            rows_of([Strategy("ensemble", 1, (labels,))], METRIC, SPACE, TRUTH, GROUPS, 0, (9.0, 3.0))[0]
            for labels in self.WAYS[1].predicted
        ]
        for target in (*SPACE.names, JOINT):
            for kind in ("f1", "accuracy"):
                expected = np.mean([row.scores[target][kind] for row in alone])
                assert rows[1].scores[target][kind] == pytest.approx(expected)
        assert rows[1].score.score == pytest.approx(np.mean([row.score.score for row in alone]))
        assert rows[1].score.score == pytest.approx(rows[1].scores[JOINT]["f1"], abs=1e-6)
        assert rows[1].score.se < max(row.score.se for row in alone) + 1e-9

    def test_the_gain_is_paired(self) -> None:
        whole, fold, soup = rows_of(self.WAYS, METRIC, SPACE, TRUTH, GROUPS, 0, (9.0, 3.0))
        assert whole.gain is None
        assert soup.gain == Interval(score=0.0, se=0.0, low=0.0, high=0.0)  # the same answers, on the same resamples
        assert soup.score == whole.score
        assert fold.gain is not None
        assert fold.gain.score == pytest.approx(fold.score.score - whole.score.score)
        assert fold.gain.low < fold.gain.score < fold.gain.high < 0

    def test_one_model_a_member_takes_the_time_of_one(self) -> None:
        rows = rows_of(self.WAYS, METRIC, SPACE, TRUTH, GROUPS, 0, (9.0, 3.0))
        assert [row.ms_an_image for row in rows] == [9.0, 3.0, 3.0]

    def test_the_metric_may_be_another(self) -> None:
        rows = rows_of(self.WAYS, parse_metric("half.accuracy", SPACE), SPACE, TRUTH, GROUPS, 0, (9.0, 3.0))
        for row in rows:
            assert row.score.score == pytest.approx(row.scores["half"]["accuracy"], abs=1e-6)

    def test_are_shown_with_every_targets_score(self) -> None:
        columns, cells = shown("joint.f1", rows_of(self.WAYS, METRIC, SPACE, TRUTH, GROUPS, 0, (9.0, 3.25)))
        assert columns[-4:] == ["colour F1", "half F1", "joint F1", "ms/image"]
        assert [row[0] for row in cells] == ["ensemble of all folds", "one fold's models", "soups"]
        assert {len(row) for row in cells} == {len(columns)}
        assert cells[0][5:8] == ["", "", ""]
        assert cells[2][5:8] == ["+0.0000"] * 3
        assert cells[1][-1] == "3.25"

    def test_of_one_task_its_score_is_shown_once(self) -> None:
        space = LabelSpace((SPACE.tasks[0],))
        labels = TRUTH["colour"]
        rows = rows_of(
            [Strategy("ensemble", 1, (labels,))], METRIC, space, {"colour": labels, JOINT: labels}, GROUPS, 0, (1.0, 1.0)
        )
        assert shown("joint.f1", rows)[0][-2:] == ["colour F1", "ms/image"]


def test_means_of_scores() -> None:
    scores = [{"a": {"f1": 0.25, "accuracy": 1.0}}, {"a": {"f1": 0.75, "accuracy": 0.5}}]
    assert mean_scores(scores) == {"a": {"f1": 0.5, "accuracy": 0.75}}


def test_a_reserve_table_reads_like_that_of_replicas() -> None:
    replica = ReplicaId("colours", GREEDY_SOUP)
    said = {"colour": np.random.default_rng(0).dirichlet(np.ones(3), 4)}
    table = reserve_table(pd.Series(["d", "b", "c", "a"]), replica, said, SPACE)
    assert list(table) == ["image_id", "problem", *(f"colours/greedy-soup|colour:{name}" for name in ("red", "green", "blue"))]
    assert table["image_id"].tolist() == ["a", "b", "c", "d"]
    assert (table["problem"] == "").all()
    assert table.dtypes.iloc[2] == np.float32
    np.testing.assert_allclose(by_head(table, str(replica))["colour"], said["colour"][[3, 1, 2, 0]], rtol=1e-6)


def test_soups_are_made_for_the_views_that_the_greedy_one_was_chosen_under(tmp_path: Path) -> None:
    run, views = Run(tmp_path), even(["original", "hflip"])
    known = {"classes": {"a": ["x", "y"]}, "recipe": {}}
    write_json(run.meta(ReplicaId("a", SOUP)), {})
    assert not soups_are_made(run, "a", views)
    write_json(run.meta(ReplicaId("a", GREEDY_SOUP)), {**known, "views": views.to_json()})
    assert soups_are_made(run, "a", views)
    assert not soups_are_made(run, "a", even(["original"]))
    replica = run.weights(ReplicaId("a", 0))
    replica.parent.mkdir()
    replica.write_bytes(b"weights")
    write_json(
        run.meta(ReplicaId("a", GREEDY_SOUP)), {**known, "views": views.to_json(), "made_of": {"fold-0": file_digest(replica)}}
    )
    assert soups_are_made(run, "a", views)
    replica.write_bytes(b"trained again")
    assert not soups_are_made(run, "a", views)


class TestSeconds:
    def seconds(self, *taken: list[float]) -> tuple[list[float], list[int]]:
        """What is measured of works that take so long each time, and in which order they are done."""
        now, left, done = [0.0], [list(of_work) for of_work in taken], list[int]()

        def work(place: int) -> None:
            now[0] += left[place].pop(0)
            done.append(place)

        return seconds_of([partial(work, place) for place in range(len(taken))], 1.0, lambda: now[0]), done

    def test_are_the_median_without_the_first(self) -> None:
        assert self.seconds([5.0, 0.25, 0.5, 0.25, 9.0]) == ([0.25], [0, 0, 0, 0])

    def test_of_slow_work_are_those_of_its_first_time(self) -> None:
        assert self.seconds([11.0, 11.0]) == ([11.0], [0])

    def test_works_take_turns(self) -> None:
        assert self.seconds([1.0, 0.5, 0.75], [0.5, 1.25]) == ([0.625, 1.25], [0, 1, 0, 1, 0])
