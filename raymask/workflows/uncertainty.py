"""What a run knows of its own doubt: sets of classes and the doubt of training images, decided with the vote, and told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raymask.config.vote import VoteConfig
from raymask.core.columns import label_column
from raymask.core.tasks import JOINT, LabelSpace
from raymask.core.types import Probabilities
from raymask.inference.voting_runs import truth_of
from raymask.metrics.bootstrap import group_numbers
from raymask.metrics.doubt import ALARM, fit_reference
from raymask.runs.schemas import Ensemble
from raymask.runs.uncertainty_schemas import WrittenSets, read_sets, sets_alone
from raymask.voting.conformal import coverage_rows, decide_sets
from raymask.voting.grouping import Grouping
from raymask.voting.vote import Decision


def decide_doubt(decision: Decision, images: pd.DataFrame, grouping: Grouping, config: VoteConfig, seed: int) -> dict[str, Any]:
    """The keys of `ensemble.json` on sets of classes and on the doubt of training images.

    Args:
        decision: of the vote.
        images: group, fold and joint label of the images that it was decided on.
        grouping: which tasks are voted by group.
        config: of the vote.
        seed: the run's.
    """
    evidence = truth_of(decision.vote.space, images)
    return {
        "sets": decide_sets(evidence, decision.joint, grouping, config.coverage, seed),
        "doubt": fit_reference(decision.joint).quantiles.tolist(),
    }


def sets_on_reserve(
    file: Path, known: Ensemble, space: LabelSpace, joint: Probabilities, held_out: pd.DataFrame, seed: int
) -> dict[str, Any]:
    """The `sets` of an `ensemble.json` with how they did on the groups held out, each image alone; {} where there are none.

    Args:
        file: the `ensemble.json`.
        known: what it holds.
        space: the label space.
        joint: (N, J) probabilities of the images held out.
        held_out: their groups and joint labels.
        seed: the run's.
    """
    sets = sets_alone(read_sets(file, known.sets, space), space)
    if sets is None or known.sets is None:
        return {}
    truth = held_out[label_column(JOINT)].to_numpy(np.int64)
    rows = coverage_rows(space, sets.masks(joint), truth, group_numbers(held_out["group"]), seed)
    return {"sets": {**known.sets, "reserve": rows}}


def sets_line(written: WrittenSets | None, reserve: bool = False) -> str:
    """How large sets are, in a sentence; "" where there are none."""
    if written is None:
        return ""
    whole = [row for row in (written.reserve if reserve else written.rows) if not row.task]
    sizes = ", ".join(f"{row.target} {row.size:.2f} ({row.coverage.score:.1%})" for row in whole)
    return f"sets that hold the true class with a chance of {written.coverage:.0%} have so many classes (held it): {sizes}"


def unusual_line(unusual: pd.Series, file: Path) -> str:
    """How many images look unlike the training images, in a sentence; "" for none."""
    count = int((unusual > ALARM).sum())
    if not count:
        return ""
    return (
        f"{count:,} of {len(unusual):,} images look unlike the training images (unusual above {ALARM}, where "
        f"{(1 - ALARM) * len(unusual):,.0f} are expected); {file.name} has the column"
    )
