"""Strategies to predict with the models of a run, scored on the same resamples of people: pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raymask.core.tasks import JOINT, LabelSpace
from raymask.core.types import ByHead, Labels
from raymask.metrics.bootstrap import Metric, compare, interval
from raymask.metrics.scores import Score, score_heads, score_joint
from raymask.runs.schemas import Interval, StrategyScore
from raymask.voting.vote import Vote

TITLES = {
    "ensemble": "ensemble of all folds",
    "fold": "one fold's models",
    "soup": "soups",
    "greedy-soup": "greedy soups",
    "all": "refits",
}

Members = Mapping[str, ByHead]
"""Each member's (N, C) probabilities by head."""


@dataclass(frozen=True, eq=False)
class Strategy:
    """Models of a run that predict together."""

    name: str
    models: int
    predicted: tuple[Labels, ...]
    """(N,) joint labels; with several of them, scores are their mean."""


def strategies_of(
    vote: Vote, rounds: Sequence[Members], probabilities: Mapping[str, Members], models: int | None = None
) -> list[Strategy]:
    """The strategies, the whole ensemble first.

    Args:
        vote: the vote.
        rounds: members' predictions by fold.
        probabilities: those of the models that stand for all folds, by part; a strategy is of all members or none.
        models: fold models in all (default: as many as there are in all rounds, none of them twice).
    """
    count = len(rounds[0])
    strategies = [
        Strategy("ensemble", models or count * len(rounds), (vote.over_rounds(rounds).argmax(axis=1),)),
        Strategy("fold", count, tuple(vote(members).argmax(axis=1) for members in rounds)),
    ]
    whole = [part for part in TITLES if part in probabilities and probabilities[part].keys() == rounds[0].keys()]
    return strategies + [Strategy(part, count, (vote(probabilities[part]).argmax(axis=1),)) for part in whole]


def rows_of(
    strategies: Sequence[Strategy],
    metric: Metric,
    space: LabelSpace,
    truth: Mapping[str, Labels],
    groups: Labels,
    seed: int,
    milliseconds: tuple[float, float],
) -> list[StrategyScore]:
    """The rows of `singles.json`.

    Args:
        strategies: the whole ensemble first.
        metric: the metric to maximise.
        space: the label space.
        truth: (N,) true labels by task, and the joint.
        groups: (N,) numbers of groups from 0 on.
        seed: decides the resamples.
        milliseconds: an image, of the whole ensemble and of each other strategy.
    """
    scores, resampled = compare(
        metric, space, truth[JOINT], [each for strategy in strategies for each in strategy.predicted], groups, seed
    )
    ends = np.cumsum([len(strategy.predicted) for strategy in strategies])[:-1]
    found = [float(of_strategy.mean()) for of_strategy in np.split(scores, ends)]
    drawn = [of_strategy.mean(axis=0) for of_strategy in np.split(resampled, ends)]
    return [
        StrategyScore(
            name=strategy.name,
            title=TITLES[strategy.name],
            models=strategy.models,
            scores=mean_scores([score_joint(space, predicted, truth) for predicted in strategy.predicted]),
            score=Interval(**interval(found[index], drawn[index])),
            gain=Interval(**interval(found[index] - found[0], drawn[index] - drawn[0])) if index else None,
            ms_an_image=milliseconds[min(index, 1)],
        )
        for index, strategy in enumerate(strategies)
    ]


def scores_of_members(
    space: LabelSpace, rounds: Sequence[Members], probabilities: Mapping[str, Members], truth: Mapping[str, Labels]
) -> dict[str, dict[str, dict[str, Score]]]:
    """Scores by member, strategy and target of members alone; `fold` is the mean over the folds."""
    return {
        name: {
            "fold": mean_scores([score_heads(space, members[name], truth) for members in rounds]),
            **{
                part: score_heads(space, probabilities[part][name], truth)
                for part in TITLES
                if part in probabilities and name in probabilities[part]
            },
        }
        for name in rounds[0]
    }


def mean_scores(scores: Sequence[Mapping[str, Score]]) -> dict[str, Score]:
    """The means of scores by target."""
    return {
        target: {
            "f1": float(np.mean([one[target]["f1"] for one in scores])),
            "accuracy": float(np.mean([one[target]["accuracy"] for one in scores])),
        }
        for target in scores[0]
    }


def shown(metric: str, rows: Sequence[StrategyScore]) -> tuple[list[str], list[list[str]]]:
    """Columns and cells of the rows of `singles.json`."""
    targets = list(rows[0].scores)
    targets = targets if len(targets) > 2 else targets[:1]  # of one task, which the joint label then is
    columns = ["", "models", metric, "95% from", "to", "to the ensemble", "95% from", "to"]
    cells = [
        [
            row.title,
            str(row.models),
            *(f"{value:.4f}" for value in (row.score.score, row.score.low, row.score.high)),
            *([f"{value:+.4f}" for value in (row.gain.score, row.gain.low, row.gain.high)] if row.gain else [""] * 3),
            *(f"{row.scores[target]['f1']:.4f}" for target in targets),
            f"{row.ms_an_image:.2f}",
        ]
        for row in rows
    ]
    return [*columns, *(f"{target} F1" for target in targets), "ms/image"], cells
