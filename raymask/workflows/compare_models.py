"""What is lost and won by fewer models than the whole ensemble: soups, refits and single folds, on the people held out.

`singles.json` holds

    format, fingerprint         2 texts by which a comparison is not made again for the same models, vote and images
    metric, views               what was scored, and under which views
    images, groups              how many were held out from everything, on which all of this is scored
    device                      what `ms_an_image` was measured on
    rows                        the ways to predict, the whole ensemble first; each with
        name                    `ensemble`, `fold`, `soup`, `greedy-soup` or `all` (refits)
        title                   the same as a sentence's subject
        models                  how many predict each image
        scores                  {target: {f1, accuracy}} of the tasks and `joint`
        score                   {score, se, low, high} of the metric, by bootstrap over groups
        gain                    the same of the score less the ensemble's, on the same resamples; null for the ensemble
        ms_an_image             milliseconds of the models alone, under the views
    members                     {member: {`fold`, `soup`, `greedy-soup` or `all`: {target: {f1, accuracy}}}} of each alone

Soups and refits have a row where all members have one. Scores of `fold` are means over the folds. Those of `greedy-soup` are
cross-fitted: each half of the people is predicted by soups that were chosen on the other half.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress

import pandas as pd

from raymask.cluster.resources import plan_actors
from raymask.core.columns import by_head, true_labels
from raymask.core.errors import InputError
from raymask.core.types import ByHead
from raymask.inference.timing import measure
from raymask.inference.voting_runs import VotingRun, by_round, columns_of, model_digests, reserved_images
from raymask.io.atomic import write_table
from raymask.io.checked import DamagedFileError
from raymask.io.hashing import fingerprint, text_digest
from raymask.metrics.bootstrap import group_numbers, parse_metric
from raymask.report.run_report import build_report
from raymask.runs.directory import GREEDY_SOUP, SOUP, WHOLE, ReplicaId, Run, read_ensemble
from raymask.runs.identity import without_places
from raymask.runs.models import soups_are_made
from raymask.runs.predictions import check_complete
from raymask.runs.schemas import ModelComparison, PredictionSource, StrategyScore, read_run_file, write_run_file
from raymask.runs.tables import read_model_predictions
from raymask.runs.timings import add_timing
from raymask.transforms.tta import ViewPlan
from raymask.voting.comparison import rows_of, scores_of_members, shown, strategies_of
from raymask.voting.vote import Vote
from raymask.workflows.context import RunContext
from raymask.workflows.predictions import fold_model_predictions, predict_by_models, prediction_source
from raymask.workflows.setup import PreparedRun, check_trained


def uncompared(prepared: PreparedRun) -> str | None:
    """Why the models of a run cannot be compared, None where they can."""
    if not prepared.run.reserve.exists():
        return "no one is held out from everything (folds.reserve), so models that saw all folds have no score"
    try:
        check_trained(prepared.run, prepared.members)
    except InputError:
        return "not all members are trained, so there is no ensemble to compare with"
    return None


def compare_models(context: RunContext, voting_run: VotingRun, vote: Vote) -> list[StrategyScore]:
    """Compares all that a run has in place of its whole ensemble, and keeps it in `singles.json` and the report.

    Args:
        context: of the run.
        voting_run: the run, from which people are held out.
        vote: its vote.

    Returns:
        The rows of `singles.json`.
    """
    run, display = context.run, context.display
    held_out = reserved_images(run)
    models = _single_models(voting_run, vote.views)
    known = _known(run)
    source = _fingerprint(voting_run, vote, held_out, models)
    if known and known.fingerprint == source:
        display.line("singles", "the models are compared already")
    else:
        began = time.monotonic()
        known = _compare(context, voting_run, vote, held_out, models, source)
        write_run_file(run.singles, known)
        add_timing(run, "singles", time.monotonic() - began)
        build_report(run)
    title = f"Fewer models, scored on {known.groups} groups held out from everything, timed on {known.device}"
    display.table(title, *shown(known.metric, known.rows))
    return known.rows


def _known(run: Run) -> ModelComparison | None:
    """The comparison that was written; None where there is none that can be read, and it is made again."""
    try:
        return read_run_file(run.singles, ModelComparison)
    except DamagedFileError:
        return None


def _single_models(voting_run: VotingRun, views: ViewPlan) -> list[ReplicaId]:
    """The models that stand for a member's folds; greedy soups only if they are known under these views."""
    members, run = voting_run.names.values(), voting_run.run
    present = [model for fold in (SOUP, WHOLE) for name in members if run.finished(model := ReplicaId(name, fold))]
    return present + [ReplicaId(name, GREEDY_SOUP) for name in members if soups_are_made(run, name, views)]


