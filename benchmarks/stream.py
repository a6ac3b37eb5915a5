"""Images a second, and images a CPU-second, of the training stream against PyTorch's DataLoader, Ray Data and a plain loop.

    python benchmarks/stream.py --people 100 --augment light

All read the same generated photos of 384×512 pixels, shuffle them anew each epoch and give uint8 batches of one size, with the
same settings of the allocator. A pass is several epochs. The peers take turns, and each one's best pass counts, in which its
processes are warm. CPU time is that of this process and of the peer's workers.
"""

from __future__ import annotations

import argparse
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import albumentations as A  # noqa: N812
import cv2
import numpy as np
import pandas as pd
import psutil
import ray.data
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.common import WORK, keep_memory, photos, show, write_results
from raymask.cluster.connection import connect
from raymask.cluster.resources import plan_slots
from raymask.config.components import ScheduleConfig
from raymask.config.compute import ComputeConfig
from raymask.config.recipe import Recipe
from raymask.config.schema import RunConfig
from raymask.data.cache import PreparedImages, find_cache, open_cache
from raymask.data.folds import assign_folds
from raymask.data.prepare import prepare
from raymask.data.sampling import make_batch
from raymask.data.sources import read_source
from raymask.data.specs import StreamSpec, stream_spec
from raymask.data.stream import open_batch_sampler, stream
from raymask.io.atomic import write_table
from raymask.transforms.augment import Augmenter, resolve_augment

RAY_PEERS = ("raymask, prepared", "raymask, cold", "Ray Data, JPEG")
KINDS = ("JPEG", "prepared")
RATIOS = {(kind, of): f"{of} ÷ {kind}" for kind in KINDS for of in ("rate", "per_cpu")}
Peer = Callable[[], Iterator[int]]
"""Gives the number of images of each batch of a pass."""


@dataclass
class Pass:
    """What one pass took."""

    rate: float
    """Images a second."""
    per_cpu: float
    """Images a CPU-second."""
    first: float
    """Seconds to the first batch."""

    @classmethod
    def best(cls, passes: Sequence[Pass]) -> Pass:
        """The best of each figure."""
        return cls(max(p.rate for p in passes), max(p.per_cpu for p in passes), min(p.first for p in passes))


