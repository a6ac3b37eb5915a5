"""The config of the vote, and which rules a run's file may name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from raymask.config.base import Strict
from raymask.config.yaml_files import RuleOfARun


def trusted(rule: Any) -> Any:
    """A rule as it is, unless it is code that a run's config names."""
    if isinstance(rule, RuleOfARun):
        raise ValueError(why_untrusted(rule, rule.file))
    return rule


def why_untrusted(rule: str, file: Path) -> str:
    """Why the import path of a rule is not followed from a run's file."""
    return (
        f"'{file}' names the rule '{rule}', which is code of its own, and a run's files do not choose which code runs; if it is "
        f"yours, give it: --set vote.rule={rule}, --rule {rule} where there is no --set for it, in Python rule='{rule}'"
    )


class VoteConfig(Strict):
    """How members are combined; what is `auto` is decided on out-of-fold predictions."""

    metric: str = Field("joint.f1", description="metric to maximise: a task, `joint` or `mean` (over tasks), and f1 or accuracy")
    rule: Annotated[str, BeforeValidator(trusted)] = Field(
        "auto", description="auto, a rule's name, or the import path of your own, such as my.votes:rule"
    )
    level: Literal["auto", "joint", "task"] = Field("auto", description="whether joint classes are voted on, or each task alone")
    adjust: Literal["auto", "none", "prior", "thresholds"] = Field("auto", description="what is done to the result by class")
    calibrate: Literal["none", "temperature", "vector"] = Field("temperature", description="how members are calibrated first")
    weights: dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        None, description="fixed weights by member, in place of a rule"
    )
    views: Literal["auto", "all"] | tuple[str, ...] = Field("auto", description="which of the run's `views` count")
    merge: Literal["auto", "mean", "geometric", "max"] = Field("auto", description="how views are merged")
    groups: Literal["auto", "none"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        "auto", description="auto, none, or a list of tasks that are voted over all images of a group, such as [gender]"
    )

    coverage: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        0.9, description="chance that a set of classes holds the true one; null for no sets"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.weights is not None and self.rule not in ("auto", "weighted"):
            raise ValueError(f"weights fix the rule to 'weighted', but rule is '{self.rule}': leave one of them out")
        if self.weights is not None and self.level == "joint":
            raise ValueError("weights are those of members, task by task, so that level cannot be joint")
        return self