def _fingerprint(voting_run: VotingRun, vote: Vote, held_out: pd.DataFrame, models: Sequence[ReplicaId]) -> str:
    known = read_ensemble(voting_run.run, "fingerprint", "metric")
    digests = model_digests(voting_run, [*voting_run.fold_models, *models])
    images = fingerprint(without_places(held_out))
    return text_digest(repr((known.fingerprint, known.metric, vote.views.to_json(), images, digests)))[:16]


def _compare(
    context: RunContext, voting_run: VotingRun, vote: Vote, held_out: pd.DataFrame, models: Sequence[ReplicaId], source: str
) -> ModelComparison:
    space = vote.space
    metric = parse_metric(read_ensemble(voting_run.run, "metric").metric, space)
    truth = true_labels(held_out, space)
    groups = group_numbers(held_out["group"])
    rounds = by_round([voting_run], [fold_model_predictions(context, voting_run, held_out, "reserve", vote.views)])
    probabilities = _by_part(context, voting_run, models, held_out, vote.views)
    milliseconds, device = _measured(context, voting_run, held_out, vote.views)
    strategies = strategies_of(vote, rounds, probabilities, len(voting_run.fold_models))
    return ModelComparison(
        fingerprint=source,
        metric=str(metric),
        views=str(vote.views),
        images=len(held_out),
        groups=int(groups.max()) + 1,
        device=device,
        rows=rows_of(strategies, metric, space, truth, groups, voting_run.config.seed, milliseconds),
        members=scores_of_members(space, rounds, probabilities, truth),
    )


def _by_part(
    context: RunContext, voting_run: VotingRun, models: Sequence[ReplicaId], held_out: pd.DataFrame, views: ViewPlan
) -> dict[str, dict[str, ByHead]]:
    """Predictions of the reserved images by part (`soup`, ...) and member; those of greedy soups are cross-fitted."""
    direct = [model for model in models if model.fold != GREEDY_SOUP]
    predicted = _predictions(context, voting_run, direct, held_out, views)
    names = {of_run: name for name, of_run in voting_run.names.items()}
    probabilities: dict[str, dict[str, ByHead]] = defaultdict(dict)
    for model in models:
        table = predicted
        if model.fold == GREEDY_SOUP:
            file = voting_run.run.replica_reserve(model)
            table = read_model_predictions(file, held_out["image_id"], columns_of(voting_run, [model]))
        check_complete(f"the predictions by {model}", table["image_id"].tolist(), held_out["image_id"].tolist())
        probabilities[model.part][names[model.member]] = by_head(table, str(model))
    return probabilities


def _predictions(
    context: RunContext, voting_run: VotingRun, models: Sequence[ReplicaId], held_out: pd.DataFrame, views: ViewPlan
) -> pd.DataFrame:
    """The models' predictions of the reserved images, read where they are known."""
    if not models:
        return pd.DataFrame({"image_id": []})
    file, marker = voting_run.run.reserve_singles, voting_run.run.reserve_singles_source
    source = prediction_source(voting_run, held_out, models, views)
    with suppress(DamagedFileError):  # what is damaged is predicted again
        if file.exists() and marker.exists() and read_run_file(marker, PredictionSource) == source:
            return read_model_predictions(file, held_out["image_id"], columns_of(voting_run, models))
    predicted = predict_by_models(context, voting_run, held_out, models, views, "reserve images")
    write_table(file, predicted)
    write_run_file(marker, source)
    context.display.line(
        "predict", f"{len(held_out)} reserve images by {len(models)} soups and refits under {len(views.names)} view(s)"
    )
    return predicted


def _measured(
    context: RunContext, voting_run: VotingRun, held_out: pd.DataFrame, views: ViewPlan
) -> tuple[tuple[float, float], str]:
    """Milliseconds an image of all folds' models and of one a member, no matter which of these equal networks; and on what."""
    of_first_fold = [ReplicaId(member, voting_run.folds[member][0]) for member in voting_run.names.values()]
    works = [of_first_fold, voting_run.fold_models][: voting_run.rounds]
    pool = plan_actors(context.session.nodes(1))
    milliseconds, device = measure(voting_run.run, works, held_out["path"].tolist(), views, pool)
    return (milliseconds[-1], milliseconds[0]), device
