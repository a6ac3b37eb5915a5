"""What `ensemble.json` says of doubt, as types: sets of classes, and how unlike the training images an image is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError

from raymask.core.columns import targets_of
from raymask.core.tasks import LabelSpace
from raymask.io.checked import damaged, first_problem
from raymask.metrics.doubt import DoubtReference
from raymask.metrics.prediction_sets import PredictionSets
from raymask.runs.schemas import Count, Interval, Record

Share = Annotated[float, Field(ge=0, le=1)]


class CoverageRow(Record):
    """How the sets of a target did over all images, or over those of one class of a task."""

    target: str
    task: str = ""
    """The task whose class these images are of; "" for all images."""
    label: str = ""
    images: Count
    groups: Count
    coverage: Interval
    size: float
    single: Share


class WrittenSets(Record):
    """What `raymask.voting.conformal.decide_sets` gives."""

    coverage: Annotated[float, Field(gt=0, lt=1)]
    least: dict[str, list[Share]]
    own: dict[str, list[str]] = Field(default_factory=dict)
    """By target the classes whose least probability is of their own images alone."""
    rows: list[CoverageRow] = Field(default_factory=list)
    least_by_group: dict[str, list[Share]] | None = None
    """Of images that are voted on by group."""
    rows_by_group: list[CoverageRow] = Field(default_factory=list)
    reserve: list[CoverageRow] = Field(default_factory=list)
    """On the groups held out, each image alone."""


def read_sets(file: Path, written: Mapping[str, Any] | None, space: LabelSpace) -> WrittenSets | None:
    """The sets that a run's `ensemble.json` holds; None where it has none, as older ones have.

    Args:
        file: the `ensemble.json`.
        written: its `sets`.
        space: the label space of the run's config.

    Raises:
        DamagedFileError: what is written is none, or of other classes.
    """
    if written is None:
        return None
    try:
        sets = WrittenSets.model_validate(dict(written))
    except ValidationError as error:
        raise damaged(file, f"its sets: {first_problem(error)}") from None
    sizes = {target: len(space.classes(target)) for target in targets_of(space)}
    for least in filter(None, (sets.least, sets.least_by_group)):
        if {target: len(of_target) for target, of_target in least.items()} != sizes:
            raise damaged(file, "its sets are of other classes than the run's config")
    return sets


def read_doubt(file: Path, written: Sequence[float]) -> DoubtReference | None:
    """The doubt of training images that a run's `ensemble.json` holds; None where it has none, as older ones have.

    Args:
        file: the `ensemble.json`.
        written: its `doubt`.

    Raises:
        DamagedFileError: the numbers do not rise.
    """
    quantiles = np.asarray(written, dtype=np.float64)
    if (np.diff(quantiles) < 0).any():
        raise damaged(file, "its `doubt` does not rise")
    return DoubtReference(quantiles) if len(quantiles) else None


def sets_alone(written: WrittenSets | None, space: LabelSpace) -> PredictionSets | None:
    """The sets of images that are voted on alone; None without any."""
    return None if written is None else _sets(written.least, space)


def sets_by_group(written: WrittenSets | None, space: LabelSpace) -> PredictionSets | None:
    """The sets of images that are voted on by group; None without any."""
    return None if written is None or written.least_by_group is None else _sets(written.least_by_group, space)


def _sets(least: Mapping[str, list[float]], space: LabelSpace) -> PredictionSets:
    return PredictionSets(space, {target: np.asarray(of_target, dtype=np.float64) for target, of_target in least.items()})
