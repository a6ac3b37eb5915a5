"""Images a second that raymask's engine trains and predicts on a GPU, without Ray, against a loop as timm's train.py has it.

    python benchmarks/gpu.py --backbone resnet18 --size 224
    python benchmarks/gpu.py --device cpu --steps 2 --warm-up 1 --size 64 --batch-size 10 --packs 1 5

Batches lie in host memory as uint8. A pack is replicas of up to three specialists × five folds that share one stream. Images are
counted once for each replica that learns from them or predicts them; timm's loop trains one model on whole batches. `GPU busy` is
the time of all kernels, by the profiler in a turn of its own, over the time that the same steps take without it.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import timm
import torch
from timm.data.loader import PrefetchLoader
from timm.optim import create_optimizer_v2
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import WORK, show, write_results
from benchmarks.made import FOLDS, frozen_after, write_run
from raymask.config.components import ScheduleConfig
from raymask.config.members import Member
from raymask.config.recipe import Recipe
from raymask.core.machine import usable_cpus
from raymask.core.tasks import JOINT, LabelSpace, Task
from raymask.data.cache import PreparedImages
from raymask.data.sampling import Batch
from raymask.data.specs import input_spec
from raymask.inference.predictor import Predictor
from raymask.models.classifier import load_classifier, to_pixels
from raymask.models.precision import mixed_precision, prepare_process
from raymask.models.trunks import shared_cuts
from raymask.runs.directory import ReplicaId, Run
from raymask.training.inputs import PixelFeed
from raymask.training.loop import train_pack
from raymask.training.packs import Job
from raymask.training.targets import LabelTable
from raymask.training.trial import build_learner, learner_spec
from raymask.transforms.tta import VIEWS, even

VIEW_NAMES = ("original", "hflip", "zoom", "zoom_hflip")
PREDICTED = [VIEWS[name] for name in VIEW_NAMES]
BATCHES = 8
SPACE = LabelSpace(
    tuple(Task(name, name, tuple(map(str, range(n))), (), ()) for name, n in (("mask", 3), ("gender", 2), ("age", 3)))
)


@dataclass
class Figure:
    """Of the steps after the warm-up."""

    rate: float
    """Images a second."""
    busy: float
    """Share of time in which the GPU computes; NaN on a CPU."""


@dataclass
class Work:
    """What is trained on."""

    recipe: Recipe
    device: torch.device
    warm_up: int
    steps: int

    def __post_init__(self) -> None:
        height, width = self.recipe.height_width
        rows = np.arange(BATCHES * self.recipe.batch_size)
        pixels = np.random.default_rng(0).integers(0, 256, (len(rows), height, width, 3), dtype=np.uint8)
        self.prepared = PreparedImages((pixels,), np.zeros_like(rows), rows)
        self.batches = np.split(rows, BATCHES)
        labels = {name: rows % len(SPACE.classes(name)) for name in (*SPACE.names, JOINT)}
        self.labels = LabelTable(SPACE, rows % FOLDS, labels, labels)

    @property
    def all_steps(self) -> int:
        return self.warm_up + self.steps


class Stopwatch:
    """Runs from the end of the warm-up to the last step, and the profiler with it."""

    def __init__(self, work: Work, profiler: profile | None = None) -> None:
        self.work, self.profiler, self.began, self.seconds = work, profiler, 0.0, 0.0

    def step(self, epoch: int, step: int) -> None:
        if step == self.work.warm_up - 1:
            synchronise(self.work.device)
            if self.profiler:
                self.profiler.start()
            self.began = time.perf_counter()
        elif step == self.work.all_steps - 1:
            synchronise(self.work.device)
            self.seconds = time.perf_counter() - self.began
            if self.profiler:
                self.profiler.stop()


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


Turn = Callable[[Stopwatch], int]
"""Does all steps, tells the stopwatch of each, and returns the number of images in those that are timed."""


def train_replicas(work: Work, replicas: Sequence[ReplicaId], stages: int, watch: Stopwatch) -> int:
    """A pack of the engine, its replicas' first stages frozen, which then are equal."""
    recipe = frozen_after(work.recipe, stages)
    members = {task: Member(name=task, task=task, seed=0, recipe=recipe) for task in SPACE.names}
    job = Job(Run(WORK / "gpu"), SPACE, members, (), {}, {}, {}, 0)
    longer = work.all_steps + 1  # of an epoch that never ends, since batches come again and again
    specs = {replica: learner_spec(members[replica.member], replica.fold, work.labels, longer) for replica in replicas}
    learners = [build_learner(job, replica, spec, work.device) for replica, spec in specs.items()]
    if stages:
        for learner in learners[1:]:
            learner.model.backbone.load_state_dict(learners[0].model.backbone.state_dict())
    cuts = shared_cuts((recipe, learner.model) for learner in learners)
    in_memory = [work.prepared.read(rows) for rows in work.batches]
    batches = [Batch(in_memory[step % BATCHES], work.batches[step % BATCHES], 0, step) for step in range(work.all_steps)]
    train_pack(learners, PixelFeed(batches, work.prepared, work.device, cuts), lambda report: None, watch.step)
    timed = np.concatenate([batch.rows for batch in batches[work.warm_up :]])
    return sum(int((work.labels.fold[timed] != learner.fold).sum()) for learner in learners)


