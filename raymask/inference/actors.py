"""Every replica's probabilities of images by a Ray Data actor pool: decoded once, then all replicas under every view."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ray.data

from raymask.cluster.resources import even_chunk
from raymask.core.columns import probability_columns
from raymask.core.types import ActorPool
from raymask.data.careful import decode_files
from raymask.data.specs import InputSpec
from raymask.data.stream import by_actors, by_tasks
from raymask.inference.definition import check_models
from raymask.inference.predictor import Predictor, specs_of, stacked
from raymask.io.hashing import text_digest
from raymask.runs.directory import ReplicaId, Run
from raymask.runs.models import read_model
from raymask.transforms.tta import ViewPlan

IMAGES_PER_TASK = 64
PIXELS = "pixels"


def predict(
    run: Run,
    images: pd.DataFrame,
    replicas: Sequence[ReplicaId],
    views: ViewPlan,
    pool: ActorPool,
    progress: Callable[[int, int], None],
) -> pd.DataFrame:
    """Every replica's probabilities for each image, its views merged.

    Args:
        run: where the replicas lie.
        images: image_id and path of each.
        replicas: who predicts.
        views: test-time augmentations, how much each counts, and how they are merged.
        pool: the actors.
        progress: called with (images done, images in all).

    Returns:
        One row an image, sorted by image_id: image_id, problem ("" or why the image is broken, its probabilities then being
        NaN), and a float32 column `MEMBER/fold-K|HEAD:CLASS` for each probability.
    """
    models = {str(replica): run.replica(replica) for replica in replicas}
    check_models(models)
    specs = specs_of(models)
    ids, paths = images["image_id"].tolist(), images["path"].tolist()
    size = even_chunk(len(images), pool.size, IMAGES_PER_TASK)
    chunks = [
        {"image_id": ids[start : start + size], "path": paths[start : start + size]} for start in range(0, len(images), size)
    ]
    predicted = (
        ray.data.from_items(chunks, override_num_blocks=len(chunks))
        .map_batches(
            _decode, batch_size=1, batch_format="pandas", **by_tasks(pool), fn_kwargs={"specs": specs, "folder": run.root}
        )
        .map_batches(
            PredictActor,
            fn_constructor_args=(models, views, tuple(specs), pool.threads),
            **by_actors(pool, len(chunks), size),
        )
    )
    parts, done = [], 0
    for part in predicted.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
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


def _decode(chunks: pd.DataFrame, specs: Sequence[InputSpec], folder: Path) -> Iterator[dict[str, Any]]:
    """Blocks of image_id, problem, and (n, H, W, 3) uint8 pixels for each spec; black where the image is broken."""
    for ids, paths in chunks[["image_id", "path"]].itertuples(index=False):
        yield {"image_id": np.asarray(ids, dtype=object), **decoded_block(paths, specs, folder)}


def decoded_block(paths: Sequence[str], specs: Sequence[InputSpec], folder: Path) -> dict[str, Any]:
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
    """An actor that holds all models."""

    def __init__(self, models: Mapping[str, Path], views: ViewPlan, specs: Sequence[InputSpec], threads: int) -> None:
        self.predictor, self.places = Predictor(models, views, specs, threads), range(len(specs))

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        """Blocks of `_decode` -> blocks of image_id, problem and (n, sum of C) float32 probabilities."""
        probs = self.predictor([block[f"{PIXELS}{index}"] for index in self.places])
        probabilities = np.concatenate([head_probs for of_model in probs for head_probs in of_model.values()], axis=1)
        probabilities[block["problem"] != ""] = np.nan
        return {"image_id": block["image_id"], "problem": block["problem"], "probabilities": probabilities}
