"""A whole ensemble, 3 specialists × K folds, by raymask and its peers in one run: `python benchmarks/ensemble.py --help`.

Peers: `plain`, a loop over replicas with a DataLoader, tuned for the machine; `plain-frozen`, the same with the first stages of
--freeze-stages frozen, while `plain` trains all; `tune`, the same as `plain` as independent Ray Tune trials;
`limit`, each model's steps over tensors in memory, on all cores, and nothing else. The peers train as many replicas as
--peer-replicas says; their times are scaled to all, since each replica costs the same.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from benchmarks.common import WORK, photos, rate_on_all_cores, show, write_results
from benchmarks.plain import Network, Settings, described, train_replica, tuned
from raymask.runs.directory import Run

TASKS = ("mask", "gender", "age")
LIMIT_SECONDS = 20.0


def raymask_run(folder: Path, settings: Settings) -> tuple[dict[str, Any], Path]:
    """The job from the shell to its end, with nothing prepared before."""
    recipe = {
        "recipe": {
            "backbone": settings.backbone,
            **start_of(settings),
            "image_size": settings.image_size,
            "augment": settings.augment,
            "schedule": {"epochs": settings.epochs},
            "batch_size": settings.batch_size,
            "optim": {"lr": settings.lr},
        },
        "folds": {"k": settings.folds},
    }
    runs = WORK / f"ensemble-{time.strftime('%Y%m%d-%H%M%S')}"
    runs.mkdir(parents=True)
    (runs / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "jobs/ensemble.py", "--recipe", str(runs / "recipe.yaml"), "--data", str(folder / "train")]
    began, clock = time.perf_counter(), time.time()
    with (runs / "output.txt").open("w") as output:
        subprocess.run([*command, "--runs", str(runs), "--name", "run"], check=True, stdout=output, stderr=subprocess.STDOUT)
    seconds = time.perf_counter() - began
    run = runs / "run"
    return {"seconds": seconds, "first_step": first_step(run) - clock, **speed_of(run)}, run


def start_of(settings: Settings) -> dict[str, Any]:
    """What the backbone starts from: random weights; with frozen stages such as are in a file, as pretrained ones are."""
    if not settings.frozen_stages:
        return {"pretrained": False}
    import timm
    import torch

    file = WORK / f"{settings.backbone}.pth"
    if not file.exists():
        torch.manual_seed(0)
        torch.save(timm.create_model(settings.backbone).state_dict(), file)
    return {"pretrained": True, "weights": str(file), "freeze": {"stages": settings.frozen_stages}}


def first_step(run: Path) -> float:
    """When the first training step of a run was done, in seconds since 1970."""
    reports = [json.loads(line) for file in run.glob("tune/*/*/result.json") for line in file.read_text().splitlines()]
    return float(min(report["timestamp"] for report in reports if report["phase"] == "training"))


def speed_of(run: Path) -> dict[str, Any]:
    """Images that all packs together learn from in a second, in the middle of their training, and their waiting for data."""
    histories = {file.parent: pd.read_csv(file) for file in Run(run).members.glob("*/*/history.csv")}
    packs: dict[tuple[float, ...], float] = {}
    for history in histories.values():
        rates = tuple(history["images_per_second"])
        packs[rates] = float(np.median(rates[1:-1] or rates))
    waiting = float(np.mean([history["waiting"].iloc[1:].mean() for history in histories.values()]))
    timings = json.loads(Run(run).timings.read_text())
    return {"images_per_second": sum(packs.values()), "packs": len(packs), "waiting": waiting, "stages": timings}


def plain_run(table: pd.DataFrame, settings: Settings, replicas: int) -> float:
    """Seconds for all replicas, one after the other."""
    wanted = [(task, fold) for fold in range(settings.folds) for task in TASKS]
    began = time.perf_counter()
    for task, fold in wanted[:replicas]:
        train_replica(table, task, fold, settings)
    return (time.perf_counter() - began) * len(wanted) / replicas


def tune_run(table: pd.DataFrame, settings: Settings, replicas: int) -> float:
    """Seconds for all replicas as independent trials, one CPU each; Ray's start is counted once, and trials come in waves."""
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    began = time.perf_counter()
    import ray
    from ray import tune

    ray.init("local", num_cpus=len(os.sched_getaffinity(0)), log_to_driver=False, include_dashboard=False)
    started = time.perf_counter() - began

    def trial(config: dict[str, Any]) -> None:
        task, fold = config["replica"]
        tune.report({"done": len(train_replica(table, task, fold, settings))})

    wanted = [(task, fold) for fold in range(settings.folds) for task in TASKS]
    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        param_space={"replica": tune.grid_search(wanted[:replicas])},
        run_config=tune.RunConfig(storage_path=str(WORK / "tune"), verbose=0),
    )
    results = tuner.fit()
    assert not results.errors, results.errors
    ray.shutdown()
    cores = len(os.sched_getaffinity(0))
    return started + (time.perf_counter() - began - started) * math.ceil(len(wanted) / cores) / math.ceil(replicas / cores)


