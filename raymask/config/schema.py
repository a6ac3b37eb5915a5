"""What a run is: pydantic models, read from a named recipe or a YAML file and `key.path=value` settings.

Every mistake ends in an `InputError` of one sentence that names the key, what it was and what it may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from raymask.config.base import FolderName, LocalPath, Share, Strict
from raymask.config.compute import ComputeConfig
from raymask.config.data import DataConfig, FoldsConfig
from raymask.config.members import Member, MemberConfig, member_recipe
from raymask.config.recipe import Recipe
from raymask.config.tasks import TaskConfig, columns_as_tasks
from raymask.config.vote import VoteConfig
from raymask.core.errors import InputError, one_of
from raymask.core.tasks import JOINT, MULTI, check_task_names

ENSEMBLE = "ensemble"
"""Under which the vote's scores stand beside the members'."""


class TeacherConfig(Strict):
    """An earlier run that this one learns from."""

    run: LocalPath = Field(description="directory of the teacher's run")
    truth: Share = Field(1.0, description="weight of the true label; the teacher's out-of-fold probabilities have the rest")
    unlabelled: Literal["none", "hard", "soft"] = Field(
        "none", description="whether the teacher's test images join: by the class it predicts, or by its probabilities"
    )
    precision: Share = Field(0.95, description="share of right labels that its surest unlabelled images must have; 0 takes all")

    @model_validator(mode="after")
    def _teaches(self) -> Self:
        if self.truth == 1 and self.unlabelled == "none":
            raise ValueError("with truth 1 and unlabelled none there is nothing to learn from it: set one of them")
        return self


class RunConfig(Strict):
    """Everything that decides a run."""

    name: FolderName = "run"
    runs: LocalPath = Field(Path("runs"), description="folder of all runs; on a cluster one that every node sees")
    cache: LocalPath | None = Field(None, description="folder of prepared images (default: RUNS/.cache)")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    debug: bool = Field(False, description="marks what `train --debug` made, with prepared images of its own, and may replace")
    data: DataConfig = DataConfig()
    tasks: Annotated[dict[str, TaskConfig | None], BeforeValidator(columns_as_tasks)] = Field(
        {}, description="the labels by name; refines those of the competition layout, where null drops one"
    )
    folds: FoldsConfig = FoldsConfig()
    recipe: Recipe = Recipe()
    members: tuple[MemberConfig, ...] = Field((), description="default: one specialist for each task")
    views: tuple[str, ...] = Field(
        ("original", "hflip"), description="test-time augmentations that are predicted: views, or sets such as five_crop"
    )
    vote: VoteConfig = VoteConfig()
    compute: ComputeConfig = ComputeConfig()
    teacher: TeacherConfig | None = Field(None, description="an earlier run that this one learns from")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        check_task_names(self.tasks)
        for member in self.members:
            member_recipe(self.recipe, member)
        if not self.folds.column:  # which says of how many folds once it is read
            check_member_folds(self)
        return self


def check_member_folds(config: RunConfig) -> None:
    """Refuses members of more folds than a run has.

    Raises:
        InputError: names the member.
    """
    most, why = (
        (1, "folds.scheme=holdout has one")
        if config.folds.scheme == "holdout"
        else (config.folds.k, "folds.column" if config.folds.column else "folds.k")
    )
    for member in config.members:
        if member.folds is not None and member.folds > most:
            raise InputError(
                f"members: '{member.name or member.task}' has folds={member.folds}, but the run has {most} ({why}); give it "
                f"{most} or fewer, or leave its `folds` out."
            )


def resolve_members(config: RunConfig) -> list[Member]:
    """The members of a run whose tasks are known, one for each seed, with different names.

    Raises:
        InputError: a member's task is none of the run's, or two members have one name.
    """
    tasks = [name for name, task in config.tasks.items() if task is not None]
    check_member_folds(config)
    members = [copy for member in configured_members(config) for copy in copies_of(config, member)]
    _check_all_tasks_predicted(tasks, members)
    _check_names([member.name for member in members])
    return members


def configured_members(config: RunConfig) -> tuple[MemberConfig, ...]:
    """The members as they are configured; those that a run has by default where none are."""
    return config.members or tuple(MemberConfig(task=name) for name, task in config.tasks.items() if task is not None)


def copies_of(config: RunConfig, member: MemberConfig) -> list[Member]:
    """What one configured member stands for in a run whose tasks are known, one for each seed.

    Raises:
        InputError: its task is none of the run's.
    """
    known = [*(name for name, task in config.tasks.items() if task is not None), MULTI, JOINT]
    if member.task not in known:
        raise InputError(f"members: task is '{member.task}'; it may be {one_of(known, member.task)}.")
    recipe, name = member_recipe(config.recipe, member), member.name or member.task
    return [
        Member(
            name=name + (f"-s{copy}" if member.seeds > 1 else ""),
            task=member.task,
            seed=config.seed + copy,
            recipe=recipe,
            folds=member.folds,
        )
        for copy in range(member.seeds)
    ]


def _check_all_tasks_predicted(tasks: Sequence[str], members: Sequence[Member]) -> None:
    predicted = {member.task for member in members}
    missing = [] if predicted & {MULTI, JOINT} else [task for task in tasks if task not in predicted]
    if missing:
        raise InputError(
            f"members: none predicts the task '{missing[0]}', so there is no joint label to vote on; add a member for it, or "
            f"drop the task with tasks.{missing[0]}=null."
        )


def _check_names(names: Sequence[str]) -> None:
    if ENSEMBLE in names:
        raise InputError(f"members: '{ENSEMBLE}' is the name of their vote; give that member another `name`.")
    by_folder: dict[str, str] = {}
    for name in names:
        other = by_folder.setdefault(name.casefold(), name)
        if names.count(name) > 1:
            raise InputError(f"members: two have the name '{name}'; give one of them another `name`.")
        if other != name:
            raise InputError(
                f"members: '{other}' and '{name}' differ in case alone, and would share a folder where that counts for nothing; "
                "give one of them another `name`."
            )
