"""Tests of the mean and deviation of prepared images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from raymask.core.errors import InputError
from raymask.data.cache import PreparedImages
from raymask.data.specs import InputSpec
from raymask.data.statistics import channel_sums


def prepared_of(images: np.ndarray) -> PreparedImages:
    return PreparedImages((images,), np.zeros(len(images), np.int64), np.arange(len(images)))


@given(
    images=arrays.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(2, 6), st.just(3))),
    data=st.data(),
)
def test_they_are_those_of_all_pixels_of_the_chosen_images(images: np.ndarray, data: st.DataObject) -> None:
    images[:, 0, 0], images[:, 0, 1] = 3, 200  # so that each channel has a deviation
    rows = np.array(data.draw(st.lists(st.booleans(), min_size=len(images), max_size=len(images)).filter(any)))
    said = channel_sums(prepared_of(images)).statistics(rows)
    pixels = images[rows].reshape(-1, 3).astype(np.float64) / 255
    np.testing.assert_allclose(said, [*pixels.mean(axis=0), *pixels.std(axis=0)], rtol=1e-12, atol=1e-12)


def test_they_are_of_what_a_model_sees() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 9, 8, 3)).astype(np.uint8)
    images[:, 2:7, 2:6] //= 2
    said = channel_sums(prepared_of(images).seen_by(InputSpec(9, 8, 1.0, (5, 4)))).statistics(np.arange(4))
    pixels = images[:, 2:7, 2:6].reshape(-1, 3) / 255
    np.testing.assert_allclose(said, [*pixels.mean(axis=0), *pixels.std(axis=0)], rtol=1e-12)


def test_they_do_not_depend_on_the_order_and_are_exact_where_floats_are_not() -> None:
    """Of values that differ by 1 in 600,000 the difference of the mean of squares and the squared mean has no digit left."""
    images = np.full((3, 400, 500, 3), 254, dtype=np.uint8)
    images[1, 7, 9] = 255
    sums = channel_sums(prepared_of(images))
    share = 1 / images[..., 0].size
    np.testing.assert_allclose(sums.statistics(np.arange(3))[3:], np.sqrt(share * (1 - share)) / 255, rtol=1e-12)
    assert sums.statistics(np.array([2, 0, 1])) == sums.statistics(np.arange(3))


def test_images_of_one_value_have_no_deviation() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    images[..., 1] = 7
    with pytest.raises(
        InputError, match=r"^recipe.normalize=dataset divides by .* in some channel all .* set it to pretrained\.$"
    ):
        channel_sums(prepared_of(images)).statistics(np.arange(2))
