"""Tests of the views."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raymask.errors import InputError
from raymask.models import to_pixels
from raymask.tta import VIEWS, check_views, hflip, zoom

SIDES = st.integers(1, 40)
NAMES = st.sampled_from(sorted(VIEWS))


def pixels_of(height: int, width: int) -> torch.Tensor:
    images = np.random.default_rng(height * 100 + width).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    return to_pixels(images, torch.device("cpu"))


@settings(deadline=None)
@given(SIDES, SIDES, NAMES)
def test_every_view_keeps_type_and_shape_and_leaves_the_image_alone(height: int, width: int, view: str) -> None:
    pixels = pixels_of(height, width)
    before = pixels.clone()
    seen = VIEWS[view](pixels)
    assert (seen.shape, seen.dtype) == (pixels.shape, torch.uint8)
    assert torch.equal(pixels, before)


@settings(deadline=None)
@given(SIDES, SIDES, NAMES)
def test_every_view_stays_between_the_darkest_and_the_brightest_pixel(height: int, width: int, view: str) -> None:
    pixels = pixels_of(height, width)
    seen = VIEWS[view](pixels)
    assert pixels.min() <= seen.min()
    assert seen.max() <= pixels.max()


@settings(deadline=None)
@given(SIDES, SIDES, NAMES)
def test_float_pixels_give_the_same_view_but_for_rounding(height: int, width: int, view: str) -> None:
    pixels = pixels_of(height, width)
    seen = VIEWS[view](pixels.to(torch.float32))
    assert seen.dtype == torch.float32
    torch.testing.assert_close(seen, VIEWS[view](pixels).to(torch.float32), atol=0.501, rtol=0)


@settings(deadline=None)
@given(SIDES, SIDES, NAMES)
def test_an_image_is_seen_the_same_whatever_else_is_in_the_batch(height: int, width: int, view: str) -> None:
    pixels = pixels_of(height, width)
    assert torch.equal(VIEWS[view](pixels)[1:], VIEWS[view](pixels[1:]))


@settings(deadline=None)
@given(st.integers(0, 255), SIDES, SIDES, NAMES)
def test_a_plain_image_looks_the_same_under_every_view(value: int, height: int, width: int, view: str) -> None:
    pixels = torch.full((1, 3, height, width), value, dtype=torch.uint8)
    assert torch.equal(VIEWS[view](pixels), pixels)


@settings(deadline=None)
@given(SIDES, SIDES)
def test_hflip_twice_gives_the_image_back(height: int, width: int) -> None:
    pixels = pixels_of(height, width)
    assert torch.equal(hflip(hflip(pixels)), pixels)


@settings(deadline=None)
@given(SIDES, SIDES)
def test_zooming_and_mirroring_may_change_places(height: int, width: int) -> None:
    pixels = pixels_of(height, width).to(torch.float32)
    torch.testing.assert_close(VIEWS["zoom_hflip"](pixels), zoom(hflip(pixels)), atol=1e-2, rtol=0)


def test_hflip_mirrors_left_and_right_alone() -> None:
    pixels = torch.arange(6, dtype=torch.uint8).view(1, 1, 2, 3)
    assert VIEWS["hflip"](pixels).tolist() == [[[[2, 1, 0], [5, 4, 3]]]]


def test_original_is_the_image_itself() -> None:
    pixels = pixels_of(3, 4)
    assert torch.equal(VIEWS["original"](pixels), pixels)


def test_zoom_cuts_a_twentieth_off_each_side() -> None:
    pixels = torch.full((1, 3, 40, 20), 7, dtype=torch.uint8)
    pixels[..., :2, :], pixels[..., -2:, :], pixels[..., :1], pixels[..., -1:] = 200, 200, 200, 200
    assert (zoom(pixels) == 7).all()


def test_zoom_magnifies_about_the_centre() -> None:
    rows = torch.arange(40, dtype=torch.float32).view(1, 1, 40, 1).expand(1, 3, 40, 20)
    expected = 19.5 + (torch.arange(40) - 19.5) * 36 / 40
    torch.testing.assert_close(zoom(rows)[0, 0, :, 0], expected.clamp(2, 37))


def test_known_views_are_let_pass() -> None:
    check_views(list(VIEWS))
    check_views([])


def test_an_unknown_view_is_refused_with_those_there_are() -> None:
    known = r"'hflip' \(the nearest\), 'original', 'zoom' or 'zoom_hflip'"
    with pytest.raises(InputError, match=rf"^views: there is no view 'hflop'; it may be {known}\.$"):
        check_views(["original", "hflop"])
