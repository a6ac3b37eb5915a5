"""Tests of who votes: ballots against hand-worked cases and properties, and predictions that are not complete."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymask.core.errors import InputError
from raymask.core.tasks import JOINT, LabelSpace, Task
from raymask.runs.predictions import check_complete
from raymask.voting.ballots import joint_ballots, joint_of, task_ballots, voter_names, voters_of

SPACE = LabelSpace((Task("mask", "mask", ("worn", "wrong", "none")), Task("gender", "gender", ("male", "female"))))
HEADS = {"mask": {"mask": 3}, "gender": {"gender": 2}, "multi": {"gender": 2, "mask": 3}, JOINT: {JOINT: 6}}
KINDS = st.lists(st.sampled_from(sorted(HEADS)), min_size=1, max_size=6).filter(
    lambda kinds: {"mask", "gender"} <= set(kinds) or {"multi", JOINT} & set(kinds)
)
"""Kinds of members that together say something of every task."""


def random_rows(seed: int, images: int, classes: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(classes), images)


def members_of(kinds: list[str], seed: int) -> dict[str, dict[str, np.ndarray]]:
    return {
        f"{kind}-{n}": {head: random_rows(seed + n, 4, classes) for head, classes in HEADS[kind].items()}
        for n, kind in enumerate(kinds)
    }


MASK, OTHER_MASK, GENDER, OTHER_GENDER = (random_rows(seed, 7, classes) for seed, classes in ((1, 3), (2, 3), (3, 2), (5, 2)))
JOINTLY = random_rows(4, 7, 6)
OF_JOINTLY = np.stack([JOINTLY[:, [0, 2, 4]].sum(axis=1), JOINTLY[:, [1, 3, 5]].sum(axis=1)], axis=1)


def product(mask: np.ndarray, gender: np.ndarray) -> np.ndarray:
    return np.stack([mask[:, label // 2] * gender[:, label % 2] for label in range(6)], axis=1)


def check_ballots(ballots: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(ballots) == list(expected)
    for name, ballot in ballots.items():
        np.testing.assert_allclose(ballot, expected[name], err_msg=name)


class TestJointBallots:
    def test_specialists_of_every_task_make_a_team_with_one_ballot_of_their_product(self) -> None:
        check_ballots(joint_ballots(SPACE, {"g": {"gender": GENDER}, "m": {"mask": MASK}}), {"m + g": product(MASK, GENDER)})

    def test_the_first_specialists_make_the_first_team_and_the_second_ones_the_second(self) -> None:
        members = {"m": {"mask": MASK}, "m2": {"mask": OTHER_MASK}, "g": {"gender": GENDER}, "g2": {"gender": OTHER_GENDER}}
        check_ballots(
            joint_ballots(SPACE, members), {"m + g": product(MASK, GENDER), "m2 + g2": product(OTHER_MASK, OTHER_GENDER)}
        )

    def test_a_team_that_lacks_a_specialist_takes_the_only_one_there_is(self) -> None:
        members = {"m": {"mask": MASK}, "g": {"gender": GENDER}, "m2": {"mask": OTHER_MASK}}
        check_ballots(joint_ballots(SPACE, members), {"m + g": product(MASK, GENDER), "m2": product(OTHER_MASK, GENDER)})

    def test_a_team_that_lacks_a_specialist_takes_the_mean_of_those_that_there_are(self) -> None:
        genders = {"g": {"gender": GENDER}, "g2": {"gender": OTHER_GENDER}}
        members = {"m": {"mask": MASK}, "m2": {"mask": OTHER_MASK}, "m3": {"mask": MASK[::-1]}, **genders}
        assert list(joint_ballots(SPACE, members)) == ["m + g", "m2 + g2", "m3"]
        np.testing.assert_allclose(joint_ballots(SPACE, members)["m3"], product(MASK[::-1], (GENDER + OTHER_GENDER) / 2))

    def test_what_other_members_say_is_not_asked_where_there_is_a_specialist(self) -> None:
        members = {"m": {"mask": MASK}, "g": {"gender": GENDER}, "m2": {"mask": OTHER_MASK}, "j": {JOINT: JOINTLY}}
        np.testing.assert_allclose(joint_ballots(SPACE, members)["m2"], product(OTHER_MASK, GENDER))

    def test_multi_and_joint_members_have_a_ballot_each_after_the_teams(self) -> None:
        multi = {"mask": OTHER_MASK, "gender": OTHER_GENDER}
        members = {"m": {"mask": MASK}, "multi": multi, "j": {JOINT: JOINTLY}, "g": {"gender": GENDER}}
        expected = {"m + g": product(MASK, GENDER), "multi": product(OTHER_MASK, OTHER_GENDER), "j": JOINTLY}
        check_ballots(joint_ballots(SPACE, members), expected)

    def test_multi_and_joint_members_alone_leave_no_team(self) -> None:
        members = {"j": {JOINT: JOINTLY}, "multi": {"mask": MASK, "gender": GENDER}}
        check_ballots(joint_ballots(SPACE, members), {"j": JOINTLY, "multi": product(MASK, GENDER)})

    def test_a_task_without_a_specialist_takes_the_mean_of_what_the_others_say_of_it(self) -> None:
        multi = {"mask": OTHER_MASK, "gender": GENDER}
        ballots = joint_ballots(SPACE, {"m": {"mask": MASK}, "j": {JOINT: JOINTLY}, "multi": multi})
        np.testing.assert_allclose(ballots["m"], product(MASK, (OF_JOINTLY + GENDER) / 2))

    def test_members_of_the_only_task_there_is_have_a_ballot_each(self) -> None:
        space = LabelSpace((SPACE["mask"],))
        members = {"m": {"mask": MASK}, "m2": {"mask": OTHER_MASK}, "j": {JOINT: MASK[::-1]}}
        check_ballots(joint_ballots(space, members), {"m": MASK, "m2": OTHER_MASK, "j": MASK[::-1]})

    def test_joint_probabilities_of_each_kind_of_member(self) -> None:
        assert joint_of(SPACE, {"mask": MASK}) is None
        np.testing.assert_allclose(joint_of(SPACE, {JOINT: JOINTLY}), JOINTLY)
        np.testing.assert_allclose(joint_of(SPACE, {"gender": GENDER, "mask": MASK}), product(MASK, GENDER))


class TestTaskBallots:
    def test_every_member_that_says_something_of_the_task_has_one(self) -> None:
        multi = {"mask": OTHER_MASK, "gender": OTHER_GENDER}
        members = {"m": {"mask": MASK}, "multi": multi, "j": {JOINT: JOINTLY}, "g": {"gender": GENDER}}
        check_ballots(task_ballots(SPACE, members, "gender"), {"multi": OTHER_GENDER, "j": OF_JOINTLY, "g": GENDER})

    @settings(deadline=None, max_examples=30)
    @given(KINDS, st.integers(0, 99))
    def test_without_teams_they_are_the_marginals_of_the_joint_ballots(self, kinds: list[str], seed: int) -> None:
        members = members_of([kind if kind in ("multi", JOINT) else JOINT for kind in kinds], seed)
        for task in SPACE.names:
            whole = joint_ballots(SPACE, members)
            check_ballots(task_ballots(SPACE, members, task), {name: SPACE.marginal(of, task) for name, of in whole.items()})


class TestVoters:
    @pytest.mark.parametrize("what", [joint_ballots, voters_of, lambda space, members: task_ballots(space, members, "gender")])
    def test_a_task_that_no_member_predicts_is_refused_by_name(self, what: object) -> None:
        with pytest.raises(InputError, match=r"^no member predicts the task 'gender', so .*; add a member for it\.$"):
            what(SPACE, {"m": {"mask": MASK}, "m2": {"mask": OTHER_MASK}})

    def test_float32_predictions_make_float64_ballots(self) -> None:
        members = {"m": {"mask": MASK.astype(np.float32)}, "g": {"gender": GENDER.astype(np.float32)}}
        assert {ballots.dtype for ballots in voters_of(SPACE, members).values()} == {np.dtype(np.float64)}

    @settings(deadline=None, max_examples=60)
    @given(KINDS, st.integers(0, 99))
    def test_rows_sum_to_1_and_names_go_with_them_whoever_the_members_are(self, kinds: list[str], seed: int) -> None:
        members = members_of(kinds, seed)
        voters, names = voters_of(SPACE, members), voter_names(SPACE, {name: list(heads) for name, heads in members.items()})
        wholes = sum(kind in ("multi", JOINT) for kind in kinds)
        assert voters[JOINT].shape == (wholes + max(kinds.count("mask"), kinds.count("gender")), 4, 6)
        assert list(voters) == list(names) == [JOINT, "mask", "gender"]
        assert names[JOINT] == list(joint_ballots(SPACE, members))
        for task in SPACE.names:
            assert voters[task].shape == (wholes + kinds.count(task), 4, len(SPACE.classes(task)))
            assert names[task] == list(task_ballots(SPACE, members, task))
        for ballots in voters.values():
            np.testing.assert_allclose(ballots.sum(axis=2), 1)


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
