"""Tests of the choice of a rule: cross-fitting never looks at what it predicts, and the simplest good candidate is taken."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymask.core.tasks import JOINT, LabelSpace, Task
from raymask.metrics.bootstrap import Metric
from raymask.metrics.scores import score
from raymask.voting.ballots import voters_of
from raymask.voting.combine import weighted_vote
from raymask.voting.rules import RULES, Rule
from raymask.voting.selection import (
    Candidate,
    Fitted,
    OofPredictions,
    all_rows,
    calibrate,
    calibrated,
    candidates,
    choose,
    cross_fit,
    difference_errors,
    fit,
    into_joint,
    parts_of,
    selection_optimism,
    simplest,
    spaces_of,
)
from raymask.voting.thresholds import ADJUSTMENTS

MASK = Task("mask", "mask", ("worn", "wrong", "none"))
SPACE = LabelSpace((MASK, Task("gender", "gender", ("male", "female"))))
ALONE = LabelSpace((MASK,))
JOINT_F1, JOINT_ACCURACY = Metric(JOINT, "f1"), Metric(JOINT, "accuracy")
SOFT = Candidate("soft", "joint", "none")


def said_of(rng: np.random.Generator, labels: np.ndarray, classes: int, strength: float) -> np.ndarray:
    """Probabilities that know the labels more or less well."""
    raised = np.exp(rng.normal(0, 1, (len(labels), classes)) + strength * np.eye(classes)[labels])
    return raised / raised.sum(axis=1, keepdims=True)


def out_of_fold(
    strengths: dict[str, float],
    groups: int = 60,
    space: LabelSpace = SPACE,
    folds: int = 4,
    prior: list[float] | None = None,
    seed: int = 0,
) -> OofPredictions:
    """Members named `KIND-...`, each as good as it is strong; four images a group, a group's folds alike."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(space.joint_size, 4 * groups, p=prior)
    labels = {**space.split(truth), JOINT: truth}
    members = {}
    for name, strength in strengths.items():
        kind = name.split("-")[0]
        heads = space.names if kind == "multi" else (kind,)
        members[name] = {head: said_of(rng, labels[head], len(space.classes(head)), strength) for head in heads}
    of_group = np.repeat(np.arange(groups), 4)
    return OofPredictions(space, members, truth, of_group, of_group % folds)


def all_of(space: LabelSpace = SPACE, rules: tuple[str, ...] = RULES.names) -> list[Candidate]:
    return candidates(space, rules, ("joint", "task"), ADJUSTMENTS.names)


class TestCandidates:
    def test_several_tasks_are_voted_on_together_and_apart_and_trees_grow_by_task_alone(self) -> None:
        found = all_of()
        assert len(found) == len(set(found)) == (2 * len(RULES.names) - 1) * len(ADJUSTMENTS.names)
        assert {candidate.level for candidate in found if candidate.rule == "boosted"} == {"task"}
        assert found[0] == SOFT

    def test_one_task_needs_one_level(self) -> None:
        found = all_of(ALONE)
        assert {candidate.level for candidate in found} == {"joint"}
        assert len(found) == len(RULES.names) * len(ADJUSTMENTS.names)
        assert "boosted" in {candidate.rule for candidate in found}
        assert candidates(ALONE, ["soft"], ["task"], ["none"]) == [SOFT]

    def test_a_rule_of_the_level_that_is_not_asked_for_is_none(self) -> None:
        assert candidates(SPACE, ["boosted"], ["joint"], ["none"]) == []

    def test_ones_own_rule_says_its_levels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = ModuleType("own_choice")
        module.rule = Rule("own", 3, lambda ballots, params: ballots[0], levels=("task",))
        monkeypatch.setitem(sys.modules, "own_choice", module)
        assert [candidate.level for candidate in candidates(SPACE, ["own_choice:rule"], ["joint", "task"], ["none"])] == ["task"]
        assert [candidate.level for candidate in candidates(ALONE, ["own_choice:rule"], ["joint", "task"], ["none"])] == ["joint"]

    def test_the_simpler_comes_first(self) -> None:
        ordered = [
            SOFT,
            Candidate("soft", "task", "none"),
            Candidate("geometric", "joint", "none"),
            Candidate("soft", "joint", "prior"),
            Candidate("soft", "joint", "thresholds"),
            Candidate("logistic", "task", "none"),
            Candidate("boosted", "task", "thresholds"),
        ]
        found = [candidate.complexity for candidate in ordered]
        assert found == sorted(found)
        assert [str(candidate) for candidate in ordered[:2]] == ["soft by joint", "soft by task"]
        assert str(ordered[4]) == "soft by joint with thresholds"

    def test_spaces(self) -> None:
        assert spaces_of(SPACE, "joint") == (JOINT,)
        assert spaces_of(SPACE, "task") == ("mask", "gender")
        rows = {"mask": np.array([[0.5, 0.3, 0.2]]), "gender": np.array([[0.9, 0.1]])}
        np.testing.assert_allclose(into_joint(SPACE, rows), [[0.45, 0.05, 0.27, 0.03, 0.18, 0.02]])
        whole = np.full((1, 6), 1 / 6)
        assert into_joint(SPACE, {JOINT: whole}) is whole


