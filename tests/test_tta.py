"""Tests of the views."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raymask.errors import InputError
from raymask.models import to_pixels
from raymask.tta import VIEWS, check_views

SIDES = st.integers(1, 9)


def pixels_of(height: int, width: int) -> torch.Tensor:
    images = np.random.default_rng(height * 10 + width).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    return to_pixels(images, torch.device("cpu"))


@settings(deadline=None)
@given(SIDES, SIDES, st.sampled_from(sorted(VIEWS)))
def test_every_view_twice_gives_the_image_back_and_keeps_type_and_shape(height: int, width: int, view: str) -> None:
    pixels = pixels_of(height, width)
    before = pixels.clone()
    seen = VIEWS[view](pixels)
    assert (seen.shape, seen.dtype) == (pixels.shape, torch.uint8)
    assert torch.equal(VIEWS[view](seen), pixels)
    assert torch.equal(pixels, before)


def test_hflip_mirrors_left_and_right_alone() -> None:
    pixels = torch.arange(6, dtype=torch.uint8).view(1, 1, 2, 3)
    assert VIEWS["hflip"](pixels).tolist() == [[[[2, 1, 0], [5, 4, 3]]]]


def test_original_is_the_image_itself() -> None:
    pixels = pixels_of(3, 4)
    assert torch.equal(VIEWS["original"](pixels), pixels)


def test_known_views_are_let_pass() -> None:
    check_views(list(VIEWS))
    check_views([])


def test_an_unknown_view_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"^views: there is no view 'hflop'; it may be 'hflip' \(the nearest\) or 'original'\.$"):
        check_views(["original", "hflop"])
