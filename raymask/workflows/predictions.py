"""Fold models' probabilities of the test set and of the people held out: read where they are known, else predicted and kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from raymask.cluster.resources import gpus_worth, plan_actors
from raymask.core.errors import InputError
from raymask.inference.actors import predict
from raymask.inference.definition import check_models
from raymask.inference.voting_runs import VotingRun, columns_of, model_digests
from raymask.io.atomic import write_table
from raymask.io.checked import DamagedFileError
from raymask.io.hashing import fingerprint
from raymask.runs.directory import ReplicaId, Run
from raymask.runs.identity import check_unchanged
from raymask.runs.schemas import PredictionSource, read_run_file, write_run_file
from raymask.runs.tables import read_model_predictions
from raymask.runs.timings import add_timing
from raymask.transforms.tta import ViewPlan
from raymask.workflows.context import RunContext

Kind = Literal["test", "reserve"]


def fold_model_predictions(
    context: RunContext, voting_run: VotingRun, images: pd.DataFrame, kind: Kind, views: ViewPlan
) -> pd.DataFrame:
    """Every fold model's probabilities of images, read where the same models predicted the same images under these views.

    Args:
        context: of the run that the predictions are for.
        voting_run: the run whose fold models predict.
        images: image_id, path and digest.
        kind: which images these are.
        views: what is predicted under.

    Returns:
        One row an image: image_id, problem, and `MEMBER/fold-K|head:class` of every fold model.

    Raises:
        InputError: there is something to predict, and the context does not allow it.
    """
    display, what, models = context.display, f"{kind} images", voting_run.fold_models
    source, others = prediction_source(voting_run, images, models, views), False
    for keep in dict.fromkeys((voting_run.run, voting_run.keep)):
        file, marker = _files_of(keep, kind)
        try:
            known = read_run_file(marker, PredictionSource) if file.exists() and marker.exists() else None
            if known == source:
                predicted = read_model_predictions(file, images["image_id"], columns_of(voting_run, models))
                display.line("predict", f"{len(images)} {what} are predicted already")
                return predicted
        except DamagedFileError as error:
            if not context.may_predict:
                raise InputError(f"{error.fault}; add --predict, by which it is made again.") from None
            display.warn(f"{error.fault}; it is made again")
            continue
        others |= known is not None and known.fingerprint != source.fingerprint
    if not context.may_predict:
        check_models({str(model): voting_run.run.replica(model) for model in models})  # damage is the better reason
        why = "and these are others than were predicted" if others else f"under the views {views}"
        raise InputError(f"'{voting_run.run.root}' has no predictions of its {what} {why}; add --predict.")
    if others:
        display.line("predict", f"the {what} are others than those that were predicted: all are predicted again")
    began = time.monotonic()
    predicted = predict_by_models(context, voting_run, images, models, views, what)
    add_timing(context.run, "predict", time.monotonic() - began)
    file, marker = _files_of(voting_run.keep, kind)
    write_table(file, predicted)
    write_run_file(marker, source)
    display.line("predict", f"{len(images)} {what} by {len(models)} models under {len(views.names)} view(s)")
    return predicted


def predict_by_models(
    context: RunContext,
    voting_run: VotingRun,
    images: pd.DataFrame,
    models: Sequence[ReplicaId],
    views: ViewPlan,
    what: str,
) -> pd.DataFrame:
    """The table of these models' probabilities of images, of which `what` says which they are.

    Raises:
        InputError: a model's files or an image have changed.
    """
    check_models({str(model): voting_run.run.replica(model) for model in models})
    check_unchanged(images, voting_run.config, what)
    pool = plan_actors(context.session.nodes(gpus_worth(len(images))))
    with context.display.counting("predict", what) as count:
        predicted = predict(voting_run.run, images, models, views, pool, count)
    check_unchanged(images, voting_run.config, what)
    return predicted


def prediction_source(
    voting_run: VotingRun, images: pd.DataFrame, models: Sequence[ReplicaId], views: ViewPlan
) -> PredictionSource:
    """What tells predictions apart: the images' contents, the views, and the models' weights."""
    return PredictionSource(
        fingerprint=fingerprint(images[["image_id", "digest"]]),
        views=views.to_json(),
        models=model_digests(voting_run, models),
    )


def _files_of(run: Run, kind: Kind) -> tuple[Path, Path]:
    if kind == "test":
        return run.test_predictions, run.test_source
    return run.reserve_predictions, run.reserve_source
