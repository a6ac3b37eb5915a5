"""One model from K: soups of a member's folds, and what is lost and won by fewer models than the whole ensemble.

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
from typing import Any

import pandas as pd

from raymask.cluster.resources import gpus_worth, plan_actors
from raymask.cluster.session import RaySession
from raymask.core.columns import by_head, true_labels
from raymask.core.console import Display
from raymask.core.errors import InputError
from raymask.core.types import ByHead
from raymask.inference.replicas import VotingRun, by_round, columns_of, model_digests, replica_predictions, reserved_images
from raymask.io.atomic import write_json, write_table
from raymask.io.checked import DamagedFileError, read_json
from raymask.io.hashing import fingerprint, text_digest
from raymask.metrics.bootstrap import group_numbers, parse_metric
from raymask.report.run_report import build_report
from raymask.runs.directory import GREEDY_SOUP, SOUP, WHOLE, ReplicaId, Run, add_timing, read_ensemble
from raymask.runs.identity import check_unchanged, without_places
from raymask.runs.models import soups_are_made
from raymask.runs.predictions import check_complete
from raymask.runs.schemas import ModelComparison
from raymask.runs.tables import read_model_predictions
from raymask.transforms.tta import ViewPlan
from raymask.voting.comparison import rows_of, scores_of_members, shown, strategies_of
from raymask.voting.vote import Vote
from raymask.workflows.setup import PreparedRun, check_trained

MODELS_FORMAT = 1


def uncompared(prepared: PreparedRun) -> str | None:
    """Why the models of a run cannot be compared, None where they can."""
    if not prepared.run.reserve.exists():
        return "no one is held out from everything (folds.reserve), so models that saw all folds have no score"
    try:
        check_trained(prepared.run, prepared.members)
    except InputError:
        return "not all members are trained, so there is no ensemble to compare with"
    return None


def compare_models(voting_run: VotingRun, vote: Vote, session: RaySession, display: Display) -> list[dict[str, Any]]:
    """Compares all that a run has in place of its whole ensemble, and keeps it in `singles.json` and the report.

    Args:
        voting_run: a run of which people are held out from everything.
        vote: its vote.
        session: Ray, which is only started for what is not predicted or measured yet.
        display: what is said of it.

    Returns:
        The rows of `singles.json`.
    """
    run = voting_run.run
    held_out = reserved_images(run)
    singles = _singles(voting_run, vote.views)
    known = _known(run)
    result = {"format": MODELS_FORMAT, "fingerprint": _fingerprint(voting_run, vote, held_out, singles)}
    if result.items() <= known.items():
        display.line("singles", "the models are compared already")
    else:
        began = time.monotonic()
        known = {**result, **_compared(voting_run, vote, held_out, singles, session, display)}
        write_json(run.singles, known)
        add_timing(run, "singles", time.monotonic() - began)
        build_report(run)
    rows: list[dict[str, Any]] = known["rows"]
    title = f"Fewer models, scored on {known['groups']} groups held out from everything, timed on {known['device']}"
    display.table(title, *shown(known["metric"], rows))
    return rows


def _known(run: Run) -> dict[str, Any]:
    """The comparison that was written; nothing where there is none that can be read, and it is made again."""
    try:
        return dict(read_json(run.singles, ModelComparison))
    except DamagedFileError:
        return {}


def _singles(voting_run: VotingRun, views: ViewPlan) -> list[ReplicaId]:
    """The models that stand for a member's folds; greedy soups only if they are known under these views."""
    members = voting_run.names.values()
    present = [replica for fold in (SOUP, WHOLE) for name in members if voting_run.run.finished(replica := ReplicaId(name, fold))]
    return present + [ReplicaId(name, GREEDY_SOUP) for name in members if soups_are_made(voting_run.run, name, views)]


def _fingerprint(voting_run: VotingRun, vote: Vote, held_out: pd.DataFrame, singles: Sequence[ReplicaId]) -> str:
    known = read_ensemble(voting_run.run, "fingerprint", "metric")
    models = model_digests(voting_run, [*_replicas(voting_run, voting_run.folds), *singles])
    images = fingerprint(without_places(held_out))
    return text_digest(repr((known["fingerprint"], known["metric"], vote.views.to_json(), images, models)))[:16]


