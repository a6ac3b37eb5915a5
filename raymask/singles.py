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

import numpy as np
import pandas as pd

from raymask.config import Member
from raymask.data.folds import replica_folds
from raymask.display import Display
from raymask.election import (
    Electorate,
    by_round,
    columns_of,
    elect,
    electorates,
    model_digests,
    replica_predictions,
    reserved_images,
    score_reserve,
)
from raymask.ensemble import ByHead, check_complete
from raymask.errors import InputError
from raymask.formats import Singles
from raymask.hashing import file_digest, fingerprint, text_digest
from raymask.identity import check_unchanged, without_places
from raymask.oof import replica_by_head
from raymask.opening import Opened
from raymask.plan import gpus_worth, input_spec, plan_actors, plan_slots
from raymask.refit import check_trained, named_members
from raymask.report import build_report
from raymask.resample import group_numbers, parse_metric
from raymask.run_files import DamagedFileError, read_json, write_json, write_table
from raymask.run_tables import read_said
from raymask.session import RaySession
from raymask.stages import prepare_images, timed
from raymask.store import GREEDY_SOUP, SOUP, WHOLE, ReplicaId, Run, add_timing, read_ensemble
from raymask.tasks import JOINT
from raymask.viewing import ViewPlan
from raymask.vote import Vote
from raymask.ways import rows_of, scores_of_members, shown, ways_of

SINGLES_FORMAT = 1


def souped_members(opened: Opened, names: Sequence[str]) -> list[Member]:
    """The members of these names, all of them without any, of a run that soups can be made of.

    Raises:
        InputError: the run has no such member, its folds are not trained yet, or no one is held out from it.
    """
    members = named_members(opened, names)
    check_trained(opened.run, opened.members)
    if not opened.run.reserve.exists():
        raise InputError(
            f"'{opened.run.root}' holds no one out from everything, but soups need people that no ingredient saw; set "
            "folds.reserve=0.2 in a new run."
        )
    return members


def voted(opened: Opened, session: RaySession, display: Display) -> tuple[Electorate, Vote]:
    """The vote of a trained run, which is decided and scored on the people held out unless it is already.

    Raises:
        InputError: a member lacks predictions, or the config names what there is not.
    """
    voting, config = electorates([opened.run]), opened.config
    vote, _ = elect(voting, config.vote, opened.run, config.seed, display)
    if "reserve" not in read_ensemble(opened.run):
        score_reserve(voting, vote, opened.run, config.seed, session, display)
    return voting[0], vote


def make_soups(
    opened: Opened, members: Sequence[Member], views: ViewPlan, session: RaySession, display: Display
) -> list[ReplicaId]:
    """Makes the uniform and the greedy soup of members' folds; those that were made under the same views are left as they are.

    Args:
        opened: the run, as `souped_members` passed it.
        members: whose soups are made.
        views: what soups are chosen and scored under.
        session: Ray, which is only started when there is something to make.
        display: what is said of it.

    Returns:
        Two soups a member.

    Raises:
        InputError: the reserved people are too few to choose by.
    """
    run = opened.run
    unmade = [member for member in members if not _made(run, member.name, views)]
    if len(unmade) < len(members):
        display.line("soup", f"the soups of {len(members) - len(unmade)} of {len(members)} members are made already")
    soups = [ReplicaId(member.name, fold) for member in members for fold in (SOUP, GREEDY_SOUP)]
    if not unmade:
        return soups
    caches, manifest = prepare_images(opened, session, display)
    from raymask.cluster import check_shared
    from raymask.soups import Made, SoupJob, make

    folds = tuple(replica_folds(manifest["fold"]))
    slots = plan_slots(session.nodes(len(unmade)), opened.config.compute, len(unmade))
    check_shared(run.root)
    jobs = [
        SoupJob(run, opened.space, member, folds, caches[input_spec(member.recipe)], views, opened.config.seed)
        for member in unmade
    ]

    def say(made: Made) -> None:
        f1 = {fold: (scores.get(JOINT) or next(iter(scores.values())))["f1"] for fold, scores in made.scores.items()}
        display.line(
            "soup",
            f"{made.member}: F1 of {f1[SOUP]:.4f} on people held out from everything; {f1[GREEDY_SOUP]:.4f} is to be expected of "
            f"the greedy soup of {len(made.ingredients)} of {len(folds)}",
        )

    with timed(run, "soup"):
        make(jobs, slots, say)
    return soups


def _made(run: Run, member: str, views: ViewPlan) -> bool:
    """Whether both soups are there, of the replicas as they are; the greedy one is chosen and known under certain views."""
    greedy = ReplicaId(member, GREEDY_SOUP)
    if not (run.finished(ReplicaId(member, SOUP)) and run.finished(greedy)):
        return False
    told = read_json(run.meta(greedy))
    weights = run.replica(greedy).parent.glob(f"fold-*/{run.weights(greedy).name}")
    now = {file.parent.name: file_digest(file) for file in weights}
    return bool(told.get("made_of", now) == now and told.get("views") == views.to_json())


def uncompared(opened: Opened) -> str | None:
    """Why the models of a run cannot be compared, None where they can."""
    if not opened.run.reserve.exists():
        return "no one is held out from everything (folds.reserve), so models that saw all folds have no score"
    try:
        check_trained(opened.run, opened.members)
    except InputError:
        return "not all members are trained, so there is no ensemble to compare with"
    return None


