"""`raymask train`: the story of a run, top to bottom. What is finished already is not done again."""

from __future__ import annotations

import time
from dataclasses import dataclass

from raymask.config.schema import RunConfig
from raymask.core.console import Display
from raymask.core.paths import absolute, check_writable
from raymask.data.folds import replica_folds
from raymask.inference.voting_runs import voting_runs
from raymask.report.summary import summarise
from raymask.runs.directory import Run, cache_root
from raymask.workflows.context import Result, run_context
from raymask.workflows.fold_models import train_fold_models
from raymask.workflows.images import prepare_images
from raymask.workflows.setup import PreparedRun, prepare_run, record_run, resolve
from raymask.workflows.vote import DecidedVote, check_weights, decide_vote, predict_test_set, score_reserve


@dataclass(frozen=True)
class Trained:
    """A run that went to its end."""

    prepared: PreparedRun
    decided: DecidedVote


def run(config: RunConfig, display: Display | None = None) -> Result:
    """Trains, votes and submits an ensemble; see the run directory for all of its results.

    Raises:
        InputError: the data or the config are wrong; nothing is half-written.
        RunError: a part failed for good; started again, the run goes on with what is unfinished.
    """
    trained = train_and_vote(config, display or Display())
    return Result(trained.prepared.run, trained.decided.scores)


def train_and_vote(config: RunConfig, display: Display) -> Trained:
    """As `run`; returns what else is known of the run."""
    began, folder = time.monotonic(), absolute(config.runs) / config.name
    check_writable(folder, "--runs")
    check_writable(cache_root(config.model_copy(update={"runs": folder.parent})), "folder by --set cache=FOLDER")
    config = resolve(config)
    with run_context(Run(folder), config, display) as context:
        if not context.run.report.exists():
            context.session.begin()
        prepared = prepare_run(context)
        check_weights(prepared)
        record_run(prepared)
        images = prepare_images(prepared)
        folds = replica_folds(images.manifest["fold"])
        train_fold_models(prepared, "train", prepared.members, folds, images)
        decided = decide_vote(prepared.context, voting_runs([prepared.run]))
        predict_test_set(prepared.context, decided, prepared.test)
        score_reserve(prepared.context, decided)
    summarise(prepared.run, prepared.space, decided.scores, time.monotonic() - began, display)
    return Trained(prepared, decided)
