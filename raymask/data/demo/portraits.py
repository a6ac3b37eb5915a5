"""Portraits of people who do not exist, with signs of mask state, gender and age that a network can learn, but not perfectly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from raymask.data.demo.masks import MASKS, draw_mask
from raymask.data.demo.pen import (
    INK,
    WHITE,
    Colour,
    Image,
    Pen,
    as_photographed,
    both_sides,
    box,
    curve,
    darker,
    fill,
    frame,
    mirrored,
    mix,
    oval,
    palette,
    smooth,
    stroke,
    wash,
    within,
)

PHOTOS = ("mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal")

T = TypeVar("T")

BLUSH, GOLD, SILVER, SKY = palette("f0786e fad66e d4d2d6 bcdcf0")
SKINS = palette("fce2ca f6d1b2 e8bc98 d0a07a")
DARK_HAIRS, DYED_HAIRS = palette("282226 342826 4a342a 222430"), palette("844e30 c49864 7a303e 9e6242 54403c")
BRIGHT = palette("ee6e5c 4a96ce fabe50 5eb28c e278a6 f0f0ec")
MUTED = palette("566074 7a6862 687464 845c60 464a54")
WALLS = palette("c4dee2 f4dec4 ded0e8 cee2c8 f8d4ce d6dae2 eee8d2")
REDS, BROWNS = palette("d64a54 e0686e be3c54"), palette("ba7062 b07060")
TEMPLES = (0.86, 0.79, 0.4, 0.0, -0.4, -0.79, -0.86)
HAIRLINES = {  # heights over the temples' places
    "bangs": (-0.1, -0.42, -0.46, -0.44, -0.46, -0.42, -0.1),
    "air": (0, -0.5, -0.64, -0.42, -0.6, -0.5, 0),
    "side": (-0.1, -0.48, -0.7, -0.92, -1.08, -0.64, -0.1),
    "centre": (0, -0.5, -0.84, -1.12, -0.84, -0.5, 0),
    "up": (-0.1, -0.62, -0.88, -0.93, -0.88, -0.62, -0.1),
}


@dataclass(frozen=True)
class Person:
    """Gender (male, female) and age (years) of one person, as the labels state them."""

    gender: str
    age: int


@dataclass(frozen=True)
class Look:
    """What stays the same over one person's photos. Lengths are in half face widths, shares in 0..1."""

    skin: Colour
    hair: Colour
    fringe: str
    hair_end: float  # how far the hair reaches below the eyes; 0 if it is cropped or tied
    tied: bool
    receding: float
    jaw: float
    shoulders: float
    brow: float
    lips: Colour
    lashes: bool
    earrings: bool
    beard: float
    wrinkles: float
    spots: float
    glasses: float  # height of the lenses, 0 without
    cloth: Colour
    collar: str
    wall: Colour
    scene: int
    details: int  # seed of the small things: books, spots and strands
    masks: tuple[int, ...]


def imagine(person: Person, rng: np.random.Generator) -> Look:
    """A look for a person. Every sign of gender and age errs on its own, and about a tenth are ambiguous."""
    female, ambiguous = person.gender == "female", rng.random() < 0.10

    def womanly(if_female: float, if_male: float) -> bool:
        chance = 0.5 * (if_female + if_male) if ambiguous else if_female if female else if_male
        return bool(rng.random() < chance)

    def aged(start: float, full: float, error: float) -> float:
        return float(np.clip((person.age + rng.normal(0, error) - start) / (full - start), 0, 1))

    def choose(options: Sequence[T]) -> T:
        return options[int(rng.integers(len(options)))]

    tied = womanly(0.22, 0.01)
    cropped = not tied and not womanly(0.86, 0.10)
    hairs = DYED_HAIRS if rng.random() < 0.5 * (1 - aged(22, 42, 4)) else DARK_HAIRS
    return Look(
        skin=mix(choose(SKINS), choose(SKINS), rng.random()),
        hair=mix(choose(hairs), SILVER, aged(27, 62, 5)),
        fringe=choose(("up", "up", "side", "bangs") if cropped else ("bangs", "side", "centre", "air")),
        hair_end=0.0 if cropped or tied else rng.uniform(0.85, 2.7),
        tied=tied,
        receding=0.0 if womanly(0.95, 0.25) else aged(30, 70, 8),
        jaw=rng.normal(0.76 if womanly(0.95, 0.05) else 0.86, 0.02),
        shoulders=rng.normal(1.75 if womanly(0.95, 0.05) else 2.2, 0.08),
        brow=rng.normal(0.07 if womanly(0.9, 0.1) else 0.13, 0.01),
        lips=choose(REDS if womanly(0.8, 0.02) else BROWNS),
        lashes=womanly(0.85, 0.08),
        earrings=womanly(0.5, 0.03),
        beard=0.0 if female or womanly(1.0, 0.6) else rng.uniform(0.3, 0.6),
        wrinkles=aged(25, 60, 4),
        spots=aged(24, 55, 5),
        glasses=choose((0.22, 0.29)) if rng.random() < 0.15 + 0.5 * aged(28, 60, 4) else 0.0,
        cloth=choose(MUTED if rng.random() < 0.06 + 0.88 * aged(24, 40, 4) else BRIGHT),
        collar=choose(("crew", "vee", "turtle", "vee") if womanly(0.8, 0.2) else ("shirt", "tie", "crew")),
        wall=choose(WALLS),
        scene=int(rng.integers(4)),
        details=int(rng.integers(2**31)),
        masks=tuple(rng.permutation(len(MASKS))[:6].tolist()),
    )


