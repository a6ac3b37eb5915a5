"""Tests of the choice of views: fewest good ones, and gains that were not selected on what they are measured on."""

from __future__ import annotations

import numpy as np
import pytest

from raymask.core.tasks import JOINT, LabelSpace, Task
from raymask.metrics.bootstrap import Metric
from raymask.metrics.scores import score
from raymask.transforms.tta import MERGES, ViewPlan, even, merge_views
from raymask.voting.view_selection import OofByView, choose_views, merged

SPACE = LabelSpace((Task("mask", "mask", ("worn", "wrong", "none")), Task("gender", "gender", ("male", "female"))))
METRIC = Metric(JOINT, "accuracy")
GROUPS = np.repeat(np.arange(100), 4)
PARTS = GROUPS % 4
TRUTH = np.random.default_rng(0).integers(0, 6, 400)


def seen(strengths: list[float], seed: int = 0, sureness: list[float] | None = None, truth: np.ndarray = TRUTH) -> np.ndarray:
    """(W, N, 6) what a member says under views that show more or less; views of one strength err apart from each other."""
    rng = np.random.default_rng(seed)
    raised = np.exp(
        np.array(sureness or [1.0] * len(strengths))[:, None, None]
        * (rng.normal(0, 1, (len(strengths), 400, 6)) + np.array(strengths)[:, None, None] * np.eye(6)[truth])
    )
    return raised / raised.sum(axis=2, keepdims=True)


def choose(said: np.ndarray, names: tuple[str, ...], **others: object):
    given = {"truth": TRUTH, "groups": GROUPS, "parts": PARTS, "metric": METRIC, "seed": 0, **others}
    oof = OofByView(SPACE, {"joint": {JOINT: said}}, names, given.pop("truth"), given.pop("groups"), PARTS)
    return choose_views(oof, **given)


class TestPlan:
    @pytest.mark.parametrize(
        ("plan", "text"),
        [
            (even(["original"]), "original"),
            (even(["original"], "max"), "original"),
            (even(["original", "hflip"]), "original + hflip"),
            (ViewPlan(("original", "hflip"), (2.0, 2.0), "mean"), "original + hflip"),
            (ViewPlan(("original", "hflip"), (1.0, 2.0), "mean"), "1 original + 2 hflip"),
            (ViewPlan(("original", "zoom"), (1.5, 1.0), "geometric"), "1.5 original + 1 zoom, geometric"),
            (even(["original", "hflip"], "max"), "original + hflip, max"),
        ],
    )
    def test_says_what_it_is(self, plan: ViewPlan, text: str) -> None:
        assert str(plan) == text

    def test_fewer_views_are_simpler_then_equal_weights_then_the_mean(self) -> None:
        ordered = [
            even(["original"]),
            even(["original", "hflip"]),
            even(["original", "hflip"], "geometric"),
            ViewPlan(("original", "hflip"), (2.0, 1.0), "mean"),
            even(["original", "hflip", "zoom"]),
        ]
        found = [plan.complexity for plan in ordered]
        assert found == sorted(set(found))

    @pytest.mark.parametrize("merge", MERGES.names)
    def test_views_are_taken_by_name(self, merge: str) -> None:
        said = seen([1.0, 2.0, 3.0])
        plan = ViewPlan(("zoom", "original"), (3.0, 1.0), merge)
        found = merged({JOINT: said}, ("original", "hflip", "zoom"), plan)
        np.testing.assert_allclose(found[JOINT], merge_views(said[[2, 0]], (3.0, 1.0), merge))
        if merge == "mean":
            np.testing.assert_allclose(found[JOINT], 0.75 * said[2] + 0.25 * said[0])


