"""Tests of the doubt of a vote, and of its place among the training images'."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raymask.metrics.doubt import entropy, fit_reference


def test_the_entropy_is_that_of_its_definition() -> None:
    probs = np.random.default_rng(0).dirichlet(np.ones(5), 20)
    expected = [-sum(p * math.log(p) for p in row) for row in probs]
    np.testing.assert_allclose(entropy(probs), expected)
    assert entropy(np.array([[0.0, 1.0, 0.0]])).tolist() == [0.0]


def test_places_of_images_like_those_of_training_are_spread_evenly() -> None:
    rng = np.random.default_rng(1)
    reference = fit_reference(rng.dirichlet(np.ones(6), 20_000))
    places = reference.places(entropy(rng.dirichlet(np.ones(6), 20_000)))
    for share in (0.1, 0.5, 0.9, 0.99):
        assert (places > share).mean() == pytest.approx(1 - share, abs=0.01)


def test_what_is_surer_than_all_is_at_0_and_what_is_doubted_most_at_1() -> None:
    reference = fit_reference(np.random.default_rng(2).dirichlet(np.ones(3), 50))
    assert reference.places(np.array([-1.0, 99.0])).tolist() == [0.0, 1.0]
