"""Views, which are test-time augmentations, and how a model's predictions under several of them are merged.

A view takes (B, 3, H, W) pixels from 0 to 255 of any type and gives new ones of the same shape and type, made on their device
for the whole batch at once. Integers are rounded, and are otherwise what floats would give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace

from raymask.core.arrays import Array, as_float64, stacked
from raymask.core.errors import InputError, one_of
from raymask.core.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor


MAX_NAMED = 6


@dataclass(frozen=True)
class ViewPlan:
    """Views, how much each counts, and how they are merged."""

    names: tuple[str, ...]
    weights: tuple[float, ...]
    merge: str

    def __str__(self) -> str:
        if len(set(self.weights)) > 1:
            parts = [f"{weight:g} {name}" for name, weight in zip(self.names, self.weights, strict=True)]
        else:
            parts = with_families(self.names)
        shown = " + ".join(parts if len(parts) <= MAX_NAMED else [*parts[: MAX_NAMED - 1], f"{len(parts) - MAX_NAMED + 1} more"])
        return shown if self.merge == "mean" or len(self.names) == 1 else f"{shown}, {self.merge}"

    def to_json(self) -> dict[str, Any]:
        """All that tells plans apart, as plain values."""
        return {"names": list(self.names), "weights": list(self.weights), "merge": self.merge}

    @property
    def complexity(self) -> float:
        """Number of views, which is what prediction costs; then equal weights before others, and the mean before other merges."""
        return len(self.names) + 0.2 * (len(set(self.weights)) > 1) + 0.1 * MERGES.names.index(self.merge)


View = Callable[["Tensor"], "Tensor"]

ZOOM_MARGIN = 0.05
"""Share of the height and of the width that `zoom` cuts off at each side."""

CROP_MARGIN = 0.0625
"""Half of the share of the height and of the width that a crop cuts off: it keeps 0.875 of each."""

LEAST = float(np.finfo(np.float32).tiny)
"""What probabilities of 0 count as where their logarithm is taken: the least normal float32."""


def original(pixels: Tensor) -> Tensor:
    """The pixels themselves, not a copy."""
    return pixels


def hflip(pixels: Tensor) -> Tensor:
    """Left and right exchanged."""
    return pixels.flip(-1)


def vflip(pixels: Tensor) -> Tensor:
    """Top and bottom exchanged."""
    return pixels.flip(-2)


def half_turn(pixels: Tensor) -> Tensor:
    """Turned by 180 degrees, which is both flips."""
    return pixels.flip(-2, -1)


def mirrored(view: View) -> View:
    """The view with left and right exchanged: of a left crop, what is at the image's left, seen in a mirror."""
    return lambda pixels: hflip(view(pixels))


def window(margin: float, down: int, right: int) -> View:
    """A part of the image at the size of the whole, bilinear.

    Args:
        margin: half of the share of each side that is cut off; it is rounded to whole pixels before it is doubled.
        down: 0 cuts both margins off the bottom, 1 one off each of top and bottom, 2 both off the top.
        right: the same for the width.
    """

    def view(pixels: Tensor) -> Tensor:
        import torch
        from torch.nn.functional import interpolate

        height, width = pixels.shape[-2:]
        rows, columns = round(height * margin), round(width * margin)
        top, left = down * rows, right * columns
        part = pixels[..., top : top + height - 2 * rows, left : left + width - 2 * columns]
        # As float32, since not every device interpolates uint8.
        return _like(interpolate(part.to(torch.float32), size=(height, width), mode="bilinear", align_corners=False), pixels)

    return view


def scaled(percent: float) -> View:
    """The content grown or shrunk about the centre to so many percent, on an unchanged canvas; see `_resampled`."""
    return lambda pixels: _resampled(pixels, 100 / percent, 0.0)


def rotated(degrees: float) -> View:
    """The content turned about the centre, counter-clockwise if positive, on an unchanged canvas; see `_resampled`."""
    angle = math.radians(degrees)
    return lambda pixels: _resampled(pixels, math.cos(angle), math.sin(angle))


