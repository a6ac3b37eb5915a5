"""What a member's soups are made of, and what comes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raymask.config.members import Member
from raymask.core.tasks import LabelSpace
from raymask.metrics.scores import Score
from raymask.runs.directory import Run
from raymask.transforms.tta import ViewPlan


@dataclass(frozen=True)
class SoupJob:
    """All that a member's soups are made of."""

    run: Run
    space: LabelSpace
    member: Member
    folds: tuple[int, ...]
    cache: Path
    """Prepared images of the member's size."""
    views: ViewPlan
    """What soups are chosen and scored under."""
    seed: int


@dataclass(frozen=True)
class SoupResult:
    """A member's finished soups."""

    member: str
    scores: dict[int, dict[str, Score]]
    """On the reserved people, by the soup's number and target; those of the greedy soup are cross-fitted."""
    ingredients: tuple[str, ...]
    """Of the greedy soup."""
