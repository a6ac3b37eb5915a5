"""Tests of boosted trees as plain numbers: they say what scikit-learn's own say, and what is no tree is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier

from raymask.voting.trees import constant, tree_probabilities, trees_of, wrong_with_trees


def fitted(seed: int, images: int, features: int, classes: int, leaves: int, rounds: int) -> tuple[Any, np.ndarray]:
    """A model on features some of which have few values, as probabilities of 0 and 1 have."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(images) % classes) * 2 + 1
    x = rng.normal(labels[:, None] * rng.normal(0, 0.3, features), 1, (images, features))
    x[:, ::2] = x[:, ::2].round(1)
    model = HistGradientBoostingClassifier(
        max_iter=rounds, max_leaf_nodes=leaves, min_samples_leaf=3, max_bins=63, early_stopping=False
    )
    return model.fit(x, labels), x


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(20, 120), st.integers(1, 6), st.integers(2, 5), st.integers(2, 9), st.integers(1, 5))
def test_trees_say_what_scikit_learn_says(seed: int, images: int, features: int, classes: int, leaves: int, rounds: int) -> None:
    model, known = fitted(seed, images, features, classes, leaves, rounds)
    trees = {name: np.asarray(json.loads(json.dumps(of.tolist()))) for name, of in trees_of(model).items()}
    assert wrong_with_trees(trees, features, 2 * classes) == ""
    edges = np.concatenate([known, known + 1e-12, known - 1e-12, known * 10, np.zeros((1, features))])
    np.testing.assert_allclose(tree_probabilities(trees, edges), model.predict_proba(edges), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(trees["classes"], model.classes_)


def test_in_pieces_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, known = fitted(0, 60, 3, 3, 4, 3)
    whole = tree_probabilities(trees_of(model), known)
    monkeypatch.setattr("raymask.voting.trees.STEPS_AT_ONCE", 50)
    np.testing.assert_array_equal(tree_probabilities(trees_of(model), known), whole)


def test_one_label_is_always_said() -> None:
    trees = {name: np.asarray(of.tolist()) for name, of in constant(2).items()}
    assert wrong_with_trees(trees, 4, 3) == ""
    np.testing.assert_array_equal(tree_probabilities(trees, np.zeros((5, 4))), np.ones((5, 1)))


class TestRefused:
    @pytest.fixture
    def trees(self) -> dict[str, np.ndarray]:
        return trees_of(fitted(0, 60, 3, 3, 4, 2)[0])

    @pytest.mark.parametrize(
        ("name", "change", "message"),
        [
            ("left", lambda of: np.zeros_like(of), "lead back"),
            ("right", lambda of: of + 1, "nowhere"),
            ("left", lambda of: of.astype(float), "nowhere"),
            ("features", lambda of: of + 3, "features that there are not"),
            ("features", lambda of: of - 1, "features that there are not"),
            ("values", lambda of: of[:, :-1], "shapes"),
            ("thresholds", lambda of: of.ravel(), "shapes"),
            ("thresholds", lambda of: np.full_like(of, np.nan), "else than numbers"),
            ("values", lambda of: of.astype(str), "else than numbers"),
            ("classes", lambda of: of + 9, "classes"),
            ("classes", lambda of: of[:2], "classes"),
            ("baseline", lambda of: of[:1], "classes"),
        ],
    )
    def test_what_is_no_tree(self, trees: dict[str, np.ndarray], name: str, change: Any, message: str) -> None:
        assert wrong_with_trees(trees, 3, 6) == ""
        assert message in wrong_with_trees({**trees, name: change(trees[name])}, 3, 6)

    def test_rounds_that_lack_a_tree(self, trees: dict[str, np.ndarray]) -> None:
        cut = {
            name: of[:-1] if name in ("features", "thresholds", "left", "right", "values") else of for name, of in trees.items()
        }
        assert "shapes" in wrong_with_trees(cut, 3, 6)

    def test_other_names(self, trees: dict[str, np.ndarray]) -> None:
        assert "has model in place of classes" in wrong_with_trees({"model": "UEsDBA=="}, 3, 6)
        assert wrong_with_trees({**trees, "more": np.zeros(1)}, 3, 6)
