"""Tests of the pure part of the stream: what is in which batch, and how batches travel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymask.data.cache import PreparedImages
from raymask.data.sampling import Batch, BatchSampler, from_columns, make_batch, to_columns
from raymask.data.specs import InputSpec, StreamSpec
from raymask.transforms.augment import PRESETS, Augmenter

SPEC = StreamSpec(InputSpec(4, 6, 1.0), "[]", batch_size=4, epochs=3, seed=0)
FLIP = Augmenter([{"HorizontalFlip": {"p": 0.5}}])


def sampler(spec: StreamSpec, count: int, folds: int = 1) -> BatchSampler:
    return BatchSampler(spec, np.arange(count) % folds)


def prepared(count: int) -> PreparedImages:
    """Images of random pixels in two shards, in another order than the rows."""
    pixels = np.random.default_rng(count).integers(0, 256, (count, 4, 6, 3)).astype(np.uint8)
    half = count // 2
    shard_of = np.array([int(row >= half) for row in range(count)])
    offset_of = np.array([row - half if row >= half else half - 1 - row for row in range(count)])
    return PreparedImages((pixels[:half], pixels[half:]), shard_of, offset_of)


def all_batches(spec: StreamSpec, count: int, augmenter: Augmenter = FLIP) -> list[Batch]:
    images = prepared(count)
    return [
        make_batch(images, augmenter, sampler(spec, count), epoch, step)
        for epoch in range(spec.epochs)
        for step in range(spec.steps(count))
    ]


def joined(batches: list[Batch]) -> dict[str, Any]:
    columns = [to_columns(batch) for batch in batches]
    return {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    assert [(batch.epoch, batch.step) for batch in one] == [(batch.epoch, batch.step) for batch in other]
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left.rows, right.rows)
        np.testing.assert_array_equal(left.images, right.images)


# --- the order


@given(count=st.integers(1, 60), batch_size=st.integers(1, 70), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 10**6))
@settings(deadline=None)
def test_every_row_is_in_an_epoch_once(count: int, batch_size: int, seed: int, epoch: int) -> None:
    spec = replace(SPEC, batch_size=batch_size, seed=seed)
    batches = [sampler(spec, count).rows(epoch, step) for step in range(spec.steps(count))]
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))
    assert [len(rows) for rows in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert 1 <= len(batches[-1]) <= batch_size


@given(folds=st.lists(st.integers(-1, 5), min_size=1, max_size=200), batch_size=st.integers(1, 70), epoch=st.integers(0, 10**6))
@settings(deadline=None)
def test_every_batch_holds_its_share_of_each_fold(folds: list[int], batch_size: int, epoch: int) -> None:
    spec, fold = replace(SPEC, batch_size=batch_size), np.array(folds)
    uneven = BatchSampler(spec, fold)
    for step in range(uneven.steps):
        rows = uneven.rows(epoch, step)
        for one in set(folds):
            share = np.mean(fold == one) * len(rows)
            assert abs(np.sum(fold[rows] == one) - share) <= len(set(folds))
    if uneven.steps > 1:
        sizes = [np.sum(fold[uneven.rows(epoch, step)] == folds[0]) for step in range(uneven.steps - 1)]
        assert max(sizes) - min(sizes) <= 2 * len(set(folds))


def test_replicas_of_equal_folds_learn_from_batches_of_two_sizes() -> None:
    even = BatchSampler(replace(SPEC, batch_size=64), np.repeat(np.arange(5), 700))
    sizes = {int(np.sum(even.fold[even.rows(epoch, step)] != 3)) for epoch in range(20) for step in range(even.steps - 1)}
    assert sizes <= {50, 51, 52, 53}


@pytest.mark.parametrize(("images", "steps"), [(1, 1), (3, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_the_last_batch_of_an_epoch_may_be_smaller(images: int, steps: int) -> None:
    assert SPEC.steps(images) == steps
    assert len(sampler(SPEC, images).rows(0, steps - 1)) == (images - 1) % 4 + 1
    assert len(sampler(SPEC, images).rows(0, steps)) == 0


def test_orders_differ_by_epoch_and_seed_and_are_the_same_again() -> None:
    orders = [sampler(replace(SPEC, seed=seed), 50).order(epoch).tolist() for seed in range(3) for epoch in range(4)]
    assert len(set(map(tuple, orders))) == 12
    assert orders == [sampler(replace(SPEC, seed=seed), 50).order(epoch).tolist() for seed in range(3) for epoch in range(4)]
    assert sampler(replace(SPEC, seed=1), 50).order(2).tolist() != sampler(replace(SPEC, seed=2), 50).order(1).tolist()


def test_an_epoch_is_shuffled_evenly() -> None:
    firsts = [sampler(SPEC, 10).order(epoch)[0] for epoch in range(1000)]
    assert np.bincount(firsts, minlength=10).min() > 60


def test_the_order_does_not_depend_on_the_batch_size() -> None:
    orders = []
    for batch_size in (1, 3, 7, 100):
        spec = replace(SPEC, batch_size=batch_size)
        orders.append(np.concatenate([sampler(spec, 20).rows(1, step) for step in range(spec.steps(20))]).tolist())
    assert orders == [sampler(SPEC, 20).order(1).tolist()] * 4


# --- a batch


def test_a_batch_holds_the_augmented_images_of_its_rows() -> None:
    images = prepared(10)
    batch = make_batch(images, FLIP, sampler(SPEC, 10), 2, 1)
    assert (batch.epoch, batch.step) == (2, 1)
    np.testing.assert_array_equal(batch.rows, sampler(SPEC, 10).rows(2, 1))
    np.testing.assert_array_equal(batch.images, FLIP(images.read(batch.rows), 0, 2, batch.rows))
    plain = make_batch(images, Augmenter(()), sampler(SPEC, 10), 2, 1)
    np.testing.assert_array_equal(plain.images, images.read(batch.rows))


def test_a_batch_may_be_smaller_than_the_prepared_images() -> None:
    images, crop = prepared(10), Augmenter([{"RandomCrop": {"height": 2, "width": 5}}], (2, 5))
    batch = make_batch(images, crop, sampler(SPEC, 10), 0, 0)
    assert batch.images.shape == (4, 2, 5, 3)
    for image, whole in zip(batch.images, images.read(batch.rows), strict=True):
        assert any((whole[y : y + 2, x : x + 5] == image).all() for y in range(3) for x in range(2))


def test_an_image_that_a_sampler_repeats_is_augmented_anew_each_time() -> None:
    images, augmenter = prepared(4), Augmenter(PRESETS.get("medium"))
    text = '{"by": "age", "factors": [5.0, 1.0], "name": "repeat"}'
    repeated = BatchSampler(replace(SPEC, sampler=text, batch_size=3), np.zeros(4, np.int64), np.array([1, 0, 1, 1]))
    assert (repeated.images, repeated.steps) == (8, 3)
    batches = [make_batch(images, augmenter, repeated, 1, step) for step in range(repeated.steps)]
    of_row = [image for batch in batches for row, image in zip(batch.rows, batch.images, strict=True) if row == 1]
    assert len({image.tobytes() for image in of_row}) == len(of_row) == 5
    np.testing.assert_array_equal(of_row[0], augmenter(images.read(np.array([1])), 0, 1, [1])[0])
    np.testing.assert_array_equal(of_row[3], augmenter(images.read(np.array([1])), 0, 1, [1], [3])[0])


def test_an_image_is_augmented_the_same_in_batches_of_any_size() -> None:
    by_size = []
    for batch_size in (1, 3, 8):
        batches = all_batches(replace(SPEC, batch_size=batch_size), 8)
        images = {
            (batch.epoch, row): image.tobytes() for batch in batches for row, image in zip(batch.rows, batch.images, strict=True)
        }
        by_size.append(images)
    assert by_size[0] == by_size[1] == by_size[2]
    assert len(by_size[0]) == 8 * 3


def test_batches_are_the_same_in_any_order_of_work() -> None:
    images = prepared(9)
    pairs = [(epoch, step) for epoch in range(3) for step in range(3)]
    forwards = [make_batch(images, FLIP, sampler(SPEC, 9), *pair) for pair in pairs]
    backwards = [make_batch(images, FLIP, sampler(SPEC, 9), *pair) for pair in reversed(pairs)]
    assert_same(forwards, backwards[::-1])


def test_specs_that_decide_the_same_stream_are_equal_and_others_are_not() -> None:
    assert len({SPEC, replace(SPEC)}) == 1
    others = [{"input": InputSpec(4, 6, 0.9)}, {"augment": '[{"Blur": {}}]'}, {"batch_size": 5}, {"epochs": 4}, {"seed": 1}]
    assert len({SPEC, *(replace(SPEC, **other) for other in others)}) == 6


# --- as columns


@given(count=st.integers(1, 20), batch_size=st.integers(1, 25), epochs=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_batches_that_travelled_together_come_out_as_they_were(count: int, batch_size: int, epochs: int) -> None:
    batches = all_batches(replace(SPEC, batch_size=batch_size, epochs=epochs), count, Augmenter(()))
    assert_same(list(from_columns(joined(batches))), batches)


@given(data=st.data(), count=st.integers(1, 12), batch_size=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_batches_come_out_of_any_cut_between_them(data: st.DataObject, count: int, batch_size: int) -> None:
    batches = all_batches(replace(SPEC, batch_size=batch_size), count, Augmenter(()))
    cut = data.draw(st.integers(0, len(batches)))
    parts = [part for part in (batches[:cut], batches[cut:]) if part]
    assert_same([batch for part in parts for batch in from_columns(joined(part))], batches)


def test_epochs_of_one_step_are_told_apart() -> None:
    batches = all_batches(replace(SPEC, batch_size=16, epochs=5), 16)
    assert {batch.step for batch in batches} == {0}
    assert [batch.epoch for batch in from_columns(joined(batches))] == [0, 1, 2, 3, 4]


def test_a_smaller_last_batch_keeps_its_size() -> None:
    batches = list(from_columns(joined(all_batches(SPEC, 10))))
    assert [len(batch.rows) for batch in batches] == [4, 4, 2] * 3
    assert [batch.step for batch in batches] == [0, 1, 2] * 3


def test_a_single_batch_comes_out_alone() -> None:
    batch = all_batches(SPEC, 10)[4]
    assert_same(list(from_columns(to_columns(batch))), [batch])


def test_columns_have_one_row_an_image() -> None:
    columns = to_columns(all_batches(SPEC, 10)[2])
    assert {name: len(values) for name, values in columns.items()} == {"image": 2, "row": 2, "epoch": 2, "step": 2}
    assert {columns[name].dtype for name in ("row", "epoch", "step")} == {np.dtype(np.int64)}


def test_pixels_are_not_copied_on_the_way() -> None:
    batches = all_batches(SPEC, 8)
    assert to_columns(batches[0])["image"] is batches[0].images
    columns = joined(batches)
    assert all(np.shares_memory(batch.images, columns["image"]) for batch in from_columns(columns))
