"""Prediction of any number of images, shard by shard, by a Ray Data actor pool: what is written is not predicted again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from raymask.config.schema import RunConfig
from raymask.core.errors import InputError
from raymask.core.types import ActorPool, ByHead, Progress
from raymask.data.stream import limit_execution
from raymask.inference.actors import Block, Pipeline
from raymask.inference.definition import EnsembleDefinition, Models, weights_bytes
from raymask.io.atomic import replacing, write_table
from raymask.io.checked import read_table
from raymask.io.hashing import UNKNOWN, Version, file_stamp, fingerprint, text_digest, versions_of
from raymask.io.parquet import open_parquet
from raymask.runs.digests import remembered_digests
from raymask.runs.folders import ModelFiles, PredictionFolder
from raymask.runs.schemas import PredictionJob, read_run_file, write_run_file

IMAGES_PER_CHUNK = 64
CHUNKS_PER_SHARD = 32


def begin(output: PredictionFolder, images: pd.DataFrame, identity: str) -> list[str]:
    """Opens a folder of predictions, new or cut off, and forgets the shards of images that have changed since.

    Args:
        output: the folder, which `raymask.runs.outputs` has checked.
        images: image_id and path, and group where the vote goes by these.
        identity: what tells this vote and its models from others.

    Returns:
        Ids of the images that have changed since they were predicted.

    Raises:
        InputError: the folder holds predictions of other images, in other groups or by another vote.
    """
    told = images[[name for name in ("image_id", "group") if name in images]]
    wanted = PredictionJob(images=len(images), fingerprint=text_digest(identity, fingerprint(told)))
    begun = output.job.exists()
    if begun and read_run_file(output.job, PredictionJob) != wanted:
        raise InputError(
            f"'{output.root}' holds predictions of other images, in other groups or by other models; choose another --out."
        )
    known = read_table(output.images, {"image_id": "text", "path": "text"}) if begun else images.head(0)
    if not begun or known["path"].tolist() != images["path"].tolist():
        output.root.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pandas(images[["image_id", "path"]], preserve_index=False)
        with replacing(output.images) as draft:
            pq.write_table(table, draft, row_group_size=IMAGES_PER_CHUNK)
        write_run_file(output.job, wanted)
    return _forget_changed(output, images, known)


def _forget_changed(output: PredictionFolder, images: pd.DataFrame, known: pd.DataFrame) -> list[str]:
    """Removes the shards of images whose files hold something else than what was predicted; returns those images' ids."""
    size, changed = IMAGES_PER_CHUNK * CHUNKS_PER_SHARD, list[str]()
    for number in range(-(-len(known) // size)):
        if not output.shard(number).exists():
            continue
        here = slice(number * size, (number + 1) * size)
        then, now = known[here], images[here]
        if not output.versions(number).exists():
            output.shard(number).unlink()  # of an older raymask
            continue
        read = read_table(output.versions(number), {"stamp": "text", "digest": "text"})
        rows = zip(read["stamp"], read["digest"], then["path"].to_numpy() == now["path"].to_numpy(), strict=True)
        before = [Version(stamp if in_place else "", digest) for stamp, digest, in_place in rows]
        after = versions_of(now["path"].tolist(), before)
        other = [one.digest != another.digest for one, another in zip(before, after, strict=True)]
        if any(other):
            output.shard(number).unlink()
            changed += now["image_id"][other].tolist()
    return changed


def identity_of(definition: EnsembleDefinition, config: RunConfig) -> str:
    """Tells a vote and its models apart, by the contents of their files.

    Args:
        definition: who votes.
        config: says where digests are remembered.
    """
    files = [str(file) for folder in definition.models.values() for file in (ModelFiles(folder).meta, ModelFiles(folder).weights)]
    parts = [definition.vote.to_json(), definition.prior.tolist(), list(definition.models), remembered_digests(files, config)]
    sets = [
        {target: least.tolist() for target, least in of.least.items()} for of in (definition.sets, definition.sets_by_group) if of
    ]
    sets += [definition.doubt.quantiles.tolist()] if definition.doubt else []
    return json.dumps([*parts, *([sets] if sets else [])], sort_keys=True)


def missing_shards(output: PredictionFolder, images: int) -> list[int]:
    """Shards that are not written yet."""
    shards = -(-images // (IMAGES_PER_CHUNK * CHUNKS_PER_SHARD))
    return [number for number in range(shards) if not output.shard(number).exists()]


def split_models(models: Models, most_bytes: float) -> list[Models]:
    """Models in groups of so many bytes of weights at most, in order; one too large for it is alone in its group."""
    groups: list[dict[str, Path]] = [{}]
    filled = 0.0
    for name, folder in models.items():
        size = weights_bytes({name: folder})
        if groups[-1] and filled + size > most_bytes:
            groups.append({})
            filled = 0.0
        groups[-1][name] = folder
        filled += size
    return [group for group in groups if group]


def predict_shards(
    definition: EnsembleDefinition,
    groups: Sequence[Models],
    output: PredictionFolder,
    pool: ActorPool,
    memory: int,
    progress: Progress,
) -> None:
    """Predicts the shards that are missing.

    The driver holds numbers of chunks and the results of the shards that are on their way, never images.

    Args:
        definition: who votes.
        groups: the models that share an actor; several groups are passed one after the other.
        output: where the images are named and shards are written.
        pool: the actors of all groups together.
        memory: bytes of blocks that may wait in the object store.
        progress: called with (images done, images in all).

    Raises:
        InputError: there are fewer GPUs than groups.
    """
    images = read_run_file(output.job, PredictionJob).images
    shards = missing_shards(output, images)
    done = images - sum(_images_of(number, images) for number in shards)
    progress(done, images)
    if not shards:
        return
    chunks = [chunk for number in shards for chunk in _chunks_of(number, images)]
    limit_execution(memory)
    rows, finish = partial(chunk_rows, output), partial(voted_rows, definition)
    blocks = Pipeline(groups, definition.vote.views, pool, output.root, rows, finish).blocks(chunks, IMAGES_PER_CHUNK)
    waiting: dict[int, list[pd.DataFrame]] = {}
    for block in blocks.iter_batches(batch_size=None, batch_format="pandas", prefetch_batches=0):
        for chunk, rows in block.groupby("chunk", sort=False):
            shard = int(chunk) // CHUNKS_PER_SHARD
            waiting.setdefault(shard, []).append(rows)
            if sum(map(len, waiting[shard])) == _images_of(shard, images):
                whole = pd.concat(waiting.pop(shard)).sort_values("row", kind="stable")
                whole = whole.drop(columns=["chunk", "row"]).reset_index(drop=True)
                write_table(output.versions(shard), whole[["stamp", "digest"]])
                write_table(output.shard(shard), whole.drop(columns=["stamp", "digest"]))
            done += len(rows)
            progress(done, images)
    assert not waiting, "every image of a shard is predicted once"


def _images_of(shard: int, images: int) -> int:
    size = IMAGES_PER_CHUNK * CHUNKS_PER_SHARD
    return min(images - shard * size, size)


def _chunks_of(shard: int, images: int) -> range:
    first = shard * CHUNKS_PER_SHARD
    return range(first, first + -(-_images_of(shard, images) // IMAGES_PER_CHUNK))


@lru_cache(maxsize=2)
def _opened(file: Path, stamp: str) -> pq.ParquetFile:  # noqa: ARG001
    return open_parquet(file)


def chunk_rows(output: PredictionFolder, chunk: int) -> Block:
    """The columns of a chunk's images: its number, row, image_id, path, and the stamp and digest of each file."""
    table = _opened(output.images, file_stamp(output.images)).read_row_group(chunk).to_pandas()
    paths = table["path"].tolist()
    versions = versions_of(paths, [UNKNOWN] * len(paths))
    return {
        "chunk": np.full(len(table), chunk),
        "row": chunk * IMAGES_PER_CHUNK + np.arange(len(table)),
        "image_id": table["image_id"].to_numpy(dtype=object),
        "path": paths,
        "stamp": np.asarray([version.stamp for version in versions], dtype=object),
        "digest": np.asarray([version.digest for version in versions], dtype=object),
    }


def voted_rows(definition: EnsembleDefinition, block: Block, probabilities: Mapping[str, ByHead]) -> pd.DataFrame:
    """The voted rows of a block, with where they belong and what their files held."""
    table = definition.table(block["image_id"], block["problem"], probabilities)
    return table.assign(**{name: block[name] for name in ("chunk", "row", "stamp", "digest")})


def read_predictions(output: PredictionFolder, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """All shards as one table, in the order of the images; some columns alone where they are named."""
    parts = output.shards()
    wanted = None if columns is None else list(columns)
    tables = [open_parquet(part).read(columns=wanted) for part in parts]
    return pd.DataFrame(pa.concat_tables(tables).to_pandas())
