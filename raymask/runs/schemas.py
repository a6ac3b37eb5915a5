"""What stands in the JSON files of a run, as far as anything reads it; see `raymask.io.checked.read_json`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict  # pydantic wants that one before Python 3.12

ENSEMBLE_FORMAT = 3
CHECKED = ConfigDict(extra="allow", allow_inf_nan=False)
"""Numbers are finite; keys that nothing reads may stand beside."""

Count = Annotated[int, Field(ge=0)]


class Score(TypedDict):
    """See `raymask.metrics.scores.Score`."""

    f1: float
    accuracy: float


class Interval(TypedDict):
    """See `raymask.metrics.bootstrap.Interval`."""

    __pydantic_config__ = CHECKED  # type: ignore[misc]

    score: float
    se: float
    low: float
    high: float


class Estimate(Interval):
    """What is expected of a vote."""

    optimism: float


class Reserve(Interval):
    """What came true of it on the groups held out."""

    images: Count
    groups: Count


class RuleRow(Interval):
    """One of the ways to vote that were compared."""

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


class Bin(TypedDict):
    """See `raymask.metrics.calibration.reliability`."""

    images: float
    confidence: float
    accuracy: float


class Calibrated(TypedDict):
    """How a head's probabilities are calibrated."""

    __pydantic_config__ = CHECKED  # type: ignore[misc]

    ece: float
    brier: float
    reliability: Annotated[list[Bin], Field(min_length=1)]


class WrittenMember(TypedDict, total=False):
    """Where a member of the vote lies: its name in its run, and that run's folder, if it is another."""

    member: str
    run: str


class Ensemble(TypedDict, total=False):
    """`ensemble.json`; `vote` is checked by `raymask.voting.reading.read_vote`."""

    __pydantic_config__ = CHECKED  # type: ignore[misc]

    format: int
    fingerprint: str
    images: Count
    groups: Count
    metric: str
    vote: dict[str, Any]
    members: dict[str, WrittenMember]
    prior: list[float]
    oof: dict[str, dict[str, Score]]
    estimate: Estimate
    reserve: Reserve
    rules: Annotated[list[RuleRow], Field(min_length=1)]
    views: list[ViewsRow]
    calibration: dict[str, dict[str, dict[Literal["before", "after"], Calibrated]]]


class Meta(TypedDict):
    """`meta.json` of a model: all that is needed to rebuild and feed it."""

    __pydantic_config__ = CHECKED  # type: ignore[misc]

    classes: Annotated[dict[str, list[str]], Field(min_length=1)]
    recipe: dict[str, Any]
    versions: NotRequired[dict[str, str]]
    sha256: NotRequired[str | None]
    scores: NotRequired[dict[str, float]]
    views: NotRequired[dict[str, Any]]


class Fingerprint(TypedDict):
    """`source.json` and `teacher.json`."""

    __pydantic_config__ = CHECKED  # type: ignore[misc]

    fingerprint: str


class HeldOut(TypedDict):
    """What `gain.json` says of the groups held out."""

    images: Count
    groups: Count
    before: Interval | None
    after: Interval | None
    whole: Interval | None


class RunComparison(TypedDict):
    """`gain.json`."""

    __pydantic_config__ = CHECKED  # type: ignore[misc]

    metric: str
    before: float
    after: float
    gain: Interval
    images: Count
    groups: Count
    kept: bool
    reserve: NotRequired[HeldOut]
    made_of: dict[str, Any]


class Strategy(TypedDict):
    """One of the ways to predict that `singles.json` compares."""

    __pydantic_config__ = CHECKED  # type: ignore[misc]

    title: str
    models: Count
    scores: dict[str, Score]
    score: Interval
    gain: Interval | None
    ms_an_image: float


class ModelComparison(TypedDict):
    """`singles.json`."""

    __pydantic_config__ = CHECKED  # type: ignore[misc]

    format: int
    fingerprint: str
    metric: str
    groups: Count
    device: str
    rows: Annotated[list[Strategy], Field(min_length=1)]


class PredictionSource(Fingerprint):
    """What predictions were made of, and under which views."""

    views: dict[str, Any]
