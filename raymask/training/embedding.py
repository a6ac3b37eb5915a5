"""Features of a frozen backbone by a Ray Data actor pool: the stream's passes and the views, each image once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray.data

from raymask.config.recipe import Recipe
from raymask.core.types import ActorPool
from raymask.data.features import part_path
from raymask.data.specs import BankSpec
from raymask.data.stream import by_actors, by_tasks, limit_execution, numbered_tasks, prepared_images, stream_augmenter
from raymask.io.atomic import replacing

Progress = Callable[[int, int], None]


def embed(
    spec: BankSpec,
    parts: Sequence[str],
    folder: Path,
    recipe: Recipe,
    backbone: Path,
    cache: Path,
    manifest: Path,
    pool: ActorPool,
    memory: int,
    progress: Progress,
) -> None:
    """Writes parts of a feature bank, one file after the other; what is written stays when the next is cut short.

    Args:
        spec: the bank.
        parts: names of the parts to compute.
        folder: where they go.
        recipe: the backbone's recipe.
        backbone: file of its weights.
        cache: folder of the prepared images.
        manifest: file whose rows the features belong to.
        pool: the actors that hold the backbone.
        memory: bytes of batches that may wait in the object store.
        progress: called with (images done, images in all).
    """
    images = len(prepared_images(cache, manifest).shard_of)
    steps = spec.stream.steps(images)
    limit_execution(memory)
    features: ray.data.Dataset = (
        numbered_tasks(len(parts) * steps, 1)
        .map_batches(
            _make_batches,
            batch_size=None,
            **by_tasks(pool),
            fn_kwargs={"spec": spec, "parts": tuple(parts), "cache": cache, "manifest": manifest, "steps": steps},
        )
        .map_batches(
            Embedder,
            fn_constructor_args=(recipe, backbone, tuple(parts), pool.threads),
            **by_actors(pool, len(parts) * steps, spec.stream.batch_size),
        )
    )
    blocks = features.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0)
    _write_parts(iter(blocks), parts, folder, images, progress)


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


def _make_batches(
    numbers: dict[str, Any], spec: BankSpec, parts: Sequence[str], cache: Path, manifest: Path, steps: int
) -> Iterator[dict[str, Any]]:
    prepared = prepared_images(cache, manifest)
    for number in numbers["item"].tolist():
        part, step = divmod(number, steps)
        first = step * spec.stream.batch_size
        rows = np.arange(first, min(first + spec.stream.batch_size, len(prepared.shard_of)))
        images = prepared.read(rows)
        if augmented := re.fullmatch(r"pass-(\d+)", parts[part]):
            images = stream_augmenter(spec.stream.augment)(images, spec.stream.seed, int(augmented[1]), rows)
        yield {"image": images, "row": rows, "part": np.full(len(rows), part)}


class Embedder:
    """An actor that holds a backbone."""

    def __init__(self, recipe: Recipe, backbone: Path, parts: Sequence[str], threads: int) -> None:
        import torch

        from raymask.models.classifier import build_classifier, fuse_for_inference
        from raymask.models.precision import mixed_precision, prepare_process
        from raymask.models.pretrained import load_backbone

        self.parts = parts
        self.device = prepare_process(threads)
        self.model = build_classifier(recipe, {}).eval()
        load_backbone(self.model, backbone)
        fuse_for_inference(self.model, recipe)
        self.model.to(self.device).to(memory_format=torch.channels_last)
        self.amp = mixed_precision(recipe, self.device)[0]

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Blocks of images -> blocks of (n, F) float32 features; those of a view's part are seen under that view."""
        import torch

        from raymask.models.classifier import to_pixels
        from raymask.transforms.tta import VIEWS

        features = []
        order = np.argsort(batch["part"], kind="stable")
        with torch.inference_mode(), self.amp():
            for part in np.unique(batch["part"]):
                name = self.parts[part]
                view = VIEWS[name.removeprefix("view-") if name.startswith("view-") else "original"]
                pixels = to_pixels(batch["image"][batch["part"] == part], self.device).float()  # so that no view rounds
                features.append(self.model.features(view(pixels)).float().cpu().numpy())
        return {"features": np.concatenate(features), "row": batch["row"][order], "part": batch["part"][order]}