def draw_photo(look: Look, number: int, size: tuple[int, int], rng: np.random.Generator) -> Image:
    """One of PHOTOS as an RGB uint8 image (height, width, 3); `rng` gives pose, light and noise."""
    width, height = size
    unit = min(width / 384, height / 512) * 80 * rng.uniform(0.88, 1.14)
    centre = np.array([0.5 + rng.normal(0, 0.035), 0.45 + rng.normal(0, 0.025)]) * size
    body = Pen(np.empty((height, width, 3), np.uint8), frame(unit, centre, 0.0))
    turn = (rng.uniform(-0.16, 0.16), rng.uniform(-0.07, 0.07))
    head = Pen(body.image, frame(unit, centre, rng.normal(0, 0.06)), turn)
    draw_scene(Pen(body.image, frame(unit, (centre + np.multiply(size, 0.5)) / 2, 0.0)), look)
    draw_back_hair(head, look)
    draw_body(body, head, look)
    draw_face(head, look, rng)
    if PHOTOS[number] != "normal":
        slip = rng.choice([0.47, 0.84]) if PHOTOS[number] == "incorrect_mask" else 0.0
        draw_mask(head, look.masks[number], look.jaw, slip + rng.uniform(-0.04, 0.06))
    if look.glasses:
        draw_glasses(head, look.glasses)
    draw_front_hair(head, look)
    return as_photographed(body.image, rng)


def draw_scene(pen: Pen, look: Look) -> None:
    """The wall and what hangs on it."""
    rng = np.random.default_rng(look.details)
    fill(pen, look.wall, box(-99, -99, 99, 99))
    light, deep = mix(look.wall, WHITE, 0.5), darker(look.wall, 0.12)
    if look.scene == 0:
        fill(pen, light, oval(0, -0.1, 2.1, 2.1))
    elif look.scene == 1:
        fill(pen, WHITE, box(-2, -2.6, 2, 1))
        for left in (-1.88, 0.06):
            fill(pen, SKY, box(left, -2.48, left + 1.82, 0.88))
            fill(pen, WHITE, oval(left * 0.6 - 0.3, -1.9 - left / 4, 0.5, 0.16))
    elif look.scene == 2:
        for left in np.arange(-6, 6, 1.2):
            fill(pen, light, [(left, -5), (left + 0.6, -5), (left - 2.4, 6), (left - 3, 6)])
    else:
        for shelf in (-1.6, 0.1, 1.8):
            edges = np.cumsum(rng.uniform(0.16, 0.32, 24)) - 2.9
            for left, right, tall in zip(edges, edges[1:], rng.uniform(0.8, 1.3, 23), strict=False):
                spine = mix(BRIGHT[int(rng.integers(len(BRIGHT)))], look.wall, 0.6)
                fill(pen, spine, box(left, shelf - tall, right - 0.02, shelf))
            fill(pen, deep, box(-9, shelf, 9, shelf + 0.12))


def draw_back_hair(pen: Pen, look: Look) -> None:
    """The hair behind head and shoulders."""
    end = look.hair_end
    if look.tied:
        fill(pen, look.hair, oval(0.05, -1.72, 0.42, 0.38))
        curve(pen, mix(look.hair, WHITE, 0.15), 0.04, (-0.2, -1.75), (0.05, -1.92), (0.3, -1.75))
    if end:
        side = ((0.8, -1.3), (1.14, -0.5), (1.2, 0.35 * end), (1.22, 0.8 * end), (0.8, end))
        fill(pen, darker(look.hair, 0.25), mirrored((0, -1.5), *side, (0, end)))


