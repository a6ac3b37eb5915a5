"""RandAugment and TrivialAugment: the table of 14 operations that both draw from, as albumentations transforms by magnitude."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Transform = dict[str, dict[str, Any] | None]
"""An albumentations transform by its name, and its arguments."""

GRAY = 128
"""What is beyond the border of an image that was moved."""
UNCHANGED: dict[str, Any] = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0), "p": 1}
MOST_MAGNITUDE = 10
"""The magnitude of RandAugment at which operations reach the ends of AutoAugment's ranges; more goes beyond."""
LEVELS = 31
"""Strengths that TrivialAugment draws from, from nothing to the most."""


@dataclass(frozen=True)
class Operation:
    """One of the 14."""

    name: str
    build: Callable[[float], Transform]
    """From a value, which is 0 where the image stays as it is, to the transform."""
    narrow: float
    """The value at `MOST_MAGNITUDE` of RandAugment; 0 for an operation without magnitudes."""
    wide: float
    """The greatest value of TrivialAugment."""
    signed: bool = False
    """Whether values below 0 are drawn as often."""

    def of(self, value: float) -> tuple[Transform, ...]:
        """The equally likely transforms of a value."""
        if not self.narrow:
            return (self.build(0),)
        return tuple(self.build(sign * value) if value else NOTHING for sign in ((1, -1) if self.signed else (1,)))


NOTHING: Transform = {"NoOp": {"p": 1}}


def _colours(changed: str) -> Callable[[float], Transform]:
    """Blends by 1 + value with a black (brightness), evenly gray (contrast) or gray (saturation) image."""
    return lambda value: {"ColorJitter": {**UNCHANGED, changed: (1 + value, 1 + value)}}


def _sharpness(value: float) -> Transform:
    """Blends by 1 + value with the image under a 3 × 3 smoothing kernel; to soften, by a Gaussian of the same variance."""
    if value > 0:
        return {"Sharpen": {"alpha": (value / 13, value / 13), "lightness": (1, 1), "p": 1}}
    sigma = math.sqrt(-value * 6 / 13)
    return {"GaussianBlur": {"blur_limit": (3, 3), "sigma_limit": (sigma, sigma), "p": 1}}


def _posterize(value: float) -> Transform:
    bits = 8 - round(value)
    return {"Posterize": {"num_bits": bits, "p": 1}} if bits < 8 else NOTHING


def _shear(axis: str) -> Callable[[float], Transform]:
    def build(value: float) -> Transform:
        degrees = math.degrees(math.atan(value))
        return {"Affine": {"shear": {"x": (0, 0), "y": (0, 0), axis: (degrees, degrees)}, "fill": GRAY, "p": 1}}

    return build


def _translate(axis: str) -> Callable[[float], Transform]:
    return lambda value: {"Affine": {"translate_percent": {"x": (0, 0), "y": (0, 0), axis: (value, value)}, "fill": GRAY, "p": 1}}


OPERATIONS = (
    Operation("identity", lambda value: NOTHING, 0, 0),
    Operation("auto_contrast", lambda value: {"AutoContrast": {"method": "pil", "p": 1}}, 0, 0),
    Operation("equalize", lambda value: {"Equalize": {"mode": "pil", "p": 1}}, 0, 0),
    Operation("rotate", lambda value: {"Rotate": {"limit": (value, value), "fill": GRAY, "p": 1}}, 30, 135, signed=True),
    Operation("solarize", lambda value: {"Solarize": {"threshold_range": (1 - value, 1 - value), "p": 1}}, 1, 1),
    Operation("posterize", _posterize, 4, 6),
    Operation("colour", _colours("saturation"), 0.9, 0.99, signed=True),
    Operation("contrast", _colours("contrast"), 0.9, 0.99, signed=True),
    Operation("brightness", _colours("brightness"), 0.9, 0.99, signed=True),
    Operation("sharpness", _sharpness, 0.9, 0.99, signed=True),
    Operation("shear_x", _shear("x"), 0.3, 0.99, signed=True),
    Operation("shear_y", _shear("y"), 0.3, 0.99, signed=True),
    Operation("translate_x", _translate("x"), 150 / 331, 32 / 224, signed=True),
    Operation("translate_y", _translate("y"), 150 / 331, 32 / 224, signed=True),
)
"""Values are degrees of `rotate`, the share of 255 of `solarize`, bits that `posterize` takes away, pixels a pixel of `shear`,
the share of a side of `translate`; for the others 1 + value is the weight of the image itself where it is blended."""


def randaugment(magnitude: float = 9) -> list[tuple[Transform, ...]]:
    """By operation the equally likely transforms of one magnitude.

    Args:
        magnitude: from 0, which changes nothing, to 10.

    Raises:
        ValueError: the magnitude is beyond.

    Source: Cubuk et al., RandAugment: Practical automated data augmentation with a reduced search space, 2019,
    arXiv:1909.13719; with the ranges of AutoAugment, arXiv:1805.09501.
    """
    if not 0 <= magnitude <= MOST_MAGNITUDE:
        raise ValueError(f"magnitude is {magnitude}, but may be 0 to {MOST_MAGNITUDE}")
    return [operation.of(operation.narrow * magnitude / MOST_MAGNITUDE) for operation in OPERATIONS]


def trivialaugment() -> list[tuple[Transform, ...]]:
    """By operation the equally likely transforms of all strengths.

    Source: Müller and Hutter, TrivialAugment: Tuning-free yet state-of-the-art data augmentation, 2021, arXiv:2103.10158; the
    wide space, in which 32 pixels of an ImageNet image of 224 are a share of the side here.
    """
    strengths = [level / (LEVELS - 1) for level in range(LEVELS)]
    return [
        tuple(transform for strength in strengths for transform in operation.of(operation.wide * strength))
        if operation.narrow
        else operation.of(0)
        for operation in OPERATIONS
    ]
