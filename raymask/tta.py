"""Views: test-time augmentations, (B, 3, H, W) pixels -> (B, 3, H, W) pixels of the same type, made on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from raymask.errors import InputError, one_of

if TYPE_CHECKING:
    from torch import Tensor

View = Callable[["Tensor"], "Tensor"]

ZOOM_MARGIN = 0.05
"""Share of the height and of the width that `zoom` cuts off at each side."""


def hflip(pixels: Tensor) -> Tensor:
    """Left and right exchanged."""
    return pixels.flip(-1)


def zoom(pixels: Tensor) -> Tensor:
    """The central nine tenths at the size of the whole; what is cut off is the same at both sides."""
    import torch
    from torch.nn.functional import interpolate

    height, width = pixels.shape[-2:]
    top, left = round(height * ZOOM_MARGIN), round(width * ZOOM_MARGIN)
    centre = pixels[..., top : height - top, left : width - left]
    # As float32, since not every device interpolates uint8.
    grown = interpolate(centre.to(torch.float32), size=(height, width), mode="bilinear", align_corners=False)
    return grown.to(pixels.dtype) if pixels.is_floating_point() else grown.round_().to(pixels.dtype)


VIEWS: dict[str, View] = {
    "original": lambda pixels: pixels,
    "hflip": hflip,
    "zoom": zoom,
    "zoom_hflip": lambda pixels: hflip(zoom(pixels)),
}


def check_views(names: Sequence[str]) -> None:
    """Refuses unknown views.

    Raises:
        InputError: names the views there are.
    """
    for name in names:
        if name not in VIEWS:
            raise InputError(f"views: there is no view '{name}'; it may be {one_of(VIEWS, name)}.")