def draw_body(body: Pen, head: Pen, look: Look) -> None:
    """Neck, shoulders and clothes."""
    wide, neck = look.shoulders, 0.21 * look.shoulders
    fold, pale = darker(look.cloth, 0.25), mix(look.cloth, WHITE, 0.75)
    slope = ((0.75, 1.92), (wide - 0.25, 2.3), (wide + 0.1, 3.4), (wide + 0.25, 6))
    fill(body, look.cloth, mirrored((0, 1.85), *slope, (0, 6.2)))
    fill(body, look.skin, mirrored((0, 0.8), (neck, 0.8), (neck, 1.6), (neck + 0.16, 1.9), (0, 2.12)))
    fill(head, darker(look.skin, 0.16), oval(0, 1.15, neck + 0.1, 0.42))
    if look.collar == "turtle":
        fill(body, look.cloth, mirrored((0, 1.56), (neck + 0.06, 1.5), (neck + 0.26, 2), (0, 2.2)))
        curve(body, fold, 0.03, (-neck - 0.05, 1.72), (0, 1.8), (neck + 0.05, 1.72))
    elif look.collar == "vee":
        fill(body, look.skin, [(-neck - 0.2, 1.88), (neck + 0.2, 1.88), (0, 2.75)])
        stroke(body, fold, 0.07, np.array([(-neck - 0.22, 1.86), (0, 2.75), (neck + 0.22, 1.86)]))
    elif look.collar == "crew":
        curve(body, fold, 0.09, (-neck - 0.2, 1.86), (0, 2.14), (neck + 0.2, 1.86))
    if look.collar == "tie":
        fill(body, darker(look.cloth, 0.55), [(-0.1, 2.1), (0.1, 2.1), (0.26, 5), (-0.26, 5)])
    for side in both_sides(body):
        curve(side, fold, 0.03, (wide - 0.45, 4), (wide - 0.4, 3.2), (wide - 0.3, 2.9))
        if look.collar in ("shirt", "tie"):
            flap = np.array([(neck + 0.02, 1.6), (neck + 0.3, 1.85), (0.5, 2.5), (0.02, 2.15)])
            fill(side, pale, flap)
            stroke(side, darker(pale, 0.2), 0.02, flap, closed=True)


def draw_face(pen: Pen, look: Look, rng: np.random.Generator) -> None:
    """The face without mask, glasses and hair."""
    skin, lip, chin = look.skin, look.lips, look.jaw - 0.47
    line = darker(skin, 0.16 + 0.26 * look.wrinkles)
    smile, gaze = rng.uniform(0.02, 0.12), rng.uniform(-0.04, 0.04)
    for side in both_sides(pen):
        fill(side, skin, oval(1, 0.1, 0.16, 0.27))
        fill(side, darker(skin, 0.14), oval(1.02, 0.1, 0.08, 0.16))
        if look.earrings:
            fill(side, GOLD, oval(1.03, 0.44, 0.06, 0.08))
    cheek = ((0.62, -1.2), (0.94, -0.5), (0.96, 0.15), (look.jaw, 0.82), (chin, 1.22))
    face = mirrored((0, -1.4), *cheek, (0, 1.34))
    fill(pen, skin, face)
    if look.beard:
        jowl = mirrored((0, 0.55), (0.6, 0.72), (0.97, 0.3), (look.jaw + 0.05, 0.85), (chin, 1.25), (0, 1.38))
        within(pen, face, lambda inner: wash(inner, look.hair, jowl, look.beard))
    details = np.random.default_rng(look.details)
    for x, y, radius in details.uniform((-0.85, -0.95, 0.02), (0.85, 0.6, 0.07), (24, 3)):
        fill(pen, darker(skin, 0.18 * look.spots), oval(x, y, radius, radius))
    for side in both_sides(pen):
        wash(side, BLUSH, oval(0.56, 0.42, 0.22, 0.15), 0.28 - 0.2 * look.wrinkles)
        draw_eye(side, look, gaze if side is pen else -gaze, line)
        draw_wrinkles(side, look.wrinkles, line)
    curve(pen, darker(skin, 0.28), 0.04, (0.06, 0.02), (0.13, 0.34), (0.02, 0.44), (-0.08, 0.42))
    full = 0.88 if lip in REDS else 0.85
    fill(pen, lip, mirrored((0, 0.76), (0.08, 0.74), (0.28, 0.78 - smile), (0, full + smile)))
    curve(pen, darker(lip, 0.4), 0.03, (-0.29, 0.78 - smile), (0, 0.78 + smile / 2), (0.29, 0.78 - smile))


