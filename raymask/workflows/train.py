"""The story of a run, top to bottom. What is finished already is not done again."""

from __future__ import annotations

import time
from contextlib import ExitStack

from raymask.cluster.session import RaySession
from raymask.config.schema import RunConfig
from raymask.core.console import Display
from raymask.core.paths import absolute, check_writable
from raymask.runs.directory import Run, cache_root
from raymask.workflows.context import Result, ray_errors


def run(config: RunConfig, display: Display | None = None) -> Result:
    """Trains, votes and submits an ensemble; see the run directory for all of its results.

    Raises:
        InputError: the data or the config are wrong; nothing is half-written.
        RunError: a part failed for good; started again, the run goes on with what is unfinished.
    """
    display = display or Display()
    began = time.monotonic()
    config = config.model_copy(update={"runs": absolute(config.runs)})
    folder = config.runs / config.name
    check_writable(folder, "--runs")
    check_writable(cache_root(config), "folder by --set cache=FOLDER")
    with ray_errors(folder), ExitStack() as stack:
        session = RaySession(stack, config.compute, display)
        if not Run(folder).report.exists():
            session.begin()
        # Only now, since they import pandas and its like: Ray is on its way meanwhile.
        from raymask.data.folds import replica_folds
        from raymask.inference import replicas
        from raymask.report import summary
        from raymask.workflows import stages, vote
        from raymask.workflows.setup import open_run

        prepared = open_run(config, display)
        caches, manifest = stages.prepare_images(prepared, session, display)
        folds = replica_folds(manifest["fold"])
        stages.train_members(prepared, folds, caches, manifest["image_id"], session, display)
        voting = replicas.voting_runs([prepared.run])
        decided, scores = vote.decide_vote(voting, config.vote, prepared.run, config.seed, display)
        vote.predict_test(voting, decided, prepared.test, prepared.run, session, display)
        vote.score_reserve(voting, decided, prepared.run, config.seed, session, display)
    summary.summarise(prepared.run, prepared.space, scores, time.monotonic() - began, display)
    return Result(prepared.run, scores)