class TestParts:
    def test_folds_are_the_parts_where_there_are_enough(self) -> None:
        evidence = out_of_fold({"joint-a": 1.0}, folds=3)
        np.testing.assert_array_equal(parts_of(evidence, 0), evidence.folds)

    @pytest.mark.parametrize("folds", [1, 2])
    def test_few_folds_give_way_to_five_parts_that_keep_groups_whole(self, folds: int) -> None:
        evidence = out_of_fold({"joint-a": 1.0}, folds=folds)
        parts = parts_of(evidence, 0)
        assert set(parts) == set(range(5))
        assert all(len(set(parts[evidence.groups == group])) == 1 for group in range(60))
        np.testing.assert_array_equal(parts, parts_of(evidence, 0))

    def test_folds_that_part_groups_give_way_too(self) -> None:
        """As those of folds.scheme `kfold`."""
        evidence = out_of_fold({"joint-a": 1.0})
        parted = OofPredictions(SPACE, evidence.members, evidence.truth, evidence.groups, np.arange(240) % 4)
        parts = parts_of(parted, 0)
        assert all(len(set(parts[evidence.groups == group])) == 1 for group in range(60))

    def test_there_are_no_more_parts_than_groups(self) -> None:
        assert set(parts_of(out_of_fold({"joint-a": 1.0}, groups=3, folds=1), 0)) == {0, 1, 2}
        assert set(parts_of(out_of_fold({"joint-a": 1.0}, groups=1, folds=1), 0)) == {0}


class TestSimplest:
    ERRORS = np.array([[0.0, 0.02, 0.01], [0.02, 0.0, 0.03], [0.01, 0.03, 0.0]])

    @pytest.mark.parametrize(
        ("scores", "complexities", "place"),
        [
            pytest.param([0.80, 0.81, 0.70], [0, 1, 2], 0, id="the simpler one within one error"),
            pytest.param([0.78, 0.81, 0.70], [0, 1, 2], 1, id="it is further behind than that"),
            pytest.param([0.79, 0.81, 0.79], [2, 3, 1], 2, id="the error is that of the difference from the best"),
            pytest.param([0.70, 0.72, 0.74], [0, 1, 2], 1, id="and not from another"),
            pytest.param([0.79, 0.70, 0.80], [0, 1, 2], 0, id="one error exactly is within"),
            pytest.param([0.80, 0.81, 0.81], [1, 1, 1], 1, id="of equally simple ones the better, then the first"),
        ],
    )
    def test_by_hand(self, scores: list[float], complexities: list[float], place: int) -> None:
        found = simplest(np.array(scores)[:, None], self.ERRORS + 1e-15, np.array(complexities))
        assert found.tolist() == [place]

    def test_columns_are_apart(self) -> None:
        scores = np.array([[0.80, 0.78], [0.81, 0.81], [0.70, 0.70]])
        assert simplest(scores, self.ERRORS, np.array([0, 1, 2])).tolist() == [0, 1]

    def test_errors_are_those_of_paired_differences(self) -> None:
        resampled = np.random.default_rng(0).normal(0, [[1.0], [2.0], [0.5]], (3, 500))
        resampled[2] += resampled[1]
        errors = difference_errors(resampled)
        for one in range(3):
            for other in range(3):
                assert errors[one, other] == pytest.approx((resampled[one] - resampled[other]).std(ddof=1), abs=1e-12)
        np.testing.assert_array_equal(difference_errors(resampled[:1]), [[0]])

    @settings(deadline=None, max_examples=50)
    @given(st.integers(0, 2**32 - 1), st.integers(1, 6))
    def test_is_within_one_error_and_nothing_simpler_is(self, seed: int, number: int) -> None:
        rng = np.random.default_rng(seed)
        scores, resampled = rng.normal(0, 1, number), rng.normal(0, 1, (number, 5))
        errors, complexities = difference_errors(resampled), rng.integers(0, 4, number)
        place, best = simplest(scores[:, None], errors, complexities)[0], scores.argmax()
        near = scores.max() - scores <= errors[:, best] + 1e-12
        assert near[place]
        assert complexities[place] == complexities[near].min()


