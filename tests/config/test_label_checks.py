"""Tests of what recipes name of the labels: unknown tasks and classes are refused with the nearest."""

from __future__ import annotations

from typing import Any

import pytest

from raymask.config.label_checks import MOST_NAMES, check_labels
from raymask.config.members import Member
from raymask.config.recipe import Recipe
from raymask.core.errors import InputError
from raymask.core.tasks import JOINT, MULTI, LabelSpace, Task

SPACE = LabelSpace((Task("mask", "mask", ("worn", "none")), Task("age", "age", ("<30", "30-60", ">=60"))))


def check(task: str = "age", space: LabelSpace = SPACE, **recipe: Any) -> None:
    member = Member(name=f"m-{task}", task=task, seed=0, recipe=Recipe.model_validate({"pretrained": False, **recipe}))
    check_labels([Member(name="plain", task="mask", seed=0, recipe=Recipe()), member], space)


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"mix": {"name": "mixup", "rare": {"age": [">=60"], "mask": ["worn", "none"]}}},
        {"mix": {"name": "cutmix", "rare": {JOINT: ["worn >=60"]}}},
        {"sampler": {"name": "balanced"}},
        {"sampler": {"name": "dynamic", "by": JOINT}},
        {"sampler": {"name": "repeat", "factors": {">=60": 3, "<30": 0.5}}},
        {"sampler": {"name": "repeat", "by": "mask", "factors": {"none": 2}}},
    ],
)
def test_names_that_there_are_pass(recipe: dict[str, Any]) -> None:
    check(**recipe)


def test_a_specialist_of_another_task_may_mix_by_one_that_it_does_not_predict() -> None:
    check("mask", mix={"name": "half_cutmix", "rare": {"age": [">=60"]}})


@pytest.mark.parametrize(
    ("task", "recipe", "said"),
    [
        (
            "mask",
            {"mix": {"name": "mixup", "rare": {"agee": [">=60"]}}},
            "recipe.mix.rare names the task 'agee'; it may be 'age' (the nearest), 'mask' or 'joint'.",
        ),
        (
            "mask",
            {"mix": {"name": "mixup", "rare": {"age": [">=60", ">60"]}}},
            "recipe.mix.rare.age names the class '>60'; it may be '>=60' (the nearest), '<30' or '30-60'.",
        ),
        (
            "mask",
            {"mix": {"name": "mixup", "rare": {"multi": ["worn"]}}},
            "recipe.mix.rare names the task 'multi'; it may be 'mask', 'age' or 'joint'.",
        ),
        (
            "mask",
            {"sampler": {"name": "balanced", "by": "masc"}},
            "recipe.sampler.by is 'masc'; it may be 'mask' (the nearest), 'age' or 'joint'.",
        ),
        (
            "age",
            {"sampler": {"name": "repeat", "by": "mask", "factors": {"non": 2}}},
            "recipe.sampler.factors names the class 'non', but member 'm-age' counts those of mask; it may be "
            "'none' (the nearest) or 'worn'.",
        ),
        (
            "mask",
            {"sampler": {"name": "repeat", "factors": {">=60": 2}}},
            "recipe.sampler.factors names the class '>=60', but member 'm-mask' counts those of mask; it may be "
            "'worn' or 'none', and for classes of another task set recipe.sampler.by.",
        ),
    ],
)
def test_others_are_refused_in_one_sentence(task: str, recipe: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        check(task, **recipe)
    assert str(caught.value) == said


@pytest.mark.parametrize("task", [MULTI, JOINT])
def test_members_of_all_tasks_count_joint_classes(task: str) -> None:
    check(task, sampler={"name": "repeat", "factors": {"worn >=60": 2}})
    with pytest.raises(InputError, match="counts those of joint; it may be 'worn >=60'"):
        check(task, sampler={"name": "repeat", "factors": {"worn >60": 2}})


def test_of_many_classes_the_nearest_are_listed() -> None:
    many = LabelSpace((Task("kind", "kind", tuple(f"kind-{number:03d}" for number in range(500))),))
    with pytest.raises(InputError, match=r"'kind-123' \(the nearest\)") as caught:
        check("kind", many, sampler={"name": "repeat", "factors": {"kind-0123": 2}})
    assert str(caught.value).count("'kind-") == MOST_NAMES + 1  # and the wrong one
    assert "(or another of 500 classes)" in str(caught.value)
