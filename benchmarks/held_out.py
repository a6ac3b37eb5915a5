"""What finished runs predict for the people that they hold out from everything, and the intervals of their scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from raymask.core.columns import label_column
from raymask.core.tasks import JOINT, LabelSpace
from raymask.core.types import ByHead, Labels
from raymask.inference.voting_runs import by_round, reserved_images, voting_runs
from raymask.metrics.bootstrap import Interval, compare, group_numbers, interval, parse_metric
from raymask.runs.directory import Run, read_ensemble
from raymask.voting.reading import read_vote


def rounds_of(run: Run) -> list[dict[str, ByHead]]:
    """Each member's probabilities for the held-out images, by fold."""
    voting = voting_runs([run])
    return by_round(voting, [pd.read_parquet(run.reserve_predictions)])


def voted(run: Run) -> Labels:
    """(N,) joint labels that a run's ensemble elects for its held-out images."""
    space = voting_runs([run])[0].space
    vote = read_vote(run.ensemble, read_ensemble(run, "vote").vote or {}, space, None)
    return np.asarray(vote.over_rounds(rounds_of(run)).argmax(axis=1))


def scored(run: Run, predicted: Sequence[Labels], seed: int = 0) -> list[tuple[Interval, Interval]]:
    """The scores of predictions of a run's held-out images, and their gains over the first one, on the same resamples of people.

    Args:
        run: whose people and metric they are.
        predicted: (N,) joint labels.
        seed: of the resamples.
    """
    images, space = reserved_images(run), voting_runs([run])[0].space
    truth, groups = images[label_column(JOINT)].to_numpy(np.int64), group_numbers(images["group"])
    metric = parse_metric(read_ensemble(run, "metric").metric, space)
    found, drawn = compare(metric, space, truth, predicted, groups, seed)
    return [
        (interval(float(score), of_score), interval(float(score - found[0]), of_score - drawn[0]))
        for score, of_score in zip(found, drawn, strict=True)
    ]


def space_of(run: Run) -> LabelSpace:
    """The labels of a run."""
    return voting_runs([run])[0].space