def _limit_process(settings: Settings, own: bool, gate: Any, rates: Any) -> None:
    import torch

    torch.set_num_threads(1)
    if own:
        step, images = _own_step(settings)
    else:
        network = Network(settings, 3, 10**6)
        pixels, labels, images = _tensors(settings)
        step = lambda: network.step(pixels, labels)  # noqa: E731
    warm = time.perf_counter() + LIMIT_SECONDS / 2
    while time.perf_counter() < warm:  # the allocator has all it needs only after some steps
        step()
    gate.wait()
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < LIMIT_SECONDS:
        step()
        steps += 1
    rates.put(steps * images / (time.perf_counter() - began))


def _tensors(settings: Settings) -> Any:
    import torch

    images = round(settings.batch_size * (settings.folds - 1) / settings.folds)
    pixels = torch.randint(0, 256, (images, settings.image_size, settings.image_size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    pixels = pixels if settings.channels_last else pixels.contiguous()
    return pixels, torch.randint(0, 3, (images,)), images


def _own_step(settings: Settings) -> Any:
    """A bare step in the precision, memory format and operators that raymask's engine chooses."""
    import torch

    from raymask.config.recipe import Recipe
    from raymask.models.classifier import build_classifier
    from raymask.models.ops import fuse_depthwise_gradients
    from raymask.models.precision import mixed_precision
    from raymask.training.optim import build_optimizer

    recipe = Recipe(backbone=settings.backbone, pretrained=False, image_size=settings.image_size)
    model = build_classifier(recipe, {"task": 3}).train()
    fuse_depthwise_gradients(model)
    autocast, _ = mixed_precision(recipe, torch.device("cpu"))
    optimizer = build_optimizer(recipe.optim, model)
    pixels, labels, images = _tensors(replace(settings, channels_last=True))
    inputs = model.normalise(pixels)

    def step() -> None:
        with autocast():
            loss = torch.nn.functional.cross_entropy(model.classify(model.backbone(inputs))["task"].float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, images


def limit(settings: Settings, own: bool) -> float:
    """Images a second of bare steps on all cores, a process and a thread on each."""
    from raymask.cluster.connection import WORKER_ENVIRONMENT

    return rate_on_all_cores(_limit_process, (settings, own), WORKER_ENVIRONMENT if own else {})


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="mobilenetv3_small_050")
    parser.add_argument("--augment", default="light")
    parser.add_argument("--people", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--freeze-stages", type=int, default=0, help="of raymask's backbones, and of the peer plain-frozen's")
    parser.add_argument("--peers", default="plain,tune,limit", help="of plain, plain-frozen, tune and limit")
    parser.add_argument("--peer-replicas", type=int, default=3 * 5)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    peers = given.peers.split(",")
    folder = photos(given.people)
    settings = Settings(given.backbone, given.image_size, given.augment, given.epochs, batch_size=64, lr=1e-3, folds=5)
    found, run = raymask_run(folder, replace(settings, frozen_stages=given.freeze_stages))
    table = pd.read_parquet(Run(run).manifest)
    image_steps = 3 * settings.epochs * sum(int((table["fold"] != fold).sum()) for fold in range(settings.folds))
    results: dict[str, Any] = {"raymask": found, "image_steps": image_steps, "images": len(table)}
    if "limit" in peers:
        results["limit"] = {"own": limit(settings, own=True), "fp32_eager": limit(settings, own=False)}
    if {"plain", "plain-frozen", "tune"} & set(peers):
        chosen = tuned(table, TASKS[0], settings)
        results["peers_settings"] = described(chosen)
    if "plain" in peers:
        results["plain"] = plain_run(table, chosen, given.peer_replicas)
    if "plain-frozen" in peers:
        frozen = replace(chosen, frozen_stages=given.freeze_stages)
        results["plain-frozen"] = plain_run(table, frozen, given.peer_replicas)
    if "tune" in peers:
        one_cpu = Settings(**{**chosen.__dict__, "threads": 1, "workers": 0})
        results["tune"] = tune_run(table, one_cpu, given.peer_replicas)
    report(given, results)


def report(given: argparse.Namespace, results: dict[str, Any]) -> None:
    own = results["raymask"]
    rows = [["raymask, whole job", own["seconds"], 1.0]]
    rows += [
        [f"{peer}, {given.peer_replicas} of 15 replicas, scaled", results[peer], own["seconds"] / results[peer]]
        for peer in ("plain", "plain-frozen", "tune")
        if peer in results
    ]
    for name, rate in results.get("limit", {}).items():
        rows.append(
            [f"limit ({name}), all steps", results["image_steps"] / rate, own["seconds"] / (results["image_steps"] / rate)]
        )
    frozen_stages = f", {given.freeze_stages} stages frozen" if given.freeze_stages else ""
    title = f"{given.backbone}{frozen_stages}, {given.augment}, {results['images']} photos × 15 replicas × {given.epochs} epochs"
    show(title, ["", "seconds", "raymask / it"], rows)
    steady = [["raymask", own["images_per_second"], 1.0, own["waiting"]]]
    for name, rate in results.get("limit", {}).items():
        steady.append([f"limit ({name})", rate, rate / own["images_per_second"], 0.0])
    show("Steady state of training", ["", "images/s", "limit / raymask", "waiting"], steady)
    print(f"first training step after {own['first_step']:.0f} s, stages {own['stages']}; peers: {results.get('peers_settings')}")
    write_results(f"ensemble-{given.backbone}-{given.augment}-{given.freeze_stages}", results)


if __name__ == "__main__":
    main()
