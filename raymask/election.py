"""The members' vote: decided on their out-of-fold predictions, then held on the test set and on the people held out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from raymask.choice import Candidate
from raymask.config import ENSEMBLE, RunConfig, VoteConfig, resolve_members
from raymask.data import sources
from raymask.data.folds import replica_folds
from raymask.data.test_sets import TestSet
from raymask.display import Display
from raymask.ensemble import ByHead, check_complete
from raymask.errors import InputError
from raymask.formats import Predicted
from raymask.hashing import file_digest, fingerprint, remembered_digests, text_digest, with_digests
from raymask.identity import check_unchanged, without_places
from raymask.inference import check_models
from raymask.metrics import Score, score_heads, score_joint
from raymask.oof import collect_oof, oof_by_view, read_oof, replica_by_head
from raymask.plan import gpus_worth, plan_actors
from raymask.resample import compare, group_numbers, interval, parse_metric
from raymask.run_files import DamagedFileError, Kind, check_file_name, damaged, read_json, write_json, write_table
from raymask.run_tables import probability_columns, read_elected, read_folds, read_manifest, read_reserve, read_said
from raymask.session import RaySession
from raymask.store import ReplicaId, Run, add_timing, load_run_config, read_ensemble
from raymask.submit import prediction_table, submission_table
from raymask.tasks import JOINT, LabelSpace
from raymask.viewing import ViewPlan
from raymask.vote import Evidence, Vote, decide, summary, what_is_expected
from raymask.vote_files import read_vote

Scores = dict[str, dict[str, Score]]
ENSEMBLE_FORMAT = 3
MOST_ROWS = 8


@dataclass(frozen=True, eq=False)
class Electorate:
    """A run whose members have a vote."""

    run: Run
    config: RunConfig
    space: LabelSpace
    folds: tuple[int, ...]
    names: Mapping[str, str]
    """Each member's name in its run, by its name in the vote."""


def electorates(runs: Sequence[Run]) -> list[Electorate]:
    """The runs whose members vote together; with several runs a member is named `RUN/MEMBER`.

    Raises:
        InputError: a folder holds no run, a run has no folds yet, or two runs do not predict the same classes.
    """
    read: list[Electorate] = []
    for run in runs:
        if len(runs) > 1:  # the folder's name begins its members' names, and so paths in an export
            check_file_name(run.name, run.root.parent)
        config = load_run_config(run)
        if not run.manifest.exists():
            raise InputError(f"'{run.root}' is not trained yet: it has no {run.manifest.name}.")
        folds = replica_folds(read_folds(run))
        prefix = f"{run.name}/" if len(runs) > 1 else ""
        names = {f"{prefix}{member.name}": member.name for member in resolve_members(config)}
        read.append(Electorate(run, config, sources.label_space(config.tasks), tuple(folds), names))
    for other in read[1:]:
        if _classes(other.space) != _classes(read[0].space):
            raise InputError(f"'{other.run.root}' and '{read[0].run.root}' predict other tasks or classes, so they cannot vote.")
    if len({name for one in read for name in one.names}) < sum(len(one.names) for one in read):
        raise InputError("two of the runs have one name, so their members cannot be told apart; rename one of the folders.")
    return read


def _classes(space: LabelSpace) -> dict[str, tuple[str, ...]]:
    return {task.name: task.classes for task in space.tasks}


def validated_images(one: Electorate) -> pd.DataFrame:
    """The manifest's images that some fold validates on, with a label."""
    manifest = read_manifest(one.run, one.space)
    return manifest[manifest["fold"].isin(one.folds)].reset_index(drop=True)


def reserved_images(run: Run) -> pd.DataFrame:
    """The images of the people held out from everything, in the order of their predictions."""
    images = read_reserve(run).sort_values("image_id", kind="stable", ignore_index=True)
    return images if "digest" in images else with_digests(images, load_run_config(run))  # of an older raymask