def train_as_timm(work: Work, compiled: bool, watch: Stopwatch) -> int:
    """The loop of timm's train.py: its model, optimizer and prefetching loader, AMP, channels-last memory."""
    recipe, device = work.recipe, work.device
    model = timm.create_model(recipe.backbone, num_classes=3).to(device, memory_format=torch.channels_last).train()
    optimizer = create_optimizer_v2(model, opt=recipe.optim.name, lr=recipe.optim.lr, weight_decay=recipe.optim.weight_decay)
    forward = torch.compile(model) if compiled else model
    autocast, scaler = mixed_precision(recipe, device)
    loss_of = nn.CrossEntropyLoss().to(device)
    for step, (images, targets) in enumerate(PrefetchLoader(pinned_batches(work), device=device)):
        with autocast():
            loss = loss_of(forward(images.contiguous(memory_format=torch.channels_last)), targets)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        watch.step(0, step)
    return work.steps * recipe.batch_size


def pinned_batches(work: Work) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(B, 3, H, W) uint8 and (B,) labels, as a DataLoader with pinned memory gives them."""
    ready = []
    for rows in work.batches:
        images = torch.from_numpy(work.prepared.read(rows)).permute(0, 3, 1, 2).contiguous()
        targets = torch.from_numpy(work.labels.train["mask"][rows])
        ready.append((images.pin_memory(), targets.pin_memory()) if work.device.type == "cuda" else (images, targets))
    return [ready[step % BATCHES] for step in range(work.all_steps)]


def predict_as_raymask(work: Work, run: Run, replicas: list[ReplicaId]) -> Callable[[np.ndarray], Any]:
    models = {str(replica): run.replica(replica) for replica in replicas}
    predictor = Predictor(models, even(VIEW_NAMES), (input_spec(work.recipe),), torch.get_num_threads())

    return lambda images: predictor([images])


def predict_in_a_loop(work: Work, run: Run, replicas: list[ReplicaId]) -> Callable[[np.ndarray], Any]:
    """Each model in turn on each view of pixels that were copied once."""
    autocast = mixed_precision(work.recipe, work.device)[0]
    models = []
    for replica in replicas:
        model = load_classifier(work.recipe, {replica.member: len(SPACE.classes(replica.member))}, run.weights(replica))
        models.append(model.to(work.device, memory_format=torch.channels_last))

    def predict(images: np.ndarray) -> Any:
        pixels = to_pixels(images, work.device)
        with torch.inference_mode(), autocast():
            by_model = [
                torch.stack([next(iter(model(view(pixels)).values())).float().softmax(dim=1) for view in PREDICTED]).mean(0)
                for model in models
            ]
        return torch.cat(by_model, dim=1).cpu().numpy()

    return predict


def predict_all(work: Work, predict: Callable[[np.ndarray], Any], models: int, watch: Stopwatch) -> int:
    in_memory = [work.prepared.read(rows) for rows in work.batches]
    for step in range(work.all_steps):
        predict(in_memory[step % BATCHES])
        watch.step(0, step)
    return work.steps * work.recipe.batch_size * models


def measure(made: Mapping[str, Callable[[], Turn]], work: Work, repeats: int, kind: str) -> dict[str, Figure]:
    """The best rate of each turn, and on a GPU the kernels' share of its time.

    The profiler slows what comes after it in a process, so that it looks at all turns once more at the end.
    """
    turns: dict[str, Turn] = {}
    best: dict[str, float] = {}
    for _ in range(repeats):
        for name, make in made.items():
            if name not in turns:
                turns[name] = make()
            watch = Stopwatch(work)
            rate = turns[name](watch) / watch.seconds
            best[name] = max(best.get(name, 0.0), rate)
            print(f"{kind}, {name}: {rate:.0f} images/s", flush=True)  # which counts where the time ends too soon
    return {name: Figure(best[name], best[name] * kernel_seconds(turn, work)) for name, turn in turns.items()}


def kernel_seconds(turn: Turn, work: Work) -> float:
    """Seconds of all kernels for an image, by a turn under the profiler; NaN on a CPU."""
    if work.device.type == "cpu":
        return math.nan
    watch = Stopwatch(work, profiler := profile(activities=[ProfilerActivity.CUDA]))
    images = turn(watch)
    return sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6 / images


def turns_of(work: Work, given: argparse.Namespace, compiled: bool) -> dict[str, dict[str, Callable[[], Turn]]]:
    """What trains and what predicts, by name, made when it is wanted; what others are compared with comes first."""
    training: dict[str, Callable[[], Turn]] = {"timm's loop, eager": lambda: partial(train_as_timm, work, False)}
    if compiled:
        training["timm's loop, compiled"] = lambda: partial(train_as_timm, work, True)
    predicting: dict[str, Callable[[], Turn]] = {}
    for cut in given.stages:
        recipe = frozen_after(work.recipe, cut)
        made = lru_cache(partial(write_run, WORK / f"gpu-{recipe.backbone}-{cut}", recipe, SPACE))
        frozen = f", {cut} stages frozen" if cut else ""
        for count in given.packs:
            replicas = [ReplicaId(task, fold) for task in SPACE.names for fold in range(FOLDS)][:count]
            training[f"raymask, pack of {count}{frozen}"] = partial(partial, train_replicas, work, replicas, cut)
            if not cut:
                predicting[f"plain loop, {count} models"] = partial(predicts, predict_in_a_loop, work, made, count)
            predicting[f"raymask, {count} models{frozen}"] = partial(predicts, predict_as_raymask, work, made, count)
    return {kind: turns for kind, turns in (("training", training), ("predicting", predicting)) if kind in given.what}


def predicts(build: Callable[..., Any], work: Work, made: Callable[[], tuple[Run, tuple[ReplicaId, ...]]], count: int) -> Turn:
    """The turn of what predicts by the first so many models of a run."""
    run, replicas = made()
    return partial(predict_all, work, build(work, run, replicas[:count]), count)


def show_figures(title: str, best: dict[str, Figure]) -> None:
    first = next(iter(best.values()))
    rows = [(name, of.rate, of.rate / first.rate, "-" if math.isnan(of.busy) else of.busy) for name, of in best.items()]
    show(title, ("peer", "images/s", "÷ the first", "GPU busy"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--backbone", default="resnet18", help="any model name of timm")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--packs", type=int, nargs="+", default=[1, 5, 15], help="replicas, at most 15")
    parser.add_argument("--stages", type=int, nargs="+", default=[0], help="first stages that are frozen and computed once")
    parser.add_argument("--what", nargs="+", choices=("training", "predicting"), default=["training", "predicting"])
    parser.add_argument("--steps", type=int, default=40, help="steps that are timed")
    parser.add_argument("--warm-up", type=int, default=10, help="steps before them")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="torch.compile for timm's loop (default: on a GPU)"
    )
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not torch.cuda.is_available():
        sys.exit("There is no GPU on this machine; a trial on its CPU: --device cpu --steps 2 --size 64 --batch-size 10")
    device = prepare_process(usable_cpus())
    recipe = Recipe(
        backbone=arguments.backbone,
        pretrained=False,
        image_size=arguments.size,
        batch_size=arguments.batch_size,
        schedule=ScheduleConfig(epochs=1),
    )
    work = Work(recipe, device, max(1, arguments.warm_up), arguments.steps)
    compiled = arguments.device == "cuda" if arguments.compile is None else arguments.compile
    what = f"{arguments.backbone} at {arguments.size} px, batches of {arguments.batch_size}, {device.type}"
    told = {**vars(arguments), "best": dict[str, Any]()}
    for kind, made in turns_of(work, arguments, compiled).items():
        best = measure(made, work, arguments.repeats, kind)
        show_figures(f"{kind.capitalize()} {what}", best)
        told["best"] |= {
            f"{kind}, {name}": {"rate": of.rate, "busy": None if math.isnan(of.busy) else of.busy} for name, of in best.items()
        }
        write_results(f"gpu-{arguments.backbone}", told)


if __name__ == "__main__":
    main()
