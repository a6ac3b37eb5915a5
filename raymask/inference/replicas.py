"""The runs that vote together, and what each of their models says of images."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from raymask.cluster.resources import gpus_worth, plan_actors
from raymask.cluster.session import RaySession
from raymask.config.schema import RunConfig, resolve_members
from raymask.config.tasks import label_space
from raymask.core.columns import by_head, task_columns
from raymask.core.console import Display
from raymask.core.errors import InputError
from raymask.core.tasks import LabelSpace
from raymask.core.types import ByHead
from raymask.data.folds import replica_folds
from raymask.inference.definition import check_models
from raymask.io.atomic import write_json, write_table
from raymask.io.checked import DamagedFileError, check_file_name, read_json
from raymask.io.hashing import fingerprint
from raymask.runs.digests import remembered_digests, with_digests
from raymask.runs.directory import ReplicaId, Run, add_timing, load_run_config
from raymask.runs.identity import check_unchanged
from raymask.runs.schemas import PredictionSource
from raymask.runs.tables import read_folds, read_manifest, read_model_predictions, read_reserve
from raymask.transforms.tta import ViewPlan


@dataclass(frozen=True, eq=False)
class VotingRun:
    """A run whose members have a vote."""

    run: Run
    config: RunConfig
    space: LabelSpace
    folds: tuple[int, ...]
    names: Mapping[str, str]
    """Each member's name in its run, by its name in the vote."""


def voting_runs(runs: Sequence[Run]) -> list[VotingRun]:
    """The runs whose members vote together; with several runs a member is named `RUN/MEMBER`.

    Raises:
        InputError: a folder holds no run, a run has no folds yet, or two runs do not predict the same classes.
    """
    read: list[VotingRun] = []
    for run in runs:
        if len(runs) > 1:  # the folder's name begins its members' names, and so paths in an export
            check_file_name(run.name, run.root.parent)
        config = load_run_config(run)
        if not run.manifest.exists():
            raise InputError(f"'{run.root}' is not trained yet: it has no {run.manifest.name}.")
        folds = replica_folds(read_folds(run))
        prefix = f"{run.name}/" if len(runs) > 1 else ""
        names = {f"{prefix}{member.name}": member.name for member in resolve_members(config)}
        read.append(VotingRun(run, config, label_space(config.tasks), tuple(folds), names))
    for other in read[1:]:
        if _classes(other.space) != _classes(read[0].space):
            raise InputError(f"'{other.run.root}' and '{read[0].run.root}' predict other tasks or classes, so they cannot vote.")
    if len({name for voting_run in read for name in voting_run.names}) < sum(len(voting_run.names) for voting_run in read):
        raise InputError("two of the runs have one name, so their members cannot be told apart; rename one of the folders.")
    return read


def _classes(space: LabelSpace) -> dict[str, tuple[str, ...]]:
    return {task.name: task.classes for task in space.tasks}


def validated_images(voting_run: VotingRun) -> pd.DataFrame:
    """The manifest's images that some fold validates on, with a label."""
    manifest = read_manifest(voting_run.run, voting_run.space)
    return manifest[manifest["fold"].isin(voting_run.folds)].reset_index(drop=True)


def reserved_images(run: Run) -> pd.DataFrame:
    """The images of the people held out from everything, in the order of their predictions."""
    images = read_reserve(run).sort_values("image_id", kind="stable", ignore_index=True)
    return images if "digest" in images else with_digests(images, load_run_config(run))  # of an older raymask


def model_digests(voting_run: VotingRun, replicas: Sequence[ReplicaId]) -> dict[str, str]:
    """Digests of the weights of a run's models, by name."""
    files = [str(voting_run.run.weights(replica)) for replica in replicas]
    return dict(zip(map(str, replicas), remembered_digests(files, voting_run.config), strict=True))


def _replicas(voting_run: VotingRun) -> list[ReplicaId]:
    return [ReplicaId(member, fold) for member in voting_run.names.values() for fold in voting_run.folds]


def prediction_fingerprint(voting_run: VotingRun, images: pd.DataFrame, views: ViewPlan) -> dict[str, Any]:
    """What tells predictions apart: the images' contents, the views, and the models' weights."""
    images = images[["image_id", "digest"]]
    return {
        "fingerprint": fingerprint(images),
        "views": views.to_json(),
        "models": model_digests(voting_run, _replicas(voting_run)),
    }


def replica_predictions(
    voting_run: VotingRun, images: pd.DataFrame, kind: str, views: ViewPlan, session: RaySession | None, display: Display
) -> pd.DataFrame:
    """Every replica's probabilities for images, read where they are there already.

    Args:
        voting_run: the run whose replicas predict.
        images: image_id, path and digest.
        kind: `test` or `reserve`.
        views: what is predicted under.
        session: Ray; None to refuse where it would be needed.
        display: what is said of it.

    Raises:
        InputError: there is something to predict, and no session.
    """
    run, counted, what = voting_run.run, f"{len(images)} {kind} images", f"{kind} images"
    file = {"test": run.test_predictions, "reserve": run.reserve_predictions}[kind]
    marker = file.with_name("source.json")
    replicas, wanted = _replicas(voting_run), prediction_fingerprint(voting_run, images, views)
    known: dict[str, Any] = {}
    try:
        known = read_json(marker, PredictionSource) if file.exists() and marker.exists() else {}
        if known == wanted:
            predicted = read_model_predictions(file, images["image_id"], columns_of(voting_run, replicas))
            display.line("predict", f"{counted} are predicted already")
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
    check_unchanged(images, voting_run.config, what)
    from raymask.inference.actors import predict

    pool = plan_actors(session.nodes(gpus_worth(len(images))))
    began = time.monotonic()
    with display.counting("predict", what) as count:
        predicted = predict(run, images, replicas, views, pool, count)
    check_unchanged(images, voting_run.config, what)
    add_timing(run, "predict", time.monotonic() - began)
    write_table(file, predicted)
    write_json(marker, wanted)
    display.line("predict", f"{counted} by {len(replicas)} replicas under {len(views.names)} view(s)")
    return predicted


def columns_of(voting_run: VotingRun, replicas: Sequence[ReplicaId]) -> list[str]:
    """Columns of these models' probabilities."""
    tasks = {member.name: member.task for member in resolve_members(voting_run.config)}
    return [column for each in replicas for column in task_columns(tasks[each.member], voting_run.space, str(each))]


def by_round(runs: Sequence[VotingRun], predicted: Sequence[pd.DataFrame]) -> list[dict[str, ByHead]]:
    """Members' probabilities by fold; where a run has fewer folds than another, its replicas go round."""
    rounds = max(len(voting_run.folds) for voting_run in runs)
    return [
        {
            name: by_head(table, str(ReplicaId(of_run, voting_run.folds[number % len(voting_run.folds)])))
            for voting_run, table in zip(runs, predicted, strict=True)
            for name, of_run in voting_run.names.items()
        }
        for number in range(rounds)
    ]
