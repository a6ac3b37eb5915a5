"""Latency and throughput of `raymask serve` under many requests at once, with batches and without.

    python benchmarks/serve.py --people 20 --backbone mobilenetv3_small_050

A process of its own keeps `--at-once` requests under way until `--requests` are answered; each sends one drawn photo. The servers
differ in their batch size alone: 16, and 1; with --freeze-stages a third one has models whose first stages are equal. They take
turns on one Ray, and the quickest turn of each counts. The models are a specialist of each of three tasks, in five folds, under
two views, with random weights. On a machine without a GPU the server and the process that asks share its cores.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing as mp
import re
import shutil
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.common import WORK, keep_memory, photos, show, write_results
from benchmarks.made import frozen_after, write_replicas, write_vote
from raymask.cluster.connection import Cluster, connect
from raymask.config.compute import ComputeConfig
from raymask.config.recipe import Recipe
from raymask.config.schema import RunConfig
from raymask.config.tasks import label_space
from raymask.inference.definition import read_definition
from raymask.runs.configs import save_run_config
from raymask.runs.directory import Run
from raymask.serving.deployment import Settings, serving
from raymask.serving.requests import Limits

FOLDS = 5
TASKS = {
    "mask": {"classes": ["worn", "incorrect", "none"]},
    "gender": {"classes": ["male", "female"]},
    "age": {"classes": ["<30", "30-60", ">=60"]},
}
BATCHES = {"batches of 16": 16, "one by one": 1}
LIMITS = Limits(timeout_s=600, waiting=1000)


def write_run(root: Path, recipe: Recipe) -> Run:
    """A run directory of random weights whose specialists vote by the mean."""
    shutil.rmtree(root, ignore_errors=True)
    config = RunConfig.model_validate({"name": root.name, "runs": root.parent, "tasks": TASKS})
    run, space = Run(root), label_space(config.tasks)
    write_replicas(run, recipe, space, FOLDS)
    write_vote(run, space)
    save_run_config(run, config)
    return run


async def ask(url: str, files: Sequence[bytes], at_once: int, requests: int) -> tuple[list[float], float]:
    """Seconds of each request, and of all."""
    limits, seconds = httpx.Limits(max_connections=at_once), []
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        waiting = islice(cycle(files), requests)

        async def one_after_another() -> None:
            for content in waiting:
                began = time.perf_counter()
                answer = await client.post("/predict", files={"image": ("photo.jpg", content)})
                answer.raise_for_status()
                seconds.append(time.perf_counter() - began)

        began = time.perf_counter()
        await asyncio.gather(*(one_after_another() for _ in range(at_once)))
        return seconds, time.perf_counter() - began


def asked(url: str, files: Sequence[bytes], at_once: int, requests: int) -> tuple[list[float], float]:
    return asyncio.run(ask(url, files, at_once, requests))


def turn(run: Run, size: int, cluster: Cluster, files: Sequence[bytes], given: argparse.Namespace) -> dict[str, Any]:
    """Figures of one server, of its second load: the first warms it up."""
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        port = tried.getsockname()[1]
    settings = Settings(port=port, batch_size=size, batch_wait_ms=given.batch_wait_ms, replicas=given.replicas, limits=LIMITS)
    with ExitStack() as stack:
        replicas = stack.enter_context(serving(run.root, read_definition(run.root), settings, cluster))
        pool = stack.enter_context(mp.get_context("spawn").Pool(1))
        pool.apply(asked, (settings.url, files, 16, 32))
        before = batches(settings.url)
        seconds, whole = pool.apply(asked, (settings.url, files, given.at_once, given.requests))
        images, number = (after - then for after, then in zip(batches(settings.url), before, strict=True))
    figures = {f"p{q}": float(np.percentile(seconds, q)) for q in (50, 90, 99)}
    return {"per_second": len(seconds) / whole, **figures, "batch": images / number, "seconds": whole, "replicas": replicas}


def batches(url: str) -> tuple[float, float]:
    """Images and batches so far."""
    text = httpx.get(f"{url}/metrics").text
    return tuple(float(re.search(rf"^raymask_batch_images_{what} (\S+)$", text, re.MULTILINE)[1]) for what in ("sum", "count"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--backbone", default="mobilenetv3_small_050")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--at-once", type=int, default=200)
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--replicas", type=int)
    parser.add_argument("--freeze-stages", type=int, default=0)
    parser.add_argument("--batch-wait-ms", type=float, default=10.0)
    given = parser.parse_args()
    keep_memory()
    recipe = Recipe.model_validate({"backbone": given.backbone, "pretrained": False, "image_size": given.image_size})
    run = write_run(WORK / "serve-run", recipe)
    servers = {name: (run, size) for name, size in BATCHES.items()}
    if stages := given.freeze_stages:
        servers[f"batches of 16, {stages} stages frozen"] = (write_run(WORK / "serve-cut", frozen_after(recipe, stages)), 16)
    files = [path.read_bytes() for path in sorted(photos(given.people).rglob("*.jpg"))]
    told: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
    with connect(ComputeConfig()) as cluster:
        for name, (of_server, size) in list(servers.items()) * given.turns:
            told[name].append(turn(of_server, size, cluster, files, given))
    best = {name: max(turns, key=lambda figures: figures["per_second"]) for name, turns in told.items()}
    columns = ("server", "requests/s", "p50 s", "p90 s", "p99 s", "images a batch")
    rows = [(name, *(figures[key] for key in ("per_second", "p50", "p90", "p99", "batch"))) for name, figures in best.items()]
    show(f"{given.requests} requests, {given.at_once} at once, {3 * FOLDS} × {given.backbone}", columns, rows)
    write_results("serve", {"given": vars(given), "best": best, "turns": told})


if __name__ == "__main__":
    main()
