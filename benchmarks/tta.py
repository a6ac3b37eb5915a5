"""Seconds to predict a test set by 15 replicas (3 specialists × 5 folds) under 4 views: raymask against loops that others write.

    python benchmarks/tta.py --people 40 --backbone mobilenetv3_small_050

Each peer is a process that computes with all cores. `work s` begins when its models are loaded. `whole s` begins when the process
has imported what it needs, with raymask when `predict` is called on a Ray that runs already, so that it holds the start of the
actors and their imports. The peers take turns, and the shortest of each counts. `plain` and `ttach` have the allocator as the
system sets it, the others as raymask's workers have it. `limit` is raymask's own actor, or float32 models, over decoded images in
memory: one process a core and nothing else. `difference` from raymask's probabilities is the largest, over how far these vary
from image to image.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import CenterCrop

from benchmarks.common import WORK, environment, photos, show, write_results
from benchmarks.made import write_run
from raymask.cluster.connection import WORKER_ENVIRONMENT, connect
from raymask.cluster.resources import plan_actors
from raymask.config.compute import ComputeConfig
from raymask.config.recipe import Recipe
from raymask.config.schema import RunConfig
from raymask.core.machine import usable_cpus
from raymask.data.decode import Pixels, decode_file
from raymask.data.sources import read_source
from raymask.data.specs import InputSpec, input_spec
from raymask.inference import actors
from raymask.inference.predictor import Predictor
from raymask.io.atomic import write_json
from raymask.io.checked import read_json
from raymask.models.classifier import load_classifier, to_pixels
from raymask.runs.directory import ReplicaId, Run
from raymask.runs.models import read_model
from raymask.transforms.tta import VIEWS, ZOOM_MARGIN, even

VIEW_NAMES = ("original", "hflip", "zoom", "zoom_hflip")
PREDICTED = [VIEWS[name] for name in VIEW_NAMES]
BATCH = 64
CORES = usable_cpus()
CPU = torch.device("cpu")
Answer = Callable[[], list[np.ndarray]]
"""Predicts; what comes before it is not counted as work."""


@dataclass(frozen=True)
class Work:
    """What every peer predicts."""

    run: Run
    replicas: tuple[ReplicaId, ...]
    images: pd.DataFrame
    spec: InputSpec

    @property
    def paths(self) -> list[str]:
        return self.images["path"].tolist()

    def decoded(self) -> Pixels:
        return np.stack([decode_file(path, [self.spec])[1][0] for path in self.paths])


Prepare = Callable[[Work, int], Answer]
"""Gets a peer's process of this number ready."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one turn of a peer."""

    whole: float
    work: float
    probabilities: np.ndarray


def load_models(work: Work) -> list[nn.Module]:
    """Each gives logits of its one head from pixels."""
    models = []
    for replica in work.replicas:
        told = read_model(work.run.replica(replica))
        models.append(OneHead(load_classifier(told.recipe, told.heads, told.weights, told.sha256, told.scales, told.statistics)))
    return models


