"""Bytes of an image file -> pixels of the size that a model takes. Imported by every worker, so it stays light."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from raymask.data.files import read_bytes, why_unreadable
from raymask.errors import InputError

Pixels = npt.NDArray[np.uint8]

cv2.setNumThreads(0)


class BrokenImageError(Exception):
    """A file that is no whole image; the message says why."""


@dataclass(frozen=True, order=True)
class InputSpec:
    """How a file becomes a model's input: the steps that are done once, when it is prepared."""

    height: int
    width: int
    crop: float
    """Share kept of the largest centred box of the target's aspect."""


def decode(content: bytes, spec: InputSpec) -> Pixels:
    """(H, W, 3) uint8 RGB pixels of a file's bytes, upright by its EXIF data, cropped and resized by area.

    JPEGs are decoded at the smallest of libjpeg's scales (1/1, 1/2, 1/4, 1/8) that still holds the target's resolution.

    Raises:
        BrokenImageError: the bytes are no image, or not a whole one.
    """
    if not content:
        raise BrokenImageError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as opened:
                longest = max(spec.height, spec.width) / spec.crop
                opened.draft("RGB", (int(np.ceil(longest)), int(np.ceil(longest))))
                upright = ImageOps.exif_transpose(opened)
                pixels = np.asarray(_eight_bits(upright).convert("RGB"))
    except Exception as error:  # Pillow's plugins raise anything: struct.error for wrong EXIF data, EOFError, TypeError, ...
        raise BrokenImageError(_why(error)) from None
    return resize(crop_centre(pixels, spec), spec)


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit gray as 8-bit gray, which `convert` would clip instead of scale."""
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)) if image.mode.startswith("I;16") else image


def decode_file(path: str, specs: Sequence[InputSpec]) -> tuple[str, list[Pixels]]:
    """Pixels of a file for each spec, or why it has none: ("", pixels) or (problem, [])."""
    try:
        content = read_bytes(path)
        return "", [decode(content, spec) for spec in specs]
    except BrokenImageError as error:
        return str(error), []
    except (OSError, InputError) as error:
        return why_unreadable(error), []


def crop_centre(pixels: Pixels, spec: InputSpec) -> Pixels:
    """The centred box of the target's aspect that covers `crop` of the largest such box."""
    height, width = pixels.shape[:2]
    scale = min(height / spec.height, width / spec.width) * spec.crop
    box_height, box_width = max(1, round(spec.height * scale)), max(1, round(spec.width * scale))
    top, left = (height - box_height) // 2, (width - box_width) // 2
    return pixels[top : top + box_height, left : left + box_width]


def resize(pixels: Pixels, spec: InputSpec) -> Pixels:
    """Pixels at the target's size: by area when they shrink, linear when they grow."""
    shrinks = pixels.shape[0] > spec.height
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (spec.width, spec.height), interpolation=how), dtype=np.uint8)


def _why(error: Exception) -> str:
    if "cannot identify" in str(error):
        return "the file is no image that can be read"
    if isinstance(error, Image.DecompressionBombError):
        return "the image has too many pixels"
    said = str(error).strip() or type(error).__name__
    return f"the image is broken ({said.splitlines()[0]})"
