"""What is measured of every image of a data set in one pass, by all CPUs of this machine and without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from raymask.core.types import Pixels, Progress
from raymask.data.careful import DEADLY, in_children
from raymask.data.decode import Whole, decode_whole, fitted, read_file
from raymask.data.near_duplicates import WORDS, perceptual_hash
from raymask.data.specs import InputSpec
from raymask.data.statistics import ChannelSums, image_sums

THUMBNAIL = 16
"""Sides, in pixels, of the grey thumbnails that images are compared by."""


class Measured(NamedTuple):
    """What is measured of one image."""

    height: int
    """In pixels, upright."""
    width: int
    brightness: float
    """Mean of the grey values, from 0 to 255."""
    contrast: float
    """Their deviation."""
    values: npt.NDArray[np.int64]
    """(3,) sums of each channel as a model sees the image."""
    squares: npt.NDArray[np.int64]
    """(3,) sums of the squares."""
    hash: npt.NDArray[np.uint64]
    """(WORDS,), see `raymask.data.near_duplicates.perceptual_hash`."""
    thumbnail: npt.NDArray[np.uint8]
    """(THUMBNAIL, THUMBNAIL) grey values of the whole image."""


UNMEASURED = Measured(
    height=0,
    width=0,
    brightness=float("nan"),
    contrast=float("nan"),
    values=np.zeros(3, np.int64),
    squares=np.zeros(3, np.int64),
    hash=np.zeros(WORDS, np.uint64),
    thumbnail=np.zeros((THUMBNAIL, THUMBNAIL), np.uint8),
)
"""What stands for an image that cannot be decoded."""


@dataclass(frozen=True, eq=False)
class Survey:
    """What is measured of N images."""

    problems: npt.NDArray[np.object_]
    """(N,) why an image cannot be decoded, or ""."""
    heights: npt.NDArray[np.int64]
    """(N,) in pixels, upright."""
    widths: npt.NDArray[np.int64]
    brightness: npt.NDArray[np.float64]
    """(N,) mean grey value, from 0 to 255."""
    contrast: npt.NDArray[np.float64]
    """(N,) deviation of the grey values."""
    channels: ChannelSums
    hashes: npt.NDArray[np.uint64]
    """(N, WORDS)."""
    thumbnails: npt.NDArray[np.uint8]
    """(N, THUMBNAIL, THUMBNAIL)."""

    def of(self, rows: npt.NDArray[Any]) -> Survey:
        """That of some of the images."""
        sums = self.channels
        return Survey(
            self.problems[rows],
            self.heights[rows],
            self.widths[rows],
            self.brightness[rows],
            self.contrast[rows],
            ChannelSums(sums.values[rows], sums.squares[rows], sums.pixels),
            self.hashes[rows],
            self.thumbnails[rows],
        )


def survey(paths: Sequence[str], spec: InputSpec, children: int, progress: Progress) -> Survey:
    """Measures images.

    Args:
        paths: their files.
        spec: how a model sees them; they are decoded no larger than it wants.
        children: number of processes.
        progress: called with (images done, images in all).
    """
    order = np.argsort(np.asarray(paths, dtype=object), kind="stable")  # those in one Parquet file are read in a stretch
    sorted_paths = [paths[place] for place in order]
    found = in_children(partial(measure_file, spec=spec), sorted_paths, (DEADLY, UNMEASURED), children, progress)
    by_place = dict(zip(order.tolist(), found, strict=True))
    measured = [by_place[place][1] for place in range(len(paths))]
    height, width = spec.size
    return Survey(
        problems=np.array([by_place[place][0] for place in range(len(paths))], dtype=object),
        heights=np.array([one.height for one in measured], np.int64),
        widths=np.array([one.width for one in measured], np.int64),
        brightness=np.array([one.brightness for one in measured], np.float64),
        contrast=np.array([one.contrast for one in measured], np.float64),
        channels=ChannelSums(
            np.array([one.values for one in measured], np.int64).reshape(-1, 3),
            np.array([one.squares for one in measured], np.int64).reshape(-1, 3),
            height * width,
        ),
        hashes=np.array([one.hash for one in measured], np.uint64).reshape(-1, WORDS),
        thumbnails=np.array([one.thumbnail for one in measured], np.uint8).reshape(-1, THUMBNAIL, THUMBNAIL),
    )


def measure_file(path: str, spec: InputSpec) -> tuple[str, Measured]:
    """What is measured of a file, or why it cannot be: ("", measured) or (problem, `UNMEASURED`)."""
    problem, measured = read_file(path, lambda content: measure(decode_whole(content, spec), spec))
    return problem, measured or UNMEASURED


def measure(whole: Whole, spec: InputSpec) -> Measured:
    """What is measured of a decoded image; channels of what a model sees, all else of the whole image."""
    grey = cv2.cvtColor(whole.pixels, cv2.COLOR_RGB2GRAY)
    mean, deviation = cv2.meanStdDev(grey)
    values, squares = image_sums(fitted(whole, spec))
    return Measured(
        height=whole.height,
        width=whole.width,
        brightness=float(mean[0, 0]),
        contrast=float(deviation[0, 0]),
        values=values,
        squares=squares,
        hash=perceptual_hash(grey),
        thumbnail=np.asarray(cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA), np.uint8),
    )


def small_picture(path: str, side: int, quality: int) -> bytes:
    """A JPEG of a whole image whose longer side is `side` pixels at most; b"" where it cannot be decoded."""
    spec = InputSpec(side, side, 1.0)
    problem, whole = read_file(path, lambda content: decode_whole(content, spec))
    if problem or whole is None:
        return b""
    return _as_jpeg(_shrunk(whole.pixels, side), quality)


def _shrunk(pixels: Pixels, side: int) -> Pixels:
    height, width = pixels.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return pixels
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _as_jpeg(pixels: Pixels, quality: int) -> bytes:
    done, content = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(content.tobytes()) if done else b""