class TestCrossFit:
    EVIDENCE = out_of_fold({"mask-a": 1.0, "gender-a": 1.0, "joint-a": 0.7, "multi-a": 1.2, "mask-b": 0.5}, groups=40)

    @pytest.mark.parametrize("method", ["none", "temperature", "vector"])
    @pytest.mark.parametrize("family", ["plain", "learnt", "stacked"])
    def test_a_part_is_predicted_without_its_own_labels(self, family: str, method: str) -> None:
        rules = {"plain": ("soft", "geometric", "rank", "hard"), "learnt": ("best", "weighted", "greedy", "weighted_hard")}
        tried = all_of(rules=rules.get(family, ("logistic", "boosted")))
        if method != "temperature":
            tried = [candidate for candidate in tried if candidate.rule in ("soft", "best", "logistic")]
        own = self.EVIDENCE.folds == 2
        truth = self.EVIDENCE.truth.copy()
        truth[own] = np.random.default_rng(1).permutation(truth[own])
        assert (truth != self.EVIDENCE.truth).sum() > 20
        permuted = OofPredictions(SPACE, self.EVIDENCE.members, truth, self.EVIDENCE.groups, self.EVIDENCE.folds)
        before, seconds = cross_fit(self.EVIDENCE, tried, JOINT_F1, method, 0)
        after, _ = cross_fit(permuted, tried, JOINT_F1, method, 0)
        for candidate in tried:
            np.testing.assert_array_equal(before[candidate][own], after[candidate][own], err_msg=str(candidate))
            np.testing.assert_allclose(before[candidate].sum(axis=1), 1, atol=1e-4)
            assert seconds[candidate] > 0
        learns = [candidate for candidate in tried if candidate.rule not in rules["plain"] or candidate.adjust != "none"]
        assert any((before[candidate][~own] != after[candidate][~own]).any() for candidate in learns)

    def test_each_part_is_what_a_fit_on_the_others_says(self) -> None:
        evidence, candidate = self.EVIDENCE, Candidate("weighted", "task", "prior")
        results, _ = cross_fit(evidence, [candidate], JOINT_F1, "temperature", 3)
        for part in range(4):
            kept, own = evidence.folds != part, evidence.folds == part
            members = {name: {head: of_head[kept] for head, of_head in heads.items()} for name, heads in evidence.members.items()}
            others = OofPredictions(SPACE, members, evidence.truth[kept], evidence.groups[kept], evidence.folds[kept])
            calibrations = calibrate(others, "temperature", all_rows(others))
            fitted = fit(others, voters_of(SPACE, calibrated(members, calibrations)), candidate, JOINT_F1, 3)
            told = voters_of(SPACE, calibrated(evidence.members, calibrations))
            np.testing.assert_allclose(fitted.combine(SPACE, told)[own], results[candidate][own], rtol=1e-5)

    def test_candidates_are_fitted_apart_though_they_share_what_they_can(self) -> None:
        tried = all_of(rules=("soft", "weighted"))
        together, _ = cross_fit(self.EVIDENCE, tried, JOINT_F1, "none", 0)
        for candidate in tried:
            alone, _ = cross_fit(self.EVIDENCE, [candidate], JOINT_F1, "none", 0)
            np.testing.assert_array_equal(alone[candidate], together[candidate])

    def test_fixed_weights_are_taken_as_they_are(self) -> None:
        candidate = Candidate("weighted", "joint", "none")
        whole = voters_of(SPACE, self.EVIDENCE.members)[JOINT]
        fixed = {JOINT: {"weights": np.array([0.1, 0.2, 0.3, 0.4])}}
        results, _ = cross_fit(self.EVIDENCE, [candidate], JOINT_F1, "none", 0, fixed)
        np.testing.assert_allclose(results[candidate], weighted_vote(whole, fixed[JOINT]), rtol=1e-5)
        fitted = fit(self.EVIDENCE, voters_of(SPACE, self.EVIDENCE.members), candidate, JOINT_F1, 0, fixed)
        assert isinstance(fitted, Fitted)
        np.testing.assert_allclose(fitted.combine(SPACE, voters_of(SPACE, self.EVIDENCE.members)), results[candidate], rtol=1e-5)


