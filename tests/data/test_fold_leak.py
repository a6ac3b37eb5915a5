"""Tests of the leak that folds by image have: there when images of a group look alike, absent when each is alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

from raymask.config.data import FoldsConfig
from raymask.core.tasks import LabelSpace, Task
from raymask.data import fold_leak as leaking
from raymask.data.fold_leak import measure_leak
from raymask.data.folds import assign_folds
from raymask.metrics.nearest_neighbour import thumbnail_features

SPACE = LabelSpace((Task("a", "a", ("x", "y")), Task("b", "b", ("p", "q"))))
RNG = np.random.default_rng(0)
GROUP = np.repeat(np.arange(60), 4)
JOINT = RNG.integers(0, 4, 60)[GROUP]  # labels that the look of a group says nothing about
LOOKS = RNG.integers(0, 240, (60, 8, 8))[GROUP] + RNG.integers(0, 10, (240, 8, 8))
IMAGES = pd.DataFrame(
    {"group": [f"g{number:02d}" for number in GROUP], "label_a": JOINT // 2, "label_b": JOINT % 2, "label_joint": JOINT}
)


def test_images_of_a_group_give_its_label_away() -> None:
    leak = measure_leak(IMAGES, LOOKS.astype(np.uint8), FoldsConfig(k=5), 0, SPACE)
    assert [believed.target for believed in leak.scores] == ["a", "b", "joint"]
    joint = leak.scores[-1]
    assert joint.f1_by_image > 0.95
    assert joint.f1_by_group < 0.5
    assert joint.gap == joint.f1_by_image - joint.f1_by_group


@pytest.mark.parametrize(("scheme", "field"), [("stratified", "f1_by_image"), ("stratified_group", "f1_by_group")])
def test_scores_are_those_of_scikit_learns_neighbours(scheme: str, field: str) -> None:
    config = FoldsConfig(k=4)
    folds = assign_folds(IMAGES, config.model_copy(update={"scheme": scheme}), 3)
    features, predicted = thumbnail_features(LOOKS.astype(np.uint8)), np.empty(len(JOINT), int)
    for fold in range(4):
        near = KNeighborsClassifier(1).fit(features[folds != fold], JOINT[folds != fold])
        predicted[folds == fold] = near.predict(features[folds == fold])
    joint = measure_leak(IMAGES, LOOKS.astype(np.uint8), config, 3, SPACE).scores[-1]
    assert getattr(joint, field) == pytest.approx(f1_score(JOINT, predicted, average="macro"))


def test_too_few_groups_are_said() -> None:
    leak = measure_leak(IMAGES.assign(group="one"), LOOKS.astype(np.uint8), FoldsConfig(k=5), 0, SPACE)
    assert not leak.scores
    assert leak.problem == "folds.k is 5, but there are only 1 groups."


def test_of_very_many_images_whole_groups_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaking, "MOST_IMAGES", 100)
    assert measure_leak(IMAGES, LOOKS.astype(np.uint8), FoldsConfig(k=5), 0, SPACE).images == 100
