"""Tests of what keeps a member from learning the number behind its bands."""

from __future__ import annotations

from typing import Any

import pytest

from raymask.config.members import Member
from raymask.config.ordered import check_ordinal
from raymask.config.recipe import Recipe
from raymask.core.errors import InputError
from raymask.core.tasks import LabelSpace, Scale, Task

SPACE = LabelSpace((Task("gender", "gender", ("m", "f")), Task("age", "age", ("<30", "30-60", ">=60"), edges=(30.0, 60.0))))
SCALES = {"age": Scale((30.0, 60.0), 18.0, 78.0)}


def member(task: str, **recipe: Any) -> Member:
    return Member(name=task, task=task, seed=0, recipe=Recipe.model_validate(recipe))


@pytest.mark.parametrize("task", ["age", "multi"])
@pytest.mark.parametrize("name", ["bins", "corn", "regression"])
def test_tasks_with_edges_may_be_ordered(task: str, name: str) -> None:
    assert check_ordinal([member(task, ordinal={"name": name})], SPACE, SCALES) == []


@pytest.mark.parametrize("task", ["gender", "joint"])
def test_a_member_without_edges_is_refused(task: str) -> None:
    with pytest.raises(
        InputError, match=rf"'{task}' has recipe\.ordinal\.name=corn.*member of the task age alone, or for multi\.$"
    ):
        check_ordinal([member("age"), member(task, ordinal={"name": "corn"})], SPACE, SCALES)


def test_data_without_any_edges_are_told_of() -> None:
    with pytest.raises(InputError, match="member of a task with edges alone"):
        check_ordinal([member("gender", ordinal={"name": "corn"})], SPACE, {})


def test_bins_that_leave_a_band_empty_are_refused() -> None:
    wide = member("age", ordinal={"name": "bins", "width": 50})
    with pytest.raises(
        InputError, match=r"recipe\.ordinal\.width=50.* of age from 18 to 78 leave a band.*\[30\.0, 60\.0\] empty"
    ):
        check_ordinal([wide], SPACE, SCALES)
    unseen = {"age": Scale((30.0, 60.0), 18.0, 55.0)}
    with pytest.raises(InputError, match="empty"):
        check_ordinal([member("age", ordinal={"name": "bins"})], SPACE, unseen)
    assert check_ordinal([member("age", ordinal={"name": "corn"})], SPACE, unseen) == []


def test_a_loss_without_effect_is_told_of() -> None:
    ordered = {"ordinal": {"name": "bins"}}
    [remark] = check_ordinal([member("age", **ordered, loss={"name": "focal"})], SPACE, SCALES)
    assert "recipe.loss.name means nothing" in remark
    assert check_ordinal([member("multi", **ordered, loss={"name": "focal"})], SPACE, SCALES) == []
    assert check_ordinal([member("age", **ordered, loss={"class_weight_power": 0.5})], SPACE, SCALES) == []