def elect(runs: Sequence[Electorate], config: VoteConfig, into: Run, seed: int, display: Display) -> tuple[Vote, Scores]:
    """Decides the vote, scores it, and keeps both in `ensemble.json`; what is decided already for the same is read there.

    Raises:
        InputError: a member lacks predictions of some images, or the config names what there is not.
    """
    images = validated_images(runs[0])
    ids = images["image_id"]
    for one in runs:
        for name in one.names.values():
            _collect(one, name, ids, display)
    space = runs[0].space
    fingerprint = _fingerprint(runs, config, seed)
    if known := _decided(into, fingerprint, ids, space, config.rule, display):
        return known
    began = time.monotonic()
    decision = decide(_evidence(runs, images), config, seed)
    truth = {target: images[f"label_{target}"].to_numpy(np.int64) for target in (*space.names, JOINT)}
    scores = {name: score_heads(space, heads, truth) for name, heads in decision.members.items()}
    scores[ENSEMBLE] = score_joint(space, decision.joint.argmax(axis=1), truth)
    write_table(into.oof_ensemble, prediction_table(ids, pd.Series("", index=ids.index), decision.joint, space))
    told: dict[str, Any] = {
        "format": ENSEMBLE_FORMAT,
        "fingerprint": fingerprint,
        "images": len(ids),
        "groups": int(images["group"].nunique()),
    }
    members = {name: {"run": str(one.run.root), "member": of_run} for one in runs for name, of_run in one.names.items()}
    prior = np.bincount(truth[JOINT], minlength=space.joint_size) / len(ids)
    told |= {"members": members, "prior": prior.tolist(), **summary(decision)}
    told["estimate_of"] = what_is_expected(max(len(one.folds) for one in runs))
    write_json(into.ensemble, {**told, "oof": scores})
    add_timing(into, "vote", time.monotonic() - began)
    _say(told, decision.vote, display)
    return decision.vote, scores


def _decided(
    into: Run, fingerprint: str, ids: pd.Series, space: LabelSpace, rule: str, display: Display
) -> tuple[Vote, Scores] | None:
    """The vote that is decided already for the same, and its scores; what is damaged is decided again."""
    if not (into.ensemble.exists() and into.oof_ensemble.exists()):
        return None
    try:
        known = read_ensemble(into)
        if known.get("fingerprint") != fingerprint:
            return None
        known = read_ensemble(into, "vote", "members", "prior", "metric", "estimate", "rules", "oof")
        vote = read_vote(into.ensemble, known["vote"], space, rule)
        if set(read_elected(into.oof_ensemble, space)["image_id"]) != set(ids):
            raise damaged(into.oof_ensemble, "it holds other images")
    except DamagedFileError as error:
        display.warn(f"{error.fault}; the vote is decided again")
        return None
    display.line("vote", f"decided already: {vote.fitted.candidate}, views {vote.views}")
    return vote, known["oof"]


def _collect(one: Electorate, member: str, ids: pd.Series, display: Display) -> None:
    try:
        if one.run.oof(member).exists():
            _check_heads(one, member)
    except DamagedFileError as error:
        display.warn(f"{error.fault}; it is collected again")
        one.run.oof(member).unlink()
    lacking = [str(ReplicaId(member, fold)) for fold in one.folds if not one.run.finished(ReplicaId(member, fold))]
    if lacking and not one.run.oof(member).exists():
        raise InputError(
            f"'{one.run.root}' is not trained to its end (there is no {lacking[0]}); finish it first by "
            f"`raymask train --recipe {one.run.config}`."
        )
    try:
        collect_oof(one.run, member, one.folds, ids)
    except DamagedFileError as error:
        if not one.run.oof(member).exists():
            raise
        display.warn(f"{error.fault}; what was collected of it before is used")
    _check_heads(one, member)


def _check_heads(one: Electorate, member: str) -> None:
    """Refuses out-of-fold predictions of other classes than those of the member's task."""
    task = next(known.task for known in resolve_members(one.config) if known.name == member)
    wanted = {"image_id", "view", "fold", *probability_columns(one.space, task)}
    if set(read_oof(one.run, member)) != wanted:
        raise damaged(one.run.oof(member), "it holds predictions of other classes than those of the run's config")


