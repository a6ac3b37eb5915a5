"""The JSON files of a run as types: each knows its format's number, is written by `write_run_file` and read by `read_run_file`.

A file without a `format` is of format 1. Numbers are finite, and keys that nothing reads may stand beside; they are kept when a
file that was read is written again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic wants that one before Python 3.12

from raymask.io.atomic import write_json
from raymask.io.checked import damaged, read_json

ENSEMBLE_FORMAT = 3
CHECKED = ConfigDict(extra="allow", allow_inf_nan=False)

Count = Annotated[int, Field(ge=0)]


class Record(BaseModel):
    """A part of a file."""

    model_config = CHECKED


class RunFile(Record):
    """A file; a later format than `newest` is refused."""

    newest: ClassVar[int] = 1

    format: Annotated[int, Field(ge=1)] = 1


FileType = TypeVar("FileType", bound=RunFile)


def read_run_file(file: Path, kind: type[FileType]) -> FileType:
    """What a file of a run holds.

    Raises:
        DamagedFileError: it cannot be read, is no JSON, lacks a key, has other values there, or is of a later raymask.
    """
    values: FileType = read_json(file, kind)
    if values.format > kind.newest:
        raise damaged(file, f"a later raymask wrote it, in format {values.format} where this one knows {kind.newest}")
    return values


def write_run_file(file: Path, values: RunFile) -> None:
    """Writes a file of a run, whole or not at all: its format's number, and all that was given of it."""
    write_json(file, {"format": values.format, **values.model_dump(exclude_unset=True)})


class Score(TypedDict):
    """See `raymask.metrics.scores.Score`."""

    f1: float
    accuracy: float


class Interval(Record):
    """See `raymask.metrics.bootstrap.Interval`."""

    score: float
    se: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.score:.4f} ({self.low:.4f} to {self.high:.4f})"


class Estimate(Interval):
    """The score that is expected of a vote on new images."""

    optimism: float
    """What is taken off for having chosen the best of many votes."""


class Grouped(Interval):
    """The score of a vote by group, beside what it gains over that of each image alone."""

    gain: Interval


class Reserve(Interval):
    """The vote's score on the groups that are held out."""

    images: Count
    groups: Count
    grouped: Grouped | None = None
    """With images voted by group, where the vote chose so."""


class RuleRow(Interval):
    """One of the candidates that were compared."""

    rule: str
    level: Literal["joint", "task"]
    adjust: str
    behind: float
    behind_se: float
    chosen: bool


class ViewsRow(Interval):
    """One of the sets of views that were compared."""

    views: str
    gain: Interval
    chosen: bool


class GroupRow(Interval):
    """One of the groupings that were compared."""

    tasks: list[str]
    pool: str
    behind: float
    behind_se: float
    chosen: bool


class SizeRow(Grouped):
    """What the chosen grouping is worth where groups have so many images."""

    images: Count


class Groups(Record):
    """Which tasks are voted over all images of a group, see `raymask.voting.group_choice`."""

    candidates: list[str] = []
    tasks: list[str]
    """None, where each image is voted on alone."""
    pool: str
    estimate: Estimate | None = None
    """The score that is expected where new images come with groups like those of the training images."""
    optimism: float = 0.0
    """The part of the estimate's that the choice of the grouping adds."""
    gain: Interval | None = None
    """Of the metric, its optimism being taken off."""
    gains: dict[str, Interval] = {}
    """By target, as they were found out of fold."""
    rows: list[GroupRow] = []
    sizes: list[SizeRow] = []
    """By images of a group; the last is that of groups like those of the training images."""


class Bin(Record):
    """See `raymask.metrics.calibration.reliability`."""

    images: float
    confidence: float
    accuracy: float


class Calibrated(Record):
    """How well a head's probabilities are calibrated."""

    ece: float
    brier: float
    reliability: Annotated[list[Bin], Field(min_length=1)]


class BeforeAfter(Record):
    """A head's probabilities before and after calibration."""

    before: Calibrated
    after: Calibrated


class WrittenMember(Record):
    """Where a member of the vote lies: its name in its run, and that run's folder, if it is another."""

    member: str = ""
    run: str | None = None


