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
    source = prediction_source(voting_run, images, models, views)
    known, there, others = _known(context, voting_run, kind, source, images["image_id"])
    lacking = [model for model in models if model not in there]
    if known is not None and not lacking:
        display.line("predict", f"{len(images)} {what} are predicted already")
        return known
    if not context.may_predict:
        check_models({str(model): voting_run.run.replica(model) for model in models})  # damage is the better reason
        why = "and these are others than were predicted" if others else f"under the views {views}"
        raise InputError(f"'{voting_run.run.root}' has no predictions of its {what} {why}; add --predict.")
    if others:
        display.line("predict", f"the {what} are others than those that were predicted: all are predicted again")
    began = time.monotonic()
    predicted = predict_by_models(context, voting_run, images, lacking, views, what)
    add_timing(context.run, "predict", time.monotonic() - began)
    file, marker = _files_of(voting_run.keep, kind)
    marker.unlink(missing_ok=True)  # which says of the file what is true no more
    whole = predicted if known is None else _beside(known, predicted, columns_of(voting_run, models))
    write_table(file, whole)
    write_run_file(marker, source)
    more = f", and by {len(there)} already" if there else ""
    display.line("predict", f"{len(images)} {what} by {len(lacking)} models under {len(views.names)} view(s){more}")
    return whole


def _known(
    context: RunContext, voting_run: VotingRun, kind: Kind, source: PredictionSource, image_ids: pd.Series
) -> tuple[pd.DataFrame | None, list[ReplicaId], bool]:
    """What is known of the same images under the same views, by which models; and whether what is there is of other images.

    Raises:
        InputError: it is damaged, and the context does not allow to predict it again.
    """
    found: tuple[pd.DataFrame | None, list[ReplicaId]] = (None, [])
    others = False
    wanted = source.models or {}
    for keep in dict.fromkeys((voting_run.run, voting_run.keep)):
        file, marker = _files_of(keep, kind)
        try:
            known = read_run_file(marker, PredictionSource) if file.exists() and marker.exists() else None
            if known is None or known.fingerprint != source.fingerprint:
                others |= known is not None
                continue
            digests = known.models or {}
            there = [model for model in voting_run.fold_models if digests.get(str(model)) == wanted[str(model)]]
            if known.views == source.views and len(there) > len(found[1]):
                columns = columns_of(voting_run, there)
                table = read_model_predictions(file, image_ids, columns)
                found = table[["image_id", "problem", *columns]], there
        except DamagedFileError as error:
            if not context.may_predict:
                raise InputError(f"{error.fault}; add --predict, by which it is made again.") from None
            context.display.warn(f"{error.fault}; it is made again")
    return *found, others


def _beside(known: pd.DataFrame, predicted: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """One table of the same images by several models; an image has a problem if some models could not read it."""
    both = known.merge(predicted, on="image_id", validate="one_to_one", suffixes=("", " of others"))
    both["problem"] = both["problem"].where(both["problem"] != "", both["problem of others"])
    return both[["image_id", "problem", *columns]]


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
