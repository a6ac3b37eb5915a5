"""Tests of voting rules: hand-worked cases, properties, scikit-learn, and exhaustive searches of small cases."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from itertools import combinations_with_replacement
from types import ModuleType

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import LabelEncoder

from raymask.core.errors import InputError
from raymask.metrics.scores import SCORE_KINDS, Aim
from raymask.voting.combine import (
    FLOOR,
    TIE,
    adjusted,
    combine_boosted,
    combine_logistic,
    geometric_vote,
    hard_vote,
    log_features,
    normalised,
    rank_vote,
    soft_vote,
    votes_of,
    weighted_hard_vote,
    weighted_vote,
)
from raymask.voting.evidence import Evidence
from raymask.voting.rules import RULES, Rule, find_rule
from raymask.voting.stacking import fit_boosted, fit_logistic
from raymask.voting.thresholds import ADJUSTMENTS, _sweep, fit_adjustment, fit_prior, fit_thresholds
from raymask.voting.weights import ROUNDS, search_weights, select_greedily

UNLEARNED = ("soft", "geometric", "rank", "hard")
WEIGHING = ("best", "weighted", "greedy", "weighted_hard")
AIMS: tuple[Aim, ...] = ("f1", "accuracy")


def random_rows(seed: int, images: int, classes: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(classes), images)


BALLOTS = st.builds(
    lambda seed, voters, images, classes: random_rows(seed, voters * images, classes).reshape(voters, images, classes),
    st.integers(0, 2**32 - 1),
    st.integers(1, 9),
    st.integers(1, 6),
    st.integers(2, 6),
)
COARSE_BALLOTS = st.builds(
    lambda seed, voters, classes: np.random.default_rng(seed).integers(0, 5, (voters, 8, classes)) / 4,
    st.integers(0, 2**32 - 1),
    st.integers(1, 9),
    st.integers(2, 5),
)
"""Few different values, so that ties are frequent; rows need not sum to 1."""


@st.composite
def evidences(
    draw: st.DrawFn, most_voters: int = 5, least_voters: int = 1, most_images: int = 25, most_classes: int = 5
) -> Evidence:
    """Ballots of rows that sum to 1, many of them with zeros and ones or alike, and labels that need not hold all classes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    voters, images = draw(st.integers(least_voters, most_voters)), draw(st.integers(1, most_images))
    classes = draw(st.integers(2, most_classes))
    kind = draw(st.sampled_from(["any", "sharp", "sure", "coarse"]))
    if kind == "coarse":
        ballots = normalised(rng.integers(0, 3, (voters, images, classes)).astype(float))
    else:
        ballots = rng.dirichlet(np.full(classes, {"any": 1.0, "sharp": 0.02, "sure": 1.0}[kind]), (voters, images))
    if kind == "sure":
        ballots = votes_of(ballots)
    labels = rng.choice(classes, images, p=rng.dirichlet(np.ones(classes)))
    if draw(st.booleans()):
        labels = np.where(rng.random(images) < 0.6, ballots[0].argmax(axis=1), labels)
    return Evidence(ballots, labels, draw(st.sampled_from(AIMS)), draw(st.integers(0, 9)))


def drawn(seed: int, strengths: list[float], images: int = 200, classes: int = 3, aim: Aim = "f1") -> Evidence:
    """Voters that know the labels more or less well, and err apart from each other."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    logits = rng.normal(0, 1, (len(strengths), images, classes))
    logits += np.array(strengths)[:, None, None] * np.eye(classes)[labels]
    raised = np.exp(logits)
    return Evidence(raised / raised.sum(axis=2, keepdims=True), labels, aim, 0)


def score_of(evidence: Evidence, combined: np.ndarray) -> float:
    return SCORE_KINDS[evidence.aim].of_labels(evidence.labels, combined.argmax(axis=1), combined.shape[1])


def voted(name: str, evidence: Evidence) -> np.ndarray:
    return RULES.get(name).combine(evidence.ballots, RULES.get(name).fit(evidence))


class PredictionResult(ClassifierMixin, BaseEstimator):
    """A fitted estimator that says of row n what it was told to."""

    def __init__(self, ballot: np.ndarray) -> None:
        self.ballot = ballot
        self.classes_ = np.arange(ballot.shape[1])

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        return self.ballot[rows[:, 0]]

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.predict_proba(rows).argmax(axis=1)


def of_sklearn(ballots: np.ndarray, voting: str, weights: np.ndarray | None = None) -> VotingClassifier:
    """scikit-learn's vote of voters that were told what to say."""
    voters = [(str(n), PredictionResult(ballot)) for n, ballot in enumerate(ballots)]
    fitted = VotingClassifier(voters, voting=voting, weights=weights)
    fitted.estimators_ = [told for _, told in voters]
    fitted.le_ = LabelEncoder().fit(range(ballots.shape[2]))
    fitted.classes_ = fitted.le_.classes_
    return fitted


class TestSoftVote:
    @settings(deadline=None)
    @given(BALLOTS)
    def test_is_the_mean_and_its_rows_sum_to_1(self, ballots: np.ndarray) -> None:
        np.testing.assert_allclose(soft_vote(ballots), sum(ballots) / len(ballots))
        np.testing.assert_allclose(soft_vote(ballots).sum(axis=1), 1)

    def test_by_hand(self) -> None:
        np.testing.assert_allclose(soft_vote(np.array([[[0.9, 0.1]], [[0.3, 0.7]], [[0.3, 0.7]]])), [[0.5, 0.5]])


