"""Tests of the views, of their sets, and of how what is said under several of them is merged."""

from __future__ import annotations

import math
import re
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raymask.core.errors import InputError
from raymask.models.classifier import to_pixels
from raymask.transforms.tta import (
    BRIGHTNESS,
    CROPS,
    MERGES,
    MIRRORED_CROPS,
    VIEW_SETS,
    VIEWS,
    View,
    brightened,
    check_views,
    expand_views,
    half_turn,
    hflip,
    merge_views,
    rotated,
    scaled,
    vflip,
    zoom,
)

SIDES = st.integers(1, 40)
NAMES = st.sampled_from(sorted(VIEWS))
PLACING = st.sampled_from(sorted(VIEWS.keys() - BRIGHTNESS.keys()))
"""Views that move pixels and leave their values."""


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
@given(SIDES, SIDES, PLACING)
def test_a_view_that_moves_pixels_stays_between_the_darkest_and_the_brightest_pixel(height: int, width: int, view: str) -> None:
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
    assert torch.equal(seen.round(), VIEWS[view](pixels).to(torch.float32))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_keeps_the_type_and_the_layout_in_memory(view: str, dtype: torch.dtype) -> None:
    pixels = pixels_of(9, 12).to(dtype)
    seen = VIEWS[view](pixels)
    assert (seen.dtype, seen.stride()) == (dtype, pixels.stride())