class TestChoose:
    def test_identical_voters_leave_nothing_to_learn(self) -> None:
        one = out_of_fold({"joint-a": 1.0})
        same = {f"joint-{n}": one.members["joint-a"] for n in range(4)}
        tried = candidates(SPACE, RULES.names, ("joint", "task"), ("none",))
        chosen = choose(OofPredictions(SPACE, same, one.truth, one.groups, one.folds), tried, JOINT_ACCURACY, "none", 0)
        assert chosen.chosen == SOFT

    def test_one_good_voter_among_noise_is_found(self) -> None:
        evidence = out_of_fold({"joint-a": 0.0, "joint-b": 3.5, "joint-c": 0.0, "joint-d": 0.0, "joint-e": 0.0}, groups=100)
        tried = candidates(SPACE, RULES.names, ("joint",), ("none",))
        choice = choose(evidence, tried, JOINT_ACCURACY, "none", 0)
        assert choice.chosen.rule in ("best", "weighted", "greedy", "weighted_hard", "logistic")
        by_name = {row.candidate.rule: row for row in choice.rows}
        assert by_name[choice.chosen.rule].score["score"] > by_name["soft"].score["score"] + 0.1
        assert by_name["soft"].behind > 2 * by_name["soft"].behind_se

    def test_thresholds_are_taken_where_they_pay(self) -> None:
        """Voters that know how rare a class is hardly ever elect it, which costs macro-F1 dearly."""
        prior = [0.72, 0.2, 0.08]
        rare = out_of_fold({"mask-a": 1.6, "mask-b": 1.6}, groups=250, space=ALONE, prior=prior)
        shifted = {
            name: {"mask": heads["mask"] * np.array(prior) ** 1.5 / (heads["mask"] * np.array(prior) ** 1.5).sum(axis=1)[:, None]}
            for name, heads in rare.members.items()
        }
        evidence = OofPredictions(ALONE, shifted, rare.truth, rare.groups, rare.folds)
        tried = candidates(ALONE, ["soft"], ["joint"], ADJUSTMENTS.names)
        choice = choose(evidence, tried, JOINT_F1, "none", 0)
        assert choice.chosen.adjust in ("prior", "thresholds")
        assert next(row for row in choice.rows if row.candidate.adjust == "none").behind > 0.02

    def test_thresholds_are_left_where_they_do_not_pay(self) -> None:
        evidence = out_of_fold({"mask-a": 1.6, "mask-b": 1.6}, groups=250, space=ALONE)
        tried = candidates(ALONE, ["soft"], ["joint"], ADJUSTMENTS.names)
        for metric in (JOINT_F1, JOINT_ACCURACY):
            assert choose(evidence, tried, metric, "none", 0).chosen == SOFT

    def test_rows_say_what_was_found(self) -> None:
        evidence = out_of_fold({"mask-a": 1.0, "gender-a": 1.0, "joint-a": 0.7})
        tried = all_of(rules=("soft", "hard", "best", "weighted"))
        choice = choose(evidence, tried, JOINT_F1, "temperature", 0)
        assert sorted(map(str, tried)) == sorted(str(row.candidate) for row in choice.rows)
        scores = [row.score["score"] for row in choice.rows]
        assert scores == sorted(scores, reverse=True)
        results, _ = cross_fit(evidence, tried, JOINT_F1, "temperature", 0)
        for row in choice.rows:
            assert row.score["score"] == pytest.approx(
                score(evidence.truth, results[row.candidate].argmax(axis=1))["f1"], abs=1e-6
            )
            assert row.behind == pytest.approx(scores[0] - row.score["score"])
            assert row.score["low"] < row.score["high"]
        chosen = next(row for row in choice.rows if row.candidate == choice.chosen)
        assert chosen.behind <= chosen.behind_se + 1e-12
        near = [row.candidate.complexity for row in choice.rows if row.behind <= row.behind_se + 1e-12]
        assert choice.chosen.complexity == min(near)
        np.testing.assert_allclose(choice.joint, results[choice.chosen])
        assert choice.joint.dtype == np.float64

    def test_the_same_seed_makes_the_same_choice(self) -> None:
        evidence = out_of_fold({"joint-a": 0.5, "joint-b": 0.8, "joint-c": 0.6}, groups=30)
        tried = candidates(SPACE, ["soft", "greedy"], ["joint"], ["none", "thresholds"])
        one, other = (choose(evidence, tried, JOINT_F1, "vector", 5) for _ in range(2))
        assert (one.chosen, one.optimism) == (other.chosen, other.optimism)
        assert [row.score for row in one.rows] == [row.score for row in other.rows]
        np.testing.assert_array_equal(one.joint, other.joint)


