"""Prediction by a Ray Data actor pool, for the test set and for any number of images alike: decoded once, then all models.

Chunks of rows are decoded by tasks to blocks of pixels, which pass the actors of one group of models after the other. The last
one finishes a block: of the test set it joins the models' probabilities, of shards it votes, so that what leaves the actors is
small. `predict` gathers the blocks to one table, `raymask.inference.bulk` writes them shard by shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ray.data

from raymask.cluster.resources import even_chunk, split_pool
from raymask.core.columns import probability_columns
from raymask.core.types import ActorPool, ByHead, Progress
from raymask.data.careful import decode_files
from raymask.data.specs import InputSpec
from raymask.data.stream import by_actors, by_tasks
from raymask.inference.definition import Models
from raymask.inference.predictor import Predictor, specs_of, stacked
from raymask.io.hashing import text_digest
from raymask.runs.directory import ReplicaId, Run
from raymask.runs.models import read_model
from raymask.transforms.tta import ViewPlan

IMAGES_PER_TASK = 64
PIXELS, PROBABILITIES = "pixels", "probabilities"

Block = dict[str, Any]
"""Columns of some images: their rows', `problem`, `pixelsI` (n, H, W, 3) uint8 by spec, and models' probabilities by head."""

Rows = Callable[[Any], Block]
"""From a chunk to the columns of its images, `path` among them."""

Finish = Callable[[Block, Mapping[str, ByHead]], Any]
"""From a block and all models' (n, C) float32 probabilities by head to what leaves the last actor."""


@dataclass(frozen=True)
class Pipeline:
    """Decoding tasks, and actors of groups of models that pass blocks on."""

    groups: Sequence[Models]
    """The models that share an actor."""
    views: ViewPlan
    """Test-time augmentations, how much each counts, and how they are merged."""
    pool: ActorPool
    """The actors of all groups together."""
    folder: Path
    """Where it is marked which files are being decoded, see `raymask.data.careful`."""
    rows: Rows
    finish: Finish

    def blocks(self, chunks: Sequence[Any], images_per_chunk: int) -> ray.data.Dataset:
        """The finished blocks, one a chunk, in any order.

        Raises:
            InputError: there are fewer GPUs than groups.
        """
        specs = tuple(specs_of({name: folder for group in self.groups for name, folder in group.items()}))
        of_group = split_pool(self.pool, len(self.groups))
        given = {"rows": self.rows, "specs": specs, "folder": self.folder}
        blocks = ray.data.from_items([{"chunk": chunk} for chunk in chunks], override_num_blocks=len(chunks)).map_batches(
            decode_chunks, batch_size=1, batch_format="pandas", **by_tasks(of_group), fn_kwargs=given
        )
        for group in self.groups:
            finish = self.finish if group is self.groups[-1] else None
            blocks = blocks.map_batches(
                PredictActor,
                fn_constructor_args=(group, self.views, specs, self.pool.threads, finish),
                **by_actors(of_group, len(chunks), images_per_chunk),
            )
        return blocks


def decode_chunks(chunks: pd.DataFrame, rows: Rows, specs: Sequence[InputSpec], folder: Path) -> Iterator[Block]:
    """Blocks of one chunk: its rows without their paths, problem, and pixels for each spec."""
    for chunk in chunks["chunk"]:
        block = rows(chunk)
        paths = block.pop("path")
        yield {**block, **decoded_block(paths, specs, folder)}


def decoded_block(paths: Sequence[str], specs: Sequence[InputSpec], folder: Path) -> Block:
    """A block's `problem` ("" where there is none) and (n, H, W, 3) uint8 pixels by spec; black where the image is broken.

    Args:
        paths: the files.
        specs: of the pixels.
        folder: where it is marked which files are being decoded, see `raymask.data.careful`.
    """
    decoded = decode_files(paths, specs, folder / f".decoding-{text_digest(*paths)[:12]}")
    pixels = {f"{PIXELS}{index}": images for index, images in enumerate(stacked(decoded, specs))}
    return {"problem": np.asarray([problem for problem, _ in decoded], dtype=object), **pixels}


