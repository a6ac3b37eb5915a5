"""The masks of the drawn people: colours, patterns, and how far each has slipped."""

from __future__ import annotations

import numpy as np

from raymask.data.demo.pen import (
    WHITE,
    Colour,
    Pen,
    both_sides,
    curve,
    darker,
    fill,
    mirrored,
    mix,
    oval,
    palette,
    smooth,
    stroke,
    within,
)

MASKS = palette("92c6e2 f6f6f2 32343a f2aebc 9ad4ba 384e7a f6d480 acb0b8 cc5c54")
PATTERNS = ("pleats", "pleats", "seam", "dots", "pleats", "stripes", "seam", "pleats", "checks")


def draw_mask(pen: Pen, mask: int, jaw: float, slip: float) -> None:
    """A mask; `slip` is how far down it has slipped: 0 worn well, 0.47 under the nose, 0.84 on the chin."""
    colour, pattern = MASKS[mask], PATTERNS[mask]
    top, bottom, wide = 0.12 + slip, 1.42 + 0.3 * slip, 0.9 - 0.12 * slip
    for side in both_sides(pen):
        curve(side, darker(WHITE, 0.1), 0.04, (wide - 0.05, top + 0.2), (1.06, -0.08))
        curve(side, darker(WHITE, 0.1), 0.04, (jaw - 0.12, bottom - 0.25), (1.08, 0.3))
    upper = ((0, top - 0.04), (0.4, top + 0.03), (wide, top + 0.18))
    lower = (
        (wide - 0.03, (top + bottom) / 2),
        (jaw - 0.16, bottom - 0.16),
        (0.25, bottom),
        (0, bottom + 0.02),
    )
    outline = mirrored(*upper, *lower)
    fill(pen, colour, outline)
    within(pen, outline, lambda inner: draw_pattern(inner, pattern, colour, top, bottom))
    stroke(pen, darker(colour, 0.22), 0.025, outline, closed=True)


def draw_pattern(pen: Pen, pattern: str, colour: Colour, top: float, bottom: float) -> None:
    """What is printed on a mask."""
    soft, bright = darker(colour, 0.14), mix(colour, WHITE, 0.6)
    if pattern == "seam":
        fill(pen, soft, smooth([(0, top - 0.2), (0.1, (top + bottom) / 2), (0, bottom + 0.2), (2, 1)]))
    if pattern == "pleats":
        for y in np.linspace(top, bottom, 5)[1:-1]:
            curve(pen, soft, 0.04, (-1, y - 0.02), (0, y + 0.08), (1, y - 0.02))
    if pattern == "dots":
        draw_dots(pen, bright, top, bottom)
    if pattern in ("stripes", "checks"):
        for x in np.arange(-0.96, 1, 0.24):
            curve(pen, bright, 0.07, (x, top - 0.2), (x, bottom + 0.2))
    if pattern == "checks":
        for y in np.arange(top, bottom + 0.1, 0.24):
            curve(pen, soft, 0.07, (-1, y), (1, y))


def draw_dots(pen: Pen, colour: Colour, top: float, bottom: float) -> None:
    """Rows of dots, every other one shifted."""
    for row, y in enumerate(np.arange(top, bottom + 0.1, 0.2)):
        for x in np.arange(-1 + 0.13 * (row % 2), 1, 0.26):
            fill(pen, colour, oval(x, y, 0.05, 0.05))
