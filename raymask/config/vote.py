"""The config of the vote, and which rules a run's file may name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from raymask.config.base import Strict
from raymask.config.yaml_files import RuleOfARun

Weight = Annotated[float, Field(ge=0)]


def _by_member_or_task(given: Any) -> Any:
    """Weights of one kind, whose mistakes are said in words that the tried branches of a union lack."""
    if not isinstance(given, dict):
        return given
    nested = {key: of_key for key, of_key in given.items() if isinstance(of_key, dict)}
    if nested and len(nested) < len(given):
        one, other = next(iter(nested)), next(key for key in given if key not in nested)
        raise ValueError(f"'{one}' has weights by member, '{other}' a single one; give all by member, or all by task and member")
    for weights in nested.values() or [given]:
        for name, weight in weights.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
                raise ValueError(f"'{name}' has {weight!r}; it must be a number of 0 or more")
    return given


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
    weights: Annotated[dict[str, Weight] | dict[str, dict[str, Weight]] | None, BeforeValidator(_by_member_or_task)] = Field(
        None,
        description="fixed weights of 0 or more, in place of a rule: by member, such as {multi: 2, age: 1}, or by task and "
        "member, such as {age: {multi: 2, age: 1}}",
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
