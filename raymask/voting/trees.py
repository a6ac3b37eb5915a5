"""Boosted trees as plain numbers: taken from scikit-learn where they are fitted, kept in a run's files, and followed by numpy.

They are a dictionary of arrays, of T trees of at most M nodes each, K trees to a round of boosting:

    classes       (P,) labels that were there to learn from, in rising order
    baseline      (K,) scores before the first round; K is 1 for two classes, that of the second one, and else P
    features      (T, M) which feature a node asks of
    thresholds    (T, M) it goes left up to this value, and else right
    left, right   (T, M) the nodes after it, further on in the tree; a leaf is its own
    values        (T, M) what a leaf adds to the score of class t modulo K
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Trees = Mapping[str, npt.NDArray[Any]]
Floats = npt.NDArray[np.float64]

NODES = ("features", "thresholds", "left", "right", "values")
STEPS_AT_ONCE = 2**20


def trees_of(model: Any) -> dict[str, npt.NDArray[Any]]:
    """The trees of a fitted `HistGradientBoostingClassifier` without categories, on features without gaps."""
    nodes = [tree.nodes for of_round in model._predictors for tree in of_round]  # noqa: SLF001
    own = np.arange(max(map(len, nodes)))
    trees: dict[str, npt.NDArray[Any]] = {
        "features": _filled(nodes, "feature_idx", np.zeros_like(own)),
        "thresholds": _filled(nodes, "num_threshold", np.zeros(len(own))),
        "left": _filled(nodes, "left", own),
        "right": _filled(nodes, "right", own),
        "values": _filled(nodes, "value", np.zeros(len(own))),
    }
    leaves = _filled(nodes, "is_leaf", np.ones(len(own), bool))
    for side in ("left", "right"):
        trees[side] = np.where(leaves, own, trees[side])
    return {"classes": model.classes_, "baseline": model._baseline_prediction.ravel(), **trees}  # noqa: SLF001


def _filled(nodes: list[npt.NDArray[Any]], field: str, fill: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(T, M) one field of all trees' nodes, shorter trees being filled up."""
    rows = np.tile(fill, (len(nodes), 1))
    for row, of_tree in zip(rows, nodes, strict=True):
        row[: len(of_tree)] = of_tree[field]
    return rows


def constant(label: int) -> dict[str, npt.NDArray[Any]]:
    """Trees that always predict one label, learned where there is no other."""
    return {"classes": np.array([label]), "baseline": np.zeros(1), **{name: np.empty(0) for name in NODES}}


def tree_probabilities(trees: Trees, features: Floats) -> Floats:
    """(N, P) probabilities of the trees' classes; as scikit-learn's `predict_proba`, to rounding.

    Args:
        trees: as above.
        features: (N, F).
    """
    scores = tree_scores(trees, features)
    if len(trees["classes"]) == 2:
        scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def tree_scores(trees: Trees, features: Floats) -> Floats:
    """(N, K) the baseline and what the trees add to it."""
    outputs = len(trees["baseline"])
    scores = np.tile(trees["baseline"].astype(np.float64), (len(features), 1))
    if not trees["features"].size:
        return scores
    count, nodes = trees["features"].shape
    chosen, thresholds, values = (trees[name].ravel() for name in ("features", "thresholds", "values"))
    roots = np.arange(count) * nodes
    left, right = ((trees[side] + roots[:, None]).ravel() for side in ("left", "right"))
    size = max(1, STEPS_AT_ONCE // count)
    for start in range(0, len(features), size):
        some = features[start : start + size]
        rows, node = np.arange(len(some))[:, None], np.tile(roots, (len(some), 1))
        while True:
            onward = np.where(some[rows, chosen[node]] <= thresholds[node], left[node], right[node])
            if (onward == node).all():
                break
            node = onward
        scores[start : start + size] += values[node].reshape(len(some), -1, outputs).sum(axis=1)
    return scores


def wrong_with_trees(trees: Mapping[str, Any], features: int, classes: int) -> str:
    """What keeps trees from being followed, as they come from a file; "" for nothing.

    Args:
        trees: what is to be trees.
        features: how many there are.
        classes: how many labels there are.
    """
    if set(trees) != {"classes", "baseline", *NODES}:
        return f"has {', '.join(sorted(trees))} in place of {', '.join(('classes', 'baseline', *NODES))}"
    arrays = {name: np.asarray(values) for name, values in trees.items()}
    if any(array.dtype.kind not in "if" or not np.isfinite(array).all() for array in arrays.values() if array.size):
        return "holds something else than numbers"
    labels, nodes = arrays["classes"], arrays["left"]
    outputs = 1 if labels.size == 2 else labels.size
    if labels.ndim != 1 or not labels.size or not _within(labels, classes) or arrays["baseline"].shape != (outputs,):
        return "has classes that do not fit"
    if len({arrays[name].shape for name in NODES}) > 1 or (nodes.size and (nodes.ndim != 2 or len(nodes) % outputs)):
        return "has arrays of shapes that do not fit"
    own = np.arange(nodes.shape[-1])
    if not all(_within(arrays[side], len(own)) and (arrays[side] >= own).all() for side in ("left", "right")):
        return "has branches that lead back or nowhere"
    return "" if _within(arrays["features"], features) else "asks for features that there are not"


def _within(numbers: npt.NDArray[Any], end: int) -> bool:
    """Whether all are whole numbers from 0 to below an end."""
    return not numbers.size or bool(numbers.dtype.kind == "i" and (numbers >= 0).all() and (numbers < end).all())
