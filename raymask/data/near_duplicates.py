"""Images that look alike to the eye: a perceptual hash of each, and all pairs whose hashes differ in a few bits alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image

from raymask.core.types import Labels

WORDS = 2
"""Of 64 bits in a hash: the perceptual hash, then the difference hash."""
BITS = 64 * WORDS
RADIUS = 10
"""Bits by which near-duplicates differ at most.

A photo that was saved again at half its size, at a JPEG quality of 20 or a little brighter differs in 0 to 8 bits. Of 20 million
pairs of photos of different people, taken alike, the nearest two differ in 12. One of the two hashes alone is no such proof:
hundreds of those pairs differ in 8 of its 64 bits.
"""

Hashes = npt.NDArray[np.uint64]
"""(N, WORDS)."""


def perceptual_hash(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """(WORDS,) the perceptual and the difference hash of an image.

    Args:
        grey: (H, W) grey values.

    Source:
        Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions"; as the library imagehash has them.
    """
    image = Image.fromarray(grey)
    bits = np.concatenate([imagehash.phash(image).hash.reshape(-1), imagehash.dhash(image).hash.reshape(-1)])
    return np.packbits(bits).view(">u8").astype(np.uint64)


def distances(left: Hashes, right: Hashes) -> Labels:
    """(N,) bits in which hashes differ, row by row.

    Example:
        >>> distances(np.array([[1, 0]], np.uint64), np.array([[2, 7]], np.uint64)).tolist()
        [5]
    """
    return np.asarray(np.bitwise_count(left ^ right).sum(axis=1), np.int64)


class Pairs(NamedTuple):
    """Some pairs of rows."""

    left: Labels
    """(P,) the smaller row of each pair."""
    right: Labels
    """(P,)."""
    distance: Labels
    """(P,) bits in which their hashes differ."""


def near_pairs(hashes: Hashes, radius: int = RADIUS) -> Iterator[Pairs]:
    """All pairs of rows whose hashes differ in `radius` bits at most, each once, some at a time.

    The bits are cut into `radius` + 1 bands. Hashes that differ in no more bits than there are bands but one agree in a band, so
    that only those are compared that do (multi-index hashing). Nothing is missed, and memory stays that of the hashes.

    Source:
        Norouzi et al. 2014, arXiv:1307.2982.
    """
    bands = _bands(hashes, radius + 1)
    for number, band in enumerate(bands):
        order = np.argsort(band, kind="stable")
        of_place = band[order]
        places = np.arange(len(order))
        shift = 0
        while len(places):
            shift += 1
            places = places[places + shift < len(order)]
            places = places[of_place[places] == of_place[places + shift]]
            left, right = order[places], order[places + shift]  # sorted by band, and within it by row
            distance = distances(hashes[left], hashes[right])
            new = distance <= radius
            for earlier in bands[:number]:
                new &= earlier[left] != earlier[right]  # else this pair was found there
            if new.any():
                yield Pairs(left[new], right[new], distance[new])


def _bands(hashes: Hashes, count: int) -> list[Labels]:
    """(N,) a number for each of so many stretches of the hashes' bits."""
    bits = np.unpackbits(hashes.astype(">u8").view(np.uint8).reshape(len(hashes), BITS // 8), axis=1)
    bands = np.array_split(bits.astype(np.int64), count, axis=1)
    numbers = []
    for band in bands:
        _, of_row = np.unique(np.packbits(band.astype(np.uint8), axis=1), axis=0, return_inverse=True)
        numbers.append(of_row.reshape(-1).astype(np.int64))
    return numbers


@dataclass(frozen=True)
class NearPair:
    """Two images that look alike."""

    left: int
    """Row of the first."""
    right: int
    distance: int


@dataclass(frozen=True, eq=False)
class NearDuplicates:
    """Pairs of images that look alike: how many there are, which images they are of, and the nearest of them."""

    pairs: int
    rows: npt.NDArray[np.bool_]
    """(N,) which rows are in a pair."""
    unlike: int
    """Pairs whose labels differ."""
    nearest: tuple[NearPair, ...]
    """Those with labels that differ first, then the nearest."""


@dataclass(frozen=True, eq=False)
class Compared:
    """Near-duplicates of training and test images; the rows are those of the former, then of the latter."""

    across_groups: NearDuplicates
    """Training images of different groups."""
    with_test: NearDuplicates
    """A training and a test image."""


def find_near_duplicates(
    hashes: Hashes, blank: npt.NDArray[np.bool_], groups: Labels, labels: Labels, keep: int, radius: int = RADIUS
) -> Compared:
    """Near-duplicates that leak: across the groups of training images, and between training and test images.

    Args:
        hashes: (N + M, WORDS) of N training images and M test images.
        blank: (N + M,) images with next to nothing on them, which are left out: their hashes are made of noise.
        groups: (N,) of the training images.
        labels: (N,) of the training images.
        keep: how many pairs of either kind are named.
        radius: bits by which near-duplicates differ at most.
    """
    train = len(groups)
    across, tested = _Gathering(len(hashes), keep), _Gathering(len(hashes), keep)
    seen = np.flatnonzero(~blank)
    for pairs in near_pairs(hashes[seen], radius):
        left, right, distance = seen[pairs.left], seen[pairs.right], pairs.distance
        both = right < train
        inner = Pairs(left[both], right[both], distance[both])
        other = groups[inner.left] != groups[inner.right]
        across.add(Pairs(*(part[other] for part in inner)), labels)
        mixed = (left < train) & ~both
        tested.add(Pairs(left[mixed], right[mixed], distance[mixed]), None)
    return Compared(across.result(), tested.result())


class _Gathering:
    """Counts pairs, and remembers the few that are to be named."""

    def __init__(self, rows: int, keep: int) -> None:
        self.keep, self.pairs, self.unlike = keep, 0, 0
        self.rows = np.zeros(rows, bool)
        self.nearest: list[tuple[bool, int, int, int]] = []

    def add(self, pairs: Pairs, labels: Labels | None) -> None:
        """Takes some pairs; `labels` is None where the right ones have none."""
        left, right, distance = pairs
        alike = np.ones(len(left), bool) if labels is None else labels[left] == labels[right]
        self.pairs += len(left)
        self.unlike += int((~alike).sum())
        self.rows[left] = self.rows[right] = True
        first = np.lexsort((right, left, distance, alike))[: self.keep]
        new = zip(alike[first].tolist(), distance[first].tolist(), left[first].tolist(), right[first].tolist(), strict=True)
        self.nearest = sorted([*self.nearest, *new])[: self.keep]

    def result(self) -> NearDuplicates:
        nearest = tuple(NearPair(left, right, distance) for _, distance, left, right in self.nearest)
        return NearDuplicates(self.pairs, self.rows, self.unlike, nearest)