class Ensemble(RunFile):
    """`ensemble.json`: the vote, what it was chosen against, and its scores. Keys may be missing, see `read_ensemble`.

    `vote` is what `raymask.voting.reading.read_vote` reads, `sets` what `raymask.runs.uncertainty_schemas.read_sets` does.
    """

    newest: ClassVar[int] = ENSEMBLE_FORMAT

    fingerprint: str = ""
    images: Count = 0
    groups: Count = 0
    members: dict[str, WrittenMember] = {}
    prior: list[float] = []
    metric: str = ""
    vote: dict[str, Any] | None = None
    estimate: Estimate | None = None
    rules: Annotated[list[RuleRow], Field(min_length=1)] = []
    views: list[ViewsRow] = []
    calibration: dict[str, dict[str, BeforeAfter]] = {}
    by_group: Groups | None = None
    sets: dict[str, Any] | None = None
    doubt: list[float] = []
    estimate_of: str = ""
    oof: dict[str, dict[str, Score]] = {}
    reserve: Reserve | None = None


class NumberScale(Record):
    """See `raymask.core.tasks.Scale`."""

    edges: list[float]
    low: float
    high: float


class Meta(RunFile):
    """`meta.json` of a model: all that is needed to rebuild and feed it."""

    member: str = ""
    fold: int = 0
    task: str = ""
    classes: Annotated[dict[str, list[str]], Field(min_length=1)]
    scales: dict[str, NumberScale] = {}
    """What ordered heads' bands are cut from, by head."""
    recipe: dict[str, Any]
    seed: int = 0
    sha256: str | None = None
    statistics: Annotated[list[float], Field(min_length=6, max_length=6)] | None = None
    """Mean and then deviation of each channel that images are normalised by, where they are those of the training images."""
    epochs: int = 0
    scores: dict[str, float] = {}
    ingredients: list[str] = []
    views: dict[str, Any] | None = None
    """What a soup was chosen and scored under."""
    reserve: dict[str, Any] = {}
    made_of: dict[str, str] | None = None
    """Digests of the weights of the fold models that a soup is made of, by part."""
    versions: dict[str, str] = {}


class PredictionSource(RunFile):
    """`source.json` beside predictions: the images' contents, the views and the models' weights that they were made of."""

    fingerprint: str
    views: dict[str, Any]
    models: dict[str, str] | None = None


class WrittenTeacher(RunFile):
    """`teacher.json`: which run the targets are of, and the fingerprint of its predictions then."""

    run: str = ""
    fingerprint: str


class HeldOut(Record):
    """The scores in `gain.json` on the groups held out."""

    images: Count
    groups: Count
    before: Interval | None
    after: Interval | None
    whole: Interval | None


class RunComparison(RunFile):
    """`gain.json`: a run that learned from another beside its teacher."""

    metric: str
    before: float
    after: float
    gain: Interval
    images: Count
    groups: Count
    kept: bool
    pseudo_labelled: dict[str, dict[str, int]] = {}
    reserve: HeldOut | None = None
    made_of: dict[str, Any]


class StrategyScore(Record):
    """One of the strategies that `singles.json` compares."""

    name: str = ""
    title: str
    models: Count
    scores: dict[str, Score]
    score: Interval
    gain: Interval | None
    ms_an_image: float


class ModelComparison(RunFile):
    """`singles.json`: fewer models in place of the whole ensemble."""

    fingerprint: str
    metric: str
    views: str = ""
    images: Count = 0
    groups: Count
    device: str
    rows: Annotated[list[StrategyScore], Field(min_length=1)]
    members: dict[str, dict[str, dict[str, Score]]] = {}


class BackboneScore(Record):
    """One of the backbones that `bakeoff.json` compares; without scores where it could not be had."""

    name: str
    backbone: str
    height: Count
    width: Count
    problem: str = ""
    """Why it could not be had."""
    parameters: Count = 0
    features: Count = 0
    """Width of what it gives of an image."""
    ms_an_image: float = 0.0
    scores: dict[str, Interval] = {}
    """Macro-F1 by target."""
    score: Interval | None = None
    """Of the metric."""
    behind: Interval | None = None
    """The score less the best one's, on the same resamples."""
    level: bool = False
    """Whether it cannot be told from the best."""
    chosen: bool = False


class BakeOff(RunFile):
    """`bakeoff.json`: frozen backbones by the out-of-fold scores of heads on their features, the best first."""

    fingerprint: str = ""
    metric: str = ""
    images: Count = 0
    groups: Count = 0
    device: str = ""
    rows: list[BackboneScore] = []


class PredictionJob(RunFile):
    """`job.json` of a folder of predictions: how many images there are, and the fingerprint of these and of the vote."""

    images: Count
    fingerprint: str