class OneHead(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        [logits] = self.model(pixels).values()
        return logits.softmax(dim=1)


class Jpegs(Dataset):
    def __init__(self, paths: list[str], size: int) -> None:
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> Tensor:
        pixels = cv2.cvtColor(cv2.imread(self.paths[place]), cv2.COLOR_BGR2RGB)
        side = min(pixels.shape[:2])
        top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
        square = cv2.resize(pixels[top : top + side, left : left + side], (self.size, self.size), interpolation=cv2.INTER_AREA)
        return torch.from_numpy(square).permute(2, 0, 1).contiguous()


def plain(work: Work, number: int) -> Answer:
    """A DataLoader over the files for each model and view."""
    models, loader = load_models(work), DataLoader(Jpegs(work.paths, work.spec.height), BATCH)
    return lambda: [np.concatenate([mean_of_views(model, loader) for model in models], axis=1)]


def tuned(work: Work, number: int) -> Answer:
    """Images decoded once, views made of tensors, channels-last memory."""
    models = [model.to(memory_format=torch.channels_last) for model in load_models(work)]

    def answer() -> list[np.ndarray]:
        batches = to_pixels(work.decoded(), CPU).split(BATCH)
        return [np.concatenate([mean_of_views(model, batches) for model in models], axis=1)]

    return answer


def mean_of_views(model: nn.Module, batches: Iterable[Tensor]) -> np.ndarray:
    by_view = [torch.cat([model(view(pixels)) for pixels in batches]) for view in PREDICTED]
    return torch.stack(by_view).mean(dim=0).numpy()


def with_ttach(work: Work, number: int) -> Answer:
    """ttach's wrapper of each model; its scaled images are cut back to the model's size, which is the zoom."""
    import ttach

    scales = ttach.Scale([1, 1 / (1 - 2 * ZOOM_MARGIN)], interpolation="bilinear", align_corners=False)
    views, crop = ttach.Compose([ttach.HorizontalFlip(), scales]), CenterCrop([work.spec.height, work.spec.width])
    models = [ttach.ClassificationTTAWrapper(nn.Sequential(crop, model), views) for model in load_models(work)]

    def answer() -> list[np.ndarray]:
        batches = torch.from_numpy(work.decoded()).permute(0, 3, 1, 2).to(torch.float32).contiguous().split(BATCH)
        return [torch.cat([torch.cat([model(pixels) for pixels in batches]) for model in models], dim=1).numpy()]

    return answer


def limit_fp32(work: Work, number: int) -> Answer:
    """All models at once in plain float32, over this process's share of decoded images."""
    models = [model.to(memory_format=torch.channels_last) for model in load_models(work)]
    return over_share(
        work, number, lambda images: np.concatenate([mean_of_views(m, [to_pixels(images, CPU)]) for m in models], 1)
    )


def limit_raymask(work: Work, number: int) -> Answer:
    """raymask's own actor, without Ray, over this process's share of decoded images."""
    models = {str(replica): work.run.replica(replica) for replica in work.replicas}
    predictor = Predictor(models, even(VIEW_NAMES), (work.spec,), 1)

    def predict(images: Pixels) -> np.ndarray:
        return np.concatenate([of_head for of_model in predictor([images]) for of_head in of_model.values()], axis=1)

    return over_share(work, number, predict)


def over_share(work: Work, number: int, predict: Callable[[Pixels], np.ndarray]) -> Answer:
    images = work.decoded()
    chunks = np.array_split(np.array_split(images, CORES)[number], -(-len(images) // (CORES * BATCH)))
    predict(chunks[0])
    return lambda: [predict(chunk) for chunk in chunks]


def process_of_peer(prepare: Prepare, work: Work, number: int, processes: int, barrier: Any, results: Any) -> None:
    began = time.time()
    torch.set_num_threads(CORES // processes)
    with torch.inference_mode():
        answer = prepare(work, number)
        barrier.wait()
        ready = time.time()
        probabilities = np.concatenate(answer())
    results.put((number, began, ready, time.time(), probabilities))


def time_peer(work: Work, prepare: Prepare, processes: int, values: Mapping[str, str]) -> Timing:
    context = mp.get_context("spawn")
    results, barrier = context.Queue(), context.Barrier(processes)
    started = []
    with environment({**values, "OMP_NUM_THREADS": str(CORES // processes)}):
        for number in range(processes):
            arguments = (prepare, work, number, processes, barrier, results)
            started.append(context.Process(target=process_of_peer, args=arguments))
            started[-1].start()
    _, began, ready, done, probabilities = zip(*sorted((results.get() for _ in started), key=lambda part: part[0]), strict=True)
    for process in started:
        process.join()
    return Timing(max(done) - min(began), max(done) - max(ready), np.concatenate(probabilities))


class TimedCrew(actors.PredictActor):
    """Leaves the time at which it was ready in a file."""

    def __init__(self, models: Mapping[str, Path], *arguments: Any) -> None:
        super().__init__(models, *arguments)
        run = next(iter(models.values())).parents[2]
        write_json(run / "ready" / f"{os.getpid()}.json", {"at": time.time()})


def time_raymask(work: Work) -> Timing:
    """On a Ray that runs already; `work` begins when the first actor is ready."""
    shutil.rmtree(work.run.root / "ready", ignore_errors=True)
    with connect(ComputeConfig()) as cluster:
        actors.PredictActor, own = TimedCrew, actors.PredictActor
        began = time.time()
        table = actors.predict(
            work.run, work.images, work.replicas, even(VIEW_NAMES), plan_actors(cluster.nodes), lambda done, of: None
        )
        done = time.time()
        actors.PredictActor = own
    ready = min(read_json(file)["at"] for file in (work.run.root / "ready").iterdir())
    in_order = table.set_index("image_id").loc[work.images["image_id"]].drop(columns="problem")
    return Timing(done - began, done - ready, in_order.to_numpy(np.float32))


PEERS: dict[str, Callable[[Work], Timing]] = {
    "raymask": time_raymask,
    "limit, as raymask": partial(time_peer, prepare=limit_raymask, processes=CORES, values=WORKER_ENVIRONMENT),
    "limit, fp32 eager": partial(time_peer, prepare=limit_fp32, processes=CORES, values=WORKER_ENVIRONMENT),
    "tuned loop": partial(time_peer, prepare=tuned, processes=1, values=WORKER_ENVIRONMENT),
    "ttach": partial(time_peer, prepare=with_ttach, processes=1, values={}),
    "plain loop": partial(time_peer, prepare=plain, processes=1, values={}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=40, help="seven photos each")
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels")
    parser.add_argument("--backbone", default="mobilenetv3_small_050", help="any model name of timm")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    source = read_source(RunConfig.model_validate({"data": {"kind": "competition", "path": str(photos(arguments.people))}}))
    recipe = Recipe(backbone=arguments.backbone, pretrained=False, image_size=arguments.size)
    run, replicas = write_run(WORK / f"tta-{arguments.backbone}", recipe, source.space)
    work = Work(run, replicas, source.images[["image_id", "path"]], input_spec(recipe))
    timings: dict[str, list[Timing]] = {name: [] for name in PEERS}
    for _ in range(arguments.repeats):
        for name, peer in PEERS.items():
            timings[name].append(peer(work))
    rows = compare(timings)
    title = f"{len(work.images)} photos by {len(replicas)} × {arguments.backbone} at {arguments.size} px, {len(PREDICTED)} views"
    show(title, ("peer", *next(iter(rows.values()))), [(name, *row.values()) for name, row in rows.items()])
    seconds = {name: [(turn.whole, turn.work) for turn in turns] for name, turns in timings.items()}
    write_results(f"tta-{arguments.backbone}", {**vars(arguments), "peers": rows, "seconds": seconds})


def compare(timings: Mapping[str, list[Timing]]) -> dict[str, dict[str, float]]:
    best = {name: (min(turn.whole for turn in turns), min(turn.work for turn in turns)) for name, turns in timings.items()}
    plain_whole, plain_work = best["plain loop"]
    said = timings["raymask"][0].probabilities
    return {
        name: {
            "whole s": whole,
            "work s": alone,
            "whole ÷ plain": whole / plain_whole,
            "work ÷ plain": alone / plain_work,
            **{f"work ÷ {limit}": alone / best[limit][1] for limit in ("limit, as raymask", "limit, fp32 eager")},
            "difference": float(np.abs(timings[name][0].probabilities - said).max() / np.ptp(said, axis=0).max()),
        }
        for name, (whole, alone) in best.items()
    }


if __name__ == "__main__":
    main()
