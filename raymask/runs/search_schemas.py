"""The JSON files of a search as types; see `raymask.runs.schemas`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from raymask.runs.schemas import Count, Estimate, Interval, Record, RunFile


class Stopped(RunFile):
    """`stopped.json` of a model whose trial of a search was ended early."""

    epoch: Count
    """Finished epochs after which it ends."""


class CurvePoint(Record):
    """How the models of a trial did after so many finished epochs."""

    epoch: Count
    f1: float
    """Mean over the models."""


class Trial(Record):
    """One of the trials of a search."""

    number: Count
    values: dict[str, Any]
    """By key of the recipe."""
    state: Literal["running", "finished", "stopped", "failed"] = "running"
    epochs: Count = 0
    """Of a whole training."""
    curve: list[CurvePoint] = Field(default_factory=list)
    score: Interval | None = None
    """Of the metric, out of fold, by the weights at its end."""
    problem: str = ""
    """Why it failed."""

    @property
    def reached(self) -> int:
        """Finished epochs of a trial that is not finished."""
        return max(self.f1_by_epoch, default=0)

    @property
    def f1_by_epoch(self) -> dict[int, float]:
        """Its curve, by the number of finished epochs."""
        return {point.epoch: point.f1 for point in self.curve}


class Search(RunFile):
    """`search.json`: what is searched, and its trials by number."""

    space: dict[str, Any]
    """What each key may be, as text."""
    folds: list[int]
    metric: str
    seconds: Annotated[float, Field(ge=0)] = 0.0
    """Spent on its trials."""
    trials: list[Trial] = Field(default_factory=list)
    images: Count = 0
    groups: Count = 0
    best: int | None = None
    estimate: Estimate | None = None
    """The score of the best that is to be expected on new people."""
    importances: dict[str, float] = Field(default_factory=dict)
