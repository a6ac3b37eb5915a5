"""The members' vote: decided on their out-of-fold predictions, then held on the test set and on the people held out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raymask.cluster.session import RaySession
from raymask.config.schema import ENSEMBLE, resolve_members
from raymask.config.vote import VoteConfig
from raymask.core.columns import label_column, task_columns, true_labels
from raymask.core.console import Display
from raymask.core.errors import BEGINS_ANEW, InputError
from raymask.core.paths import absolute, check_writable
from raymask.core.tasks import JOINT, LabelSpace
from raymask.data.test_sets import TestSet
from raymask.inference.replicas import VotingRun, by_round, replica_predictions, reserved_images, validated_images
from raymask.inference.submission import submission_table
from raymask.io.atomic import write_json, write_table
from raymask.io.checked import DamagedFileError, damaged
from raymask.io.hashing import file_digest, fingerprint, text_digest
from raymask.metrics.bootstrap import compare, group_numbers, interval, parse_metric
from raymask.metrics.scores import Scores, score_heads, score_joint
from raymask.runs.directory import ReplicaId, Run, add_timing, read_ensemble, save_run_config, settled_config
from raymask.runs.identity import without_places
from raymask.runs.outputs import check_output
from raymask.runs.predictions import check_complete, collect_oof, oof_by_view, prediction_table, read_oof
from raymask.runs.schemas import ENSEMBLE_FORMAT
from raymask.runs.tables import read_ensemble_predictions, read_manifest
from raymask.voting.reading import read_vote
from raymask.voting.selection import Candidate
from raymask.voting.vote import Evidence, Vote, decide, estimate_caveat, summary
from raymask.workflows.context import Result, ray_errors

MAX_ROWS = 8


def decide_vote(runs: Sequence[VotingRun], config: VoteConfig, into: Run, seed: int, display: Display) -> tuple[Vote, Scores]:
    """Decides the vote, scores it, and keeps both in `ensemble.json`; what is decided already for the same is read there.

    Raises:
        InputError: a member lacks predictions of some images, or the config names what there is not.
    """
    images = validated_images(runs[0])
    ids = images["image_id"]
    for voting_run in runs:
        for name in voting_run.names.values():
            _collect(voting_run, name, ids, display)
    space = runs[0].space
    fingerprint = _fingerprint(runs, config, seed)
    if known := _decided(into, fingerprint, ids, space, config.rule, display):
        return known
    began = time.monotonic()
    decision = decide(_evidence(runs, images), config, seed)
    truth = true_labels(images, space)
    scores = {name: score_heads(space, heads, truth) for name, heads in decision.members.items()}
    scores[ENSEMBLE] = score_joint(space, decision.joint.argmax(axis=1), truth)
    write_table(into.oof_ensemble, prediction_table(ids, pd.Series("", index=ids.index), decision.joint, space))
    result: dict[str, Any] = {
        "format": ENSEMBLE_FORMAT,
        "fingerprint": fingerprint,
        "images": len(ids),
        "groups": int(images["group"].nunique()),
    }
    members = {
        name: {"run": str(voting_run.run.root), "member": of_run}
        for voting_run in runs
        for name, of_run in voting_run.names.items()
    }
    prior = np.bincount(truth[JOINT], minlength=space.joint_size) / len(ids)
    result |= {"members": members, "prior": prior.tolist(), **summary(decision)}
    result["estimate_of"] = estimate_caveat(max(len(voting_run.folds) for voting_run in runs))
    write_json(into.ensemble, {**result, "oof": scores})
    add_timing(into, "vote", time.monotonic() - began)
    _say(result, decision.vote, display)
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
        if set(read_ensemble_predictions(into.oof_ensemble, space)["image_id"]) != set(ids):
            raise damaged(into.oof_ensemble, "it holds other images")
    except DamagedFileError as error:
        display.warn(f"{error.fault}; the vote is decided again")
        return None
    display.line("vote", f"decided already: {vote.fitted.candidate}, views {vote.views}")
    return vote, known["oof"]


def _collect(voting_run: VotingRun, member: str, ids: pd.Series, display: Display) -> None:
    try:
        if voting_run.run.oof(member).exists():
            _check_heads(voting_run, member)
    except DamagedFileError as error:
        display.warn(f"{error.fault}; it is collected again")
        voting_run.run.oof(member).unlink()
    lacking = [str(ReplicaId(member, fold)) for fold in voting_run.folds if not voting_run.run.finished(ReplicaId(member, fold))]
    if lacking and not voting_run.run.oof(member).exists():
        raise InputError(
            f"'{voting_run.run.root}' is not trained to its end (there is no {lacking[0]}); finish it first by "
            f"`raymask train --recipe {voting_run.run.config}`."
        )
    try:
        collect_oof(voting_run.run, member, voting_run.folds, ids)
    except DamagedFileError as error:
        if not voting_run.run.oof(member).exists():
            raise
        display.warn(f"{error.fault}; what was collected of it before is used")
    _check_heads(voting_run, member)


def _check_heads(voting_run: VotingRun, member: str) -> None:
    """Refuses out-of-fold predictions of other classes than those of the member's task."""
    task = next(known.task for known in resolve_members(voting_run.config) if known.name == member)
    wanted = {"image_id", "view", "fold", *task_columns(task, voting_run.space)}
    if set(read_oof(voting_run.run, member)) != wanted:
        raise damaged(voting_run.run.oof(member), "it holds predictions of other classes than those of the run's config")