def _replicas(voting_run: VotingRun, folds: Sequence[int]) -> list[ReplicaId]:
    return [ReplicaId(member, fold) for member in voting_run.names.values() for fold in folds]


def _compared(
    voting_run: VotingRun, vote: Vote, held_out: pd.DataFrame, singles: Sequence[ReplicaId], session: RaySession, display: Display
) -> dict[str, Any]:
    space = vote.space
    metric = parse_metric(read_ensemble(voting_run.run, "metric")["metric"], space)
    truth = true_labels(held_out, space)
    groups = group_numbers(held_out["group"])
    rounds = by_round([voting_run], [replica_predictions(voting_run, held_out, "reserve", vote.views, session, display)])
    probabilities = _said(voting_run, singles, held_out, vote.views, session, display)
    milliseconds, device = _measured(voting_run, held_out, vote.views, session)
    return {
        "metric": str(metric),
        "views": str(vote.views),
        "images": len(held_out),
        "groups": int(groups.max()) + 1,
        "device": device,
        "rows": rows_of(
            strategies_of(vote, rounds, probabilities), metric, space, truth, groups, voting_run.config.seed, milliseconds
        ),
        "members": scores_of_members(space, rounds, probabilities, truth),
    }


def _said(
    voting_run: VotingRun,
    singles: Sequence[ReplicaId],
    held_out: pd.DataFrame,
    views: ViewPlan,
    session: RaySession,
    display: Display,
) -> dict[str, dict[str, ByHead]]:
    """Predictions of the reserved images by part (`soup`, ...) and member; those of greedy soups are cross-fitted."""
    predicted = _predicted(voting_run, [each for each in singles if each.fold != GREEDY_SOUP], held_out, views, session, display)
    names = {of_run: name for name, of_run in voting_run.names.items()}
    probabilities: dict[str, dict[str, ByHead]] = defaultdict(dict)
    for replica in singles:
        table = predicted
        if replica.fold == GREEDY_SOUP:
            table = read_model_predictions(
                voting_run.run.replica_reserve(replica), held_out["image_id"], columns_of(voting_run, [replica])
            )
        check_complete(f"the predictions by {replica}", table["image_id"].tolist(), held_out["image_id"].tolist())
        probabilities[replica.part][names[replica.member]] = by_head(table, str(replica))
    return probabilities


def _predicted(
    voting_run: VotingRun,
    singles: Sequence[ReplicaId],
    held_out: pd.DataFrame,
    views: ViewPlan,
    session: RaySession,
    display: Display,
) -> pd.DataFrame:
    """What models say of the reserved images, read where it is there already."""
    run = voting_run.run
    file, marker = run.reserve_singles, run.reserve_singles.with_suffix(".json")
    images = fingerprint(held_out[["image_id", "digest"]])
    wanted = {"fingerprint": images, "views": views.to_json(), "models": model_digests(voting_run, singles)}
    with suppress(DamagedFileError):  # what is damaged is predicted again
        if file.exists() and marker.exists() and read_json(marker) == wanted:
            return read_model_predictions(file, held_out["image_id"], columns_of(voting_run, singles))
    if not singles:
        return pd.DataFrame({"image_id": []})
    from raymask.inference.actors import predict

    pool = plan_actors(session.nodes(gpus_worth(len(held_out))))
    with display.counting("predict", "reserve images") as count:
        predicted = predict(run, held_out, singles, views, pool, count)
    check_unchanged(held_out, voting_run.config, "reserve images")
    write_table(file, predicted)
    write_json(marker, wanted)
    display.line("predict", f"{len(held_out)} reserve images by {len(singles)} soups and refits under {len(views.names)} view(s)")
    return predicted


def _measured(
    voting_run: VotingRun, held_out: pd.DataFrame, views: ViewPlan, session: RaySession
) -> tuple[tuple[float, float], str]:
    """Milliseconds an image of all folds' models and of one a member, no matter which of these equal networks; and on what."""
    from raymask.inference.timing import measure

    crews = [_replicas(voting_run, voting_run.folds[:1]), _replicas(voting_run, voting_run.folds)][: len(voting_run.folds)]
    milliseconds, device = measure(voting_run.run, crews, held_out["path"].tolist(), views, plan_actors(session.nodes(1)))
    return (milliseconds[-1], milliseconds[0]), device
