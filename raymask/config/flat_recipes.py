"""Recipes of runs from before their keys lay in groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GROUPED = {
    "optimizer": "optim.name",
    "lr": "optim.lr",
    "backbone_lr_scale": "optim.backbone_lr_scale",
    "weight_decay": "optim.weight_decay",
    "clip_grad": "optim.clip_grad",
    "accumulate": "optim.accumulate",
    "ema": "optim.ema",
    "epochs": "schedule.epochs",
    "warmup": "schedule.warmup",
    "label_smoothing": "loss.label_smoothing",
    "class_weight_power": "loss.class_weight_power",
    "freeze": "freeze.part",
    "feature_passes": "freeze.passes",
}
"""Flat keys of a recipe, and where they lie now."""


def in_groups(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A flat recipe with its keys in groups, all values as they are.

    Example:
        >>> in_groups({"backbone": "resnet50", "lr": 0.1, "freeze": "backbone", "head": {"hidden": 8}})
        {'backbone': 'resnet50', 'head': {'name': 'mlp', 'hidden': 8}, 'optim': {'lr': 0.1}, 'freeze': {'part': 'backbone'}}
    """
    grouped = {key: value for key, value in recipe.items() if key not in GROUPED}
    head = recipe.get("head")
    if isinstance(head, dict) and "hidden" in head:
        grouped["head"] = {"name": "mlp" if head["hidden"] else "linear", **head}
    for old, new in GROUPED.items():
        if old in recipe:
            group, key = new.split(".")
            grouped.setdefault(group, {})[key] = recipe[old]
    return grouped


def is_flat(recipe: Any) -> bool:
    """Whether the whole recipe of a run is one from before there were groups."""
    return isinstance(recipe, dict) and "optim" not in recipe


def config_in_groups(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a run's config whose recipes, its own and those of its members, have their keys in groups."""
    if not is_flat(values.get("recipe")):
        return dict(values)
    members = values.get("members")
    if isinstance(members, list):
        members = [_member_in_groups(member) for member in members]
    return {**values, "recipe": in_groups(values["recipe"]), **({} if members is None else {"members": members})}


def _member_in_groups(member: Any) -> Any:
    if not (isinstance(member, dict) and isinstance(member.get("recipe"), dict)):
        return member
    return {**member, "recipe": in_groups(member["recipe"])}
