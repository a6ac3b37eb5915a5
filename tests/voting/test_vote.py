"""Tests of the vote: decided on out-of-fold predictions, written down, read again, and the same wherever it is used."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest

from raymask.config.vote import VoteConfig
from raymask.core.errors import InputError
from raymask.core.tasks import JOINT, LabelSpace, Task
from raymask.metrics.bootstrap import Metric
from raymask.metrics.calibration import log_loss
from raymask.metrics.scores import score_joint
from raymask.transforms.tta import ViewPlan, even, merge_views
from raymask.voting.ballots import joint_ballots, voter_names, voters_of
from raymask.voting.calibration import Calibration
from raymask.voting.combine import soft_vote, weighted_vote
from raymask.voting.fixed_weights import fixed_weights
from raymask.voting.reading import read_vote
from raymask.voting.rules import RULES, Rule
from raymask.voting.selection import LEVELS, Candidate, OofPredictions, all_rows, calibrate, calibrated, candidates, fit
from raymask.voting.view_selection import OofByView
from raymask.voting.vote import Decision, Vote, decide, drawn_images, subset, summary

SPACE = LabelSpace((Task("mask", "mask", ("worn", "wrong", "none")), Task("gender", "gender", ("male", "female"))))
ALONE = LabelSpace(SPACE.tasks[:1])
VIEWS = ("original", "hflip")
KINDS = ("mask", "gender", "mask_b", "multi", JOINT)
"""The second team lacks a specialist of the gender."""
WEIGHTS = {"mask": 1.0, "gender": 2.0, "mask_b": 0.0, "multi": 3.0, "joint": 1.0}


def make_evidence(space: LabelSpace = SPACE, kinds: tuple[str, ...] = KINDS, groups: int = 60, seed: int = 0) -> OofByView:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, space.joint_size, 4 * groups)
    labels = {**space.split(truth), JOINT: truth}
    members = {}
    for kind in kinds:
        members[kind] = {}
        for head in space.names if kind == "multi" else (kind.split("_")[0],):
            classes = len(space.classes(head))
            raised = np.exp(rng.normal(0, 1, (len(VIEWS), len(truth), classes)) + 1.2 * np.eye(classes)[labels[head]])
            members[kind][head] = (raised / raised.sum(axis=2, keepdims=True)).astype(np.float32)
    of_group = np.repeat(np.arange(groups), 4)
    return OofByView(space, members, VIEWS, truth, of_group, of_group % 4)


EVIDENCE = make_evidence()
NEW = {name: {head: said[0] for head, said in heads.items()} for name, heads in make_evidence(seed=1, groups=10).members.items()}


def configured(**settings: object) -> VoteConfig:
    return VoteConfig.model_validate({"rule": "soft", "level": "joint", "adjust": "none", "views": ("original",), **settings})


def vote_of(candidate: Candidate, space: LabelSpace = SPACE, kinds: tuple[str, ...] = KINDS, method: str = "temperature") -> Vote:
    evidence = make_evidence(space, kinds)
    members = {name: {head: said[0] for head, said in heads.items()} for name, heads in evidence.members.items()}
    folded = OofPredictions(space, members, evidence.truth, evidence.groups, evidence.folds)
    calibrations = calibrate(folded, method, all_rows(folded))
    fitted = fit(folded, voters_of(space, calibrated(members, calibrations)), candidate, Metric(JOINT, "f1"), 0)
    result = Calibration(np.full(space.joint_size, 1.0 if method == "none" else 0.8), np.zeros(space.joint_size))
    return Vote(space, ViewPlan(VIEWS, (1.0, 2.0), "geometric"), calibrations, fitted, result)


def read_again(vote: Vote) -> Vote:
    written = json.loads(json.dumps(vote.to_json(), allow_nan=False))
    return read_vote(Path("ensemble.json"), written, vote.space, written["rule"])


def chosen(decision: Decision) -> Candidate:
    return decision.vote.fitted.candidate


class TestJson:
    @pytest.mark.parametrize("candidate", candidates(SPACE, RULES.names, LEVELS, ["thresholds"]), ids=str)
    def test_a_vote_that_was_written_down_is_the_same(self, candidate: Candidate) -> None:
        vote = vote_of(candidate)
        again = read_again(vote)
        np.testing.assert_array_equal(again(NEW), vote(NEW))
        np.testing.assert_allclose(vote(NEW).sum(axis=1), 1)
        assert again.views == vote.views
        assert again.fitted.candidate == candidate
        assert again.to_json() == vote.to_json()

    @pytest.mark.parametrize("adjust", ["none", "prior"])
    @pytest.mark.parametrize("method", ["none", "vector"])
    def test_whatever_the_adjustment_and_the_calibration(self, adjust: str, method: str) -> None:
        vote = vote_of(Candidate("weighted", "task", adjust), method=method)
        np.testing.assert_array_equal(read_again(vote)(NEW), vote(NEW))

    def test_trees_of_the_only_task_there_is(self) -> None:
        vote = vote_of(Candidate("boosted", "joint", "none"), ALONE, ("mask", "mask_b"))
        new = {name: NEW[name] for name in ("mask", "mask_b")}
        np.testing.assert_array_equal(read_again(vote)(new), vote(new))
        assert vote(new).shape == (40, 3)

    def test_ones_own_rule(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = ModuleType("own_written")
        module.rule = Rule(
            "own", 3, weighted_vote, lambda evidence: {"weights": np.eye(len(evidence.ballots))[0], "seed": np.int64(3)}
        )
        monkeypatch.setitem(sys.modules, "own_written", module)
        vote = vote_of(Candidate("own_written:rule", "joint", "none"))
        np.testing.assert_array_equal(read_again(vote)(NEW), vote(NEW))

    def test_says_whom_the_numbers_are_for(self) -> None:
        by_task = vote_of(Candidate("weighted", "task", "thresholds")).to_json()
        assert by_task["voters"] == {"mask": ["mask", "mask_b", "multi", "joint"], "gender": ["gender", "multi", "joint"]}
        assert [len(by_task["params"][task]["weights"]) for task in ("mask", "gender")] == [4, 3]
        assert [len(by_task["factors"][task]) for task in ("mask", "gender")] == [3, 2]
        jointly = vote_of(Candidate("greedy", "joint", "none")).to_json()
        assert jointly["voters"] == {JOINT: ["mask + gender", "mask_b", "multi", "joint"]}
        assert jointly["factors"] == {JOINT: None}
        assert jointly["views"] == {"names": ["original", "hflip"], "weights": [1.0, 2.0], "merge": "geometric"}


class TestCall:
    @pytest.mark.parametrize("candidate", candidates(SPACE, ["soft", "greedy", "logistic"], LEVELS, ["none"]), ids=str)
    def test_the_order_in_which_members_are_given_does_not_matter(self, candidate: Candidate) -> None:
        vote = vote_of(candidate)
        np.testing.assert_array_equal(vote({name: NEW[name] for name in reversed(NEW)}), vote(NEW))

    def test_one_image_at_a_time_is_the_same(self) -> None:
        vote = vote_of(Candidate("logistic", "task", "thresholds"))
        alone = [vote({m: {h: p[n : n + 1] for h, p in heads.items()} for m, heads in NEW.items()}) for n in range(5)]
        np.testing.assert_allclose(np.concatenate(alone), vote(NEW)[:5], rtol=1e-12)

    def test_soft_by_joint_is_the_mean_of_the_calibrated_ballots(self) -> None:
        vote = vote_of(Candidate("soft", "joint", "none"))
        ballots = joint_ballots(SPACE, calibrated(NEW, vote.calibrations))
        mean = np.mean(list(ballots.values()), axis=0)
        np.testing.assert_allclose(vote.fitted.combine(SPACE, voters_of(SPACE, calibrated(NEW, vote.calibrations))), mean)
        np.testing.assert_allclose(vote(NEW), vote.result.apply(mean))
        np.testing.assert_array_equal(vote(NEW).argmax(axis=1), mean.argmax(axis=1))

    def test_soft_by_task_is_the_product_of_the_tasks_means(self) -> None:
        vote = vote_of(Candidate("soft", "task", "none"), method="none")
        of_joint = NEW["joint"][JOINT]
        mask = np.mean(
            [NEW["mask"]["mask"], NEW["mask_b"]["mask"], NEW["multi"]["mask"], SPACE.marginal(of_joint, "mask")], axis=0
        )
        gender = np.mean([NEW["gender"]["gender"], NEW["multi"]["gender"], SPACE.marginal(of_joint, "gender")], axis=0)
        np.testing.assert_allclose(vote(NEW), SPACE.product({"mask": mask, "gender": gender}), rtol=1e-5)


class TestDecide:
    def test_what_is_fixed_is_not_compared(self) -> None:
        decision = decide(EVIDENCE, configured(calibrate="none"), 0)
        assert [row.candidate for row in decision.choice.rows] == [Candidate("soft", "joint", "none")]
        assert decision.views is None
        assert decision.vote.views == even(["original"])
        assert decision.choice.optimism == 0
        members = {name: {head: said[0] for head, said in heads.items()} for name, heads in EVIDENCE.members.items()}
        expected = soft_vote(voters_of(SPACE, members)[JOINT])
        np.testing.assert_allclose(decision.joint, expected, rtol=1e-5)
        np.testing.assert_allclose(decision.vote(members), expected, rtol=1e-5)
        truth = {**SPACE.split(EVIDENCE.truth), JOINT: EVIDENCE.truth}
        assert decision.estimate["score"] == pytest.approx(
            score_joint(SPACE, expected.argmax(axis=1), truth)[JOINT]["f1"], abs=1e-6
        )

    def test_all_is_decided_by_default(self) -> None:
        """Every rule, level and adjustment, views and merges; a team that lacks a specialist votes with the others."""
        evidence = make_evidence(groups=40)
        decision = decide(evidence, VoteConfig(), 0)
        assert len(decision.choice.rows) == (2 * len(RULES.names) - 1) * 3
        assert decision.views is not None
        assert decision.vote.views == decision.views.chosen
        assert set(decision.members) == set(KINDS)
        best = max(row.score["score"] for row in decision.choice.rows)
        row = next(row for row in decision.choice.rows if row.candidate == chosen(decision))
        assert row.score["score"] >= best - row.behind_se - 1e-9
        assert decision.estimate["score"] == pytest.approx(row.score["score"] - decision.choice.optimism)
        assert decision.estimate["high"] - decision.estimate["low"] == pytest.approx(row.score["high"] - row.score["low"])
        written = json.loads(json.dumps(summary(decision), allow_nan=False))
        assert [row["chosen"] for row in written["rules"]].count(True) == 1
        assert [row["chosen"] for row in written["views"]].count(True) == 1
        assert written["metric"] == "joint.f1"
        assert set(written["calibration"]) == set(KINDS)
        assert set(written["calibration"]["multi"]["gender"]["after"]) == {"ece", "brier", "nll", "reliability"}
        again = read_vote(Path("ensemble.json"), written["vote"], SPACE)
        np.testing.assert_array_equal(again(decision.members), decision.vote(decision.members))

    def test_one_voter_needs_no_rule_to_combine_it_with_others(self) -> None:
        alone = make_evidence(kinds=SPACE.names)
        tried = {(row.candidate.rule, row.candidate.level) for row in decide(alone, VoteConfig(), 0).choice.rows}
        both = {(rule, level) for rule in ("soft", "logistic") for level in LEVELS}
        assert tried == both | {("boosted", "task")}
        fixed = decide(alone, configured(rule="geometric", level="joint", adjust="none"), 0).choice.rows
        assert [row.candidate.rule for row in fixed] == ["geometric"]

    def test_the_same_seed_makes_the_same_decision(self) -> None:
        config = configured(rule="greedy", level="auto", adjust="auto", views="auto")
        one, other = (summary(decide(EVIDENCE, config, 7)) for _ in range(2))
        for row in (*one["rules"], *other["rules"]):
            row.pop("seconds")
        assert one == other

    def test_members_in_another_order_make_the_same_soft_vote(self) -> None:
        """The order of members of one kind decides who makes a team; that of others decides nothing."""
        order = ("joint", "mask", "multi", "mask_b", "gender")
        turned = OofByView(SPACE, {name: EVIDENCE.members[name] for name in order}, VIEWS, *EVIDENCE_LABELS)
        config = configured(level="auto", adjust="auto", views="auto", merge="auto")
        one, other = decide(EVIDENCE, config, 0), decide(turned, config, 0)
        assert chosen(one) == chosen(other)
        assert one.vote.views == other.vote.views
        np.testing.assert_allclose(one.joint, other.joint, rtol=1e-5)
        np.testing.assert_allclose(one.vote(NEW), other.vote(NEW), rtol=1e-9)

    def test_the_result_is_calibrated_on_what_was_cross_fitted_and_elects_the_same(self) -> None:
        """The mean of voters who err apart from each other is less sure than it might be."""
        decision = decide(EVIDENCE, configured(), 0)
        assert decision.vote.result.scale.min() == decision.vote.result.scale.max() > 1
        np.testing.assert_array_equal(decision.joint.argmax(axis=1), decision.choice.joint.argmax(axis=1))
        assert log_loss(decision.joint, EVIDENCE.truth) < log_loss(decision.choice.joint, EVIDENCE.truth) - 0.02
        np.testing.assert_allclose(decision.joint.sum(axis=1), 1)

    def test_of_many_images_those_of_drawn_groups_decide_and_all_are_predicted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("raymask.voting.vote.MAX_IMAGES", 103)
        drawn = drawn_images(EVIDENCE.groups, 0)
        assert drawn.sum() == 100
        assert not set(EVIDENCE.groups[drawn]) & set(EVIDENCE.groups[~drawn])
        config = configured(rule="weighted", level="auto", adjust="auto", views="auto")
        decision = decide(EVIDENCE, config, 0)
        np.testing.assert_allclose(decision.joint[~drawn], decision.vote(decision.members)[~drawn])
        truth = EVIDENCE.truth.copy()
        truth[~drawn] = 0
        other = decide(OofByView(SPACE, EVIDENCE.members, VIEWS, truth, *EVIDENCE_LABELS[1:]), config, 0)
        np.testing.assert_array_equal(other.joint, decision.joint)
        alone = decide(subset(EVIDENCE, drawn), config, 0)
        np.testing.assert_array_equal(alone.joint, decision.joint[drawn])
        assert alone.vote.to_json() == decision.vote.to_json()

    def test_all_images_decide_where_they_are_few_and_a_group_at_least_always(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert drawn_images(EVIDENCE.groups, 0).all()
        assert subset(EVIDENCE, drawn_images(EVIDENCE.groups, 0)) is EVIDENCE
        monkeypatch.setattr("raymask.voting.vote.MAX_IMAGES", 3)
        assert drawn_images(EVIDENCE.groups, 0).sum() == 4

    @pytest.mark.parametrize("merge", ["mean", "geometric", "max"])
    def test_given_views_are_merged_as_asked_for(self, merge: str) -> None:
        decision = decide(EVIDENCE, configured(views="all", merge=merge), 0)
        assert decision.vote.views == even(VIEWS, merge)
        np.testing.assert_allclose(
            decision.members["multi"]["gender"], merge_views(EVIDENCE.members["multi"]["gender"], (1, 1), merge)
        )

    def test_one_task_and_one_member(self) -> None:
        decision = decide(make_evidence(ALONE, ("mask",), groups=30), VoteConfig(metric="mask.accuracy"), 0)
        assert chosen(decision).level == "joint"
        assert len(decision.choice.rows) == len(("soft", "logistic", "boosted")) * 3
        new = {"mask": NEW["mask"]}
        np.testing.assert_allclose(decision.vote(new).sum(axis=1), 1)
        np.testing.assert_array_equal(read_again(decision.vote)(new), decision.vote(new))

    @pytest.mark.parametrize("folds", [1, 2])
    def test_few_folds_are_no_trouble(self, folds: int) -> None:
        evidence = OofByView(SPACE, EVIDENCE.members, VIEWS, EVIDENCE.truth, EVIDENCE.groups, EVIDENCE.groups % folds)
        decision = decide(evidence, configured(rule="weighted", adjust="auto", views="auto"), 0)
        assert decision.views is not None
        assert len(decision.choice.rows) == 3

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"rule": "sofd"}, r"vote.rule is 'sofd'; it may be 'soft' \(the nearest\), .*"),
            ({"rule": "no_such:rule"}, r"vote.rule: 'no_such:rule' cannot be imported .*"),
            ({"rule": "boosted"}, r"vote.level is 'joint', but the rule 'boosted' votes by task alone\."),
            ({"rule": "own_levels:jointly", "level": "task"}, r"vote.level is 'task', but the rule '.*' votes by joint alone\."),
            ({"metric": "age.f1"}, r"vote.metric is 'age.f1'; it may be .*"),
            (
                {"views": ("original", "hflop")},
                r"vote.views: there are no out-of-fold predictions under the view 'hflop'; "
                r"it may be 'hflip' \(the nearest\) or 'original'\.",
            ),
        ],
    )
    def test_what_there_is_not_is_refused_in_one_sentence(
        self, settings: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module = ModuleType("own_levels")
        module.jointly = Rule("jointly", 3, weighted_vote, levels=("joint",))
        monkeypatch.setitem(sys.modules, "own_levels", module)
        with pytest.raises(InputError, match=f"^{message}$"):
            decide(EVIDENCE, configured(**settings), 0)


EVIDENCE_LABELS = (EVIDENCE.truth, EVIDENCE.groups, EVIDENCE.folds)


class TestFixedWeights:
    CONFIG = VoteConfig(weights=WEIGHTS, calibrate="none", adjust="none", views=("original",))

    def test_without_any_the_rule_fits_its_own(self) -> None:
        assert fixed_weights(SPACE, VoteConfig(), NEW) is None

    def test_are_shares_among_those_that_predict_a_task(self) -> None:
        fixed = fixed_weights(SPACE, self.CONFIG, NEW)
        assert fixed is not None
        assert voter_names(SPACE, {name: list(heads) for name, heads in NEW.items()})["gender"] == ["gender", "multi", "joint"]
        np.testing.assert_allclose(fixed["mask"]["weights"], [0.2, 0, 0.6, 0.2])
        np.testing.assert_allclose(fixed["gender"]["weights"], [1 / 3, 1 / 2, 1 / 6])

    BY_TASK: ClassVar = {
        "gender": {"gender": 0.0, "multi": 1.0, "joint": 3.0},
        "mask": {"joint": 1.0, "mask": 2.0, "mask_b": 0.0, "multi": 1.0},
    }

    def test_by_task_decide_each_task_by_its_own(self) -> None:
        config = VoteConfig.model_validate({**self.CONFIG.model_dump(), "weights": self.BY_TASK})
        vote = decide(EVIDENCE, config, 0).vote
        of_joint = NEW["joint"][JOINT]
        mask = (2 * NEW["mask"]["mask"] + NEW["multi"]["mask"] + SPACE.marginal(of_joint, "mask")) / 4
        gender = (NEW["multi"]["gender"] + 3 * SPACE.marginal(of_joint, "gender")) / 4
        np.testing.assert_allclose(vote(NEW), SPACE.product({"mask": mask, "gender": gender}), rtol=1e-5)
        np.testing.assert_array_equal(read_again(vote)(NEW), vote(NEW))

    def test_by_task_the_same_in_all_are_those_by_member(self) -> None:
        names = voter_names(SPACE, {name: list(heads) for name, heads in NEW.items()})
        same = {task: {name: WEIGHTS[name] for name in names[task]} for task in SPACE.names}
        one = fixed_weights(SPACE, self.CONFIG, NEW)
        other = fixed_weights(SPACE, VoteConfig(weights=same), NEW)
        assert one is not None
        assert other is not None
        assert one.keys() == other.keys()
        assert all((one[task]["weights"] == other[task]["weights"]).all() for task in one)

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            ({**BY_TASK, "gendr": {}}, r"vote.weights: there is no task 'gendr'; it may be 'gender' \(the nearest\) or 'mask'\."),
            (
                {"mask": BY_TASK["mask"]},
                r"vote.weights: the task 'gender' has no weights; give it some, such as \{gender: 1\}\.",
            ),
            (
                {**BY_TASK, "gender": {**BY_TASK["gender"], "mask": 1.0}},
                r"vote.weights.gender: there is no member 'mask' that predicts 'gender'; it may be .*",
            ),
            (
                {**BY_TASK, "gender": {"gender": 1.0}},
                r"vote.weights.gender: 'multi' has no weight; give it one, 0 .*",
            ),
            (
                {**BY_TASK, "gender": dict.fromkeys(BY_TASK["gender"], 0.0)},
                r"vote.weights: all members that predict 'gender' weigh 0\.",
            ),
        ],
    )
    def test_by_task_wrong_ones_are_refused(self, weights: dict[str, dict[str, float]], message: str) -> None:
        with pytest.raises(InputError, match=f"^{message}$"):
            decide(EVIDENCE, self.CONFIG.model_copy(update={"weights": weights}), 0)

    def test_decide_the_vote(self) -> None:
        decision = decide(EVIDENCE, self.CONFIG, 0)
        assert chosen(decision) == Candidate("weighted", "task", "none")
        of_joint = NEW["joint"][JOINT]
        mask = (NEW["mask"]["mask"] + 3 * NEW["multi"]["mask"] + SPACE.marginal(of_joint, "mask")) / 5
        gender = (2 * NEW["gender"]["gender"] + 3 * NEW["multi"]["gender"] + SPACE.marginal(of_joint, "gender")) / 6
        np.testing.assert_allclose(decision.vote(NEW), SPACE.product({"mask": mask, "gender": gender}), rtol=1e-5)
        np.testing.assert_array_equal(read_again(decision.vote)(NEW), decision.vote(NEW))

    def test_leave_the_adjustment_to_be_chosen(self) -> None:
        rows = decide(EVIDENCE, self.CONFIG.model_copy(update={"adjust": "auto"}), 0).choice.rows
        assert {row.candidate.adjust for row in rows} == {"none", "prior", "thresholds"}
        assert {(row.candidate.rule, row.candidate.level) for row in rows} == {("weighted", "task")}

    def test_of_one_task(self) -> None:
        evidence = make_evidence(ALONE, ("mask", "mask_b"))
        config = self.CONFIG.model_copy(update={"weights": {"mask": 1.0, "mask_b": 3.0}})
        new = {name: NEW[name] for name in ("mask_b", "mask")}
        vote = decide(evidence, config, 0).vote
        np.testing.assert_allclose(vote(new), 0.25 * new["mask"]["mask"] + 0.75 * new["mask_b"]["mask"], rtol=1e-5)

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            ({**WEIGHTS, "mulit": 1.0}, r"vote.weights: there is no member 'mulit'; it may be 'multi' \(the nearest\), .*"),
            ({"mask": 1.0}, r"vote.weights: 'gender' has no weight; give it one, 0 to leave it out\."),
            (dict.fromkeys(WEIGHTS, 0.0), r"vote.weights: all members that predict 'mask' weigh 0\."),
            ({**dict.fromkeys(WEIGHTS, 0.0), "mask": 1.0}, r"vote.weights: all members that predict 'gender' weigh 0\."),
        ],
    )
    def test_of_whom_there_is_not_or_of_nobody_are_refused(self, weights: dict[str, float], message: str) -> None:
        with pytest.raises(InputError, match=f"^{message}$"):
            decide(EVIDENCE, self.CONFIG.model_copy(update={"weights": weights}), 0)