class TestGeometricVote:
    def test_by_hand(self) -> None:
        """Odds of 16 and of 1 have the geometric mean of 4."""
        np.testing.assert_allclose(geometric_vote(np.array([[[16 / 17, 1 / 17]], [[0.5, 0.5]]])), [[0.8, 0.2]])

    @settings(deadline=None, max_examples=30)
    @given(BALLOTS)
    def test_is_the_softmax_of_the_mean_of_logits(self, ballots: np.ndarray) -> None:
        ballots = np.maximum(ballots, 1e-5)  # logarithms of less than FLOOR are another matter
        raised = np.exp((np.log(ballots) + 3.0).mean(axis=0))
        np.testing.assert_allclose(geometric_vote(ballots), raised / raised.sum(axis=1, keepdims=True))

    def test_one_who_is_sure_that_it_is_not_counts_for_much_but_is_no_veto(self) -> None:
        confident, others = [[0.0, 1.0]], [[[1 - 1e-6, 1e-6]]] * 3
        assert geometric_vote(np.array([confident, *others])).argmax() == 0
        assert geometric_vote(np.array([confident, [[0.9, 0.1]], [[0.9, 0.1]]])).argmax() == 1
        assert soft_vote(np.array([confident, [[0.9, 0.1]], [[0.9, 0.1]]])).argmax() == 0


class TestRankVote:
    @pytest.mark.parametrize(
        ("ballots", "points"),
        [
            pytest.param([[0.5, 0.3, 0.2]], [2, 1, 0], id="one voter"),
            pytest.param([[0.4, 0.4, 0.2]], [1.5, 1.5, 0], id="a draw counts half"),
            pytest.param([[0.25, 0.25, 0.25, 0.25]], [1.5, 1.5, 1.5, 1.5], id="all alike"),
            pytest.param([[1.0, 0.0, 0.0], [0.2, 0.5, 0.3], [0.3, 0.4, 0.3]], [2.5, 4.5, 2.0], id="second best everywhere"),
        ],
    )
    def test_by_hand(self, ballots: list[list[float]], points: list[float]) -> None:
        combined = rank_vote(np.array(ballots)[:, None, :])[0]
        np.testing.assert_allclose(combined, np.array(points) / sum(points), atol=2 * TIE)

    def test_a_tie_goes_to_the_greatest_sum_and_then_to_the_lower_class(self) -> None:
        assert rank_vote(np.array([[[0.6, 0.4]], [[0.1, 0.9]]])).argmax() == 1
        assert rank_vote(np.array([[[0.9, 0.1]], [[0.4, 0.6]]])).argmax() == 0
        assert rank_vote(np.array([[[0.6, 0.4]], [[0.4, 0.6]]])).argmax() == 0

    def test_the_broadly_liked_beats_the_one_with_most_first_places(self) -> None:
        ballots = np.array([[[0.5, 0.4, 0.1]], [[0.5, 0.4, 0.1]], [[0.5, 0.4, 0.1]], [[0.0, 0.6, 0.4]], [[0.0, 0.6, 0.4]]])
        assert hard_vote(ballots).argmax() == 0
        assert rank_vote(ballots).argmax() == 1

    @settings(deadline=None, max_examples=30)
    @given(COARSE_BALLOTS)
    def test_elects_the_most_points_then_the_greatest_sum_then_the_lower_class(self, ballots: np.ndarray) -> None:
        classes = ballots.shape[2]
        for image, row in enumerate(rank_vote(ballots)):
            said = ballots[:, image]
            points = [sum(np.sign(voter[label] - other) for voter in said for other in voter) for label in range(classes)]
            ranks = [(points[label], said[:, label].sum(), -label) for label in range(classes)]
            assert row.argmax() == -max(ranks)[2]


class TestHardVote:
    @pytest.mark.parametrize(
        ("ballots", "elected"),
        [
            pytest.param([[0.9, 0.1, 0.0], [0.4, 0.6, 0.0], [0.4, 0.6, 0.0]], 1, id="two beat one who is surer"),
            pytest.param([[0.9, 0.1, 0.0], [0.4, 0.6, 0.0]], 0, id="a tie goes to the greater sum"),
            pytest.param([[0.6, 0.4, 0.0], [0.1, 0.9, 0.0]], 1, id="a tie goes to the greater sum though it comes later"),
            pytest.param([[0.6, 0.4, 0.0], [0.4, 0.6, 0.0]], 0, id="equal sums go to the lower class"),
            pytest.param([[0.2, 0.4, 0.4], [0.1, 0.5, 0.4]], 1, id="a voter's own tie goes to the lower class"),
            pytest.param(
                [[0.5, 0.0, 0.5], [0.0, 0.5, 0.5], [0.4, 0.2, 0.4], [0.1, 0.8, 0.1]], 1, id="the greatest sum without votes"
            ),
            pytest.param([[0.34, 0.33, 0.33], [0.33, 0.34, 0.33], [0.0, 0.0, 1.0]], 2, id="three ways"),
        ],
    )
    def test_by_hand(self, ballots: list[list[float]], elected: int) -> None:
        stacked = np.array(ballots)[:, None, :]
        assert hard_vote(stacked).argmax() == elected
        assert weighted_hard_vote(stacked, {"weights": np.full(len(ballots), 1 / len(ballots))}).argmax() == elected

    @settings(deadline=None)
    @given(st.one_of(BALLOTS, COARSE_BALLOTS))
    def test_elects_one_of_the_classes_with_most_votes_and_of_these_one_with_the_greatest_sum(self, ballots: np.ndarray) -> None:
        result = hard_vote(ballots)
        for image in range(ballots.shape[1]):
            votes = np.bincount(ballots[:, image].argmax(axis=1), minlength=ballots.shape[2])
            sums = ballots[:, image].sum(axis=0)
            leading = np.flatnonzero(votes == votes.max())
            elected = result[image].argmax()
            assert elected in leading
            assert sums[elected] == pytest.approx(sums[leading].max())

    @settings(deadline=None)
    @given(COARSE_BALLOTS)
    def test_full_ties_go_to_the_lower_class(self, ballots: np.ndarray) -> None:
        """Quarters add up exactly, so that the sums are equal where they should be."""
        for image, row in enumerate(hard_vote(ballots)):
            votes = np.bincount(ballots[:, image].argmax(axis=1), minlength=ballots.shape[2])
            ranks = [(votes[label], ballots[:, image, label].sum(), -label) for label in range(ballots.shape[2])]
            assert -max(ranks)[2] == row.argmax()

    @settings(deadline=None)
    @given(BALLOTS)
    def test_rows_are_shares_that_sum_to_1(self, ballots: np.ndarray) -> None:
        result = hard_vote(ballots)
        np.testing.assert_allclose(result.sum(axis=1), 1)
        assert (result >= 0).all()


