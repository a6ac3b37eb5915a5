"""Components by name: losses, heads, samplers, mixers and schedules each lie in a registry of this one shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from raymask.core.errors import InputError, one_of

Component = TypeVar("Component")


@dataclass(frozen=True)
class Registry(Generic[Component]):
    """A table of components: a new one is a function or class in a file of its own, and a line in the table.

    Example:
        >>> losses = Registry("recipe.loss.name", {"cross_entropy": "a loss", "focal": "another"})
        >>> losses.get("focal")
        'another'
        >>> losses.get("focl")
        Traceback (most recent call last):
        raymask.core.errors.InputError: recipe.loss.name is 'focl'; it may be 'focal' (the nearest) or 'cross_entropy'.
    """

    key: str
    """The config's key that chooses a component."""
    components: Mapping[str, Component]
    alternative: str = ""
    """What the key may be in place of a name, for messages."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the components."""
        return tuple(self.components)

    def get(self, name: str) -> Component:
        """The component of a name.

        Raises:
            InputError: there is none; the message lists those that there are, the nearest first.
        """
        if name not in self.components:
            otherwise = f", or {self.alternative}" if self.alternative else ""
            raise InputError(f"{self.key} is '{name}'; it may be {one_of(self.components, name)}{otherwise}.")
        return self.components[name]
