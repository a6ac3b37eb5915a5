"""Prediction of new images by a Ray Data actor pool: decoded once, then every replica under every view."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import ray.data
from ray.data import ActorPoolStrategy

from raymask.config import Recipe
from raymask.data.decode import InputSpec, decode_file
from raymask.plan import ActorPool, input_spec
from raymask.store import ReplicaId, Run, read_json

if TYPE_CHECKING:
    from raymask.models import Classifier

IMAGES_PER_TASK = 64
PIXELS = "pixels"


def predict(
    run: Run,
    images: pd.DataFrame,
    replicas: Sequence[ReplicaId],
    views: Sequence[str],
    pool: ActorPool,
    progress: Callable[[int, int], None],
) -> pd.DataFrame:
    """Every replica's probabilities for each image, averaged over the views.

    Args:
        run: where the replicas lie.
        images: image_id and path of each.
        replicas: who predicts.
        views: test-time augmentations to average over.
        pool: the actors.
        progress: called with (images done, images in all).

    Returns:
        One row an image, sorted by image_id: image_id, problem ("" or why the image is broken, its probabilities then being
        NaN), and a float32 column `MEMBER/fold-K|HEAD:CLASS` for each probability.
    """
    specs = sorted({input_spec(recipe_of(run, replica)) for replica in replicas})
    ids, paths = images["image_id"].tolist(), images["path"].tolist()
    size = max(1, min(IMAGES_PER_TASK, math.ceil(len(images) / pool.size)))
    chunks = [
        {"image_id": ids[start : start + size], "path": paths[start : start + size]} for start in range(0, len(images), size)
    ]
    predicted = (
        ray.data.from_items(chunks, override_num_blocks=len(chunks))
        .map_batches(_decode, batch_size=1, batch_format="pandas", num_cpus=pool.decode_cpus, fn_kwargs={"specs": specs})
        .map_batches(
            Predictor,
            fn_constructor_args=(run, tuple(replicas), tuple(views), tuple(specs), pool.threads),
            compute=ActorPoolStrategy(size=min(pool.size, len(chunks))),
            batch_size=None,  # with a number Ray would bundle as many chunks, of many images each, into one task
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
        )
    )
    parts, done = [], 0
    for part in predicted.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
        parts.append({name: np.array(values) for name, values in part.items()})
        done += len(part["image_id"])
        progress(done, len(images))
    names = [column for replica in replicas for column in columns_of(run, replica)]
    table = pd.DataFrame(np.concatenate([part["probabilities"] for part in parts]), columns=names)
    for position, key in enumerate(("image_id", "problem")):
        table.insert(position, key, np.concatenate([part[key] for part in parts]).astype(str))
    return table.sort_values("image_id", kind="stable").reset_index(drop=True)


def recipe_of(run: Run, replica: ReplicaId) -> Recipe:
    """The recipe that a finished replica was trained by."""
    return Recipe.model_validate(read_json(run.meta(replica))["recipe"])


def columns_of(run: Run, replica: ReplicaId) -> list[str]:
    """Names of the probabilities of a finished replica, in order: `MEMBER/fold-K|HEAD:CLASS`."""
    classes = read_json(run.meta(replica))["classes"]
    return [f"{replica}|{head}:{name}" for head, names in classes.items() for name in names]


def _decode(chunks: pd.DataFrame, specs: Sequence[InputSpec]) -> Iterator[dict[str, Any]]:
    """Blocks of image_id, problem, and (n, H, W, 3) uint8 pixels for each spec; black where the image is broken."""
    black = [np.zeros((spec.height, spec.width, 3), dtype=np.uint8) for spec in specs]
    for ids, paths in chunks[["image_id", "path"]].itertuples(index=False):
        decoded = [decode_file(path, specs) for path in paths]
        yield {
            "image_id": np.asarray(ids, dtype=object),
            "problem": np.asarray([problem for problem, _ in decoded], dtype=object),
            **{f"{PIXELS}{place}": np.stack([(images or black)[place] for _, images in decoded]) for place in range(len(specs))},
        }


class Predictor:
    """An actor that holds all replicas; those with one frozen backbone share its forward pass."""

    def __init__(
        self, run: Run, replicas: Sequence[ReplicaId], views: Sequence[str], specs: Sequence[InputSpec], threads: int
    ) -> None:
        from raymask.device import prepare_process
        from raymask.engine import mixed_precision
        from raymask.models import load_classifier, quicken_prediction

        self.device = prepare_process(threads)
        self.views, self.replicas = views, list(replicas)
        self.groups: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        """Places of the replicas that share a backbone, by the place of the spec of their images."""
        self.models: list[Classifier] = []
        self.amp: list[Callable[[], AbstractContextManager[Any]]] = []
        for place, replica in enumerate(replicas):
            meta = read_json(run.meta(replica))
            recipe = Recipe.model_validate(meta["recipe"])
            heads = {head: len(names) for head, names in meta["classes"].items()}
            model = load_classifier(recipe, heads, run.weights(replica))
            group = self.groups[specs.index(input_spec(recipe))][meta["frozen_backbone"] or str(replica)]
            if group:
                model.backbone = self.models[group[0]].backbone
            else:
                quicken_prediction(model, recipe)
            group.append(place)
            self.models.append(model.to(self.device))
            self.amp.append(mixed_precision(recipe, self.device)[0])

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Blocks of `_decode` -> blocks of image_id, problem and (n, sum of C) float32 probabilities."""
        import torch

        with torch.inference_mode():
            by_replica = self._probabilities(batch)
        probabilities = np.concatenate([by_replica[place] for place in range(len(self.replicas))], axis=1)
        probabilities[batch["problem"] != ""] = np.nan
        return {"image_id": batch["image_id"], "problem": batch["problem"], "probabilities": probabilities}

    def _probabilities(self, batch: dict[str, Any]) -> dict[int, npt.NDArray[np.float32]]:
        """(n, C of all heads) mean over the views, by place of the replica."""
        import torch

        from raymask.models import to_pixels
        from raymask.tta import VIEWS

        sums: dict[int, Any] = {}
        for spec, backbones in self.groups.items():
            pixels = to_pixels(np.ascontiguousarray(batch[f"{PIXELS}{spec}"]), self.device)
            for view in self.views:
                viewed, normalised = VIEWS[view](pixels), {}
                for places in backbones.values():
                    model = self.models[places[0]]
                    if model.statistics not in normalised:
                        normalised[model.statistics] = model.normalise(viewed)
                    with self.amp[places[0]]():
                        features = model.backbone(normalised[model.statistics])
                        for place in places:
                            logits = self.models[place].classify(features)
                            said = torch.cat([of_head.float().softmax(dim=1) for of_head in logits.values()], dim=1)
                            sums[place] = sums[place] + said if place in sums else said
        return {place: (total / len(self.views)).cpu().numpy() for place, total in sums.items()}
