"""Tests of early stopping: who is held out to judge by, and when training ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from raymask.core.errors import InputError
from raymask.core.tasks import JOINT, LabelSpace, Task
from raymask.training.stopping import EarlyStopping, hold_out
from raymask.training.targets import LabelTable

SPACE = LabelSpace((Task("half", "half", ("top", "bottom")), Task("side", "side", ("left", "right"))))


def table(joint: list[int], groups: list[int] | None, fold: list[int], trains: list[bool] | None = None) -> LabelTable:
    labels = np.array(joint, np.int64)
    truth = {**SPACE.split(labels), JOINT: labels}
    return LabelTable(
        SPACE,
        np.array(fold, np.int64),
        truth,
        truth,
        None if trains is None else np.array(trains),
        groups=None if groups is None else np.array(groups, np.int64),
    )


class TestHoldOut:
    @settings(deadline=None, max_examples=100)
    @given(data=st.data(), share=st.floats(0.01, 0.5), seed=st.integers(0, 99))
    def test_people_are_either_learned_from_or_judged_on_and_the_own_fold_is_neither(
        self, data: st.DataObject, share: float, seed: int
    ) -> None:
        rows = data.draw(st.integers(2, 30))
        groups = data.draw(st.lists(st.integers(0, 9), min_size=rows, max_size=rows))
        joint = data.draw(st.lists(st.integers(-1, 3), min_size=rows, max_size=rows))
        trains = data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
        fold = [group % 2 for group in groups]
        labels = table(joint, groups, fold, trains)
        learned = labels.learned(0)
        people = {groups[row] for row in range(rows) if learned[row] and joint[row] >= 0}
        if len(people) < 2:
            with pytest.raises(InputError, match=rf"^recipe\.stop\.patience needs two groups .* there are {len(people)}: set it"):
                hold_out(labels, 0, share, seed)
            return
        left, judged = hold_out(labels, 0, share, seed)
        still = left.learned(0)
        taken = {groups[row] for row in judged}
        assert len(taken) == max(1, round(share * len(people)))
        assert len(taken) < len(people)
        assert judged.tolist() == [row for row in range(rows) if learned[row] and joint[row] >= 0 and groups[row] in taken]
        assert still.tolist() == [bool(learned[row]) and groups[row] not in taken for row in range(rows)]
        again = hold_out(labels, 0, share, seed)
        assert (again[0].learned(0).tolist(), again[1].tolist()) == (still.tolist(), judged.tolist())

    def test_labels_have_their_shares_among_those_who_are_held_out(self) -> None:
        joint = [0] * 60 + [1] * 20 + [2] * 20 + [3] * 100
        labels = table(joint, list(range(200)), [1] * 200)
        for seed in range(5):
            judged = hold_out(labels, 0, 0.1, seed)[1]
            assert np.bincount(labels.truth[JOINT][judged]).tolist() == [6, 2, 2, 10]

    def test_each_seed_holds_out_others(self) -> None:
        labels = table([0] * 30, None, [1] * 30)
        assert len({tuple(hold_out(labels, 0, 0.2, seed)[1].tolist()) for seed in range(10)}) == 10

    def test_classes_are_counted_without_those_who_are_held_out(self) -> None:
        labels = table([0, 0, 1, 1, 2, 3], [0, 0, 1, 1, 2, 3], [1] * 6)
        left, judged = hold_out(labels, 0, 0.5, 3)
        counted = np.bincount(np.delete(labels.truth[JOINT], judged), minlength=4)
        np.testing.assert_array_equal(left.counts(JOINT, 4, 0), counted)


class TestEarlyStopping:
    @given(st.lists(st.floats(0, 3), min_size=1, max_size=20), st.integers(1, 4))
    def test_it_ends_when_the_loss_has_not_fallen_for_so_many_epochs(self, losses: list[float], patience: int) -> None:
        part = nn.Linear(1, 1)
        stopping, again = EarlyStopping(part, patience), EarlyStopping(part, patience)
        ran = 0
        for epoch, loss in enumerate(losses, 1):
            nn.init.constant_(part.weight, float(epoch))
            stopping.end_epoch(epoch, loss)
            again.load_state(stopping.state())
            ran = epoch
            if stopping.ended:
                break
        best = int(np.argmin(losses[:ran])) + 1
        since = [end for end in range(1, len(losses) + 1) if end - (int(np.argmin(losses[:end])) + 1) >= patience]
        assert ran == min([*since, len(losses)])
        assert stopping.ended == again.ended == (since != [] and since[0] <= len(losses))
        for each in (stopping, again):
            nn.init.zeros_(part.weight)
            each.restore()
            assert each.best_epoch == best
            assert part.weight.item() == best

    def test_what_is_kept_is_a_copy(self) -> None:
        part = nn.BatchNorm1d(2)
        stopping = EarlyStopping(part, 1)
        stopping.end_epoch(1, 0.5)
        before = {name: value.clone() for name, value in part.state_dict().items()}
        part(torch.randn(4, 2))
        with torch.no_grad():
            part.weight.add_(1)
        stopping.restore()
        assert all(torch.equal(value, before[name]) for name, value in part.state_dict().items())