@pytest.mark.parametrize("view", VIEWS)
def test_mixed_precision_around_a_view_changes_nothing(view: str) -> None:
    pixels = pixels_of(48, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = VIEWS[view](pixels)
    assert torch.equal(seen, VIEWS[view](pixels))


@settings(deadline=None)
@given(SIDES, SIDES, NAMES)
def test_an_image_is_seen_the_same_whatever_else_is_in_the_batch(height: int, width: int, view: str) -> None:
    pixels = pixels_of(height, width)
    assert torch.equal(VIEWS[view](pixels)[1:], VIEWS[view](pixels[1:]))


@settings(deadline=None)
@given(st.integers(0, 255), SIDES, SIDES, PLACING)
def test_a_plain_image_looks_the_same_when_pixels_move(value: int, height: int, width: int, view: str) -> None:
    pixels = torch.full((1, 3, height, width), value, dtype=torch.uint8)
    assert torch.equal(VIEWS[view](pixels), pixels)


@settings(deadline=None)
@given(SIDES, SIDES, st.sampled_from(["hflip", "vflip", "hflip_vflip"]))
def test_a_flip_twice_gives_the_image_back(height: int, width: int, flip: str) -> None:
    pixels = pixels_of(height, width)
    assert torch.equal(VIEWS[flip](VIEWS[flip](pixels)), pixels)


@settings(deadline=None)
@given(SIDES, SIDES)
def test_both_flips_are_half_a_turn(height: int, width: int) -> None:
    pixels = pixels_of(height, width)
    assert torch.equal(half_turn(pixels), hflip(vflip(pixels)))
    torch.testing.assert_close(rotated(180)(pixels.to(torch.float64)), half_turn(pixels).to(torch.float64), atol=0.02, rtol=0)


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


def test_vflip_mirrors_top_and_bottom_alone() -> None:
    pixels = torch.arange(6, dtype=torch.uint8).view(1, 1, 2, 3)
    assert VIEWS["vflip"](pixels).tolist() == [[[[3, 4, 5], [0, 1, 2]]]]


@pytest.mark.parametrize(("percent", "side"), [(90, 18), (100, 20), (110, 22), (120, 24)])
def test_scaling_grows_and_shrinks_a_square_about_the_centre(percent: int, side: int) -> None:
    pixels = torch.zeros(1, 3, 60, 40)
    pixels[..., 20:40, 10:30] = 255
    expected = torch.zeros(1, 3, 60, 40)
    expected[..., 30 - side // 2 : 30 + side // 2, 20 - side // 2 : 20 + side // 2] = 255
    assert torch.equal((scaled(percent)(pixels) > 127.5) * 255.0, expected)


@pytest.mark.parametrize("percent", [90, 110, 120])
def test_scaling_reads_between_pixels_and_reflects_at_the_border(percent: int) -> None:
    rows = torch.arange(40, dtype=torch.float32).view(1, 1, 40, 1).expand(1, 3, 40, 20)
    place = 19.5 + (torch.arange(40) - 19.5) * 100 / percent
    reflected = torch.where(place < -0.5, -1 - place, torch.where(place > 39.5, 79 - place, place)).clamp(0, 39)
    torch.testing.assert_close(VIEWS[f"scale_{percent}"](rows)[0, 0, :, 0], reflected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("percent", [90, 110, 120])
@pytest.mark.parametrize("flip", [hflip, vflip, half_turn])
def test_scaling_and_flips_may_change_places(percent: int, flip: View) -> None:
    pixels = pixels_of(31, 24).to(torch.float32)
    torch.testing.assert_close(flip(scaled(percent)(pixels)), scaled(percent)(flip(pixels)), atol=1e-2, rtol=0)


@pytest.mark.parametrize("side", [1, 2, 5, 32])
def test_a_positive_angle_turns_counter_clockwise(side: int) -> None:
    pixels = pixels_of(side, side).to(torch.float32)
    torch.testing.assert_close(rotated(90)(pixels), torch.rot90(pixels, 1, (-2, -1)), atol=0.02, rtol=0)
    torch.testing.assert_close(rotated(-90)(pixels), torch.rot90(pixels, -1, (-2, -1)), atol=0.02, rtol=0)


def smooth(height: int, width: int) -> torch.Tensor:
    """(1, 3, H, W) float32 waves longer than what bilinear reading blurs."""
    y, x = torch.arange(height)[:, None], torch.arange(width)
    return (128 + 60 * torch.sin(x / 6) + 60 * torch.cos(y / 7)).expand(1, 3, height, width)


@settings(deadline=None)
@given(st.floats(-15, 15))
def test_turning_back_gives_the_centre_back(degrees: float) -> None:
    pixels = smooth(48, 64)
    back = rotated(-degrees)(rotated(degrees)(pixels))
    torch.testing.assert_close(back[..., 14:-14, 14:-14], pixels[..., 14:-14, 14:-14], atol=2, rtol=0)


@pytest.mark.parametrize("degrees", [5, -5, 10, -10])
def test_an_oblong_image_is_turned_and_not_sheared(degrees: int) -> None:
    """A plane of slope 1 keeps that slope, and its direction turns by the angle."""
    y, x = torch.arange(30.0)[:, None] - 14.5, torch.arange(80.0) - 39.5
    turned = VIEWS[f"rotate_{degrees}"]((100 + x).expand(1, 3, 30, 80))
    angle = math.radians(degrees)
    expected = 100 + x * math.cos(angle) - y * math.sin(angle)
    torch.testing.assert_close(turned[0, 0, :, 8:-8], expected[:, 8:-8], atol=1e-3, rtol=0)


def test_a_turn_reflects_at_the_border() -> None:
    pixels = torch.full((1, 3, 30, 30), 200, dtype=torch.uint8)
    pixels[..., 6:-6, 6:-6] = 7
    for degrees in (5, -5, 10, -10):
        seen = VIEWS[f"rotate_{degrees}"](pixels)
        assert {int(seen[..., row, column].min()) for row in (0, -1) for column in (0, -1)} == {200}


@pytest.mark.parametrize(("percent", "expected"), [(90, [0, 9, 115, 230]), (110, [0, 11, 141, 255])])
def test_brightness_multiplies_and_clips(percent: int, expected: list[int]) -> None:
    pixels = torch.tensor([0, 10, 128, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    assert VIEWS[f"bright_{percent}"](pixels).flatten().tolist() == expected


@settings(deadline=None)
@given(st.integers(0, 255), st.floats(1, 400))
def test_brightness_of_any_percent_is_what_it_says(value: int, percent: float) -> None:
    pixels = torch.full((1, 3, 1, 2), value, dtype=torch.float64)
    assert brightened(percent)(pixels)[0, 0, 0, 1].item() == pytest.approx(min(value * percent / 100, 255), rel=1e-6)


@pytest.mark.parametrize("view", CROPS)
def test_crops_show_what_their_names_say(view: str) -> None:
    """Of 32 × 64 pixels, 28 × 56 are kept, so that the crop's border lies on these rows and columns of the whole."""
    rows, columns = torch.arange(32.0)[:, None].expand(1, 3, 32, 64), torch.arange(64.0).expand(1, 3, 32, 64)
    top = 0 if "top" in view else 4 if "bottom" in view else 2
    left = 0 if "left" in view else 8 if "right" in view else 4
    seen_rows, seen_columns = VIEWS[view](rows)[0, 0, :, 0], VIEWS[view](columns)[0, 0, 0]
    assert [seen_rows[0].item(), seen_rows[-1].item()] == [top, top + 27]
    assert [seen_columns[0].item(), seen_columns[-1].item()] == [left, left + 55]


@settings(deadline=None)
@given(SIDES, SIDES)
def test_corner_crops_keep_the_corner_and_the_mirrored_ones_show_it_opposite(height: int, width: int) -> None:
    pixels = pixels_of(height, width)
    for down, row in (("top", 0), ("bottom", -1)):
        for right, column in (("left", 0), ("right", -1)):
            corner = pixels[..., row, column]
            assert torch.equal(VIEWS[f"crop_{down}_{right}"](pixels)[..., row, column], corner)
            assert torch.equal(VIEWS[f"crop_{down}_{right}_hflip"](pixels)[..., row, -1 - column], corner)


@settings(deadline=None)
@given(SIDES, SIDES)
def test_ten_crop_is_the_five_crops_of_the_image_and_of_its_mirror_image(height: int, width: int) -> None:
    pixels = pixels_of(height, width).to(torch.float32)
    for here, there in (("top_left", "top_right"), ("bottom_left", "bottom_right"), ("centre", "centre")):
        mirrored = VIEWS[f"crop_{here}_hflip"](pixels)
        torch.testing.assert_close(mirrored, VIEWS[f"crop_{there}"](hflip(pixels)), atol=1e-2, rtol=0)


def test_known_views_and_sets_are_let_pass() -> None:
    check_views([*VIEWS, *VIEW_SETS])
    check_views([])


@pytest.mark.parametrize(
    ("given", "nearest"),
    [("hflop", "hflip"), ("rotate5", "rotate_5"), ("ten_crops", "ten_crop"), ("rotation", "rotations"), ("Original", "original")],
)
def test_what_is_neither_view_nor_set_is_refused_with_the_nearest_and_all_there_are(given: str, nearest: str) -> None:
    said = rf"^views: there is no view or set of views '{given}'; it may be '{nearest}' \(the nearest\), "
    for refuses in (check_views, expand_views):
        with pytest.raises(InputError, match=said) as refused:
            refuses(["original", "flips", given])
        assert {*re.findall("'(.*?)'", str(refused.value))} == {given, *VIEWS, *VIEW_SETS}


def test_sets_are_of_views_and_share_no_name_with_them() -> None:
    assert not VIEW_SETS.keys() & VIEWS.keys()
    assert all(view in VIEWS for views in VIEW_SETS.values() for view in views)
    assert VIEW_SETS["five_crop"] == tuple(CROPS)
    assert VIEW_SETS["ten_crop"] == (*CROPS, *MIRRORED_CROPS)
    assert [len(views) for views in VIEW_SETS.values()] == [2, 5, 10, 3, 4, 2]


@pytest.mark.parametrize(
    ("names", "views"),
    [
        ([], ["original"]),
        (["original"], ["original"]),
        (["flips"], ["original", "hflip"]),
        (["zoom", "hflip"], ["original", "zoom", "hflip"]),
        (["hflip", "original"], ["original", "hflip"]),
        (["scales", "flips", "scale_90"], ["original", "scale_90", "scale_110", "scale_120", "hflip"]),
        (["scale_120", "scales"], ["original", "scale_120", "scale_90", "scale_110"]),
        (["brightness", "hflip", "hflip"], ["original", "bright_90", "bright_110", "hflip"]),
    ],
)
def test_names_are_expanded_to_views(names: list[str], views: list[str]) -> None:
    assert expand_views(names) == tuple(views)


@given(st.lists(st.sampled_from([*VIEWS, *VIEW_SETS])))
def test_expanded_names_are_different_views_and_stay_as_they_are(names: list[str]) -> None:
    views = expand_views(names)
    assert views[0] == "original"
    assert len(set(views)) == len(views)
    assert set(views) <= VIEWS.keys()
    assert expand_views(views) == views


def random_said(seed: int, views: int, images: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits (W, N, C) and weights (W,) above 0."""
    generator = np.random.default_rng(seed)
    return generator.normal(0, 4, (views, images, classes)), generator.uniform(0.1, 3, views)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


SAID = st.builds(random_said, st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(0, 5), st.integers(1, 6))
HOWS = st.sampled_from(MERGES.names)


@settings(deadline=None)
@given(SAID, HOWS, st.sampled_from([np.float32, np.float64]))
def test_merged_rows_sum_to_1_in_float64(said: tuple[np.ndarray, np.ndarray], how: str, dtype: type) -> None:
    probabilities: np.ndarray = softmax(said[0]).astype(dtype)
    before = probabilities.copy()
    merged = merge_views(probabilities, said[1], how)
    assert merged.dtype == np.float64
    assert merged.shape == probabilities.shape[1:]
    np.testing.assert_allclose(merged.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(probabilities, before)


@given(SAID, HOWS)
def test_views_that_agree_are_merged_to_what_they_say(said: tuple[np.ndarray, np.ndarray], how: str) -> None:
    one = softmax(said[0][0])
    np.testing.assert_allclose(merge_views(np.stack([one] * len(said[1])), said[1], how), one, rtol=1e-12)


@given(SAID)
def test_the_geometric_merge_is_the_softmax_of_the_averaged_logits(said: tuple[np.ndarray, np.ndarray]) -> None:
    logits, weights = said
    expected = softmax(np.average(logits, axis=0, weights=weights))
    np.testing.assert_allclose(merge_views(softmax(logits), weights, "geometric"), expected, rtol=1e-9)


@given(SAID)
def test_the_mean_is_numpys_average(said: tuple[np.ndarray, np.ndarray]) -> None:
    expected = np.average(softmax(said[0]), axis=0, weights=said[1])
    np.testing.assert_allclose(merge_views(softmax(said[0]), said[1], "mean"), expected, rtol=1e-12)


@given(SAID, HOWS, st.randoms(use_true_random=False))
def test_the_order_of_the_views_and_the_scale_of_the_weights_do_not_matter(
    said: tuple[np.ndarray, np.ndarray], how: str, random: Random
) -> None:
    probabilities, weights = softmax(said[0]), said[1]
    order = list(range(len(weights)))
    random.shuffle(order)
    shuffled = merge_views(probabilities[order], weights[order] * 7, how)
    np.testing.assert_allclose(shuffled, merge_views(probabilities, weights, how), rtol=1e-12)


@given(SAID, HOWS, st.sampled_from([0.0, 0.5, np.nan]))
def test_a_view_of_weight_0_changes_nothing(said: tuple[np.ndarray, np.ndarray], how: str, value: float) -> None:
    probabilities, weights = softmax(said[0]), said[1]
    more = np.concatenate([np.full_like(probabilities[:1], value), probabilities])
    np.testing.assert_array_equal(merge_views(more, [0, *weights], how), merge_views(probabilities, weights, how))


@pytest.mark.parametrize(
    ("how", "weights", "expected"),
    [
        ("mean", [1, 1], [0.65, 0.35]),
        ("mean", [3, 1], [0.725, 0.275]),
        ("geometric", [1, 1], [2 / 3, 1 / 3]),
        ("geometric", [3, 1], [2**1.5 / (2**1.5 + 1), 1 / (2**1.5 + 1)]),
        ("geometric", [1, 0], [0.8, 0.2]),
        ("max", [1, 1], [8 / 13, 5 / 13]),
        ("max", [9, 1], [8 / 13, 5 / 13]),
        ("max", [0, 1], [0.5, 0.5]),
    ],
)
def test_merges_by_hand(how: str, weights: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(merge_views(np.array([[[0.8, 0.2]], [[0.5, 0.5]]]), weights, how), [expected])


@pytest.mark.parametrize(
    ("how", "expected"),
    [("mean", [0.5, 0.25, 0.25]), ("geometric", [1, 0, 0]), ("max", [1 / 3, 1 / 3, 1 / 3])],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_of_0_give_no_nan(how: str, expected: list[float], dtype: type) -> None:
    said: np.ndarray = np.array([[[0.5, 0.5, 0.0]], [[0.5, 0.0, 0.5]]], dtype=dtype)
    np.testing.assert_allclose(merge_views(said, [1, 1], how), [expected], atol=1e-15)


def test_views_that_exclude_each_other_leave_the_geometric_merge_undecided() -> None:
    np.testing.assert_allclose(merge_views(np.eye(2)[:, None], [1, 1], "geometric"), [[0.5, 0.5]])


@pytest.mark.parametrize("how", MERGES.names)
def test_rows_without_an_answer_stay_so_and_touch_no_other(how: str) -> None:
    said = np.full((2, 2, 2), 0.5)
    said[:, 0] = np.nan
    np.testing.assert_array_equal(merge_views(said, [1, 1], how), [[np.nan, np.nan], [0.5, 0.5]])


def test_an_unknown_merge_is_refused() -> None:
    known = r"'mean' \(the nearest\), 'geometric' or 'max'"
    with pytest.raises(InputError, match=rf"^the merge of views is 'means'; it may be {known}\.$"):
        merge_views(np.ones((1, 1, 1)), [1], "means")


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([1], "one weight for each of the 2 views, but there are 1"),
        ([1, 1, 1], "one weight for each of the 2 views, but there are 3"),
        ([[1, 1]], "one weight for each of the 2 views, but there are 2"),
        ([0, 0], r"not all 0, but are \[0.0, 0.0\]"),
        ([2, -1], r"not below 0 and not all 0, but are \[2.0, -1.0\]"),
        ([1, math.nan], "must be finite"),
        ([1, math.inf], "must be finite"),
    ],
)
@pytest.mark.parametrize("how", MERGES.names)
def test_impossible_weights_are_refused(weights: list[float], said: str, how: str) -> None:
    with pytest.raises(InputError, match=rf"^views: .*{said}"):
        merge_views(np.full((2, 1, 2), 0.5), weights, how)
