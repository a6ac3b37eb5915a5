"""What recipes name of the labels, checked where these are known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

from raymask.config.components import SamplerConfig
from raymask.config.members import Member
from raymask.core.errors import InputError, one_of
from raymask.core.tasks import JOINT, MULTI, LabelSpace

MOST_NAMES = 20
"""Classes that a message lists; of more the nearest."""


def counted_target(sampler: SamplerConfig, task: str) -> str:
    """The task whose classes a sampler counts, or joint.

    Args:
        sampler: that of a member's recipe.
        task: the member's.

    Example:
        >>> counted_target(SamplerConfig(name="balanced"), "multi")
        'joint'
        >>> counted_target(SamplerConfig(name="balanced", by="age"), "multi")
        'age'
    """
    return sampler.by or (JOINT if task == MULTI else task)


def check_labels(members: Iterable[Member], space: LabelSpace) -> None:
    """Refuses recipes that name tasks or classes which there are not.

    Args:
        members: those of the run.
        space: its labels.

    Raises:
        InputError: so it is; the message has the nearest names.
    """
    for member in members:
        for task, names in member.recipe.mix.rare.items():
            _check_task("recipe.mix.rare names the task", task, space)
            for name in names:
                _check_class(f"recipe.mix.rare.{task} names the class '{name}'; it", name, space.classes(task))
        _check_sampler(member, space)


def _check_sampler(member: Member, space: LabelSpace) -> None:
    sampler = member.recipe.sampler
    if sampler.by is not None:
        _check_task("recipe.sampler.by is", sampler.by, space)
    target = counted_target(sampler, member.task)
    otherwise = "" if sampler.by else ", and for classes of another task set recipe.sampler.by"
    for name in sampler.factors:
        what = f"recipe.sampler.factors names the class '{name}', but member '{member.name}' counts those of {target}; it"
        _check_class(what, name, space.classes(target), otherwise)


def _check_task(what: str, task: str, space: LabelSpace) -> None:
    tasks = (*space.names, JOINT)
    if task not in tasks:
        raise InputError(f"{what} '{task}'; it may be {one_of(tasks, task)}.")


def _check_class(what: str, name: str, classes: Sequence[str], otherwise: str = "") -> None:
    if name in classes:
        return
    near = sorted(classes, key=lambda other: -SequenceMatcher(None, name, other).ratio())[:MOST_NAMES]
    others = f" (or another of {len(classes)} classes)" if len(classes) > len(near) else ""
    raise InputError(f"{what} may be {one_of([other for other in classes if other in near], name)}{others}{otherwise}.")
