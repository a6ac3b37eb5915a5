"""Ray tasks around a member's single models: one that makes its soups, and one that measures how long models take."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ray
from ray.exceptions import RayTaskError

from raymask.cluster.resources import Slots
from raymask.cluster.waiting import wait_for
from raymask.config.members import Member
from raymask.core.columns import by_column, label_column, true_labels
from raymask.core.errors import InputError
from raymask.core.tasks import JOINT, UNLABELLED, LabelSpace
from raymask.core.types import ByHead
from raymask.data.stream import prepared_images
from raymask.io.atomic import write_table
from raymask.io.hashing import file_digest
from raymask.metrics.scores import Score
from raymask.runs.directory import GREEDY_SOUP, SOUP, ReplicaId, Run
from raymask.runs.models import read_model
from raymask.runs.tables import read_manifest, read_reserve
from raymask.transforms.tta import ViewPlan


@dataclass(frozen=True)
class SoupJob:
    """All that a member's soups are made of."""

    run: Run
    space: LabelSpace
    member: Member
    folds: tuple[int, ...]
    cache: Path
    """Prepared images of the member's size."""
    views: ViewPlan
    """What soups are chosen and scored under."""
    seed: int


@dataclass(frozen=True)
class SoupResult:
    """A member's finished soups."""

    member: str
    scores: dict[int, dict[str, Score]]
    """On the reserved people, by the soup's number and target; those of the greedy soup are cross-fitted."""
    ingredients: tuple[str, ...]
    """Of the greedy soup."""


def make(jobs: Sequence[SoupJob], slots: Slots, on_made: Callable[[SoupResult], None]) -> None:
    """Makes the soups of members, each in a task of its own, as many at a time as there are slots.

    Args:
        jobs: the members.
        slots: what a task may use.
        on_made: called with each member when both its soups are in the run directory.

    Raises:
        InputError: the reserved people are too few, or the replicas of different architectures.
    """
    task = ray.remote(_make).options(num_cpus=slots.cpus, num_gpus=slots.gpus, scheduling_strategy="SPREAD")
    waiting = deque(jobs)
    running: list[Any] = []
    try:
        while waiting or running:
            while waiting and len(running) < slots.count:
                running.append(task.remote(waiting.popleft(), slots.threads))
            [made], running = wait_for(running, {"CPU": slots.cpus, "GPU": slots.gpus})
            on_made(_result(made))
    finally:
        for other in running:
            ray.cancel(other, force=True)


def _result(reference: ray.ObjectRef[Any]) -> Any:
    """What a task returned; an `InputError` is raised as it was there, without Ray's wrapping."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise InputError(str(error.cause)) from None
        raise


def _make(job: SoupJob, threads: int) -> SoupResult:
    from raymask.core.tasks import heads_of
    from raymask.models.precision import prepare_process
    from raymask.training.soup import Images, Ingredient, Reserved, soup_of_member
    from raymask.training.trial import write_model

    device = prepare_process(threads)
    run, member = job.run, job.member
    replicas = [ReplicaId(member.name, fold) for fold in job.folds]
    ingredients = [
        Ingredient(model.folder.name, model.weights, model.scores.get("f1", 0.0), model.sha256)
        for model in (read_model(run.replica(replica)) for replica in replicas)
    ]
    labelled = read_manifest(run, job.space)[label_column(JOINT)] != UNLABELLED
    held_out = read_reserve(run)
    reserved = Reserved(
        Images(prepared_images(job.cache, run.reserve), np.arange(len(held_out))),
        true_labels(held_out, job.space),
        held_out["group"].to_numpy(),
    )
    soup, greedy = soup_of_member(
        member.recipe,
        heads_of(member.task, job.space),
        ingredients,
        Images(prepared_images(job.cache, run.manifest), np.flatnonzero(labelled)),
        reserved,
        job.views,
        job.space,
        job.seed,
        device,
    )
    written = {SOUP: soup, GREEDY_SOUP: greedy}
    made_of = {replica.part: file_digest(run.weights(replica)) for replica in replicas}
    probabilities = reserve_table(held_out["image_id"], ReplicaId(member.name, GREEDY_SOUP), greedy.predictions, job.space)
    write_table(run.replica_reserve(ReplicaId(member.name, GREEDY_SOUP)), probabilities)
    for fold, one in written.items():
        more = {"ingredients": list(one.ingredients), "views": job.views.to_json(), "reserve": one.scores, "made_of": made_of}
        write_model(run, member, fold, one.model, job.space, **more)
    return SoupResult(member.name, {fold: one.scores for fold, one in written.items()}, greedy.ingredients)


def reserve_table(image_ids: pd.Series, replica: ReplicaId, probabilities: ByHead, space: LabelSpace) -> pd.DataFrame:
    """One model's predictions as `raymask.inference.actors.predict` gives those of many.

    Args:
        image_ids: (N,) ids.
        replica: the model.
        probabilities: (N, C) probabilities by head.
        space: the label space.
    """
    columns = by_column({head: head_probs.astype(np.float32) for head, head_probs in probabilities.items()}, space, str(replica))
    table = pd.DataFrame({"image_id": image_ids.to_numpy(), "problem": "", **columns})
    return table.sort_values("image_id", kind="stable").reset_index(drop=True)
