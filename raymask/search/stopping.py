"""Which trials of a search end early: those that promise little beside all that were ever as far.

Optuna's pruners judge one trial at a time, and its median knows finished trials alone; here the trials of a pack come to a rung
together, so that they are compared with each other at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Literal

Stop = Literal["asha", "median", "none"]
Curve = Mapping[int, float]
"""Scores of a trial by the number of finished epochs; more is better."""


def rungs(stop: Stop, epochs: int, grace: int | None, reduction: int) -> tuple[int, ...]:
    """The numbers of finished epochs at which trials are judged.

    Args:
        stop: how.
        epochs: of a whole trial.
        grace: epochs that every trial has; None for a quarter of them.
        reduction: `asha` lets one in so many go on.

    Example:
        >>> rungs("asha", 30, None, 2), rungs("median", 5, 2, 2), rungs("none", 5, None, 2)
        ((7, 14), (2, 3, 4), ())
    """
    first = grace or max(1, epochs // 4)
    if stop == "none":
        return ()
    if stop == "median":
        return tuple(range(first, epochs))
    found = []
    while first * reduction <= epochs:
        found.append(first)
        first *= reduction
    return tuple(found)


def goes_on_by_asha(trial: int, rung: int, curves: Mapping[int, Curve], reduction: int) -> bool:
    """Whether a trial is among the best of all that came to a rung, one in `reduction` of them, and at least one.

    Of equal ones the earlier is better.

    Args:
        trial: its number.
        rung: finished epochs.
        curves: of all trials by number, the judged one's among them.
        reduction: see above.

    Source: asynchronous successive halving, Li et al. 2018 (arXiv:1810.05934).
    """
    there = sorted((-curve[rung], number) for number, curve in curves.items() if rung in curve)
    return (-curves[trial][rung], trial) in there[: max(1, len(there) // reduction)]


def goes_on_by_median(trial: int, rung: int, curves: Mapping[int, Curve]) -> bool:
    """Whether the best score of a trial until a rung reaches the median of what the others had on average until then.

    Args:
        trial: its number.
        rung: finished epochs.
        curves: as above.

    Source: the median stopping rule of Golovin et al. 2017, "Google Vizier".
    """
    others = [_until(curve, rung) for number, curve in curves.items() if number != trial and rung in curve]
    if not others:
        return True
    return max(_until(curves[trial], rung)) >= median(sum(scores) / len(scores) for scores in others)


def _until(curve: Curve, rung: int) -> list[float]:
    return [score for epoch, score in curve.items() if epoch <= rung]


class Judge:
    """Follows the trials of a search by the scores of their models, and says which of them end.

    Args:
        stop: how trials are judged.
        reduction: see `goes_on_by_asha`.
        models: names of the models of each trial that runs, by its number.
        judged_at: for each of these the epochs after which it is judged.
        curves: of all trials, also of earlier ones; they are continued.
    """

    def __init__(
        self,
        stop: Stop,
        reduction: int,
        models: Mapping[int, Iterable[str]],
        judged_at: Mapping[int, Iterable[int]],
        curves: Mapping[int, Curve],
    ) -> None:
        self.stop, self.reduction = stop, reduction
        self.models = {number: tuple(names) for number, names in models.items()}
        self.judged_at = {number: frozenset(epochs) for number, epochs in judged_at.items()}
        self.curves = {number: dict(curve) for number, curve in curves.items()}
        self._trial_of = {name: number for number, names in self.models.items() for name in names}
        self._scores: dict[tuple[int, int], dict[str, float]] = defaultdict(dict)

    def take(self, scores: Mapping[str, tuple[int, float]]) -> tuple[list[int], list[int]]:
        """Takes what a pack reports of its models after an epoch.

        A trial's score is the mean of its models', and known when all of them have come as far.

        Args:
            scores: finished epochs and score by the model's name.

        Returns:
            The trials whose curves have grown, and those of them that end.
        """
        grown: dict[int, int] = {}
        for name, (epoch, score) in scores.items():
            number = self._trial_of[name]
            of_epoch = self._scores[number, epoch]
            of_epoch[name] = score
            if len(of_epoch) == len(self.models[number]):
                self.curves[number][epoch] = sum(of_epoch.values()) / len(of_epoch)
                grown[number] = epoch
        judged = {number: epoch for number, epoch in grown.items() if epoch in self.judged_at[number]}
        return sorted(grown), sorted(number for number, epoch in judged.items() if not self._goes_on(number, epoch))

    def leader(self) -> int:
        """The trial that runs and scored best until now, by the last epoch of its curve; the first where none has one."""
        return max(self.models, key=lambda number: (list(self.curves[number].values())[-1:] or [-1.0])[0])

    def _goes_on(self, number: int, epoch: int) -> bool:
        if self.stop == "asha":
            return goes_on_by_asha(number, epoch, self.curves, self.reduction)
        return goes_on_by_median(number, epoch, self.curves)