def draw_eye(pen: Pen, look: Look, gaze: float, line: Colour) -> None:
    """One eye with its brow's shadow and lashes."""
    high = 0.115 - 0.03 * look.wrinkles
    fill(pen, WHITE, smooth([(0.22, 0), (0.42, -high), (0.62, 0), (0.42, 0.8 * high)]))
    fill(pen, INK, oval(0.42 + gaze, -0.01, 0.095, 0.1))
    fill(pen, WHITE, oval(0.44 + gaze, -0.05, 0.03, 0.03))
    lid, lash = -0.8 * high, 0.06 if look.lashes else 0.035
    curve(pen, INK, lash, (0.22, 0), (0.32, lid), (0.52, lid), (0.62, 0))
    if look.lashes:
        curve(pen, INK, 0.05, (0.6, 0), (0.7, -0.08))
    arch = -0.36 if look.brow < 0.1 else -0.31
    curve(pen, darker(look.hair, 0.2), look.brow, (0.18, -0.26), (0.42, arch), (0.68, -0.22))
    curve(pen, mix(look.skin, line, look.wrinkles), 0.03, (0.25, 0.16), (0.42, 0.2), (0.59, 0.15))


def draw_wrinkles(pen: Pen, depth: float, line: Colour) -> None:
    """One side's lines on the forehead, beside the eye and from nose to mouth."""
    for number in range(math.ceil(3 * depth - 0.1)):
        height, drop = -0.52 - 0.16 * number, 0.1 * number - 0.1
        curve(pen, line, 0.03, (-0.02, height - 0.035), (0.15, height - 0.035), (0.42, height))
        curve(pen, line, 0.025, (0.68, 0.02 + drop / 2), (0.84, 0.02 + 1.5 * drop))
        curve(pen, line, 0.03, (0.2, 0.42), (0.36, 0.6), (0.38, 0.8))


def draw_glasses(pen: Pen, height: float) -> None:
    """Glasses with their bridge and temples."""
    for side in both_sides(pen):
        low, high = 0.02 + height, 0.02 - height
        square = smooth([(0.14, high), (0.72, high), (0.7, low), (0.16, low)])
        lens = square if height < 0.25 else oval(0.43, 0.02, 0.31, height)
        wash(side, WHITE, lens, 0.16)
        stroke(side, INK, 0.045, lens, closed=True)
        curve(side, INK, 0.045, (0.74, -0.04), (1, -0.1))
    curve(pen, INK, 0.045, (-0.13, -0.02), (0, -0.07), (0.13, -0.02))


def draw_front_hair(pen: Pen, look: Look) -> None:
    """The hair over the forehead."""
    top, end = -1.62 + 0.18 * look.receding, look.hair_end
    crown = ((-1.03, 0.12), (-1.07, -0.5), (-0.78, -1.3), (0, top), (0.78, -1.3), (1.07, -0.5), (1.03, 0.12))
    temples = zip(TEMPLES, HAIRLINES[look.fringe], strict=True)
    line = [(x, y - (1.36 + y) * look.receding * min(1.0, 1.9 - 2.2 * abs(x))) for x, y in temples]
    parts = [(pen, np.vstack([smooth(crown, closed=False), smooth(line, closed=False)]))]
    if end:
        rim = ((1.1, -0.5), (1.2, 0.3 * end), (1.25, 0.8 * end), (1.08, end), (0.9, 0.8 * end), (0.9, 0))
        parts += [(side, smooth([(0.93, -0.7), *rim])) for side in both_sides(pen)]
    for side, part in parts:
        fill(side, look.hair, part)
        within(side, part, lambda inner: draw_strands(inner, look))


def draw_strands(pen: Pen, look: Look) -> None:
    """Single strands, the grey ones among them."""
    rng = np.random.default_rng(look.details)
    for start in rng.uniform(-1, 1, 9):
        shine = mix(look.hair, WHITE, 0.12) if rng.random() < 0.6 else darker(look.hair, 0.15)
        curve(pen, shine, 0.035, (0.35 * start, -1.6), (start, -1.1), (1.12 * start, 0.2), (1.2 * start, 2.6))
