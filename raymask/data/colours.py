"""Pixels of any kind -> 8-bit RGB, by rules that are stated in `to_rgb`. Imported by every worker, so it stays light."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from raymask.core.types import Pixels

WHOLE_TOPS = (255.0, 4095.0, 65535.0)
FLOAT_TOPS = (1.0, *WHOLE_TOPS)
BEYOND = 0.05
"""Share of the range by which floats may leave it: resampling overshoots."""
NEARLY_BLACK = 1 / 16
"""Share of the range below which there is no picture to see."""
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0


class BrokenImageError(Exception):
    """What is no whole image, or none that can be shown in 8 bits; the message says why."""


def to_rgb(image: Image.Image, tags: Mapping[int, Any] | None = None) -> Pixels:
    """(H, W, 3) uint8 RGB pixels of a loaded image.

    - Black and white, gray, palette, CMYK, YCbCr, HSV and Lab are turned into RGB; colour profiles are not applied.
    - What is transparent is laid on white, unless nothing of the image is visible: then its colours are taken as they are.
    - Whole numbers are of 8, 12 or 16 bits: the fewest that hold the image's largest, or as many as a TIFF says.
    - Floats are of 0 to 1, or of the range of 8, 12 or 16 bits: the smallest that holds the image's largest.
    - Numbers that fill less than a 16th of their range, but are not all 0, are set aside.
    - Of two or more channels, 16 bits become 8 by Pillow, which keeps the upper ones.

    Args:
        image: of any of Pillow's modes.
        tags: those of a TIFF.

    Raises:
        BrokenImageError: numbers are negative, too large, not finite, or of no range that is known.
    """
    tags = tags or {}
    if image.mode == "LAB":
        return _from_lab(image)
    if image.mode.startswith(("I", "F")):
        values = eight_bits(np.asarray(image), _declared_top(tags))
        gray = 255 - values if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else values
        return np.repeat(gray[..., None], 3, axis=2)
    if image.has_transparency_data:
        return _on_white(np.asarray((image.convert("LA") if image.mode == "La" else image).convert("RGBA")))
    return np.asarray(image.convert("RGB"))


def array_to_rgb(values: npt.NDArray[Any]) -> Pixels:
    """The same of an (H, W) or (H, W, C) array: C is 1 (gray), 2 (gray and alpha), 3 (RGB) or 4 (RGB and alpha)."""
    flat = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    return to_rgb(Image.fromarray(np.ascontiguousarray(eight_bits(flat))))


def eight_bits(values: npt.NDArray[Any], top: float | None = None) -> Pixels:
    """Numbers as 8 bits, by the rules of `to_rgb`.

    Args:
        values: booleans, whole numbers or floats, in any shape.
        top: the number that is white, where it is known.

    Raises:
        BrokenImageError: they fit no rule.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    least, most = float(values.min()), float(values.max())
    floats = values.dtype.kind == "f"
    if not np.isfinite([least, most]).all():
        raise BrokenImageError("its pixels are not all numbers")
    beyond, tops = (BEYOND, FLOAT_TOPS) if floats else (0.0, WHOLE_TOPS)
    white = top or next((known for known in tops if most <= known * (1 + beyond)), 0.0)
    outside = not -beyond * white <= least <= most <= white * (1 + beyond)
    if outside or ((least or most) and most < NEARLY_BLACK * white and not top):
        ranges = "0 to 1, or of 8, 12 or 16 bits" if floats else "8, 12 or 16 bits"
        extent = "none of" if outside else "nearly black in"
        raise BrokenImageError(f"its pixels are from {least:g} to {most:g}, which is {extent} {ranges}; save it in 8 bits")
    scaled = values.astype(np.float32) * np.float32(255 / white)
    return np.asarray(np.clip(scaled + 0.5, 0, 255), dtype=np.uint8)


def keeps_little(image: Image.Image) -> bool:
    """Whether all colours lie within the lowest 4 of 8 bits, though not all are black: what 12 bits in 16 become."""
    return 0 < int(np.asarray(image.convert("RGB")).max()) < 16


def _declared_top(tags: Mapping[int, Any]) -> float | None:
    bits = tags.get(BITS_PER_SAMPLE, ())
    return float(2 ** bits[0] - 1) if len(bits) == 1 and 8 < bits[0] < 16 else None


def _on_white(rgba: Pixels) -> Pixels:
    colours, alpha = rgba[..., :3], rgba[..., 3:]
    if alpha.min() == 255 or alpha.max() == 0:
        return np.ascontiguousarray(colours)
    weight = alpha.astype(np.float32) / 255
    return np.asarray(np.rint(colours * weight + 255 * (1 - weight)), dtype=np.uint8)


def _from_lab(image: Image.Image) -> Pixels:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    turned = ImageCms.applyTransform(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))
    assert turned is not None
    return np.asarray(turned)