class TestChooseViews:
    def test_a_helpful_view_is_chosen(self) -> None:
        views = choose(seen([1.0, 1.0]), ("original", "hflip"))
        assert set(views.chosen.names) == {"original", "hflip"}
        chosen = next(row for row in views.rows if row.plan == views.chosen)
        assert chosen.gain["score"] > 0.05
        assert chosen.gain["low"] > 0

    def test_a_view_of_noise_is_not_and_costs_something(self) -> None:
        views = choose(seen([1.5, 0.0], sureness=[1.0, 2.0]), ("original", "hflip"))
        assert views.chosen == even(["original"])
        by_plan = {str(row.plan): row for row in views.rows}
        assert by_plan["original + hflip"].gain["score"] < -0.05

    def test_of_several_the_helpful_one_is_chosen(self) -> None:
        said = seen([1.2, 0.0, 2.0, 0.0], sureness=[1.0, 1.5, 1.0, 1.5])
        views = choose(said, ("original", "hflip", "zoom", "vflip"))
        assert {"zoom"} <= set(views.chosen.names) <= {"original", "zoom"}

    def test_views_that_say_the_same_leave_the_original_alone(self) -> None:
        said = np.repeat(seen([1.0]), 3, axis=0)
        views = choose(said, ("original", "hflip", "zoom"))
        assert views.chosen == even(["original"])
        assert all(row.gain["score"] == 0 for row in views.rows if row.plan.merge == "mean")
        assert all(row.plan.weights == (1.0,) * len(row.plan.names) for row in views.rows)  # nothing was picked

    def test_one_view_leaves_no_choice(self) -> None:
        views = choose(seen([1.0]), ("original",))
        assert views.chosen == even(["original"])
        assert [row.plan for row in views.rows] == [even(["original"])]

    def test_rows_are_the_scores_of_the_soft_vote_best_first(self) -> None:
        names = ("original", "hflip", "zoom", "zoom_hflip", "crop_centre", "rotate_5")
        members = {"one": {JOINT: seen([1.0, 0.8, 1.2, 0.5, 1.0, 0.7])}, "two": {JOINT: seen([0.6] * 6, seed=1)}}
        views = choose_views(OofByView(SPACE, members, names, TRUTH, GROUPS, PARTS), PARTS, METRIC, 0)
        scores = [row.score["score"] for row in views.rows]
        assert scores == sorted(scores, reverse=True)
        plain = next(row.score["score"] for row in views.rows if row.plan == even(["original"]))
        for row in views.rows:
            if len(set(row.plan.weights)) > 1:
                continue  # picked greedily, see below
            places = [names.index(name) for name in row.plan.names]
            ballots = [merge_views(member[JOINT][places], row.plan.weights, row.plan.merge) for member in members.values()]
            expected = score(TRUTH, np.mean(ballots, axis=0).argmax(axis=1))["accuracy"]
            assert row.score["score"] == pytest.approx(expected, abs=1e-6)
            assert row.gain["score"] == pytest.approx(expected - plain, abs=1e-6)
        plans = [row.plan for row in views.rows]
        assert len(plans) == len(set(plans))
        wanted = [even(["original", name]) for name in names[1:]] + [even(names, merge) for merge in MERGES.names]
        assert set(wanted) <= set(plans)
        assert views.chosen in plans

    @pytest.mark.parametrize("merge", MERGES.names)
    def test_only_the_merges_asked_for_are_compared(self, merge: str) -> None:
        views = choose(seen([1.0, 1.0, 0.5]), ("original", "hflip", "zoom"), merges=(merge,))
        assert {row.plan.merge for row in views.rows} == {merge}

    def test_the_same_seed_makes_the_same_choice(self) -> None:
        said, names = seen([1.0, 0.9, 0.8]), ("original", "hflip", "zoom")
        assert choose(said, names) == choose(said, names)

    def test_specialists_are_judged_as_the_team_that_they_make(self) -> None:
        """Views that only help the mask are worth it for the joint label."""
        said = seen([1.0, 1.0])
        of_gender = np.stack([SPACE.marginal(seen([2.0])[0], "gender")] * 2)
        members = {"m": {"mask": np.stack([SPACE.marginal(view, "mask") for view in said])}, "g": {"gender": of_gender}}
        views = choose_views(OofByView(SPACE, members, ("original", "hflip"), TRUTH, GROUPS, PARTS), PARTS, METRIC, 0)
        assert len(views.chosen.names) == 2


def picked(said: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(W,) how often greedy selection takes each view, from the first on."""
    counts = np.eye(len(said))[0]
    for _ in range(6):
        tried = counts + np.eye(len(said))
        scores = [(np.tensordot(of_one, said, axes=1).argmax(axis=1) == truth).mean() for of_one in [counts, *tried]]
        if max(scores) <= scores[0]:
            break
        counts = tried[int(np.argmax(scores[1:]))]
    return counts


def picked_row(said: np.ndarray, names: tuple[str, ...], **others: object):
    """The row of what greedy selection picks, which is none of the fixed sets."""
    rows = choose(said, names, **others).rows
    fixed = [
        even(["original"]),
        *(even(["original", name]) for name in names[1:]),
        *(even(names, merge) for merge in MERGES.names),
    ]
    (row,) = [row for row in rows if row.plan not in fixed]
    return row


class TestGreedy:
    NAMES = ("original", "hflip", "zoom", "vflip")

    def test_is_not_scored_by_what_was_picked_on_the_same_images(self) -> None:
        """In each part another view shows everything and is wrong elsewhere: what is picked on a part helps there alone."""
        rng = np.random.default_rng(5)
        said = seen([1.0, 0.0, 0.0, 0.0])
        for view in range(1, 4):
            right = (view - 1 == PARTS) | (rng.random(400) < 0.3)
            said[view] = 0.5 * np.eye(6)[np.where(right, TRUTH, (TRUTH + 1) % 6)] + 0.5 / 6
        judged = picked_row(said, self.NAMES)
        flattered = picked_row(said, self.NAMES, parts=np.zeros(400, int))
        assert judged.plan == flattered.plan
        assert judged.score["score"] < flattered.score["score"] - 0.02

    @pytest.mark.parametrize("seed", range(6))
    def test_is_scored_part_by_part_under_what_is_picked_on_the_others(self, seed: int) -> None:
        said = seen([1.2, 1.0, 0.9, 0.0], seed, sureness=[1, 1, 1, 2])
        row = picked_row(said, self.NAMES)
        right = np.zeros(400, bool)
        for part in range(4):
            own = part == PARTS
            right |= own & (np.tensordot(picked(said[:, ~own], TRUTH[~own]), said, axes=1).argmax(axis=1) == TRUTH)
        assert row.score["score"] == pytest.approx(right.mean(), abs=1e-6)
        assert row.gain["score"] == pytest.approx(right.mean() - (said[0].argmax(axis=1) == TRUTH).mean(), abs=1e-6)
        counts = picked(said, TRUTH)
        there = counts > 0
        assert row.plan.names == tuple(name for name, is_there in zip(self.NAMES, there, strict=True) if is_there)
        assert row.plan.weights == tuple(counts[there] / counts[there].min())

    def test_one_part_is_scored_by_what_was_picked_on_itself(self) -> None:
        said = seen([1.2, 1.0, 0.9, 0.0], sureness=[1, 1, 1, 2])
        row = picked_row(said, self.NAMES, parts=np.zeros(400, int))
        assert row.score["score"] == pytest.approx(
            (np.tensordot(picked(said, TRUTH), said, axes=1).argmax(axis=1) == TRUTH).mean()
        )