class TestWeightedHardVote:
    @pytest.mark.parametrize(
        ("weights", "elected"),
        [
            pytest.param([0.6, 0.2, 0.2], 0, id="the weightiest alone"),
            pytest.param([0.4, 0.3, 0.3], 1, id="two together"),
            pytest.param([0.5, 0.3, 0.2], 0, id="a tie goes to the greater weighted sum"),
            pytest.param([0.5, 0.1, 0.4], 1, id="a tie goes to the greater weighted sum though it comes later"),
            pytest.param([0.0, 0.0, 1.0], 1, id="no weight, no vote"),
        ],
    )
    def test_by_hand(self, weights: list[float], elected: int) -> None:
        ballots = np.array([[[0.8, 0.2]], [[0.45, 0.55]], [[0.1, 0.9]]])
        assert weighted_hard_vote(ballots, {"weights": np.array(weights)}).argmax() == elected

    def test_ties_are_ties_though_shares_do_not_add_up_exactly(self) -> None:
        """0.1 + 0.2 is more than 0.3 as floats are, yet no reason to elect a class."""
        ballots = np.array([[[0.4, 0.6, 0.0]], [[0.4, 0.6, 0.0]], [[0.9, 0.1, 0.0]], [[0.0, 0.0, 1.0]], [[0.0, 0.1, 0.9]]])
        weights = np.array([0.1, 0.2, 0.3, 0.3, 0.1])
        assert weighted_hard_vote(ballots[:4], {"weights": weights[:4] / 0.9}).argmax() == 0
        np.testing.assert_allclose(weighted_hard_vote(ballots, {"weights": weights}), [[0.3, 0.3, 0.4]], atol=2 * TIE)


class TestAgainstScikitLearn:
    BALLOTS = random_rows(3, 5 * 400, 4).reshape(5, 400, 4)
    ROWS = np.arange(400)[:, None]
    WEIGHTS = np.array([0.31, 0.08, 0.22, 0.14, 0.25])

    def clear(self, weights: np.ndarray) -> np.ndarray:
        """Images without tied votes: scikit-learn breaks ties by the lower class, without a look at the probabilities."""
        counts = np.sort(np.tensordot(weights, votes_of(self.BALLOTS), axes=1), axis=1)
        return counts[:, -1] > counts[:, -2] + 1e-9

    def test_soft(self) -> None:
        np.testing.assert_allclose(soft_vote(self.BALLOTS), of_sklearn(self.BALLOTS, "soft").predict_proba(self.ROWS))

    def test_weighted_soft(self) -> None:
        expected = of_sklearn(self.BALLOTS, "soft", self.WEIGHTS * 7)
        combined = weighted_vote(self.BALLOTS, {"weights": self.WEIGHTS})
        np.testing.assert_allclose(combined, expected.predict_proba(self.ROWS))
        np.testing.assert_array_equal(combined.argmax(axis=1), expected.predict(self.ROWS))

    def test_hard(self) -> None:
        clear = self.clear(np.ones(5))
        assert clear.sum() > 200
        elected = hard_vote(self.BALLOTS).argmax(axis=1)
        np.testing.assert_array_equal(elected[clear], of_sklearn(self.BALLOTS, "hard").predict(self.ROWS)[clear])

    def test_weighted_hard(self) -> None:
        clear = self.clear(self.WEIGHTS)
        assert clear.sum() > 350
        elected = weighted_hard_vote(self.BALLOTS, {"weights": self.WEIGHTS}).argmax(axis=1)
        np.testing.assert_array_equal(elected[clear], of_sklearn(self.BALLOTS, "hard", self.WEIGHTS).predict(self.ROWS)[clear])

    def test_rules_can_differ(self) -> None:
        ballots = np.array([[[0.95, 0.05]], [[0.4, 0.6]], [[0.4, 0.6]]])
        assert soft_vote(ballots).argmax() == 0
        assert hard_vote(ballots).argmax() == 1


