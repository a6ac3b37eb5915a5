"""Features of a frozen backbone by a Ray Data actor pool: the stream's passes and the views, each image once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray.data

from raymask.config.recipe import Recipe
from raymask.core.types import ActorPool, Progress
from raymask.data.features import part_path
from raymask.data.specs import BankSpec
from raymask.data.stream import by_actors, by_tasks, limit_execution, numbered_tasks, prepared_images, stream_augmenter
from raymask.io.atomic import replacing


@dataclass(frozen=True)
class EmbedJob:
    """Parts of a feature bank that are to be computed."""

    spec: BankSpec
    parts: tuple[str, ...]
    """Names of the parts."""
    folder: Path
    """Where they go."""
    recipe: Recipe
    """The backbone's recipe."""
    backbone: Path
    """File of the backbone's weights."""
    cache: Path
    """Folder of the prepared images."""
    manifest: Path
    """File whose rows the features belong to."""


def embed(job: EmbedJob, pool: ActorPool, memory: int, progress: Progress) -> None:
    """Writes parts of a feature bank, one file after the other; what is written stays when the next is cut short.

    Args:
        job: the parts.
        pool: the actors that hold the backbone.
        memory: bytes of batches that may wait in the object store.
        progress: called with (images done, images in all).
    """
    images = len(prepared_images(job.cache, job.manifest).shard_of)
    blocks = len(job.parts) * job.spec.stream.steps(images)
    limit_execution(memory)
    features: ray.data.Dataset = (
        numbered_tasks(blocks, 1)
        .map_batches(_make_batches, batch_size=None, **by_tasks(pool), fn_kwargs={"job": job, "images": images})
        .map_batches(
            Embedder,
            fn_constructor_args=(job.recipe, job.backbone, job.parts, pool.threads),
            **by_actors(pool, blocks, job.spec.stream.batch_size),
        )
    )
    batches = features.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0)
    _write_parts(iter(batches), job.parts, job.folder, images, progress)


def _write_parts(blocks: Iterator[dict[str, Any]], parts: Sequence[str], folder: Path, images: int, progress: Progress) -> None:
    """Blocks come in the order of the parts."""
    rest: dict[str, Any] | None = None
    for number, part in enumerate(parts):
        with replacing(part_path(folder, part)) as draft:
            filled, array = 0, None
            while filled < images:
                block = rest or next(blocks)
                here = block["part"] == number
                rest = None if here.all() else {name: values[~here] for name, values in block.items()}
                if array is None:
                    shape = (images, block["features"].shape[1])
                    array = np.lib.format.open_memmap(draft, mode="w+", dtype=np.float32, shape=shape)
                array[block["row"][here]] = block["features"][here]
                filled += int(here.sum())
                progress(number * images + filled, len(parts) * images)
            assert array is not None, "a manifest has rows"
            array.flush()
            del array


def _make_batches(numbers: dict[str, Any], job: EmbedJob, images: int) -> Iterator[dict[str, Any]]:
    prepared, stream = prepared_images(job.cache, job.manifest), job.spec.stream
    for number in numbers["item"].tolist():
        part, step = divmod(number, stream.steps(images))
        first = step * stream.batch_size
        rows = np.arange(first, min(first + stream.batch_size, images))
        if augmented := re.fullmatch(r"pass-(\d+)", job.parts[part]):
            pixels = stream_augmenter(stream)(prepared.read(rows), stream.seed, int(augmented[1]), rows)
        else:
            pixels = prepared.seen_by(stream.input).read(rows)
        yield {"image": pixels, "row": rows, "part": np.full(len(rows), part)}


class Embedder:
    """An actor that holds a backbone: blocks of images -> blocks of (n, F) float32 features."""

    def __init__(self, recipe: Recipe, backbone: Path, parts: Sequence[str], threads: int) -> None:
        from raymask.training.extractor import FeatureExtractor  # with torch, which the driver never loads

        self.parts = parts
        self.extractor = FeatureExtractor(recipe, backbone, threads)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Features of a block of images; those of a view's part are seen under that view."""
        features = []
        order = np.argsort(batch["part"], kind="stable")
        for part in np.unique(batch["part"]):
            name = self.parts[part]
            view = name.removeprefix("view-") if name.startswith("view-") else "original"
            features.append(self.extractor(batch["image"][batch["part"] == part], view))
        return {"features": np.concatenate(features), "row": batch["row"][order], "part": batch["part"][order]}
