"""Tests of what the real run is expected to take: each part grows by what it depends on."""

from __future__ import annotations

import io
from dataclasses import replace

import pandas as pd
import pytest
from rich.console import Console

from raymask.config.members import Member
from raymask.config.recipe import Recipe
from raymask.core.console import Display
from raymask.core.stopwatch import Stopwatch
from raymask.workflows.forecast import Measured, Work, forecast, in_words


def member(epochs: int, **recipe: object) -> Member:
    return Member(name="m", task="mask", seed=0, recipe=Recipe.model_validate({"schedule": {"epochs": epochs}, **recipe}))


def measured(watch: Stopwatch, members: tuple[Member, Member]) -> Measured:
    """100 images in 2 folds of two packs; the real run has ten times as many."""
    history = pd.DataFrame(
        {"epoch": [1, 2, 1, 2], "images": 50, "images_per_second": [1.0, 25.0, 1.0, 10.0], "fold": [0, 0, 1, 1]}
    )
    return Measured(
        watch=watch,
        histories={"m": history},
        members={"m": members},
        images=100,
        growth=10.0,
        predicted=(16, 400),
        views=(2, 1),
        folds=2,
        vote=3.0,
        decoding=0.02,
        cpus=2.0,
    )


@pytest.fixture
def watch() -> Stopwatch:
    """Two packs side by side, which took 4 and 2 seconds to predict their own folds."""
    watch = Stopwatch(Display(Console(file=io.StringIO())))
    for pack, times in {"a": (0, 10, 14), "b": (1, 12, 14)}.items():
        for when, phase in zip(times, ("starting", "training", "done"), strict=True):
            watch.reported.append((when, {"pack": pack, "phase": phase, "share": float(phase != "starting"), "epochs": 2}))
    return watch


def in_real(found: Measured) -> dict[str, float]:
    return forecast(0, found.works())


def test_training_grows_with_images_and_epochs_by_its_last_epoch(watch: Stopwatch) -> None:
    found = measured(watch, (member(2), member(12)))
    epoch = (50 / 25 + 50 / 10) / 2  # two fold models side by side
    own_folds = (4 + 2) / 2
    assert [work.seconds for work in found.works() if work.stage == "train"] == [2 * epoch, own_folds]
    assert in_real(found)["train"] == pytest.approx(12 * 10 * epoch + 10 * own_folds)


def test_the_other_stages_grow_with_their_images(watch: Stopwatch) -> None:
    found = measured(watch, (member(2), member(12)))
    stages = in_real(found)
    assert stages["vote"] == 30
    assert stages["prepare"] == pytest.approx(1000 * 0.02 / 2)
    a_view_by_both = 2 * 3 / (100 * 2)  # each image under two views by one of two models took 3 seconds
    assert stages["predict"] == pytest.approx(400 * (a_view_by_both + 0.02 / 2))
    assert stages["embed"] == 0
    twice = in_real(replace(found, views=(2, 2)))["predict"]
    assert twice == pytest.approx(400 * (2 * a_view_by_both + 0.02 / 2))


def test_features_grow_with_images_and_passes(watch: Stopwatch) -> None:
    frozen = {"freeze": {"part": "backbone", "passes": 4}}
    watch.counted["embed"] = 8.0
    found = measured(watch, (member(2, **frozen), member(30, **frozen)))
    stages = in_real(found)
    assert stages["embed"] == pytest.approx(8 * 10 * (4 + 2) / (2 + 2))
    a_feature = 8 / (100 * (2 + 2))
    assert stages["predict"] == pytest.approx(400 * (2 * 3 / 200 + a_feature + 0.02 / 2))


def test_what_does_not_grow_stays_and_is_never_below_0() -> None:
    assert forecast(50, [Work("train", 20, 400)]) == {"start-up": 30, "train": 400}
    assert forecast(10, [Work("train", 20, 400)]) == {"start-up": 0, "train": 400}


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "0 s"), (89, "89 s"), (95, "2 min"), (5340, "89 min"), (5400, "1.5 h")])
def test_times_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