def compare_singles(one: Electorate, vote: Vote, session: RaySession, display: Display) -> list[dict[str, Any]]:
    """Compares all that a run has in place of its whole ensemble, and keeps it in `singles.json` and the report.

    Args:
        one: a run of which people are held out from everything.
        vote: its vote.
        session: Ray, which is only started for what is not predicted or measured yet.
        display: what is said of it.

    Returns:
        The rows of `singles.json`.
    """
    run = one.run
    held_out = reserved_images(run)
    singles = _singles(one, vote.views)
    known = _known(run)
    told = {"format": SINGLES_FORMAT, "fingerprint": _fingerprint(one, vote, held_out, singles)}
    if told.items() <= known.items():
        display.line("singles", "the models are compared already")
    else:
        began = time.monotonic()
        known = {**told, **_compared(one, vote, held_out, singles, session, display)}
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
        return dict(read_json(run.singles, Singles))
    except DamagedFileError:
        return {}


def _singles(one: Electorate, views: ViewPlan) -> list[ReplicaId]:
    """The models that stand for a member's folds; greedy soups only if they are known under these views."""
    members = one.names.values()
    there = [replica for fold in (SOUP, WHOLE) for name in members if one.run.finished(replica := ReplicaId(name, fold))]
    return there + [ReplicaId(name, GREEDY_SOUP) for name in members if _made(one.run, name, views)]


def _fingerprint(one: Electorate, vote: Vote, held_out: pd.DataFrame, singles: Sequence[ReplicaId]) -> str:
    known = read_ensemble(one.run, "fingerprint", "metric")
    models = model_digests(one, [*_replicas(one, one.folds), *singles])
    images = fingerprint(without_places(held_out))
    return text_digest(repr((known["fingerprint"], known["metric"], vote.views.to_json(), images, models)))[:16]


def _replicas(one: Electorate, folds: Sequence[int]) -> list[ReplicaId]:
    return [ReplicaId(member, fold) for member in one.names.values() for fold in folds]


def _compared(
    one: Electorate, vote: Vote, held_out: pd.DataFrame, singles: Sequence[ReplicaId], session: RaySession, display: Display
) -> dict[str, Any]:
    space = vote.space
    metric = parse_metric(read_ensemble(one.run, "metric")["metric"], space)
    truth = {target: held_out[f"label_{target}"].to_numpy(np.int64) for target in (*space.names, JOINT)}
    groups = group_numbers(held_out["group"])
    rounds = by_round([one], [replica_predictions(one, held_out, "reserve", vote.views, session, display)])
    said = _said(one, singles, held_out, vote.views, session, display)
    milliseconds, device = _measured(one, held_out, vote.views, session)
    return {
        "metric": str(metric),
        "views": str(vote.views),
        "images": len(held_out),
        "groups": int(groups.max()) + 1,
        "device": device,
        "rows": rows_of(ways_of(vote, rounds, said), metric, space, truth, groups, one.config.seed, milliseconds),
        "members": scores_of_members(space, rounds, said, truth),
    }


def _said(
    one: Electorate,
    singles: Sequence[ReplicaId],
    held_out: pd.DataFrame,
    views: ViewPlan,
    session: RaySession,
    display: Display,
) -> dict[str, dict[str, ByHead]]:
    """Predictions of the reserved images by part (`soup`, ...) and member; those of greedy soups are cross-fitted."""
    predicted = _predicted(one, [each for each in singles if each.fold != GREEDY_SOUP], held_out, views, session, display)
    names = {of_run: name for name, of_run in one.names.items()}
    said: dict[str, dict[str, ByHead]] = defaultdict(dict)
    for replica in singles:
        table = predicted
        if replica.fold == GREEDY_SOUP:
            table = read_said(one.run.replica_reserve(replica), held_out["image_id"], columns_of(one, [replica]))
        check_complete(f"the predictions by {replica}", table["image_id"].tolist(), held_out["image_id"].tolist())
        said[replica.part][names[replica.member]] = replica_by_head(table, replica)
    return said


def _predicted(
    one: Electorate, singles: Sequence[ReplicaId], held_out: pd.DataFrame, views: ViewPlan, session: RaySession, display: Display
) -> pd.DataFrame:
    """What models say of the reserved images, read where it is there already."""
    run = one.run
    file, marker = run.reserve_singles, run.reserve_singles.with_suffix(".json")
    images = fingerprint(held_out[["image_id", "digest"]])
    wanted = {"fingerprint": images, "views": views.to_json(), "models": model_digests(one, singles)}
    with suppress(DamagedFileError):  # what is damaged is predicted again
        if file.exists() and marker.exists() and read_json(marker) == wanted:
            return read_said(file, held_out["image_id"], columns_of(one, singles))
    if not singles:
        return pd.DataFrame({"image_id": []})
    from raymask.predict import predict

    pool = plan_actors(session.nodes(gpus_worth(len(held_out))))
    with display.counting("predict", "reserve images") as count:
        predicted = predict(run, held_out, singles, views, pool, count)
    check_unchanged(held_out, one.config, "reserve images")
    write_table(file, predicted)
    write_json(marker, wanted)
    display.line("predict", f"{len(held_out)} reserve images by {len(singles)} soups and refits under {len(views.names)} view(s)")
    return predicted


def _measured(one: Electorate, held_out: pd.DataFrame, views: ViewPlan, session: RaySession) -> tuple[tuple[float, float], str]:
    """Milliseconds an image of all folds' models and of one a member, no matter which of these equal networks; and on what."""
    from raymask.soups import measure

    crews = [_replicas(one, one.folds[:1]), _replicas(one, one.folds)][: len(one.folds)]
    taken, device = measure(one.run, crews, held_out["path"].tolist(), views, plan_actors(session.nodes(1)))
    return (taken[-1], taken[0]), device
