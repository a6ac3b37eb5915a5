"""Prediction of many images on a Ray whose object store is small, killed half-way and resumed: `python benchmarks/bulk.py`.

Three specialists × two folds of random weights predict a table whose rows name some drawn photos again and again. The command is
run once to its end, once killed (-9) when half of its shards are there and then run again; both must give the same table, and no
shard may be written twice. The limit is the same models in processes that hold their images in memory, one on each core.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from benchmarks.common import WORK, environment, photos, rate_on_all_cores, show, write_results
from benchmarks.made import write_replicas, write_vote
from raymask.cluster.connection import LOCAL_ENVIRONMENT, WORKER_ENVIRONMENT
from raymask.config.loading import load_config
from raymask.config.recipe import Recipe
from raymask.data.decode import decode_file
from raymask.data.sources import read_source
from raymask.inference.bulk import read_predictions
from raymask.inference.definition import read_definition
from raymask.inference.predictor import Predictor, specs_of
from raymask.runs.configs import save_run_config
from raymask.runs.directory import Run
from raymask.runs.folders import PredictionFolder

FOLDS, PEOPLE = 2, 100
PORT = 6399
Job = subprocess.Popen[bytes]


def write_run(root: Path, given: argparse.Namespace) -> Run:
    """A finished run of random weights whose members vote softly."""
    shutil.rmtree(root, ignore_errors=True)
    data = {"path": str(photos(PEOPLE)), "kind": "competition"}
    recipe = {"backbone": given.backbone, "pretrained": False, "image_size": given.size}
    config = load_config("demo", overrides={"data": data, "recipe": recipe, "name": root.name, "runs": root.parent})
    source = read_source(config)
    run, space = Run(root), source.space
    save_run_config(run, config.model_copy(update={"tasks": source.task_configs}))
    write_replicas(run, Recipe.model_validate(recipe), space, FOLDS)
    write_vote(run, space)
    return run


def write_table(images: int, file: Path) -> Path:
    """A CSV of so many rows."""
    paths = sorted((photos(PEOPLE) / "train" / "images").glob("*/*.jpg"))
    rows = {"id": [f"{n:07d}" for n in range(images)], "image": [str(paths[n % len(paths)]) for n in range(images)]}
    pd.DataFrame(rows).to_csv(file, index=False)
    return file


@contextmanager
def small_ray(store: int) -> Iterator[None]:
    """A Ray of its own on this machine; commands that are started meanwhile join it."""
    start = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={PORT}"]
    options = [
        f"--object-store-memory={store}",
        "--include-dashboard=false",
        "--min-worker-port=20000",
        "--max-worker-port=20999",
    ]
    no_token = {"RAY_AUTH_MODE": "disabled"}  # once a Ray has made one in ~/.ray, every other asks for it
    with environment({**WORKER_ENVIRONMENT, **LOCAL_ENVIRONMENT, **no_token}):
        ray = subprocess.Popen([*start, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(15)
        with environment({"RAY_ADDRESS": f"127.0.0.1:{PORT}", **no_token}):
            yield
    finally:
        ray.send_signal(signal.SIGTERM)
        ray.wait()


def start(run: Run, table: Path, out: Path) -> Job:
    """The command in the background."""
    command = [sys.executable, "jobs/predict.py", str(run.root), "--images", str(table), "--out", str(out), "--id-column", "id"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


@contextmanager
def watched(job: Job) -> Iterator[dict[str, float]]:
    """Most memory that the command's own process holds, in bytes."""
    most, stop = {"bytes": 0.0}, threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            try:
                most["bytes"] = max(most["bytes"], psutil.Process(job.pid).memory_full_info().uss)
            except psutil.Error:
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield most
    stop.set()
    thread.join()


def to_the_end(run: Run, table: Path, out: Path) -> tuple[float, float]:
    """Seconds and bytes of the command."""
    began = time.perf_counter()
    job = start(run, table, out)
    with watched(job) as most:
        assert job.wait() == 0
    return time.perf_counter() - began, most["bytes"]


def killed_half_way(run: Run, table: Path, out: Path, shards: int) -> int:
    """Kills the command when half of its shards are there; returns how many there were."""
    job, parts = start(run, table, out), PredictionFolder(out).predictions
    while len(list(parts.glob("part-*"))) < shards // 2:
        assert job.poll() is None, "the command ended early"
        time.sleep(0.2)
    job.kill()
    job.wait()
    return len(list(parts.glob("part-*")))


def limit(run: Run, seconds: float = 20.0) -> float:
    """Images a second of the models alone, on all cores."""
    return rate_on_all_cores(_limit_process, (run.root, seconds), WORKER_ENVIRONMENT)


def _limit_process(root: Path, seconds: float, gate: Any, rates: Any) -> None:
    definition = read_definition(root)
    specs = specs_of(definition.models)
    predictor = Predictor(definition.models, definition.vote.views, specs, 1)
    paths = sorted((photos(PEOPLE) / "train" / "images").glob("*/*.jpg"))[:64]
    images = np.stack([decode_file(str(path), specs)[1][0] for path in paths])
    for _ in range(10):
        predictor([images])
    gate.wait()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        predictor([images])
        done += len(images)
    rates.put(done / (time.perf_counter() - began))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--backbone", default="mobilenetv3_small_050", help="any model name of timm")
    parser.add_argument("--size", type=int, default=96, help="side of the images in pixels")
    parser.add_argument("--store", type=int, default=1_000_000_000, help="bytes of the object store")
    given = parser.parse_args()
    folder = WORK / f"bulk-{time.strftime('%Y%m%d-%H%M%S')}"
    run = write_run(folder / "run", given)
    table, whole, cut = write_table(given.images, folder / "images.csv"), folder / "whole", folder / "cut"
    with small_ray(given.store):
        seconds, memory = to_the_end(run, table, whole)
        shards = sorted(PredictionFolder(whole).predictions.iterdir())
        there = killed_half_way(run, table, cut, len(shards))
        before = {path: path.stat().st_mtime_ns for path in PredictionFolder(cut).predictions.glob("part-*")}
        rest, memory_again = to_the_end(run, table, cut)
    again = sum(path.stat().st_mtime_ns != stamp for path, stamp in before.items())
    one, other = read_predictions(PredictionFolder(whole)), read_predictions(PredictionFolder(cut))
    pd.testing.assert_frame_equal(one, other)
    assert again == 0, "a shard was written twice"
    assert len(one) == given.images
    assert (one["problem"] == "").all()
    rate = limit(run)
    rows = [
        ["whole command, images/s", given.images / seconds],
        ["limit: the models alone, images/s", rate],
        ["limit / whole command", rate / (given.images / seconds)],
        ["driver's own memory at most, GB", max(memory, memory_again) / 2**30],
        ["shards when killed", f"{there} of {len(shards)}"],
        ["shards written twice", again],
        ["seconds for the rest", rest],
    ]
    show(f"{given.images} images by {3 * FOLDS} × {given.backbone} at {given.size} px, 2 views", ["", ""], rows)
    write_results(
        "bulk", {**vars(given), "seconds": seconds, "limit": rate, "driver_bytes": max(memory, memory_again), "rest": rest}
    )


if __name__ == "__main__":
    main()
