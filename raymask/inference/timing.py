"""How long models take for an image."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import numpy as np
import ray

from raymask.cluster.waiting import wait_for
from raymask.core.errors import InputError
from raymask.core.types import ActorPool
from raymask.data.decode import decode_file
from raymask.inference.predictor import BATCH, Predictor, specs_of
from raymask.runs.directory import ReplicaId, Run
from raymask.training.soup_tasks import result_of
from raymask.transforms.tta import ViewPlan

MIN_SECONDS = 1.0
"""That each crew of models is measured for."""


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
    milliseconds, device = result_of(measured)
    return milliseconds, device


def _measure(
    run: Run, crews: Sequence[Sequence[ReplicaId]], paths: Sequence[str], views: ViewPlan, threads: int
) -> tuple[list[float], str]:
    import torch

    from raymask.models.precision import prepare_process

    device = prepare_process(threads)
    models = [{str(replica): run.replica(replica) for replica in crew} for crew in crews]
    specs = specs_of({name: folder for crew in models for name, folder in crew.items()})
    decoded = [images for problem, images in (decode_file(path, specs) for path in paths) if not problem]
    if not decoded:
        raise InputError(f"none of the images to time the models by can be read any more; one of them is '{paths[0]}'.")
    places = np.arange(BATCH) % len(decoded)
    batch = [np.stack([decoded[index][number] for index in places]) for number in range(len(specs))]
    works = [partial(Predictor(crew, views, specs, threads), batch) for crew in models]
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{threads} CPU thread(s)"
    return [1000 * seconds / BATCH for seconds in seconds_of(works)], named


def seconds_of(
    works: Sequence[Callable[[], object]], least: float = MIN_SECONDS, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Median seconds of several works, done by turns, so that what else the machine does slows them alike.

    Each is done until it took so long beside its first time, which is slower and counts only where it is all.

    Args:
        works: what is measured.
        least: seconds; a work that takes ten times as long is not done again.
        clock: seconds.
    """
    seconds: list[list[float]] = [[] for _ in works]
    while going := [index for index, of_work in enumerate(seconds) if sum(of_work[1:]) < least and sum(of_work) < 10 * least]:
        for index in going:
            began = clock()
            works[index]()
            seconds[index].append(clock() - began)
    return [median(of_work[1:] or of_work) for of_work in seconds]