class TestEveryRule:
    @pytest.mark.parametrize("name", [name for name in RULES.names if name not in ("logistic", "boosted")])
    @settings(deadline=None, max_examples=50)
    @given(evidence=evidences())
    def test_rows_are_finite_and_sum_to_1(self, name: str, evidence: Evidence) -> None:
        combined = voted(name, evidence)
        assert np.isfinite(combined).all()
        assert (combined >= 0).all()
        np.testing.assert_allclose(combined.sum(axis=1), 1, atol=1e-7)

    @pytest.mark.parametrize(("name", "examples"), [("logistic", 25), ("boosted", 4)])
    def test_rows_of_stacking_are_finite_and_sum_to_1(self, name: str, examples: int) -> None:
        @settings(deadline=None, max_examples=examples)
        @given(evidence=evidences(most_voters=3, most_images=12))
        def check(evidence: Evidence) -> None:
            combined = voted(name, evidence)
            assert np.isfinite(combined).all()
            assert (combined >= 0).all()
            np.testing.assert_allclose(combined.sum(axis=1), 1, atol=1e-6)

        check()

    @pytest.mark.parametrize("name", WEIGHING)
    @settings(deadline=None, max_examples=60)
    @given(evidence=evidences())
    @example(Evidence(np.array([[[0.0, 1.0]], [[0.0, 1.0]]]), np.array([0]), "accuracy", 0))
    def test_weights_are_shares(self, name: str, evidence: Evidence) -> None:
        weights = RULES.get(name).fit(evidence)["weights"]
        assert weights.shape == (len(evidence.ballots),)
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1)

    @pytest.mark.parametrize("name", RULES.names)
    def test_the_same_evidence_makes_the_same_result(self, name: str) -> None:
        evidence = drawn(4, [0.5, 1.0, 0.2, 0.8, 1.2], images=60)
        np.testing.assert_array_equal(voted(name, evidence), voted(name, evidence))

    @pytest.mark.parametrize("name", RULES.names)
    def test_permuting_images_permutes_results(self, name: str) -> None:
        evidence = drawn(5, [0.5, 1.0, 0.2], images=90)
        order = np.random.default_rng(0).permutation(90)
        params = RULES.get(name).fit(evidence)
        combined = RULES.get(name).combine(evidence.ballots, params)
        np.testing.assert_allclose(RULES.get(name).combine(evidence.ballots[:, order], params), combined[order], rtol=1e-12)
        alone = np.concatenate([RULES.get(name).combine(evidence.ballots[:, [n]], params) for n in range(5)])
        np.testing.assert_allclose(alone, combined[:5], rtol=1e-12)
        if name != "boosted":  # its bins and sums depend on the order by a hair, and then so do its splits
            anew = RULES.get(name).fit(Evidence(evidence.ballots[:, order], evidence.labels[order], "f1", 0))
            np.testing.assert_allclose(RULES.get(name).combine(evidence.ballots, anew), combined, rtol=1e-5)

    @pytest.mark.parametrize("name", UNLEARNED)
    @settings(deadline=None, max_examples=40)
    @given(ballots=BALLOTS, rng=st.randoms(use_true_random=False))
    def test_the_order_of_voters_does_not_matter(self, name: str, ballots: np.ndarray, rng: random.Random) -> None:
        order = list(range(len(ballots)))
        rng.shuffle(order)
        combine = RULES.get(name).combine
        np.testing.assert_allclose(combine(ballots[order], {}), combine(ballots, {}))

    @pytest.mark.parametrize("name", UNLEARNED)
    @settings(deadline=None, max_examples=40)
    @given(ballots=BALLOTS)
    def test_one_voter_is_followed(self, name: str, ballots: np.ndarray) -> None:
        np.testing.assert_array_equal(RULES.get(name).combine(ballots[:1], {}).argmax(axis=1), ballots[0].argmax(axis=1))

    @pytest.mark.parametrize("name", WEIGHING)
    def test_one_voter_has_all_weight(self, name: str) -> None:
        np.testing.assert_array_equal(RULES.get(name).fit(drawn(1, [0.5]))["weights"], [1.0])

    @pytest.mark.parametrize("name", ["best", "weighted", "greedy", "weighted_hard", "logistic", "boosted"])
    def test_what_is_learnt_beats_the_even_vote_where_one_voter_knows_and_four_do_not(self, name: str) -> None:
        evidence = drawn(8, [0.0, 0.0, 3.0, 0.0, 0.0], images=400)
        assert score_of(evidence, voted(name, evidence)) > score_of(evidence, soft_vote(evidence.ballots)) + 0.1
        if name in WEIGHING:
            assert RULES.get(name).fit(evidence)["weights"].argmax() == 2

    def test_the_simpler_ones_come_first(self) -> None:
        assert [rule.complexity for rule in RULES.components.values()] == list(range(len(RULES.names)))


def exhaustive(evidence: Evidence, most: int, hard: bool = False) -> float:
    """The best score of all multisets of up to so many voters."""
    voters = range(len(evidence.ballots))
    ballots = votes_of(evidence.ballots) + TIE * evidence.ballots if hard else evidence.ballots
    sets = (chosen for size in range(1, most + 1) for chosen in combinations_with_replacement(voters, size))
    return max(score_of(evidence, ballots[list(chosen)].sum(axis=0)) for chosen in sets)


class TestBest:
    def test_takes_the_first_of_the_best(self) -> None:
        evidence = drawn(2, [0.1, 2.0, 0.3])
        repeated = Evidence(evidence.ballots[[0, 1, 1, 2]], evidence.labels, "f1", 0)
        np.testing.assert_array_equal(RULES.get("best").fit(repeated)["weights"], [0, 1, 0, 0])

    @pytest.mark.parametrize("aim", AIMS)
    def test_depends_on_the_aim(self, aim: Aim) -> None:
        """The one finds the rare class, the other is right more often."""
        labels = np.array([0] * 8 + [1] * 2)
        finds, right = np.array([0] * 5 + [1] * 5), np.zeros(10, int)
        evidence = Evidence(np.eye(2)[np.stack([right, finds])], labels, aim, 0)
        np.testing.assert_array_equal(RULES.get("best").fit(evidence)["weights"], {"f1": [0, 1], "accuracy": [1, 0]}[aim])


