"""Nested mappings: laid over each other, and flattened."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested values as one level of dotted keys.

    Example:
        >>> flatten({"recipe": {"optim": {"lr": 0.1}}, "views": ["original"]})
        {'recipe.optim.lr': 0.1, 'views.0': 'original'}
    """
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else None
    if items is None:
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def deep_merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`under` with the values of `over`; mappings are merged key by key, anything else is replaced.

    Example:
        >>> deep_merge({"optim": {"lr": 0.1, "ema": 0.9}}, {"optim": {"lr": 0.2}})
        {'optim': {'lr': 0.2, 'ema': 0.9}}
    """
    merged = deepcopy(dict(under))
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = deep_merge(merged[key], value)
        else:
            merged[key] = deepcopy(value)
    return merged