class TestOptimism:
    def test_one_candidate_is_not_flattered_by_choosing(self) -> None:
        evidence = out_of_fold({"joint-a": 0.5, "joint-b": 0.8}, groups=30)
        assert choose(evidence, [SOFT], JOINT_F1, "none", 0).optimism == 0

    @pytest.mark.parametrize("seed", range(4))
    def test_is_never_below_0(self, seed: int) -> None:
        evidence = out_of_fold({"joint-a": 0.3, "joint-b": 0.5, "joint-c": 0.5}, groups=20, seed=seed)
        tried = candidates(SPACE, ["soft", "rank", "hard", "best", "weighted"], ["joint", "task"], ["none", "thresholds"])
        optimism = choose(evidence, tried, JOINT_F1, "none", seed).optimism
        assert 0 <= optimism < 0.15

    def test_is_about_what_choosing_the_best_of_several_truly_flatters(self) -> None:
        """Candidates of known skill, tried on many samples of people: by how much the chosen one's score exceeds its skill."""
        rng, groups, each = np.random.default_rng(0), 60, 2
        skills = np.linspace(0.6, 0.66, 8)
        truth = np.zeros(groups * each, np.int64)
        owners = np.repeat(np.arange(groups), each)
        nothing = np.zeros((len(skills), len(skills)))
        found, estimated = [], []
        for sample in range(60):
            predicted = [np.where(rng.random(len(truth)) < skill, 0, 1) for skill in skills]
            scores = [float((labels == truth).mean()) for labels in predicted]
            best = int(np.argmax(scores))
            evidence = OofPredictions(SPACE, {}, truth, owners, owners % 3)
            found.append(scores[best] - skills[best])
            estimated.append(
                selection_optimism(evidence, JOINT_ACCURACY, predicted, best, nothing, np.zeros(len(skills)), sample)
            )
        assert 0.5 * np.mean(found) < np.mean(estimated) < 1.1 * np.mean(found)

    def test_choosing_among_guesses_flatters(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each rule follows another guesser, so that the best of them is best by chance."""
        module = ModuleType("own_guesses")
        monkeypatch.setitem(sys.modules, "own_guesses", module)
        for n in range(12):
            rule = Rule(f"guess_{n}", 20 - n, lambda ballots, params, n=n: ballots[n], levels=("joint",))
            setattr(module, rule.name, rule)
        evidence = out_of_fold({f"joint-{n}": 0.0 for n in range(12)}, groups=25)
        tried = candidates(SPACE, [f"own_guesses:guess_{n}" for n in range(12)], ["joint"], ["none"])
        choice = choose(evidence, tried, JOINT_ACCURACY, "none", 0)
        chosen = next(row for row in choice.rows if row.candidate == choice.chosen)
        assert chosen.score["score"] > 1 / 6
        assert choice.optimism > 0.005