class PredictActor:
    """An actor that holds one group of models; that of the last group finishes blocks."""

    def __init__(
        self, models: Models, views: ViewPlan, specs: Sequence[InputSpec], threads: int, finish: Finish | None = None
    ) -> None:
        self.predictor, self.inputs, self.finish = Predictor(models, views, specs, threads), range(len(specs)), finish

    def __call__(self, block: Block) -> Any:
        """A block with the probabilities of this group's models beside those of the groups before; of the last, finished."""
        predicted = self.predictor.probabilities([block[f"{PIXELS}{index}"] for index in self.inputs])
        for name, probabilities in predicted.items():
            block |= {f"{PROBABILITIES}|{name}|{head}": head_probs for head, head_probs in probabilities.items()}
        return self.finish(block, _by_model(block)) if self.finish else block


def _by_model(block: Block) -> dict[str, dict[str, Any]]:
    """Probabilities by model and head, in the order in which they were predicted."""
    by_model: dict[str, dict[str, Any]] = {}
    for column, values in block.items():
        if column.startswith(f"{PROBABILITIES}|"):
            model, head = column.removeprefix(f"{PROBABILITIES}|").rsplit("|", 1)  # a run's folder, so a model, may hold a bar
            by_model.setdefault(model, {})[head] = values
    return by_model


def predict(
    run: Run, images: pd.DataFrame, replicas: Sequence[ReplicaId], views: ViewPlan, pool: ActorPool, progress: Progress
) -> pd.DataFrame:
    """Every model's probabilities for each image, its views merged.

    Args:
        run: where the models lie.
        images: image_id and path of each.
        replicas: the models, whose files are checked already.
        views: test-time augmentations, how much each counts, and how they are merged.
        pool: the actors.
        progress: called with (images done, images in all).

    Returns:
        One row an image, sorted by image_id: image_id, problem ("" or why the image is broken, its probabilities then being
        NaN), and a float32 column `MEMBER/fold-K|HEAD:CLASS` for each probability.
    """
    models = {str(replica): run.replica(replica) for replica in replicas}
    ids, paths = images["image_id"].tolist(), images["path"].tolist()
    size = even_chunk(len(ids), pool.size, IMAGES_PER_TASK)
    chunks = [{"image_id": ids[start : start + size], "path": paths[start : start + size]} for start in range(0, len(ids), size)]
    blocks = Pipeline([models], views, pool, run.root, rows_of_chunk, joined).blocks(chunks, size)
    parts, done = [], 0
    for part in blocks.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
        parts.append({name: np.array(values) for name, values in part.items()})
        done += len(part["image_id"])
        progress(done, len(images))
    table = pd.DataFrame(np.concatenate([part["probabilities"] for part in parts]), columns=columns_of(models))
    for position, key in enumerate(("image_id", "problem")):
        table.insert(position, key, np.concatenate([part[key] for part in parts]).astype(str))
    return table.sort_values("image_id", kind="stable").reset_index(drop=True)


def columns_of(models: Mapping[str, Path]) -> list[str]:
    """Names of the probabilities of finished models, in order: `MEMBER/PART|HEAD:CLASS`."""
    return [column for model, folder in models.items() for column in probability_columns(read_model(folder).classes, model)]


def rows_of_chunk(chunk: Mapping[str, Sequence[str]]) -> Block:
    """The columns of a chunk that carries its own rows."""
    return {"image_id": np.asarray(chunk["image_id"], dtype=object), "path": list(chunk["path"])}


def joined(block: Block, probabilities: Mapping[str, ByHead]) -> Block:
    """image_id, problem and (n, sum of C) float32 probabilities; NaN where there is a problem."""
    heads = [head_probs for by_head in probabilities.values() for head_probs in by_head.values()]
    together = np.concatenate(heads, axis=1)
    together[block["problem"] != ""] = np.nan
    return {"image_id": block["image_id"], "problem": block["problem"], "probabilities": together}