class TestGreedy:
    @settings(deadline=None, max_examples=40)
    @given(evidences(most_voters=3, least_voters=2, most_images=10, most_classes=3))
    def test_is_no_better_than_all_multisets_and_no_worse_than_the_best_voter(self, evidence: Evidence) -> None:
        weights = select_greedily(evidence.ballots, np.arange(len(evidence.ballots)), evidence)
        found = score_of(evidence, weighted_vote(evidence.ballots, {"weights": weights.round(12)}))
        assume(np.allclose(found, self.exact(evidence, weights)))  # a tie that another rounding settles otherwise says nothing
        assert found <= exhaustive(evidence, ROUNDS) + 1e-9
        assert found >= max(score_of(evidence, ballot) for ballot in evidence.ballots) - 1e-9

    @staticmethod
    def exact(evidence: Evidence, weights: np.ndarray) -> float:
        counts = weights / weights[weights > 0].min()
        return score_of(evidence, np.tensordot(counts.round(), evidence.ballots, axes=1))

    @pytest.mark.parametrize("seed", range(10))
    def test_reaches_the_best_multiset_of_two_where_two_are_enough(self, seed: int) -> None:
        evidence = drawn(seed, [0.8, 1.0, 1.2], images=20, aim="accuracy")
        weights = select_greedily(evidence.ballots, np.arange(3), evidence)
        first = int(np.argmax([score_of(evidence, ballot) for ballot in evidence.ballots]))
        with_first = max(score_of(evidence, evidence.ballots[first] + other) for other in evidence.ballots)
        found = score_of(evidence, weighted_vote(evidence.ballots, {"weights": weights}))
        assert with_first - 1e-9 <= found <= exhaustive(evidence, ROUNDS) + 1e-9

    def test_finds_the_two_that_make_up_for_each_other(self) -> None:
        """Each of the first two is right on one half and wavers on the other; the third is a little better than either alone."""
        labels = np.tile([0, 1], 20)
        right, wavering, wrong = np.eye(2)[labels] * 0.98 + 0.01, np.eye(2)[1 - labels] * 0.1 + 0.45, np.eye(2)[1 - labels]
        half = (np.arange(40) < 20)[:, None]
        third = np.where((np.arange(40) < 26)[:, None], right, wrong)
        evidence = Evidence(np.stack([np.where(half, right, wavering), np.where(half, wavering, right), third]), labels, "f1", 0)
        weights = select_greedily(evidence.ballots, np.arange(3), evidence)
        assert score_of(evidence, weighted_vote(evidence.ballots, {"weights": weights})) == 1.0 == exhaustive(evidence, 5)
        assert score_of(evidence, evidence.ballots[2]) > score_of(evidence, evidence.ballots[0])

    def test_by_hand(self) -> None:
        """The best first, then what mends its one fault; more of either changes nothing, and the earliest of equals is taken."""
        labels = np.array([0, 0, 1, 1])
        best = [[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.6, 0.4]]
        mends = [[0.5, 0.5], [0.4, 0.6], [0.6, 0.4], [0.1, 0.9]]
        useless = [[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]
        evidence = Evidence(np.array([useless, best, mends]), labels, "accuracy", 0)
        np.testing.assert_array_equal(select_greedily(evidence.ballots, np.arange(3), evidence), [0, 0.5, 0.5])
        np.testing.assert_array_equal(select_greedily(evidence.ballots, np.array([0, 2]), evidence), [0, 0, 1])

    def test_a_seed_decides_the_bags(self) -> None:
        evidence = drawn(3, [0.5] * 8, images=120)
        of_seed = [
            RULES.get("greedy").fit(Evidence(evidence.ballots, evidence.labels, "f1", seed))["weights"] for seed in (1, 1, 2)
        ]
        np.testing.assert_array_equal(of_seed[0], of_seed[1])
        assert (of_seed[0] != of_seed[2]).any()


class TestSearch:
    @settings(deadline=None, max_examples=40)
    @given(evidences(most_voters=4, most_images=15))
    @example(Evidence(np.array([[[0.0, 1.0]], [[0.0, 1.0]]]), np.array([0]), "accuracy", 0))
    def test_is_no_worse_than_even_weights(self, evidence: Evidence) -> None:
        assume(self.clear(evidence.ballots.mean(axis=0)))
        weights = search_weights(evidence.ballots, evidence)
        combined = weighted_vote(evidence.ballots, {"weights": weights})
        assume(self.clear(combined))
        assert score_of(evidence, combined) >= score_of(evidence, soft_vote(evidence.ballots)) - 1e-9

    @staticmethod
    def clear(combined: np.ndarray) -> bool:
        """Whether no two classes lead any image by equal numbers, which rounding then decides between."""
        leading = np.sort(combined, axis=1)
        return bool((leading[:, -1] - leading[:, -2] > 1e-5).all())

    @pytest.mark.parametrize("aim", AIMS)
    @pytest.mark.parametrize("hard", [False, True])
    def test_gains_most_of_what_a_fine_grid_of_the_simplex_gains(self, aim: Aim, hard: bool) -> None:
        steps, gained, possible = 40, 0.0, 0.0
        grid = np.array([(a, b, steps - a - b) for a in range(steps + 1) for b in range(steps + 1 - a)]) / steps
        name, combine = ("weighted_hard", weighted_hard_vote) if hard else ("weighted", weighted_vote)
        for seed in range(12):
            evidence = drawn(seed, [0.5, 1.0, 1.5], images=25, aim=aim)
            best = max(score_of(evidence, combine(evidence.ballots, {"weights": weights})) for weights in grid)
            found = score_of(evidence, voted(name, evidence))
            even = score_of(evidence, combine(evidence.ballots, {"weights": np.full(3, 1 / 3)}))
            assert even - 1e-9 <= found <= best + 2 / 25  # the grid is not all of the simplex: an image or two more
            gained, possible = gained + found - even, possible + best - even
        assert gained > 0.5 * possible

    def test_finds_the_only_weights_that_do(self) -> None:
        """Three voters of whom the first must count for more than each of the others and for less than both."""
        labels = np.array([0, 0, 1])
        ballots = np.eye(2)[np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1]])]
        for name in ("weighted", "weighted_hard"):
            evidence = Evidence(ballots, labels, "accuracy", 0)
            assert score_of(evidence, voted(name, evidence)) == 1.0

    def test_votes_count_alone_and_probabilities_only_settle_ties(self) -> None:
        """Of two voters with one vote each the surer one is right at first, and is to be followed everywhere."""
        labels = np.array([0, 0, 1, 1, 1])
        confident = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.45, 0.55], [0.45, 0.55]])
        other = np.array([[0.4, 0.6], [0.4, 0.6], [0.6, 0.4], [0.4, 0.6], [0.4, 0.6]])
        evidence = Evidence(np.stack([confident, other]), labels, "accuracy", 0)
        np.testing.assert_allclose(RULES.get("weighted_hard").fit(evidence)["weights"], [0.5, 0.5])
        assert score_of(evidence, voted("weighted_hard", evidence)) == 1.0

    def test_ties_are_settled_in_the_search_as_they_are_in_the_vote(self) -> None:
        """The two voters always disagree, and sums of probabilities differ by less than float32 tells beside a vote."""
        labels = np.tile([0, 1], 20)
        first = 0.76 + 0.01 * np.eye(2)[labels][:, 0] - 0.005
        evidence = Evidence(np.stack([np.stack([first, 1 - first], axis=1), np.tile([0.24, 0.76], (40, 1))]), labels, "f1", 0)
        assert score_of(evidence, voted("hard", evidence)) == 1.0
        np.testing.assert_array_equal(RULES.get("weighted_hard").fit(evidence)["weights"], [0.5, 0.5])
        assert score_of(evidence, voted("weighted_hard", evidence)) == 1.0

    @pytest.mark.parametrize("aim", AIMS)
    def test_of_two_voters_it_never_beats_all_weights_that_differ_and_mostly_equals_them(self, aim: Aim) -> None:
        reached = 0
        for seed in range(30):
            evidence = drawn(seed, [0.7, 1.2], images=20, aim=aim)
            difference = evidence.ballots[0] - evidence.ballots[1]
            gaps = (difference[:, :, None] - difference[:, None, :]).ravel()
            base = (evidence.ballots[1][:, None, :] - evidence.ballots[1][:, :, None]).ravel()
            turns = base[gaps != 0] / gaps[gaps != 0]  # the weights at which two classes of an image change places
            edges = np.unique([0, 1, *turns[(turns > 0) & (turns < 1)]])
            shares = [0, 1, *(edges[1:] + edges[:-1]) / 2]
            scores = [score_of(evidence, weighted_vote(evidence.ballots, {"weights": [share, 1 - share]})) for share in shares]
            found = score_of(evidence, voted("weighted", evidence))
            assert found <= max(scores) + 1e-9
            reached += found >= max(scores) - 1e-9
        assert reached >= 15


