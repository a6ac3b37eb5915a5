"""What a search varies: the keys of a recipe, and the values that each may have."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from raymask.config.flat_recipes import GROUPED
from raymask.config.yaml_files import WrittenFloat, WrittenInt, dump_yaml
from raymask.core.errors import InputError, one_of

KINDS = ("log", "range", "choice")
REFINES = ("step", "points")
EXAMPLE = "search: {recipe.optim.lr: {log: [1e-4, 1e-2]}, recipe.loss.name: {choice: [cross_entropy, focal]}}"
DIGITS = 4
"""Significant digits of a proposed number, so that a recipe stays legible."""


@dataclass(frozen=True)
class Domain:
    """The values that a key may have in a search."""

    key: str
    kind: Literal["log", "range", "choice"]
    low: float = 0
    high: float = 0
    whole: bool = False
    """Whether numbers between `low` and `high` are whole."""
    step: float | None = None
    points: int | None = None
    """Values that a grid takes of a range."""
    choices: tuple[Any, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The choices as texts, which are all different."""
        return tuple(label_of(value) for value in self.choices)

    def holds(self, value: Any) -> bool:
        """Whether a value is one of them."""
        if self.kind == "choice":
            return label_of(value) in self.labels
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        return self.low <= value <= self.high

    def legible(self, value: float) -> float:
        """A number with few digits that is still in the range."""
        if self.whole or self.step:
            return value
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def grid(self) -> list[Any]:
        """The values that a grid tries.

        Raises:
            InputError: it is a range, and nothing says how many values it is to be cut into.
        """
        if self.kind == "choice":
            return list(self.choices)
        if self.step is not None:
            count = int((self.high - self.low) / self.step + 1e-9) + 1
            return [self._number(self.low + number * self.step) for number in range(count)]
        if self.points is None:
            raise InputError(
                f"search: {self.key} is a range, of which a grid takes some values; say how many, such as points: 3."
            )
        if self.points == 1:
            return [self._number(self.low)]
        shares = [number / (self.points - 1) for number in range(self.points)]
        if self.kind == "log":
            values = [self.low * (self.high / self.low) ** share for share in shares]
        else:
            values = [self.low + (self.high - self.low) * share for share in shares]
        return list(dict.fromkeys(self._number(value) for value in values))

    def _number(self, value: float) -> float:
        return round(value) if self.whole else self.legible(float(f"{value:.{DIGITS}g}"))


def read_space(declared: Any) -> dict[str, Domain]:
    """What each key may be, as a file declares it; keys may be dotted or nested.

    Raises:
        InputError: names the key whose values cannot be searched.
    """
    return {domain.key: domain for domain in _domains(declared)}


def plain(value: Any) -> Any:
    """Values whose numbers do not remember how they were written."""
    if isinstance(value, Mapping):
        return {key: plain(of_key) for key, of_key in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, WrittenInt):
        return int(value)
    return float(value) if isinstance(value, WrittenFloat) else value


def label_of(value: Any) -> str:
    """A value of a config as one line of YAML.

    Example:
        >>> label_of({"name": "cutmix", "alpha": 0.5}), label_of("focal"), label_of(None)
        ('{name: cutmix, alpha: 0.5}', 'focal', 'null')
    """
    return dump_yaml(value, in_a_line=True).removesuffix("...\n").strip()


def _domains(declared: Any) -> Iterator[Domain]:
    if not isinstance(declared, Mapping) or not declared:
        raise InputError(f"a search needs the keys that it varies, in the recipe's file, such as {EXAMPLE}.")
    for key, of_key in _flat(declared, ""):
        yield _domain(key, of_key)


def _flat(declared: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Keys with what they may be, whether keys are dotted or nested."""
    for name, value in declared.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and not set(value) & {*KINDS, *REFINES}:
            yield from _flat(value, f"{key}.")
        else:
            yield key, value


def _domain(key: str, declared: Any) -> Domain:
    if not key.startswith("recipe."):
        raise InputError(f"search: '{key}' is no key of the recipe; write it as recipe.KEY, such as recipe.optim.lr.")
    if (old := key.removeprefix("recipe.")) in GROUPED:
        raise InputError(f"search: '{key}' is 'recipe.{GROUPED[old]}' now.")
    kinds = [kind for kind in KINDS if isinstance(declared, Mapping) and kind in declared]
    if len(kinds) != 1:
        raise InputError(
            f"search: {key} must be one of {{log: [LOW, HIGH]}}, {{range: [LOW, HIGH]}} and {{choice: [...]}}, but is "
            f"{label_of(declared)}."
        )
    kind: Any = kinds[0]
    if unknown := [name for name in declared if name not in (kind, *REFINES)]:
        raise InputError(f"search: {key} has the key '{unknown[0]}'; beside {kind} it may be {one_of(REFINES, unknown[0])}.")
    values = declared[kind]
    if kind == "choice":
        return _choices(key, declared, values)
    if not isinstance(values, list) or len(values) != 2 or not all(map(_is_number, values)):
        raise InputError(f"search: {key}.{kind} must be two numbers, [LOW, HIGH], but is {label_of(values)}.")
    low, high = values
    if not low < high:
        raise InputError(f"search: {key}.{kind} goes from {low} to {high}; the first must be less than the second.")
    if kind == "log" and low <= 0:
        raise InputError(f"search: {key}.log begins at {low}, which has no logarithm; begin above 0, or use range.")
    return _range(key, kind, declared, low, high)


def _range(key: str, kind: Any, declared: Mapping[str, Any], low: Any, high: Any) -> Domain:
    whole = all(isinstance(value, int) for value in (low, high))
    step, points = declared.get("step"), declared.get("points")
    if step is not None and (kind == "log" or not _is_number(step) or not 0 < step <= high - low):
        raise InputError(f"search: {key}.step is {label_of(step)}; it must be a number from 0 to {high - low}, of a range alone.")
    if step is not None and whole and not isinstance(step, int):
        raise InputError(f"search: {key}.step is {label_of(step)}, but its range is of whole numbers; write them as {low}.0.")
    if points is not None and (isinstance(points, bool) or not isinstance(points, int) or points < 1):
        raise InputError(f"search: {key}.points is {label_of(points)}; it must be a whole number from 1 on.")
    convert = int if whole else float
    return Domain(key, kind, convert(low), convert(high), whole, None if step is None else convert(step), points)


def _choices(key: str, declared: Mapping[str, Any], values: Any) -> Domain:
    if len(declared) > 1:
        raise InputError(f"search: {key} has a choice, which neither step nor points are for; leave them out.")
    if not isinstance(values, list) or not values:
        raise InputError(f"search: {key}.choice must be a list of values, but is {label_of(values)}.")
    domain = Domain(key, "choice", choices=tuple(values))
    if twice := next((label for label in domain.labels if domain.labels.count(label) > 1), None):
        raise InputError(f"search: {key}.choice holds {twice} twice.")
    return domain


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