def brightened(percent: float) -> View:
    """The pixels times so many percent, clipped to 0 to 255."""

    def view(pixels: Tensor) -> Tensor:
        import torch

        return _like((pixels.to(torch.float32) * (percent / 100)).clamp_(0, 255), pixels)

    return view


def _resampled(pixels: Tensor, along: float, across: float) -> Tensor:
    """Each pixel read, bilinear, where a matrix about the image's centre sends it; beyond the border the image is reflected.

    The unit is the pixel, so that a turn does not shear an oblong image. The outermost pixels are seen twice in the reflection.

    Args:
        pixels: (B, 3, H, W) of any type.
        along: the entries on the matrix's diagonal.
        across: the others: the pixel at (x, y) is read at (along * x - across * y, across * x + along * y), y downwards.
    """
    import torch
    from torch.nn.functional import grid_sample

    height, width = pixels.shape[-2:]
    y = (torch.arange(height, device=pixels.device, dtype=torch.float32) - (height - 1) / 2)[:, None]
    x = torch.arange(width, device=pixels.device, dtype=torch.float32) - (width - 1) / 2
    # Not by affine_grid: its matrix product is one of bf16 under autocast, which moves what is read by parts of a pixel.
    places = torch.stack([(x * along - y * across) * (2 / width), (x * across + y * along) * (2 / height)], dim=-1)
    grid = places.expand(pixels.shape[0], -1, -1, -1)  # `len` would fix the number of images in an exported graph
    read = grid_sample(pixels.to(torch.float32), grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return _like(read, pixels)


def _like(made: Tensor, pixels: Tensor) -> Tensor:
    """Float32 `made`, which is overwritten, in the type and the memory layout of `pixels`."""
    import torch

    return torch.empty_like(pixels).copy_(made if pixels.is_floating_point() else made.round_())


zoom = window(ZOOM_MARGIN, 1, 1)
"""The central nine tenths: the crop of the centre with a smaller margin, and nearly `scaled(111)`, which cuts between pixels."""

CROPS: dict[str, View] = {
    "crop_top_left": window(CROP_MARGIN, 0, 0),
    "crop_top_right": window(CROP_MARGIN, 0, 2),
    "crop_bottom_left": window(CROP_MARGIN, 2, 0),
    "crop_bottom_right": window(CROP_MARGIN, 2, 2),
    "crop_centre": window(CROP_MARGIN, 1, 1),
}
MIRRORED_CROPS: dict[str, View] = {f"{name}_hflip": mirrored(view) for name, view in CROPS.items()}
SCALES: dict[str, View] = {f"scale_{percent}": scaled(percent) for percent in (90, 110, 120)}
ROTATIONS: dict[str, View] = {f"rotate_{degrees}": rotated(degrees) for degrees in (5, -5, 10, -10)}
BRIGHTNESS: dict[str, View] = {f"bright_{percent}": brightened(percent) for percent in (90, 110)}

VIEWS: dict[str, View] = {
    "original": original,
    "hflip": hflip,
    "zoom": zoom,
    "zoom_hflip": mirrored(zoom),
    "vflip": vflip,
    "hflip_vflip": half_turn,
    **SCALES,
    **ROTATIONS,
    **BRIGHTNESS,
    **CROPS,
    **MIRRORED_CROPS,
}

VIEW_SETS: dict[str, tuple[str, ...]] = {
    "flips": ("original", "hflip"),
    "five_crop": tuple(CROPS),
    "ten_crop": (*CROPS, *MIRRORED_CROPS),
    "scales": tuple(SCALES),
    "rotations": tuple(ROTATIONS),
    "brightness": tuple(BRIGHTNESS),
}
"""Names that stand for several views."""


def mean_merge(probabilities: Array, shares: Array) -> Array:
    """The weighted mean."""
    return array_namespace(probabilities).sum(shares * probabilities, axis=0)


def geometric_merge(probabilities: Array, shares: Array) -> Array:
    """The weighted mean of the logarithms, normalised; probabilities of 0 count as `LEAST`.

    It equals the softmax of the weighted mean of the views' logits, so that logits need no merge of their own.
    """
    xp = array_namespace(probabilities)
    return _normalised(xp.exp(xp.sum(shares * xp.log(probabilities.clip(LEAST)), axis=0)))


def max_merge(probabilities: Array, _: Array) -> Array:
    """The greatest that any view gives, normalised."""
    return _normalised(array_namespace(probabilities).max(probabilities, axis=0))


def _normalised(scores: Array) -> Array:
    return scores / array_namespace(scores).sum(scores, axis=1, keepdims=True)


MERGES: Registry[Callable[[Array, Array], Array]] = Registry(
    "the merge of views", {"mean": mean_merge, "geometric": geometric_merge, "max": max_merge}
)
"""How `merge_views` makes one distribution of several: (N, C) from (W, N, C) probabilities and (W, 1, 1) shares that sum to 1."""


def check_views(names: Sequence[str]) -> None:
    """Refuses what is neither a view nor a set of views.

    Raises:
        InputError: names the views and the sets there are, the nearest first.
    """
    known = [*VIEWS, *VIEW_SETS]
    for name in names:
        if name not in known:
            raise InputError(f"views: there is no view or set of views '{name}'; it may be {one_of(known, name)}.")


def expand_views(names: Sequence[str]) -> tuple[str, ...]:
    """The views that names of views and of sets mean, each once: `original` first, asked for or not, the others in their order.

    Raises:
        InputError: a name is neither a view nor a set of views.
    """
    check_views(names)
    return tuple(dict.fromkeys(["original", *(view for name in names for view in VIEW_SETS.get(name, (name,)))]))


def merge_views(probabilities: Array, weights: npt.ArrayLike, how: str) -> Array:
    """One distribution of what a head predicts under several views. Rows that hold NaN give NaN and affect no other.

    Args:
        probabilities: (W, N, C) array or tensor of one head under W views; heads side by side must be merged apart, as rows are
            normalised.
        weights: (W,) not below 0; only their ratios count. A view of weight 0 is not looked at.
        how: one of `MERGES`.

    Returns:
        (N, C) float64 whatever the type of `probabilities`; rows sum to 1 where theirs do.

    Raises:
        InputError: `how` is unknown, or weights are too few or many, below 0, not finite or all 0.
    """
    merge, shares = MERGES.get(how), _shares(weights, len(probabilities))
    counted = np.flatnonzero(shares).tolist()
    kept = stacked(as_float64(probabilities[index]) for index in counted)
    return merge(kept, array_namespace(kept).asarray(shares[counted, None, None], device=kept.device))


def _shares(weights: npt.ArrayLike, views: int) -> npt.NDArray[np.float64]:
    """(W,) weights that sum to 1; raises InputError where they cannot."""
    given = np.asarray(weights, dtype=np.float64)
    if given.shape != (views,):
        raise InputError(f"views: there must be one weight for each of the {views} views, but there are {given.size}.")
    if not (np.isfinite(given).all() and (given >= 0).all() and given.any()):
        raise InputError(f"views: weights must be finite, not below 0 and not all 0, but are {given.tolist()}.")
    return np.asarray(given / given.sum())


def with_families(names: Sequence[str]) -> list[str]:
    """Names of views in which whole families of three or more are called by the name of their set, the largest first."""
    shown = list(names)
    for family, views in sorted(VIEW_SETS.items(), key=lambda item: -len(item[1])):
        if len(views) > 2 and set(views) <= set(shown):
            index = shown.index(views[0])
            shown = [name for name in [*shown[:index], family, *shown[index:]] if name not in views]
    return shown


def even(names: Sequence[str], merge: str = "mean") -> ViewPlan:
    """Views that count alike."""
    return ViewPlan(tuple(names), (1.0,) * len(names), merge)