class TestLogistic:
    @staticmethod
    def of_sklearn(evidence: Evidence, solver: str = "newton-cholesky") -> np.ndarray:
        features = log_features(evidence.ballots)
        scaled = (features - features.mean(axis=0)) / features.std(axis=0)
        model = LogisticRegression(C=0.03, solver=solver, tol=1e-3, max_iter=100).fit(scaled, evidence.labels)
        return model.predict_proba(scaled)

    @pytest.mark.parametrize(("classes", "voters"), [(2, 3), (3, 1), (3, 3), (4, 2)])
    def test_is_that_of_scikit_learn(self, classes: int, voters: int) -> None:
        evidence = drawn(0, [1.0] * voters, images=120, classes=classes)
        combined = combine_logistic(evidence.ballots, fit_logistic(evidence))
        np.testing.assert_allclose(combined, self.of_sklearn(evidence), atol=1e-4)

    def test_is_that_of_scikit_learn_where_features_are_many(self) -> None:
        evidence = drawn(0, [1.0] * 4, images=150, classes=12)
        combined = combine_logistic(evidence.ballots, fit_logistic(evidence))
        np.testing.assert_allclose(combined, self.of_sklearn(evidence, "lbfgs"), atol=1e-3)

    @pytest.mark.parametrize("there", [(0, 2, 3), (1, 3), (2,)])
    @pytest.mark.parametrize(("fit", "combine"), [(fit_logistic, combine_logistic), (fit_boosted, combine_boosted)])
    def test_classes_that_are_not_in_the_evidence_are_hardly_elected(
        self, there: tuple[int, ...], fit: Callable, combine: Callable
    ) -> None:
        whole = drawn(0, [2.0, 1.0], images=400, classes=4)
        kept = np.isin(whole.labels, there)
        evidence = Evidence(whole.ballots[:, kept], whole.labels[kept], "f1", 0)
        combined = combine(evidence.ballots, fit(evidence))
        absent = [label for label in range(4) if label not in there]
        assert combined[:, absent].max() < 1e-6
        np.testing.assert_allclose(combined.sum(axis=1), 1)
        assert score_of(evidence, combined) > {3: 0.75, 2: 0.85, 1: 0.999}[len(there)]

    def test_two_classes_of_more_are_those_of_scikit_learn(self) -> None:
        whole = drawn(0, [2.0, 1.0], images=300, classes=4)
        kept = np.isin(whole.labels, (1, 3))
        evidence = Evidence(whole.ballots[:, kept], whole.labels[kept], "f1", 0)
        combined = combine_logistic(evidence.ballots, fit_logistic(evidence))
        np.testing.assert_allclose(combined[:, [1, 3]], self.of_sklearn(evidence), atol=1e-4)

    def test_certainties_are_no_trouble(self) -> None:
        evidence = drawn(0, [2.0, 1.0], images=100)
        confident = Evidence(votes_of(evidence.ballots), evidence.labels, "f1", 0)
        assert score_of(confident, voted("logistic", confident)) >= score_of(confident, confident.ballots[1])

    def test_features_are_centred_logarithms_voter_by_voter(self) -> None:
        ballots = np.array([[[0.5, 0.5], [1.0, 0.0]], [[0.8, 0.2], [0.2, 0.8]]])
        half = -np.log(FLOOR) / 2
        np.testing.assert_allclose(
            log_features(ballots), [[0, 0, np.log(2), -np.log(2)], [half, -half, -np.log(2), np.log(2)]], atol=1e-12
        )


