"""What arrays of numpy and tensors of torch have in common, by the Python array API standard; torch is not imported here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_array_api_obj

Array = Any
"""An array of numpy or a tensor of torch."""


def as_float64(values: Any) -> Array:
    """Float64 values: a tensor of a tensor, else an array of numpy; a copy only where the type is another.

    Example:
        >>> as_float64([0, 1])
        array([0., 1.])
    """
    if not is_array_api_obj(values):
        return np.asarray(values, dtype=np.float64)
    xp = array_namespace(values)
    return xp.astype(values, xp.float64, copy=False)


def stacked(arrays: Iterable[Array]) -> Array:
    """Arrays of one shape along a new first axis."""
    listed = list(arrays)
    return array_namespace(*listed).stack(listed)


def mean_of(arrays: Iterable[Array]) -> Array:
    """The mean of arrays of one shape."""
    several = stacked(arrays)
    return array_namespace(several).mean(several, axis=0)
