"""Tests of the registries of components, and that the config names what they hold."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from raymask.config.components import HeadConfig, LossConfig, MixConfig, SamplerConfig, ScheduleConfig
from raymask.core.errors import InputError
from raymask.core.registry import Registry
from raymask.data.samplers import SAMPLERS
from raymask.models.heads import HEADS
from raymask.training.losses import LOSSES
from raymask.training.mixers import MIXERS
from raymask.training.schedules import SCHEDULES

GROUPS: list[tuple[Any, Registry[Any]]] = [
    (HeadConfig, HEADS),
    (LossConfig, LOSSES),
    (MixConfig, MIXERS),
    (SamplerConfig, SAMPLERS),
    (ScheduleConfig, SCHEDULES),
]


@pytest.mark.parametrize(("group", "registry"), GROUPS)
def test_a_groups_name_may_be_what_its_registry_holds(group: Any, registry: Registry[Any]) -> None:
    assert get_args(group.model_fields["name"].annotation) == registry.names
    assert group.model_fields["name"].default in registry.names


def test_a_component_is_found_by_its_name() -> None:
    registry = Registry("recipe.loss.name", {"a": 1, "b": 2})
    assert (registry.get("a"), registry.get("b"), registry.names) == (1, 2, ("a", "b"))


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    registry = Registry("recipe.loss.name", {"focal": 1, "cross_entropy": 2}, alternative="a list")
    with pytest.raises(InputError) as caught:
        registry.get("cross-entropy")
    assert str(caught.value) == (
        "recipe.loss.name is 'cross-entropy'; it may be 'cross_entropy' (the nearest) or 'focal', or a list."
    )
