"""Which heads of a member learn the number behind their bands, and what keeps them from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raymask.config.components import LossConfig
from raymask.config.members import Member
from raymask.core.errors import InputError, shortened
from raymask.core.tasks import LabelSpace, Scale, heads_of


def check_ordinal(members: Sequence[Member], space: LabelSpace, scales: Mapping[str, Scale]) -> list[str]:
    """Refuses members whose `recipe.ordinal` cannot be, and says what has no effect with it.

    Args:
        members: those of a run.
        space: the run's tasks.
        scales: the numbers behind the bands of the tasks with edges.

    Returns:
        A remark on each member none of whose heads learns by its `recipe.loss`.

    Raises:
        InputError: no task of a member has edges, or bins leave a band empty.
    """
    remarks = []
    for member in members:
        ordinal, heads = member.recipe.ordinal, heads_of(member.task, space)
        if ordinal.name == "none":
            continue
        ordered = [head for head in heads if head in scales]
        if not ordered:
            with_edges = f"the task{'s' if len(scales) > 1 else ''} {shortened(list(scales))}" if scales else "a task with edges"
            raise InputError(
                f"members: '{member.name}' has recipe.ordinal.name={ordinal.name}, but none of its tasks has edges; set it for "
                f"the member of {with_edges} alone, or for multi."
            )
        if len(ordered) == len(heads) and (keys := _without_effect(member.recipe.loss)):
            remarks.append(
                f"'{member.name}' learns by the loss of recipe.ordinal, to which recipe.loss.{keys[0]} means nothing; of "
                "recipe.loss its weights of classes alone count there"
            )
        if ordinal.name == "bins":
            _check_bins(member, {head: scales[head] for head in ordered})
    return remarks


def _without_effect(loss: LossConfig) -> list[str]:
    """What a loss sets that is not for ordered heads, which take the weights of the classes alone."""
    default = LossConfig()
    keys = [key for key in LossConfig.model_fields if key not in ("class_weight_power", "effective_number")]
    return [key for key in keys if getattr(loss, key) != getattr(default, key)]


def _check_bins(member: Member, scales: Mapping[str, Scale]) -> None:
    width = member.recipe.ordinal.width
    for task, scale in scales.items():
        if scale.bands_without_bins(width):
            raise InputError(
                f"members: '{member.name}' has recipe.ordinal.width={width:g}, but the bins of {task} from {scale.low:g} to "
                f"{scale.high:g} leave a band between the edges {list(scale.edges)} empty; make width smaller, or fit the edges "
                "to the numbers."
            )
