"""Tests of near-duplicates: the search against every pair, what is counted, and which changes of a picture are found."""

from __future__ import annotations

import io
from itertools import combinations
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from raymask.data.decode import decode_whole
from raymask.data.demo.dataset import assign_people, draw_person
from raymask.data.near_duplicates import BITS, RADIUS, find_near_duplicates, near_pairs, perceptual_hash
from raymask.data.specs import InputSpec


def as_hash(number: int) -> list[int]:
    return [number >> 64, number & (2**64 - 1)]


@st.composite
def hash_sets(draw: Any) -> list[int]:
    """Numbers of 128 bits, of which some differ from others in a few bits."""
    numbers = draw(st.lists(st.integers(0, 2**BITS - 1), min_size=1, max_size=6))
    for _ in range(draw(st.integers(0, 12))):
        number = draw(st.sampled_from(numbers))
        for bit in draw(st.lists(st.integers(0, BITS - 1), max_size=RADIUS + 4)):
            number ^= 1 << bit
        numbers.append(number)
    return list(draw(st.permutations(numbers)))


def every_pair(numbers: list[int], radius: int) -> dict[tuple[int, int], int]:
    apart = {(a, b): (numbers[a] ^ numbers[b]).bit_count() for a, b in combinations(range(len(numbers)), 2)}
    return {pair: distance for pair, distance in apart.items() if distance <= radius}


@given(numbers=hash_sets(), radius=st.integers(0, 20))
def test_the_search_finds_each_pair_once_that_comparing_all_finds(numbers: list[int], radius: int) -> None:
    hashes = np.array([as_hash(number) for number in numbers], np.uint64)
    found = [
        ((left, right), distance)
        for pairs in near_pairs(hashes, radius)
        for left, right, distance in zip(*(part.tolist() for part in pairs), strict=True)
    ]
    assert len(found) == len(dict(found))
    assert dict(found) == every_pair(numbers, radius)


@given(numbers=hash_sets(), data=st.data())
def test_pairs_are_counted_across_groups_and_with_the_test_images(numbers: list[int], data: st.DataObject) -> None:
    train = data.draw(st.integers(0, len(numbers)))
    some = st.lists(st.integers(0, 2), min_size=train, max_size=train)
    groups, labels = data.draw(some), data.draw(some)
    blank = data.draw(st.lists(st.booleans(), min_size=len(numbers), max_size=len(numbers)))
    hashes = np.array([as_hash(number) for number in numbers], np.uint64)
    found = find_near_duplicates(hashes, np.array(blank), np.array(groups, int), np.array(labels, int), keep=3)
    pairs = {pair: far for pair, far in every_pair(numbers, RADIUS).items() if not (blank[pair[0]] or blank[pair[1]])}
    across = {(a, b): far for (a, b), far in pairs.items() if b < train and groups[a] != groups[b]}
    tested = {(a, b): far for (a, b), far in pairs.items() if a < train <= b}
    assert (found.across_groups.pairs, found.with_test.pairs) == (len(across), len(tested))
    assert set(np.flatnonzero(found.across_groups.rows)) == {row for pair in across for row in pair}
    assert set(np.flatnonzero(found.with_test.rows)) == {row for pair in tested for row in pair}
    assert found.across_groups.unlike == sum(labels[a] != labels[b] for a, b in across)
    ranked = sorted((labels[a] == labels[b], far, a, b) for (a, b), far in across.items())
    assert [(pair.distance, pair.left, pair.right) for pair in found.across_groups.nearest] == [rank[1:] for rank in ranked[:3]]


def test_a_thousand_copies_of_one_image_are_all_pairs_in_little_memory() -> None:
    pieces = list(near_pairs(np.zeros((1000, 2), np.uint64)))
    assert sum(len(piece.left) for piece in pieces) == 1000 * 999 // 2
    assert max(len(piece.left) for piece in pieces) < 1000


def people() -> list[bytes]:
    return [next(draw_person(person, 0, place, (192, 256))) for place, person in enumerate(assign_people(8, 0))]


def grey(content: bytes) -> np.ndarray:
    return np.asarray(cv2.cvtColor(decode_whole(content, InputSpec(64, 64, 1.0)).pixels, cv2.COLOR_RGB2GRAY))


def saved(image: Image.Image, quality: int = 90) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return content.getvalue()


CHANGES = {
    "saved poorly": lambda image: saved(image, 25),
    "half the size": lambda image: saved(image.resize((image.width // 2, image.height // 2))),
    "larger": lambda image: saved(image.resize((image.width * 2, image.height * 2))),
    "more contrast": lambda image: saved(ImageEnhance.Contrast(image).enhance(1.2)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_photo_is_near_to_itself(change: str) -> None:
    for photo in people():
        changed = CHANGES[change](Image.open(io.BytesIO(photo)))
        hashes = np.stack([perceptual_hash(grey(photo)), perceptual_hash(grey(changed))])
        assert len(list(near_pairs(hashes))) == 1


def test_drawn_people_are_not_near_to_each_other() -> None:
    hashes = np.stack([perceptual_hash(grey(photo)) for photo in people()])
    assert not list(near_pairs(hashes))