class TestBoosted:
    def test_learns(self) -> None:
        evidence = drawn(0, [1.0, 0.5], images=400)
        combined = combine_boosted(evidence.ballots, fit_boosted(evidence))
        assert score_of(evidence, combined) > score_of(evidence, evidence.ballots[0])
        np.testing.assert_allclose(combined.sum(axis=1), 1)

    def test_is_for_tasks_alone(self) -> None:
        assert RULES.get("boosted").levels == ("task",)


def brute_sweep(evidence: Evidence, logs: np.ndarray, label: int) -> float:
    """The best score of a shift of one class between any two needs, or beyond them all."""
    others = np.delete(logs, label, axis=1).max(axis=1)
    needs = np.unique(others - logs[:, label])
    shifts = [needs[0] - 1, *(needs[1:] + needs[:-1]) / 2, needs[-1] + 1]
    unit = np.eye(logs.shape[1])[label]
    return max(score_of(evidence, logs + shift * unit) for shift in shifts)


LOGS = st.builds(
    lambda seed, images, classes, labels, aim, coarse: (
        Evidence(np.zeros((1, images, classes)), np.random.default_rng(seed + 1).integers(0, labels, images) % classes, aim, 0),
        np.random.default_rng(seed).integers(-3, 1, (images, classes)) / 2
        if coarse
        else np.random.default_rng(seed).normal(0, 1, (images, classes)),
    ),
    st.integers(0, 2**31),
    st.integers(1, 12),
    st.integers(2, 5),
    st.integers(1, 5),
    st.sampled_from(AIMS),
    st.booleans(),
)
"""Evidence and (N, C) logarithms, often with ties and without some of the classes."""


class TestThresholds:
    @settings(deadline=None, max_examples=200)
    @given(LOGS, st.data())
    def test_one_sweep_finds_the_best_of_all_shifts_of_one_class(
        self, drawn: tuple[Evidence, np.ndarray], data: st.DataObject
    ) -> None:
        evidence, logs = drawn
        label = data.draw(st.integers(0, logs.shape[1] - 1))
        found, shift = _sweep(evidence, logs, label)
        assert found == pytest.approx(brute_sweep(evidence, logs, label), abs=1e-12)
        assert found == pytest.approx(score_of(evidence, logs + shift * np.eye(logs.shape[1])[label]), abs=1e-12)

    @pytest.mark.parametrize("fit", [fit_thresholds, fit_prior])
    @settings(deadline=None, max_examples=150)
    @given(evidence=evidences(most_voters=3))
    def test_never_score_below_the_unadjusted_on_the_evidence(self, fit: Callable, evidence: Evidence) -> None:
        for combined in (evidence.ballots[0], soft_vote(evidence.ballots), hard_vote(evidence.ballots)):
            result = adjusted(combined, fit(evidence, combined))
            assert score_of(evidence, result) >= score_of(evidence, combined) - 1e-12
            np.testing.assert_allclose(result.sum(axis=1), 1)

    @settings(deadline=None, max_examples=100)
    @given(evidences(most_voters=1))
    def test_score_in_use_what_they_were_chosen_for(self, evidence: Evidence) -> None:
        """Though logarithms are taken of `FLOOR` at least."""
        combined = evidence.ballots[0]
        best = score_of(evidence, combined)
        sweeps = [_sweep(evidence, np.log(np.maximum(combined, FLOOR)), label)[0] for label in range(combined.shape[1])]
        found = score_of(evidence, adjusted(combined, fit_thresholds(evidence, combined)))
        assert found >= max(best, sweeps[0]) - 1e-12

    def test_a_class_of_probability_zero_can_be_elected(self) -> None:
        combined = np.array([[1.0, 0.0]] * 3 + [[0.9, 0.1]] * 3)
        evidence = Evidence(combined[None], np.array([1, 1, 1, 1, 1, 0]), "accuracy", 0)
        assert score_of(evidence, adjusted(combined, fit_thresholds(evidence, combined))) == pytest.approx(5 / 6)

    def test_by_hand(self) -> None:
        """The rare class always comes second; its threshold goes to where it is right."""
        said = np.array([0.1, 0.15, 0.2, 0.3, 0.4])
        combined = np.stack([1 - said, said], axis=1)
        evidence = Evidence(combined[None], np.array([0, 0, 0, 1, 1]), "f1", 0)
        factors = fit_thresholds(evidence, combined)
        assert score_of(evidence, adjusted(combined, factors)) == 1.0
        assert np.sqrt(7 / 3 * 8 / 2) == pytest.approx(factors[1] / factors[0])  # the middle of the gap, as logarithms go

    def test_what_is_right_already_is_left_alone(self) -> None:
        evidence = drawn(0, [50.0])
        np.testing.assert_array_equal(fit_thresholds(evidence, evidence.ballots[0]), np.ones(3))
        np.testing.assert_array_equal(fit_prior(evidence, evidence.ballots[0]), np.ones(3))

    @pytest.mark.parametrize("fit", [fit_thresholds, fit_prior])
    def test_rare_classes_gain_where_voters_know_the_frequencies(self, fit: Callable) -> None:
        rng = np.random.default_rng(0)
        prior = np.array([0.9, 0.08, 0.02])
        labels = rng.choice(3, 2000, p=prior)
        raised = prior * np.exp(rng.normal(0, 1, (2000, 3)) + 1.5 * np.eye(3)[labels])
        combined = normalised(raised)
        evidence = Evidence(combined[None], labels, "f1", 0)
        factors = fit(evidence, combined)
        assert score_of(evidence, adjusted(combined, factors)) > score_of(evidence, combined) + 0.02
        assert factors[0] == factors.min()
        if fit is fit_prior:
            np.testing.assert_array_equal(np.argsort(factors), [0, 1, 2])

    def test_find_of_each_class_what_a_scan_of_two_classes_finds(self) -> None:
        evidence = drawn(11, [0.6], images=300, classes=2)
        combined = evidence.ballots[0] * [0.8, 0.2]
        found = score_of(evidence, adjusted(combined, fit_thresholds(evidence, combined)))
        assert found == pytest.approx(brute_sweep(evidence, np.log(combined), 1), abs=1e-12)