def _say(told: Mapping[str, Any], vote: Vote, display: Display) -> None:
    rows, expected = told["rules"], told["estimate"]
    ranges = "{score:.4f} ({low:.4f} to {high:.4f})"
    display.line(
        "vote",
        f"{vote.fitted.candidate}, views {vote.views}: {told['metric']} of {ranges.format(**expected)} is expected on new people",
    )
    if told["estimate_of"]:
        display.line("vote", told["estimate_of"])
    chosen = next(row for row in rows if row["chosen"])
    shown = [row for row in rows if row in rows[:MOST_ROWS] or row is chosen or (row["rule"], row["adjust"]) == ("soft", "none")]
    table = [
        [
            str(Candidate(row["rule"], row["level"], row["adjust"])),
            *(f"{row[key]:.4f}" for key in ("score", "low", "high")),
            f"{row['behind']:.4f} ± {row['behind_se']:.4f}",
            "chosen" if row["chosen"] else "",
        ]
        for row in shown
    ]
    if len(rows) > 1:
        title = f"{len(rows)} ways to vote, by {told['metric']}"
        display.table(title, ["", "score", "95% from", "to", "behind the best", ""], table)


def _evidence(runs: Sequence[Electorate], images: pd.DataFrame) -> Evidence:
    views = [view for view in runs[0].config.views if all(view in one.config.views for one in runs)]
    members = {
        name: oof_by_view(one.run, of_run, views, images["image_id"]) for one in runs for name, of_run in one.names.items()
    }
    return Evidence(
        space=runs[0].space,
        members=members,
        views=tuple(views),
        truth=images[f"label_{JOINT}"].to_numpy(np.int64),
        groups=group_numbers(images["group"]),
        folds=images["fold"].to_numpy(np.int64),
    )


def _fingerprint(runs: Sequence[Electorate], config: VoteConfig, seed: int) -> str:
    parts = [repr((ENSEMBLE_FORMAT, config.model_dump_json(), seed))]
    for one in runs:
        parts.append(fingerprint(without_places(read_manifest(one.run, one.space))))
        for name, of_run in one.names.items():
            parts += [name, file_digest(one.run.oof(of_run))]
    return text_digest(*parts)[:16]


def model_digests(one: Electorate, replicas: Sequence[ReplicaId]) -> dict[str, str]:
    """Digests of the weights of a run's models, by name."""
    files = [str(one.run.weights(replica)) for replica in replicas]
    return dict(zip(map(str, replicas), remembered_digests(files, one.config), strict=True))


def _replicas(one: Electorate) -> list[ReplicaId]:
    return [ReplicaId(member, fold) for member in one.names.values() for fold in one.folds]


def what_is_predicted(one: Electorate, images: pd.DataFrame, views: ViewPlan) -> dict[str, Any]:
    """What tells predictions apart: the images' contents, the views, and the models' weights."""
    images = images[["image_id", "digest"]]
    return {"fingerprint": fingerprint(images), "views": views.to_json(), "models": model_digests(one, _replicas(one))}


def replica_predictions(
    one: Electorate, images: pd.DataFrame, kind: str, views: ViewPlan, session: RaySession | None, display: Display
) -> pd.DataFrame:
    """Every replica's probabilities for images, read where they are there already.

    Args:
        one: the run whose replicas predict.
        images: image_id, path and digest.
        kind: `test` or `reserve`.
        views: what is predicted under.
        session: Ray; None to refuse where it would be needed.
        display: what is said of it.

    Raises:
        InputError: there is something to predict, and no session.
    """
    run, said, what = one.run, f"{len(images)} {kind} images", f"{kind} images"
    file = {"test": run.test_predictions, "reserve": run.reserve_predictions}[kind]
    marker = file.with_name("source.json")
    replicas, wanted = _replicas(one), what_is_predicted(one, images, views)
    known: dict[str, Any] = {}
    try:
        known = read_json(marker, Predicted) if file.exists() and marker.exists() else {}
        if known == wanted:
            predicted = read_said(file, images["image_id"], columns_of(one, replicas))
            display.line("predict", f"{said} are predicted already")
            return predicted
    except DamagedFileError as error:
        if session is None:
            raise InputError(f"{error.fault}; add --predict, by which it is made again.") from None
        display.warn(f"{error.fault}; it is made again")
    check_models({str(replica): run.replica(replica) for replica in replicas})
    changed = known and known["fingerprint"] != wanted["fingerprint"]
    if session is None:
        why = "and these are others than were predicted" if changed else f"under the views {views}"
        raise InputError(f"'{run.root}' has no predictions of its {kind} images {why}; add --predict.")
    if changed:
        display.line("predict", f"the {what} are others than those that were predicted: all are predicted again")
    check_unchanged(images, one.config, what)
    from raymask.predict import predict

    pool = plan_actors(session.nodes(gpus_worth(len(images))))
    began = time.monotonic()
    with display.counting("predict", what) as count:
        predicted = predict(run, images, replicas, views, pool, count)
    check_unchanged(images, one.config, what)
    add_timing(run, "predict", time.monotonic() - began)
    write_table(file, predicted)
    write_json(marker, wanted)
    display.line("predict", f"{said} by {len(replicas)} replicas under {len(views.names)} view(s)")
    return predicted


