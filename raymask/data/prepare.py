"""Decode, crop and resize every image once, on all CPUs of the cluster, into a cache keyed by content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ray.data

from raymask.core.types import Progress
from raymask.data.cache import index_path, shard_path, shard_rows
from raymask.data.careful import decode_files
from raymask.data.specs import InputSpec
from raymask.data.stream import RETRIES
from raymask.io.atomic import replacing, write_table


def prepare(images: pd.DataFrame, spec: InputSpec, folder: Path, progress: Progress) -> None:
    """Writes the cache of these images.

    Args:
        images: image_id, path and digest of each.
        spec: the preparing steps.
        folder: the cache's folder as `find_cache` names it, one that every node of the cluster sees.
        progress: called with (images done, images in all).
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = shard_rows(spec)
    images = images.sort_values("path", kind="stable")  # as they lie on disk: those in one Parquet file are read in a stretch
    ids, paths = images["image_id"].tolist(), images["path"].tolist()
    shards = [
        {"shard": shard, "image_id": ids[start : start + rows], "path": paths[start : start + rows]}
        for shard, start in enumerate(range(0, len(images), rows))
    ]
    written = ray.data.from_items(shards, override_num_blocks=len(shards)).map_batches(
        _write_shards, batch_size=1, batch_format="pandas", max_retries=RETRIES, fn_kwargs={"folder": folder, "spec": spec}
    )
    parts, done = [], 0
    for part in written.iter_batches(batch_size=None, batch_format="pandas", prefetch_batches=0):
        parts.append(part)
        done += len(part)
        progress(done, len(images))
    index = pd.concat(parts, ignore_index=True).sort_values(["shard", "offset"], kind="stable")
    write_table(index_path(folder), index)


def _write_shards(batch: pd.DataFrame, folder: Path, spec: InputSpec) -> Iterator[dict[str, Any]]:
    for shard, ids, paths in batch[["shard", "image_id", "path"]].itertuples(index=False):
        decoded = decode_files(paths, [spec], shard_path(folder, shard).with_suffix(".decoding"))
        pixels = [images[0] for problem, images in decoded if not problem]
        with replacing(shard_path(folder, shard)) as draft, draft.open("wb") as file:
            np.save(file, np.stack(pixels) if pixels else np.empty((0, spec.height, spec.width, 3), dtype=np.uint8))
        problems = [problem for problem, _ in decoded]
        whole = np.array([not problem for problem in problems])
        yield {
            "image_id": np.asarray(ids, dtype=object),
            "shard": np.full(len(whole), shard, dtype=np.int64),
            "offset": np.cumsum(whole, dtype=np.int64) - 1,
            "problem": np.asarray(problems, dtype=object),
        }