def _say(result: Mapping[str, Any], vote: Vote, display: Display) -> None:
    rows, expected = result["rules"], result["estimate"]
    ranges = "{score:.4f} ({low:.4f} to {high:.4f})"
    display.line(
        "vote",
        f"{vote.fitted.candidate}, views {vote.views}: {result['metric']} of {ranges.format(**expected)} is expected on new "
        "people",
    )
    if result["estimate_of"]:
        display.line("vote", result["estimate_of"])
    chosen = next(row for row in rows if row["chosen"])
    shown = [row for row in rows if row in rows[:MAX_ROWS] or row is chosen or (row["rule"], row["adjust"]) == ("soft", "none")]
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
        title = f"{len(rows)} ways to vote, by {result['metric']}"
        display.table(title, ["", "score", "95% from", "to", "behind the best", ""], table)


def _evidence(runs: Sequence[VotingRun], images: pd.DataFrame) -> Evidence:
    views = [view for view in runs[0].config.views if all(view in voting_run.config.views for voting_run in runs)]
    members = {
        name: oof_by_view(voting_run.run, of_run, views, images["image_id"])
        for voting_run in runs
        for name, of_run in voting_run.names.items()
    }
    return Evidence(
        space=runs[0].space,
        members=members,
        views=tuple(views),
        truth=images[label_column(JOINT)].to_numpy(np.int64),
        groups=group_numbers(images["group"]),
        folds=images["fold"].to_numpy(np.int64),
    )


def _fingerprint(runs: Sequence[VotingRun], config: VoteConfig, seed: int) -> str:
    parts = [repr((ENSEMBLE_FORMAT, config.model_dump_json(), seed))]
    for voting_run in runs:
        parts.append(fingerprint(without_places(read_manifest(voting_run.run, voting_run.space))))
        for name, of_run in voting_run.names.items():
            parts += [name, file_digest(voting_run.run.oof(of_run))]
    return text_digest(*parts)[:16]


def predict_test(
    runs: Sequence[VotingRun],
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
    predicted = [replica_predictions(voting_run, test.images, "test", vote.views, session, display) for voting_run in runs]
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
    runs: Sequence[VotingRun], vote: Vote, into: Run, seed: int, session: RaySession | None, display: Display
) -> dict[str, Any] | None:
    """Scores the ensemble and its members on the people held out from everything, and keeps it in `ensemble.json`.

    Members are scored by the mean of their folds' replicas. None where no one is held out.
    """
    if not runs[0].run.reserve.exists():
        return None
    held_out = reserved_images(runs[0].run)
    predicted = [replica_predictions(voting_run, held_out, "reserve", vote.views, session, display) for voting_run in runs]
    space = vote.space
    truth = true_labels(held_out, space)
    rounds = by_round(runs, predicted)
    scores: Scores = {
        name: score_heads(
            space, {head: np.mean([members[name][head] for members in rounds], axis=0) for head in rounds[0][name]}, truth
        )
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


def vote(
    folders: Sequence[Path],
    into: Path | None = None,
    settings: Sequence[str] = (),
    predict: bool = False,
    display: Display | None = None,
) -> Result:
    """Decides the vote anew, from out-of-fold predictions alone, of the members of one run or of several together.

    Args:
        folders: directories of the runs.
        into: where the result is written; needed with several runs, and with one it is its own directory by default.
        settings: `vote.key=value` or `seed=value`, in place of what the first run's config says.
        predict: whether test images are predicted where the decided views need it; else what is there is used.
        display: what is said of it.

    Raises:
        InputError: a run is not trained, the runs do not fit together, or a prediction is missing.
    """
    from raymask.inference import replicas
    from raymask.report import summary
    from raymask.runs.tables import read_manifest
    from raymask.workflows.setup import drawn_data, read_test_set

    display, began = display or Display(), time.monotonic()
    runs = [Run(absolute(folder)) for folder in folders]
    if into is None and len(runs) > 1:
        raise InputError("several runs vote into a folder of their own; name it by --into.")
    target = Run(absolute(into)) if into else runs[0]
    if [run.root for run in runs] != [target.root]:
        check_output(target.root, "--into", own="ensemble.json", begun=("oof",))
    config = settled_config(runs[0], settings, {"runs": target.root.parent, "name": target.name})
    check_writable(target.root, "--into")
    voting = replicas.voting_runs(runs)
    with ray_errors(target.root, BEGINS_ANEW), ExitStack() as stack:
        session = RaySession(stack, config.compute, display) if predict else None
        decided, scores = decide_vote(voting, config.vote, target, config.seed, display)
        test, _ = read_test_set(config, drawn_data(config, display), voting[0].space, display)
        predict_test(voting, decided, test, target, session, display)
        score_reserve(voting, decided, target, config.seed, session, display)
    save_run_config(target, config)
    if target.root != runs[0].root:
        write_table(target.manifest, read_manifest(runs[0], voting[0].space))
    summary.summarise(target, voting[0].space, scores, time.monotonic() - began, display)
    return Result(target, scores)
