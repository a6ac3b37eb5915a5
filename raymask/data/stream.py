"""The whole training of a trial as one Ray Data execution over its (epoch, step) pairs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import ray.data
from ray.data import ActorPoolStrategy, DataContext, ExecutionResources, TaskPoolStrategy

from raymask.core.types import ActorPool
from raymask.data.cache import PreparedImages, index_path, open_cache
from raymask.data.samplers import GROUP, read_sampler
from raymask.data.sampling import Batch, BatchSampler, from_columns, make_batch, to_columns
from raymask.data.specs import StreamSpec
from raymask.io.checked import Kind, read_table
from raymask.io.hashing import file_stamp
from raymask.ray_internals import ExecutionCallback, call_after_each_step
from raymask.transforms.augment import Augmenter

IMAGES_PER_TASK = 256
IMAGES_MADE_HERE = 1024
SECONDS_BETWEEN_STEPS = 0.03
BYTES_PER_TASK = 32 * 2**20


def stream(
    spec: StreamSpec,
    cache: Path,
    manifest: Path,
    *,
    first_epoch: int,
    memory: int,
    cpus_per_task: float,
    tasks: int | None = None,
) -> Iterator[Batch]:
    """Batches of uint8 images in the order of (epoch, step), from `first_epoch` to the last epoch.

    The first ones are made in this process, so that training begins while the workers of Ray Data are still being started.

    Args:
        spec: the stream.
        cache: folder of the prepared images.
        manifest: file whose rows the batches name.
        first_epoch: epoch to begin with.
        memory: bytes of batches that may wait in the object store.
        cpus_per_task: CPUs that Ray books for each augmenting task.
        tasks: most tasks at a time; None for as many as there are CPUs for.
    """
    sampler = open_batch_sampler(spec, manifest)
    first, end = first_epoch * sampler.steps, spec.epochs * sampler.steps
    streamed = first + -(-IMAGES_MADE_HERE // spec.batch_size)
    made_here = _batches(range(first, min(streamed, end)), spec, cache, manifest)
    if streamed >= end:
        yield from made_here
        return
    limit_execution(memory)
    batches = numbered_tasks(end - streamed, steps_per_task(spec)).map_batches(
        _make_batches,
        batch_size=None,
        compute=TaskPoolStrategy(size=tasks),
        num_cpus=cpus_per_task,
        max_retries=RETRIES,
        fn_kwargs={"spec": spec, "cache": cache, "manifest": manifest, "first": streamed},
    )
    blocks = iter(batches.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2))
    with ThreadPoolExecutor(max_workers=1) as executor:
        yield next(made_here)  # the workers' imports would be in the way of the first step
        first_block = executor.submit(next, blocks)
        yield from made_here
        yield from from_columns(first_block.result())
    for columns in blocks:
        yield from from_columns(columns)


def _batches(numbers: Iterable[int], spec: StreamSpec, cache: Path, manifest: Path) -> Iterator[Batch]:
    """Batches by number, counted through all epochs."""
    prepared, augmenter = prepared_images(cache, manifest), stream_augmenter(spec)
    sampler = open_batch_sampler(spec, manifest)
    for number in numbers:
        epoch, step = divmod(number, sampler.steps)
        yield make_batch(prepared, augmenter, sampler, epoch, step)


def numbered_tasks(items: int, per_task: int) -> ray.data.Dataset:
    """The numbers from 0 to `items`, in blocks of `per_task` numbers, under the column `item`.

    Not by `ray.data.range`, whose reading tasks book a whole CPU each and wait for ever where packs leave less than one.
    """
    return ray.data.from_items(list(range(items)), override_num_blocks=-(-items // per_task))


def steps_per_task(spec: StreamSpec) -> int:
    """Batches that one task makes: enough to hide a task's own cost, few enough to come soon."""
    image_bytes = spec.input.height * spec.input.width * 3
    images = min(IMAGES_PER_TASK, BYTES_PER_TASK // image_bytes)
    return max(1, images // spec.batch_size)


class ThrottleExecution(ExecutionCallback):  # type: ignore[misc]
    """Lets Ray Data's control loop sleep between its steps.

    The loop is a thread of the process that reads a stream, and it spins while its blocks wait to be read: in a trial it held the
    interpreter longer than the training itself.
    """

    def on_execution_step(self, executor: Any) -> None:  # noqa: ARG002
        """Called by the loop after each step."""
        time.sleep(SECONDS_BETWEEN_STEPS)


RETRIES = 10
"""Times that a task or an actor is begun again whose process or machine dies; Ray Data itself would never give up."""


def by_tasks(pool: ActorPool) -> dict[str, Any]:
    """Options of `map_batches` for the step that makes the blocks that actors of a pool get."""
    return {"num_cpus": pool.decode_cpus, **({} if _merged(pool) else {"max_retries": RETRIES})}


def _merged(pool: ActorPool) -> bool:
    """Whether Ray Data merges that step with the actors', as it does where both have the same options."""
    return not pool.gpus and pool.cpus == pool.decode_cpus


def by_actors(pool: ActorPool, blocks: int, rows: int) -> dict[str, Any]:
    """Options of `map_batches` for the actors of a pool, each of which is called with a block at a time.

    On CPUs Ray Data may merge the actors' step with the one before, whose rows are other rows, and would bundle by a `batch_size`
    as many of those as it names. With GPUs it wants one, and never merges: that of the blocks bundles none of them.

    Args:
        pool: the actors.
        blocks: number of the blocks; there is no use for more actors.
        rows: of a block; the last may have fewer.
    """
    return {
        "compute": ActorPoolStrategy(size=min(pool.size, blocks)),
        "batch_size": rows if pool.gpus else None,
        "num_cpus": pool.cpus,
        "num_gpus": pool.gpus or None,
        **({} if _merged(pool) else {"max_restarts": RETRIES, "max_task_retries": RETRIES}),
    }


def limit_execution(memory: int) -> None:
    """Keeps order, and bounds the bytes of blocks that wait, in this process's next executions."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    call_after_each_step(ThrottleExecution, context)
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ExecutionResources(object_store_memory=memory)


def _make_batches(
    numbers: dict[str, np.ndarray], spec: StreamSpec, cache: Path, manifest: Path, first: int
) -> Iterator[dict[str, Any]]:
    for batch in _batches((first + numbers["item"]).tolist(), spec, cache, manifest):
        yield to_columns(batch)


def prepared_images(cache: Path, manifest: Path) -> PreparedImages:
    """The prepared images of a manifest, opened once a process as long as its files stay as they are."""
    return _prepared_images(cache, manifest, (file_stamp(index_path(cache)), file_stamp(manifest)))


@lru_cache(maxsize=4)
def _prepared_images(cache: Path, manifest: Path, stamps: tuple[str, str]) -> PreparedImages:  # noqa: ARG001
    return open_cache(cache, read_table(manifest, {"image_id": "text"}, only=True)["image_id"])


def open_batch_sampler(spec: StreamSpec, manifest: Path) -> BatchSampler:
    """The batches of a manifest's rows, read once a process as long as that file stays as it is."""
    return _open_batch_sampler(spec, manifest, file_stamp(manifest))


@lru_cache(maxsize=4)
def _open_batch_sampler(spec: StreamSpec, manifest: Path, stamp: str) -> BatchSampler:  # noqa: ARG001
    columns: dict[str, Kind] = {"fold": "whole"}
    column = read_sampler(spec.sampler).column
    if column is not None:
        columns[column] = "text" if column == GROUP else "whole"
    table = read_table(manifest, columns, only=True)
    fold = table["fold"].to_numpy(np.int64)
    if column is None:
        return BatchSampler(spec, fold)
    stratum = np.unique(table[GROUP], return_inverse=True)[1] if column == GROUP else table[column].to_numpy(np.int64)
    return BatchSampler(spec, fold, stratum)


@lru_cache(maxsize=4)
def stream_augmenter(spec: StreamSpec) -> Augmenter:
    """The augmenter of a stream's transforms, built once a process."""
    return Augmenter(json.loads(spec.augment), spec.input.size)
