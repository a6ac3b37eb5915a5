"""Trains a pack: every batch is given to each of its fold models, which are scored after each epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raymask.training.inputs import Feed
from raymask.training.learner import EpochMetrics, Learner


@dataclass(frozen=True)
class EpochReport:
    """A pack after one epoch."""

    epoch: int
    metrics: dict[str, EpochMetrics]
    """By the learner's name; without learners that had this epoch behind them, and those that have ended."""
    images_per_second: float
    """Images learned from, summed over the fold models."""
    waiting: float
    """Share of the time spent waiting for batches."""
    scoring: float
    """Seconds that predicting the own folds has taken."""


def train_pack(
    learners: Sequence[Learner],
    feed: Feed,
    on_epoch: Callable[[EpochReport], None],
    on_step: Callable[[int, int], None] = lambda epoch, step: None,
) -> None:
    """Trains all learners on one feed, as long as there is one that has not ended.

    Args:
        learners: the pack's.
        feed: its batches.
        on_epoch: called when an epoch is finished and scored.
        on_step: called with the epoch and number of each batch that is learned.
    """
    steps = learners[0].steps_per_epoch
    learned, waited, started = 0, 0.0, time.perf_counter()
    inputs_of_epoch = feed.training()
    while not all(learner.ended for learner in learners):
        requested_at = time.perf_counter()
        inputs = next(inputs_of_epoch, None)
        waited += time.perf_counter() - requested_at
        if inputs is None:
            return
        learned += sum(learner.learn(inputs, feed) for learner in learners)
        on_step(inputs.epoch, inputs.step)
        if inputs.step == steps - 1:
            trained = time.perf_counter() - started
            metrics = _end_epoch(learners, inputs.epoch, feed)
            scoring = time.perf_counter() - started - trained
            on_epoch(EpochReport(inputs.epoch, metrics, learned / trained, waited / trained, scoring))
            learned, waited, started = 0, 0.0, time.perf_counter()


def _end_epoch(learners: Sequence[Learner], epoch: int, feed: Feed) -> dict[str, EpochMetrics]:
    learning = [learner for learner in learners if learner.epoch == epoch and not learner.ended]
    metrics = {learner.name: learner.end_epoch(feed) for learner in learning}
    return {name: of_learner for name, of_learner in metrics.items() if of_learner}
