"""Drawing on an array of pixels: colours, outlines, and a pen that moves, tilts and turns what it draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Points = NDArray[np.float64]  # (points, 2)
Knot = tuple[float, float]
Colour = tuple[float, float, float]  # red, green, blue in 0..255


CIRCLE = np.stack([np.cos(np.arange(32) * np.pi / 16), np.sin(np.arange(32) * np.pi / 16)], axis=1)
STEPS = np.linspace(0, 1, 7)[:, None, None]


def palette(codes: str) -> tuple[Colour, ...]:
    """RGB colours of six hexadecimal digits each."""
    return tuple((red, green, blue) for red, green, blue in map(bytes.fromhex, codes.split()))


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """The colour that is a `share` of the other and else the one."""
    red, green, blue = (a + (b - a) * share for a, b in zip(one, other, strict=True))
    return red, green, blue


WHITE, INK = palette("ffffff 30242a")


def darker(colour: Colour, share: float) -> Colour:
    """The colour with a share of ink."""
    return mix(colour, INK, share)


@dataclass(frozen=True)
class Pen:
    """An RGB image (height, width, 3) and how places in half face widths, x right and y down, map to it."""

    image: Image
    matrix: Points
    turn: Knot = (0.0, 0.0)


def frame(unit: float, centre: Points, tilt: float) -> Points:
    """The (2, 3) matrix that scales, tilts and moves a pen's places to pixels."""
    cos, sin = unit * math.cos(tilt), unit * math.sin(tilt)
    return np.array([[cos, -sin, centre[0]], [sin, cos, centre[1]]])


def both_sides(pen: Pen) -> tuple[Pen, Pen]:
    """The pen, and one that draws its mirror image."""
    return pen, Pen(pen.image, pen.matrix * (-1, 1, 1), (-pen.turn[0], pen.turn[1]))


def placed(pen: Pen, points: Points) -> NDArray[np.int32]:
    """Sixteenths of pixels. A turned head's points move the more, the nearer they are to the nose."""
    x, y = points.T
    near = np.maximum(1 - 0.76 * x * x, 0)
    turned = np.array([x + pen.turn[0] * near, y + pen.turn[1] * near * np.maximum(1 - 0.4 * y * y, 0)])
    return np.ascontiguousarray(np.rint(16 * (pen.matrix[:, :2] @ turned + pen.matrix[:, 2:])).T, np.int32)


def smooth(knots: Sequence[Knot], closed: bool = True) -> Points:
    """A Catmull-Rom curve through the knots."""
    ring = [knots[-1], *knots, *knots[:2]] if closed else [knots[0], *knots, knots[-1]]
    a, b, c, d = (np.array(ring[i : len(ring) - 3 + i]) for i in range(4))
    cubic = b + 0.5 * STEPS * (c - a + STEPS * (2 * a - 5 * b + 4 * c - d + STEPS * (3 * (b - c) + d - a)))
    points: Points = cubic.swapaxes(0, 1).reshape(-1, 2)
    return points


def mirrored(*right: Knot) -> Points:
    """A smooth outline from its right half, which begins and ends in the middle."""
    return smooth([*right, *((-x, y) for x, y in right[-2:0:-1])])


def oval(x: float, y: float, rx: float, ry: float) -> Points:
    """Points of an ellipse."""
    return CIRCLE * (rx, ry) + (x, y)


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """Corners of a rectangle."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def fill(pen: Pen, colour: Colour, points: Points | Sequence[Knot]) -> None:
    """Paints a shape."""
    cv2.fillPoly(pen.image, [placed(pen, np.asarray(points))], colour, cv2.LINE_AA, 4)


def stroke(pen: Pen, colour: Colour, width: float, points: Points, closed: bool = False) -> None:
    """Draws a line along points."""
    pixels = max(1, round(width * math.hypot(*pen.matrix[:, 0])))
    cv2.polylines(pen.image, [placed(pen, points)], closed, colour, pixels, cv2.LINE_AA, 4)


def curve(pen: Pen, colour: Colour, width: float, *knots: Knot) -> None:
    """Draws a smooth line through knots."""
    stroke(pen, colour, width, smooth(knots, closed=False))


def wash(pen: Pen, colour: Colour, points: Points, share: float) -> None:
    """Fill, but as transparent paint of which a `share` covers."""
    painted = replace(pen, image=pen.image.copy())
    fill(painted, colour, points)
    cv2.addWeighted(painted.image, share, pen.image, 1 - share, 0, dst=pen.image)


def within(pen: Pen, shape: Points, draw: Callable[[Pen], None]) -> None:
    """Draw, but only where the shape is."""
    painted, inside = replace(pen, image=pen.image.copy()), np.zeros(pen.image.shape[:2], np.uint8)
    draw(painted)
    cv2.fillPoly(inside, [placed(pen, shape)], 255, cv2.LINE_8, 4)
    cv2.copyTo(painted.image, inside, pen.image)


def as_photographed(image: Image, rng: np.random.Generator) -> Image:
    """The image under some light and with a camera's blur and noise."""
    height, width = image.shape[:2]
    y, x = np.mgrid[-1:1:8j, -1:1:8j]
    slope, tint = rng.normal(0, 0.05, 2), rng.uniform(0.9, 1.05) * (1 + rng.normal(0, 0.02, 3))
    light = 180 * (1 + slope[0] * x + slope[1] * y - 0.04 * (x * x + y * y))[..., None] * tint
    lit = cv2.multiply(image, cv2.resize(light.astype(np.uint8), (width, height)), scale=1 / 180)
    blur = rng.uniform(0, 1.1) * min(width, height) / 384
    if blur > 0.3:
        lit = cv2.GaussianBlur(lit, (0, 0), blur)
    noise = rng.standard_normal((height // 2, width // 2), np.float32) * np.float32(rng.uniform(2, 5))
    grain = cv2.resize(noise, (width, height)).astype(np.int16)
    return np.asarray(cv2.add(lit, cv2.merge([grain, grain, grain]), dtype=cv2.CV_8U), np.uint8)