def columns_of(one: Electorate, replicas: Sequence[ReplicaId]) -> dict[str, Kind]:
    """Columns of what models say."""
    tasks = {member.name: member.task for member in resolve_members(one.config)}
    columns: dict[str, Kind] = {}
    for replica in replicas:
        columns |= probability_columns(one.space, tasks[replica.member], f"{replica}|")
    return columns


def by_round(runs: Sequence[Electorate], predicted: Sequence[pd.DataFrame]) -> list[dict[str, ByHead]]:
    """Members' probabilities by fold; where a run has fewer folds than another, its replicas go round."""
    rounds = max(len(one.folds) for one in runs)
    return [
        {
            name: replica_by_head(table, ReplicaId(of_run, one.folds[number % len(one.folds)]))
            for one, table in zip(runs, predicted, strict=True)
            for name, of_run in one.names.items()
        }
        for number in range(rounds)
    ]


def predict_test(
    runs: Sequence[Electorate],
    vote: Vote,
    test: TestSet | None,
    into: Run,
    session: RaySession | None,
    display: Display,
) -> None:
    """Predicts the test set and writes predictions.parquet and submission.csv."""
    if test is None:
        display.line("predict", "there is no test set (data.test), so there is no submission")
        return
    space, ids = vote.space, test.images["image_id"].tolist()
    predicted = [replica_predictions(one, test.images, "test", vote.views, session, display) for one in runs]
    for table in predicted:
        check_complete("the predictions of the test set", table["image_id"].tolist(), ids)
    joint = vote.over_rounds(by_round(runs, predicted))
    broken = (predicted[0]["problem"] != "").to_numpy()
    if broken.any():
        joint[broken] = read_ensemble(into, "prior")["prior"]
        display.warn(
            f"{broken.sum()} test images cannot be read and get the classes' frequencies, see `problem` in {into.predictions}"
        )
    table = prediction_table(predicted[0]["image_id"], predicted[0]["problem"], joint, space)
    submission = submission_table(test, table, space)
    write_table(into.predictions, table)
    write_table(into.submission, submission, test.line_end)


def score_reserve(
    runs: Sequence[Electorate], vote: Vote, into: Run, seed: int, session: RaySession | None, display: Display
) -> dict[str, Any] | None:
    """Scores the ensemble and its members on the people held out from everything, and keeps it in `ensemble.json`.

    Members are scored by the mean of their folds' replicas. None where no one is held out.
    """
    if not runs[0].run.reserve.exists():
        return None
    held_out = reserved_images(runs[0].run)
    predicted = [replica_predictions(one, held_out, "reserve", vote.views, session, display) for one in runs]
    space = vote.space
    truth = {target: held_out[f"label_{target}"].to_numpy(np.int64) for target in (*space.names, JOINT)}
    rounds = by_round(runs, predicted)
    scores: Scores = {
        name: score_heads(space, {head: np.mean([one[name][head] for one in rounds], axis=0) for head in rounds[0][name]}, truth)
        for name in rounds[0]
    }
    elected = vote.over_rounds(rounds).argmax(axis=1)
    scores[ENSEMBLE] = score_joint(space, elected, truth)
    known = read_ensemble(into, "metric", "estimate")
    metric = parse_metric(known["metric"], space)
    groups = group_numbers(held_out["group"])
    found, resampled = compare(metric, space, truth[JOINT], [elected], groups, seed)
    whole = {"images": len(held_out), "groups": int(groups.max()) + 1, **interval(float(found[0]), resampled[0])}
    write_json(into.ensemble, {**known, "reserve": {**whole, "scores": scores}})
    expected, of = known["estimate"], " of one fold's models" if len(rounds) > 1 else ""
    display.line(
        "vote",
        f"on {whole['groups']} groups held out from everything {metric} is {whole['score']:.4f} ({whole['low']:.4f} to "
        f"{whole['high']:.4f}); {expected['score']:.4f} was expected{of}",
    )
    return whole
