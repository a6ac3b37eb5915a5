"""How long a real run will take, from what its debug run took: work that grows with the data, apart from what does not."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from raymask.config.members import Member
from raymask.core.stopwatch import Stopwatch, side_by_side
from raymask.data.decode import decode_file
from raymask.data.specs import InputSpec

FILES_TO_DECODE = 16


@dataclass(frozen=True)
class Work:
    """A part of the seconds of a debug run that grows with the data or the epochs."""

    stage: str
    seconds: float
    """What it took there; 0 where it is too little to be seen."""
    in_real: float
    """What as much more work takes in the real run."""


def forecast(seconds: float, works: Sequence[Work]) -> dict[str, float]:
    """Seconds of the real run by stage, and of what stays as it is under `start-up`.

    Args:
        seconds: of the debug run.
        works: what of it grows.

    Example:
        >>> forecast(60, [Work("train", 10, 200), Work("predict", 5, 20), Work("train", 5, 100)])
        {'start-up': 40, 'train': 300, 'predict': 20}
    """
    stages = {"start-up": max(0, seconds - sum(work.seconds for work in works))}
    for work in works:
        stages[work.stage] = stages.get(work.stage, 0) + work.in_real
    return stages


def in_words(seconds: float) -> str:
    """`40 s`, `42 min` or `3.5 h`.

    Example:
        >>> in_words(39.6), in_words(2520), in_words(12600)
        ('40 s', '42 min', '3.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def decoding_seconds(paths: Sequence[str], specs: Sequence[InputSpec]) -> float:
    """Seconds to decode an image for all specs on one CPU, of a few that can be."""
    began = time.perf_counter()
    for path in paths[:FILES_TO_DECODE]:
        decode_file(path, specs)
    return (time.perf_counter() - began) / max(1, min(FILES_TO_DECODE, len(paths)))


@dataclass(frozen=True)
class Measured:
    """What is known of a debug run, beside its wall time."""

    watch: Stopwatch
    histories: Mapping[str, pd.DataFrame]
    """By member: epoch, images and images_per_second of its fold models."""
    members: Mapping[str, tuple[Member, Member]]
    """By name: the member of the debug run, and that of the real one."""
    images: int
    growth: float
    """Images of the real run to one of this."""
    predicted: tuple[float, float]
    """Test images and those held out, here and in the real run."""
    views: tuple[int, int]
    """Views that models predict out of fold, and those that the vote counts."""
    folds: int
    vote: float
    """Seconds that the vote took."""
    decoding: float
    """Seconds to decode an image for all specs on one CPU."""
    cpus: float

    def works(self) -> list[Work]:
        """Everything that grows."""
        digests = self.watch.counted["data"]
        return [
            Work("data", digests, digests * self.growth),
            Work("prepare", *(images * self.decoding / self.cpus for images in (self.images, self.images * self.growth))),
            self._embedding(),
            *self._epochs(),
            Work("train", self._own_folds, self._own_folds * self.growth),
            Work("vote", self.vote, self.vote * self.growth),
            Work("predict", *(images * self._prediction for images in self.predicted)),
        ]

    @property
    def _beside(self) -> int:
        """Packs that were trained side by side."""
        return max(1, side_by_side([(began, done) for began, _, done in self.watch.packs()]))

    @property
    def _own_folds(self) -> float:
        """Seconds in which models predict their own folds."""
        return sum(done - trained for _, trained, done in self.watch.packs()) / self._beside

    def _epochs(self) -> list[Work]:
        """The epochs of each member, by its last one here, in which nothing is set up any more."""
        works = []
        for name, history in self.histories.items():
            here, real = (member.recipe.schedule.epochs for member in self.members[name])
            last = history[history["epoch"] == history["epoch"].max()]
            seconds = float((last["images"] / last["images_per_second"]).sum()) / self._beside
            works.append(Work("train", seconds * here, seconds * self.growth * real))
        return works

    def _embedding(self) -> Work:
        parts = [[passes + self.views[0] for passes in self._passes(number)] for number in (0, 1)]
        seconds = self.watch.counted["embed"]
        return Work("embed", seconds, seconds * self.growth * sum(parts[1]) / max(1, sum(parts[0])))

    def _passes(self, number: int) -> list[int]:
        recipes = [members[number].recipe for members in self.members.values()]
        return [min(recipe.freeze.passes, recipe.schedule.epochs) for recipe in recipes if recipe.frozen]

    @property
    def _prediction(self) -> float:
        """Seconds to predict an image by all fold models: as their own folds' images, by frozen backbones as when these embed."""
        features = self.images * sum(passes + self.views[0] for passes in self._passes(0))
        of_model = self.folds * self._own_folds / self.images / self.views[0]
        of_backbones = len(self._passes(0)) * self.watch.counted["embed"] / max(1, features)
        return self.views[1] * (of_model + of_backbones) + self.decoding / self.cpus
