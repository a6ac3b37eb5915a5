"""Mean and deviation of the channels of prepared images, in exact sums, so that they are the same wherever they are computed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from raymask.core.errors import InputError
from raymask.core.types import Pixels
from raymask.data.cache import PreparedImages

VALUES = np.arange(256, dtype=np.int64)


@dataclass(frozen=True)
class ChannelSums:
    """Sums over the pixels of each of N images."""

    values: npt.NDArray[np.int64]
    """(N, 3)."""
    squares: npt.NDArray[np.int64]
    """(N, 3)."""
    pixels: int
    """Of an image."""

    def statistics(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> tuple[float, ...]:
        """Mean of each channel and then the deviation of each, on a scale from 0 to 1, of some of the images.

        Raises:
            InputError: a channel has one value everywhere.
        """
        count = len(self.values[rows]) * self.pixels
        sums, squares = (of_image[rows].sum(axis=0).tolist() for of_image in (self.values, self.squares))
        # In whole numbers of any size: a difference of squares is exact until it is divided.
        variances = [(count * square - total**2) / count**2 for total, square in zip(sums, squares, strict=True)]
        if not all(variances):
            raise InputError(
                "recipe.normalize=dataset divides by the deviation of each channel, but in some channel all images have one "
                "value; set it to pretrained."
            )
        return (*(total / count / 255 for total in sums), *(math.sqrt(variance) / 255 for variance in variances))


def channel_sums(prepared: PreparedImages) -> ChannelSums:
    """The sums of each prepared image, as models see it without augmentation."""
    sums = [image_sums(prepared.read([row])[0]) for row in range(len(prepared.shard_of))]
    values, squares = np.array(sums, dtype=np.int64).transpose(1, 0, 2)
    height, width = prepared.read([0]).shape[1:3]
    return ChannelSums(values, squares, height * width)


def image_sums(image: Pixels) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(3,) sums of an image's values and of their squares, by channel."""
    histogram = np.stack([cv2.calcHist([image], [channel], None, [256], [0, 256]).reshape(-1) for channel in range(3)])
    counts = histogram.astype(np.int64)  # float32, in which the counts of as many as 2^24 pixels are exact
    return counts @ VALUES, counts @ VALUES**2
