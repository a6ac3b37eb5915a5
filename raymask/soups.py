"""Ray tasks around a member's single models: one that makes its soups, and one that measures how long models take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import ray
from ray.exceptions import RayTaskError

from raymask.config import Member
from raymask.data.decode import decode_file
from raymask.data.stream import prepared_images
from raymask.ensemble import ByHead
from raymask.errors import InputError
from raymask.hashing import file_digest
from raymask.inference import BATCH, Predictor, specs_of
from raymask.metrics import Score
from raymask.model_files import read_model
from raymask.plan import ActorPool, Slots
from raymask.run_files import write_table
from raymask.run_tables import read_manifest, read_reserve
from raymask.store import GREEDY_SOUP, SOUP, ReplicaId, Run
from raymask.tasks import JOINT, UNLABELLED, LabelSpace
from raymask.viewing import ViewPlan
from raymask.waiting import wait_for

LEAST_SECONDS = 1.0
"""That each crew of models is measured for."""


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
class Made:
    """A member's finished soups."""

    member: str
    scores: dict[int, dict[str, Score]]
    """On the reserved people, by the soup's number and target; those of the greedy soup are cross-fitted."""
    ingredients: tuple[str, ...]
    """Of the greedy soup."""


def make(jobs: Sequence[SoupJob], slots: Slots, on_made: Callable[[Made], None]) -> None:
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


def _make(job: SoupJob, threads: int) -> Made:
    from raymask.device import prepare_process
    from raymask.metrics import heads_of
    from raymask.soup import Images, Ingredient, Reserved, soup_of_member
    from raymask.trial import write_model

    device = prepare_process(threads)
    run, member = job.run, job.member
    replicas = [ReplicaId(member.name, fold) for fold in job.folds]
    ingredients = [
        Ingredient(model.folder.name, model.weights, model.scores.get("f1", 0.0), model.sha256)
        for model in (read_model(run.replica(replica)) for replica in replicas)
    ]
    labelled = read_manifest(run, job.space)[f"label_{JOINT}"] != UNLABELLED
    held_out = read_reserve(run)
    reserved = Reserved(
        Images(prepared_images(job.cache, run.reserve), np.arange(len(held_out))),
        {target: held_out[f"label_{target}"].to_numpy(np.int64) for target in (*job.space.names, JOINT)},
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
    said = reserve_table(held_out["image_id"], ReplicaId(member.name, GREEDY_SOUP), greedy.predictions, job.space)
    write_table(run.replica_reserve(ReplicaId(member.name, GREEDY_SOUP)), said)
    for fold, one in written.items():
        more = {"ingredients": list(one.ingredients), "views": job.views.to_json(), "reserve": one.scores, "made_of": made_of}
        write_model(run, member, fold, one.model, job.space, **more)
    return Made(member.name, {fold: one.scores for fold, one in written.items()}, greedy.ingredients)


def reserve_table(image_ids: pd.Series, replica: ReplicaId, said: ByHead, space: LabelSpace) -> pd.DataFrame:
    """One model's predictions as `raymask.predict.predict` gives those of many.

    Args:
        image_ids: (N,) ids.
        replica: the model.
        said: (N, C) probabilities by head.
        space: the label space.
    """
    columns = {
        f"{replica}|{head}:{name}": of_head[:, label].astype(np.float32)
        for head, of_head in said.items()
        for label, name in enumerate(space.classes(head))
    }
    table = pd.DataFrame({"image_id": image_ids.to_numpy(), "problem": "", **columns})
    return table.sort_values("image_id", kind="stable").reset_index(drop=True)


def measure(
    run: Run, crews: Sequence[Sequence[ReplicaId]], paths: Sequence[str], views: ViewPlan, pool: ActorPool
) -> tuple[list[float], str]:
    """Milliseconds an image that the models of each crew take on one device of a prediction actor, and what that is.

    Images are decoded before, and come in batches as those of an actor do.

    Args:
        run: where the models lie.
        crews: models that predict together.
        paths: files of images that can be decoded; a few are enough.
        views: what is predicted under.
        pool: the actors that predict.
    """
    task = ray.remote(_measure).options(num_cpus=pool.cpus, num_gpus=pool.gpus)
    measuring = task.remote(run, crews, list(paths[:BATCH]), views, pool.threads)
    [measured], _ = wait_for([measuring], {"CPU": pool.cpus, "GPU": pool.gpus})
    milliseconds, device = _result(measured)
    return milliseconds, device


def _measure(
    run: Run, crews: Sequence[Sequence[ReplicaId]], paths: Sequence[str], views: ViewPlan, threads: int
) -> tuple[list[float], str]:
    import torch

    from raymask.device import prepare_process

    device = prepare_process(threads)
    models = [{str(replica): run.replica(replica) for replica in crew} for crew in crews]
    specs = specs_of({name: folder for crew in models for name, folder in crew.items()})
    decoded = [images for problem, images in (decode_file(path, specs) for path in paths) if not problem]
    if not decoded:
        raise InputError(f"none of the reserved images can be read any more; one of them is '{paths[0]}'.")
    places = np.arange(BATCH) % len(decoded)
    batch = [np.stack([decoded[place][number] for place in places]) for number in range(len(specs))]
    works = [partial(Predictor(crew, views, specs, threads), batch) for crew in models]
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{threads} CPU thread(s)"
    return [1000 * seconds / BATCH for seconds in seconds_of(works)], named


def seconds_of(
    works: Sequence[Callable[[], object]], least: float = LEAST_SECONDS, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Median seconds of several works, done by turns, so that what else the machine does slows them alike.

    Each is done until it took so long beside its first time, which is slower and counts only where it is all.

    Args:
        works: what is measured.
        least: seconds; a work that takes ten times as long is not done again.
        clock: seconds.
    """
    taken: list[list[float]] = [[] for _ in works]
    while going := [place for place, of_work in enumerate(taken) if sum(of_work[1:]) < least and sum(of_work) < 10 * least]:
        for place in going:
            began = clock()
            works[place]()
            taken[place].append(clock() - began)
    return [median(of_work[1:] or of_work) for of_work in taken]
