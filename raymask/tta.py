"""Views: test-time augmentations, (B, 3, H, W) pixels -> (B, 3, H, W) pixels, made on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from raymask.errors import InputError, one_of

if TYPE_CHECKING:
    from torch import Tensor

View = Callable[["Tensor"], "Tensor"]

VIEWS: dict[str, View] = {
    "original": lambda pixels: pixels,
    "hflip": lambda pixels: pixels.flip(-1),
}


def check_views(names: Sequence[str]) -> None:
    """Refuses unknown views.

    Raises:
        InputError: names the views there are.
    """
    for name in names:
        if name not in VIEWS:
            raise InputError(f"views: there is no view '{name}'; it may be {one_of(VIEWS, name)}.")
