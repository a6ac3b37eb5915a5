"""Tests of ballots and votes: against hand-worked cases, properties, and scikit-learn's VotingClassifier."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import VotingClassifier
from sklearn.preprocessing import LabelEncoder

from raymask.ensemble import ballots_of, check_complete, hard_vote, joint_of, soft_vote, vote
from raymask.errors import InputError
from raymask.tasks import JOINT, LabelSpace, Task

SPACE = LabelSpace((Task("mask", "mask", ("worn", "wrong", "none")), Task("gender", "gender", ("male", "female"))))


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


class TestSoftVote:
    @settings(deadline=None)
    @given(BALLOTS)
    def test_is_the_mean_and_its_rows_sum_to_1(self, ballots: np.ndarray) -> None:
        np.testing.assert_allclose(soft_vote(ballots), sum(ballots) / len(ballots))
        np.testing.assert_allclose(soft_vote(ballots).sum(axis=1), 1)

    def test_by_hand(self) -> None:
        np.testing.assert_allclose(soft_vote(np.array([[[0.9, 0.1]], [[0.3, 0.7]], [[0.3, 0.7]]])), [[0.5, 0.5]])


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
        assert hard_vote(np.array(ballots)[:, None, :]).argmax() == elected

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

    @settings(deadline=None)
    @given(BALLOTS, st.randoms(use_true_random=False))
    def test_the_order_of_voters_does_not_matter(self, ballots: np.ndarray, rng: random.Random) -> None:
        order = list(range(len(ballots)))
        rng.shuffle(order)
        for rule in ("soft", "hard"):
            np.testing.assert_allclose(vote(rule, ballots[order]), vote(rule, ballots))

    @settings(deadline=None)
    @given(BALLOTS)
    def test_one_voter_is_followed(self, ballots: np.ndarray) -> None:
        for rule in ("soft", "hard"):
            np.testing.assert_array_equal(vote(rule, ballots[:1]).argmax(axis=1), ballots[0].argmax(axis=1))


class TestVote:
    def test_an_unknown_rule_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"^vote.rule is 'sofd'; it may be 'soft' \(the nearest\) or 'hard'\.$"):
            vote("sofd", np.ones((1, 1, 2)))

    def test_rules_can_differ(self) -> None:
        ballots = np.array([[[0.95, 0.05]], [[0.4, 0.6]], [[0.4, 0.6]]])
        assert vote("soft", ballots).argmax() == 0
        assert vote("hard", ballots).argmax() == 1

    @pytest.mark.parametrize("rule", ["soft", "hard"])
    def test_agrees_with_scikit_learn_where_no_votes_are_tied(self, rule: str) -> None:
        """scikit-learn breaks ties by the lower class, without a look at the probabilities."""
        ballots = random_rows(3, 5 * 400, 4).reshape(5, 400, 4)
        counts = np.stack([np.bincount(column, minlength=4) for column in ballots.argmax(axis=2).T])
        clear = np.sort(counts, axis=1)[:, -1] > np.sort(counts, axis=1)[:, -2]
        of_sklearn = VotingClassifier([(str(n), Told(ballot)) for n, ballot in enumerate(ballots)], voting=rule)
        of_sklearn.estimators_ = [told for _, told in of_sklearn.estimators]
        of_sklearn.le_ = LabelEncoder().fit(range(4))
        of_sklearn.classes_ = of_sklearn.le_.classes_
        compared = clear if rule == "hard" else np.full(400, True)
        assert compared.sum() > 200
        expected = of_sklearn.predict(np.arange(400)[:, None])
        np.testing.assert_array_equal(vote(rule, ballots).argmax(axis=1)[compared], expected[compared])
        if rule == "soft":
            np.testing.assert_allclose(vote(rule, ballots), of_sklearn.predict_proba(np.arange(400)[:, None]))


class Told(ClassifierMixin, BaseEstimator):
    """A fitted estimator that says of row n what it was told to."""

    def __init__(self, ballot: np.ndarray) -> None:
        self.ballot = ballot
        self.classes_ = np.arange(ballot.shape[1])

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        return self.ballot[rows[:, 0]]

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.predict_proba(rows).argmax(axis=1)


MASK, OTHER_MASK, GENDER = random_rows(1, 7, 3), random_rows(2, 7, 3), random_rows(3, 7, 2)
JOINTLY = random_rows(4, 7, 6)


def product(mask: np.ndarray, gender: np.ndarray) -> np.ndarray:
    return np.stack([mask[:, label // 2] * gender[:, label % 2] for label in range(6)], axis=1)


class TestBallots:
    def test_specialists_together_have_one_ballot_of_their_product(self) -> None:
        ballots = ballots_of(SPACE, [{"gender": GENDER}, {"mask": MASK}])
        np.testing.assert_allclose(ballots, [product(MASK, GENDER)])

    def test_specialists_of_one_task_are_averaged_first(self) -> None:
        ballots = ballots_of(SPACE, [{"mask": MASK}, {"gender": GENDER}, {"mask": OTHER_MASK}])
        np.testing.assert_allclose(ballots, [product((MASK + OTHER_MASK) / 2, GENDER)])

    def test_multi_and_joint_members_have_a_ballot_each_beside_the_specialists(self) -> None:
        multi = {"mask": OTHER_MASK, "gender": GENDER[::-1]}
        ballots = ballots_of(SPACE, [{"mask": MASK}, multi, {JOINT: JOINTLY}, {"gender": GENDER}])
        assert ballots.shape == (3, 7, 6)
        np.testing.assert_allclose(ballots[0], product(OTHER_MASK, GENDER[::-1]))
        np.testing.assert_allclose(ballots[1], JOINTLY)
        np.testing.assert_allclose(ballots[2], product(MASK, GENDER))

    def test_multi_and_joint_members_alone_leave_no_ballot_of_specialists(self) -> None:
        assert len(ballots_of(SPACE, [{JOINT: JOINTLY}, {"mask": MASK, "gender": GENDER}])) == 2

    def test_a_task_without_a_specialist_takes_what_the_others_say_of_it(self) -> None:
        multi = {"mask": OTHER_MASK, "gender": GENDER}
        ballots = ballots_of(SPACE, [{"mask": MASK}, {JOINT: JOINTLY}, multi])
        of_joint = np.stack([JOINTLY[:, [0, 2, 4]].sum(axis=1), JOINTLY[:, [1, 3, 5]].sum(axis=1)], axis=1)
        np.testing.assert_allclose(ballots[-1], product(MASK, (of_joint + GENDER) / 2))

    def test_a_task_that_no_member_predicts_is_refused_by_name(self) -> None:
        with pytest.raises(InputError, match="no member predicts the task 'gender'"):
            ballots_of(SPACE, [{"mask": MASK}, {"mask": OTHER_MASK}])

    def test_members_of_the_only_task_there_is_have_a_ballot_each(self) -> None:
        space = LabelSpace((SPACE["mask"],))
        np.testing.assert_allclose(ballots_of(space, [{"mask": MASK}, {"mask": OTHER_MASK}]), [MASK, OTHER_MASK])

    def test_float32_predictions_make_float64_ballots(self) -> None:
        ballots = ballots_of(SPACE, [{"mask": MASK.astype(np.float32)}, {"gender": GENDER.astype(np.float32)}])
        assert ballots.dtype == np.float64

    @settings(deadline=None)
    @given(
        st.lists(st.sampled_from(["mask", "gender", "multi", JOINT]), min_size=1, max_size=6).filter(
            lambda kinds: {"mask", "gender"} <= set(kinds) or {"multi", JOINT} & set(kinds)
        ),
        st.integers(0, 99),
    )
    def test_rows_of_every_ballot_sum_to_1_whoever_the_members_are(self, kinds: list[str], seed: int) -> None:
        heads = {"mask": {"mask": 3}, "gender": {"gender": 2}, "multi": {"gender": 2, "mask": 3}, JOINT: {JOINT: 6}}
        members = [
            {head: random_rows(seed + n, 4, classes) for head, classes in heads[kind].items()} for n, kind in enumerate(kinds)
        ]
        ballots = ballots_of(SPACE, members)
        wholes = sum(kind in ("multi", JOINT) for kind in kinds)
        assert ballots.shape == (wholes + bool({"mask", "gender"} & set(kinds)), 4, 6)
        np.testing.assert_allclose(ballots.sum(axis=2), 1)

    def test_joint_probabilities_of_each_kind_of_member(self) -> None:
        assert joint_of(SPACE, {"mask": MASK}) is None
        np.testing.assert_allclose(joint_of(SPACE, {JOINT: JOINTLY}), JOINTLY)
        np.testing.assert_allclose(joint_of(SPACE, {"gender": GENDER, "mask": MASK}), product(MASK, GENDER))


class TestCheckComplete:
    WANT = tuple(f"image-{number}" for number in range(9))

    def test_complete_predictions_pass_in_any_order(self) -> None:
        check_complete("the predictions", self.WANT[::-1], self.WANT)

    @pytest.mark.parametrize(
        ("have", "message"),
        [
            (WANT[1:], "the predictions lack 1 image(s): image-0."),
            (WANT[:2], "the predictions lack 7 image(s): image-2, image-3, image-4, image-5, image-6 and 2 more."),
            ((*WANT, "stranger"), "the predictions hold unknown 1 image(s): stranger."),
            ((*WANT, "image-4"), "the predictions hold twice 1 image(s): image-4."),
            ((*WANT, "image-4", "image-4"), "the predictions hold twice 1 image(s): image-4."),
        ],
    )
    def test_what_is_missing_unknown_or_repeated_is_named(self, have: tuple[str, ...], message: str) -> None:
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            check_complete("the predictions", have, self.WANT)