class TestAdjustments:
    def test_none_leaves_all_as_it_is(self) -> None:
        evidence = drawn(0, [1.0])
        assert fit_adjustment("none", evidence, evidence.ballots[0]) is None
        assert adjusted(evidence.ballots, None) is evidence.ballots

    def test_by_hand(self) -> None:
        np.testing.assert_allclose(adjusted(np.array([[0.6, 0.4], [0.9, 0.1]]), [1, 3]), [[1 / 3, 2 / 3], [0.75, 0.25]])

    def test_an_unknown_one_is_refused(self) -> None:
        evidence = drawn(0, [1.0])
        with pytest.raises(InputError, match=r"^vote.adjust is 'priors'; it may be 'prior' \(the nearest\), .*, or 'auto'\.$"):
            fit_adjustment("priors", evidence, evidence.ballots[0])
        assert list(ADJUSTMENTS.names) == ["none", "prior", "thresholds"]

    def test_rows_of_zeros_become_even(self) -> None:
        np.testing.assert_allclose(normalised(np.array([[0.0, 0.0], [1.0, 3.0]])), [[0.5, 0.5], [0.25, 0.75]])


@pytest.fixture
def own_votes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A user's own module."""
    module = ModuleType("own_votes")
    module.loudest = lambda ballots: normalised(ballots.max(axis=0))
    module.learned = Rule("learned", 3, weighted_vote, lambda evidence: {"weights": np.eye(len(evidence.ballots))[-1]})
    module.number = 7
    monkeypatch.setitem(sys.modules, "own_votes", module)
    return module


class TestFindRule:
    @pytest.mark.parametrize("name", RULES.names)
    def test_a_rule_by_its_name(self, name: str) -> None:
        assert find_rule(name) is RULES.get(name)
        assert find_rule(name).name == name

    def test_ones_own_function_by_its_import_path(self, own_votes: ModuleType) -> None:
        rule = find_rule("own_votes:loudest")
        evidence = drawn(0, [1.0, 2.0])
        np.testing.assert_array_equal(
            rule.combine(evidence.ballots, rule.fit(evidence)), normalised(evidence.ballots.max(axis=0))
        )
        assert rule.name == "own_votes:loudest"
        assert rule.complexity >= len(RULES.names)

    def test_ones_own_rule_by_its_import_path(self, own_votes: ModuleType) -> None:
        assert find_rule("own_votes:learned") is own_votes.learned

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            (
                "sofd",
                r"vote.rule is 'sofd'; it may be 'soft' \(the nearest\), .*, or 'auto' or a path such as 'my.votes:rule'.",
            ),
            ("own_votes:nothing", r"vote.rule: 'own_votes:nothing' cannot be imported \(.*nothing.*\)."),
            ("no_such_votes:rule", r"vote.rule: 'no_such_votes:rule' cannot be imported \(No module named 'no_such_votes'\)."),
            (":rule", r"vote.rule: ':rule' cannot be imported \(.*\)."),
            (".own:rule", r"vote.rule: '.own:rule' cannot be imported \(.*\)."),
            ("own_votes:", r"vote.rule: 'own_votes:' cannot be imported \(.*\)."),
            (
                "own_votes:number",
                r"vote.rule: 'own_votes:number' is neither a function of ballots nor a raymask.Rule.",
            ),
        ],
    )
    def test_what_is_not_there_is_refused_in_one_sentence(self, own_votes: ModuleType, name: str, message: str) -> None:
        with pytest.raises(InputError, match=f"^{message}$"):
            find_rule(name)