class Jpegs(Dataset):
    """Files decoded at the smallest of libjpeg's scales that holds the size, as a careful user of cv2 would."""

    def __init__(self, paths: list[str], size: int, transforms: A.Compose) -> None:
        self.paths, self.size, self.transforms = paths, size, transforms
        shorter = min(cv2.imread(paths[0]).shape[:2])
        scale = max(scale for scale in (1, 2, 4, 8) if shorter // scale >= size)
        self.flag = cv2.IMREAD_COLOR if scale == 1 else getattr(cv2, f"IMREAD_REDUCED_COLOR_{scale}")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> tuple[np.ndarray, int]:
        pixels = cv2.cvtColor(cv2.imread(self.paths[place], self.flag), cv2.COLOR_BGR2RGB)
        side = min(pixels.shape[:2])
        top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
        square = pixels[top : top + side, left : left + side]
        return self.transforms(image=cv2.resize(square, (self.size, self.size), interpolation=cv2.INTER_AREA))["image"], place


class Prepared(Dataset):
    """The prepared images, read from the cache."""

    def __init__(self, prepared: PreparedImages, transforms: A.Compose) -> None:
        self.prepared, self.transforms = prepared, transforms

    def __len__(self) -> int:
        return len(self.prepared.shard_of)

    def __getitem__(self, place: int) -> tuple[np.ndarray, int]:
        return self.transforms(image=self.prepared.read([place])[0])["image"], place


@dataclass
class Work:
    """What every peer streams."""

    images: pd.DataFrame
    spec: StreamSpec
    transforms: list[dict[str, Any]]
    manifest: Path
    cache: Path

    def compose(self) -> A.Compose:
        named = [pair for transform in self.transforms for pair in transform.items()]
        return A.Compose([getattr(A, name)(**arguments) for name, arguments in named])

    def prepared(self) -> PreparedImages:
        return open_cache(self.cache, self.images["image_id"])


def of_loader(dataset: Dataset, spec: StreamSpec, workers: int) -> Peer:
    torch.manual_seed(spec.seed)
    loader = DataLoader(dataset, spec.batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0)

    def one_pass() -> Iterator[int]:
        for _ in range(spec.epochs):
            for images, _ in loader:
                yield len(images)

    return one_pass


def tight_loop(work: Work) -> Iterator[int]:
    prepared, augmenter, sampler = work.prepared(), Augmenter(work.transforms), open_batch_sampler(work.spec, work.manifest)
    for epoch in range(work.spec.epochs):
        for step in range(sampler.steps):
            yield len(make_batch(prepared, augmenter, sampler, epoch, step).rows)


def ray_data(work: Work) -> Iterator[int]:
    """As Ray's documentation loads images for training: read, map, iterate, and the same again each epoch."""
    transforms, side = work.compose(), work.spec.input.height

    def augment(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"image": np.stack([transforms(image=image)["image"] for image in batch["image"]])}

    with ray.data.DataContext.current(ray.data.DataContext(enable_progress_bars=False)):
        for _ in range(work.spec.epochs):
            files = ray.data.read_images(work.images["path"].tolist(), size=(side, side), mode="RGB", shuffle="files")
            for batch in files.map_batches(augment).iter_batches(batch_size=work.spec.batch_size, prefetch_batches=2):
                yield len(batch["image"])


def from_cache(work: Work, cache: Path, compute: ComputeConfig, cpus: float) -> Iterator[int]:
    memory = compute.stream_memory_mb * 2**20
    for batch in stream(work.spec, cache, work.manifest, first_epoch=0, memory=memory, cpus_per_task=cpus):
        yield len(batch.rows)


def cold(work: Work, compute: ComputeConfig, cpus: float) -> Iterator[int]:
    cache = WORK / "cold" / f"{time.time_ns()}"
    prepare(work.images, work.spec.input, cache, lambda done, of: None)
    yield from from_cache(work, cache, compute, cpus)
    shutil.rmtree(cache)


@contextmanager
def cpu_time(counts: Callable[[psutil.Process], bool]) -> Iterator[list[float]]:
    """Fills a list with the CPU-seconds that this process and those of its descendants that count have used.

    It looks again and again, so that what a process used that ends meanwhile is not lost.
    """
    spent: list[float] = []
    begun: dict[psutil.Process, float] = {}
    latest: dict[psutil.Process, float] = {}
    stop, me = threading.Event(), psutil.Process()

    def look(unseen_began_at: float | None) -> None:
        for process in [me, *filter(counts, me.children(recursive=True))]:
            try:
                used = process.cpu_times()
            except psutil.Error:
                continue
            latest[process] = used.user + used.system
            begun.setdefault(process, latest[process] if unseen_began_at is None else unseen_began_at)

    def watch() -> None:
        while not stop.wait(0.5):
            look(0.0)

    look(None)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield spent
    stop.set()
    thread.join()
    look(0.0)
    spent.append(sum(latest[process] - begun[process] for process in latest))


def measure(peer: Peer, counts: Callable[[psutil.Process], bool]) -> Pass:
    with cpu_time(counts) as spent:
        images, first, began = 0, 0.0, time.perf_counter()
        for count in peer():
            first = first or time.perf_counter() - began
            images += count
        seconds = time.perf_counter() - began
    return Pass(images / seconds, images / spent[0], first)


def loader_name(workers: int, kind: str) -> str:
    return f"DataLoader({workers}), {kind}"


def compare(own: Pass, loader: dict[str, Pass]) -> dict[str, float]:
    return {name: getattr(own, of) / getattr(loader[kind], of) for (kind, of), name in RATIOS.items()}


def set_up(arguments: argparse.Namespace) -> Work:
    """Photos, manifest and prepared images."""
    recipe = Recipe(
        image_size=arguments.size,
        augment=arguments.augment,
        schedule=ScheduleConfig(epochs=arguments.epochs),
        batch_size=arguments.batch_size,
    )
    root = photos(arguments.people)
    config = RunConfig.model_validate({"data": {"kind": "competition", "path": str(root)}})
    source = read_source(config)
    images = source.images
    images = images.assign(fold=assign_folds(images, config.folds, config.seed))
    spec = stream_spec(recipe, config.seed, "mask", source.space)
    manifest = WORK / f"manifest-{arguments.people}.parquet"
    write_table(manifest, images)
    cache, whole = find_cache(images, spec.input, WORK / "prepared")
    if not whole:
        with connect(ComputeConfig()):
            prepare(images, spec.input, cache, lambda done, of: None)
    return Work(images, spec, list(resolve_augment(arguments.augment)), manifest, cache)


def run_all(work: Work, workers: list[int], repeats: int) -> dict[str, list[Pass]]:
    """Passes by peer; the first of each has to start its processes, but for those of Ray after the stream's."""
    peers: dict[str, Peer] = {"plain loop, prepared": partial(tight_loop, work)}
    jpegs = Jpegs(work.images["path"].tolist(), work.spec.input.height, work.compose())
    for count in workers:
        peers[loader_name(count, "JPEG")] = of_loader(jpegs, work.spec, count)
        peers[loader_name(count, "prepared")] = of_loader(Prepared(work.prepared(), work.compose()), work.spec, count)
    passes = {name: [measure(peer, lambda process: True)] for name, peer in peers.items()}
    loaders = set(psutil.Process().children())
    compute = ComputeConfig()
    with connect(compute) as cluster:
        cpus = plan_slots(cluster.nodes, compute, packs=1).stream_cpus
        of_ray = (
            partial(from_cache, work, work.cache, compute, cpus),
            partial(cold, work, compute, cpus),
            partial(ray_data, work),
        )
        passes.update({name: [measure(peer, lambda process: True)] for name, peer in zip(RAY_PEERS, of_ray, strict=True)})
        peers.update(zip(RAY_PEERS, of_ray, strict=True))
        for _ in range(repeats):
            for name, peer in peers.items():
                counts = (lambda process: process not in loaders) if name in RAY_PEERS else loaders.__contains__
                passes[name].append(measure(peer, counts))
    return passes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=100, help="seven photos each")
    parser.add_argument("--size", type=int, default=128, help="side of the prepared images in pixels")
    parser.add_argument("--augment", default="light")
    parser.add_argument("--epochs", type=int, default=10, help="epochs to a pass")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5, help="warm passes of each peer")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="num_workers of the DataLoader")
    arguments = parser.parse_args()
    keep_memory()
    work = set_up(arguments)
    passes = run_all(work, arguments.workers, arguments.repeats)
    best = {name: Pass.best(of_peer[1:]) for name, of_peer in passes.items()}
    loader = {kind: Pass.best([best[loader_name(count, kind)] for count in arguments.workers]) for kind in KINDS}
    ratios = {name: compare(own, loader) for name, own in best.items()}
    order = sorted(best, key=lambda name: name not in RAY_PEERS)
    show(
        f"{len(work.images)} photos at {arguments.size} px, {arguments.augment}; ÷ is by the best DataLoader of its kind",
        ("peer", "images/s", "images/CPU-s", "first batch s", "at first s", *(RATIOS.values())),
        [(name, *astuple(best[name]), passes[name][0].first, *ratios[name].values()) for name in order],
    )
    results = {
        **vars(arguments),
        "images": len(work.images),
        "ratios": ratios,
        "passes": {name: [asdict(p) for p in of_peer] for name, of_peer in passes.items()},
    }
    write_results(f"stream-{arguments.augment}", results)


if __name__ == "__main__":
    main()
