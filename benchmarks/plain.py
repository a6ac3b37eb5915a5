"""The peer: what a careful competitor writes without raymask, a loop over tasks and folds with a DataLoader each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import timm
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from raymask.core.columns import label_column
from raymask.core.machine import usable_cpus
from raymask.models.stages import frozen_modules
from raymask.transforms.augment import resolve_augment


@dataclass(frozen=True)
class Settings:
    """What the competitor trains, and how the machine is used."""

    backbone: str
    image_size: int
    augment: str
    epochs: int
    batch_size: int
    lr: float
    folds: int
    threads: int = 1
    workers: int = 0
    amp: bool = False
    channels_last: bool = False
    frozen_stages: int = 0


class Photos(Dataset[tuple[Tensor, int]]):
    """JPEG files, decoded, resized and augmented whenever they are asked for."""

    def __init__(self, table: pd.DataFrame, task: str, settings: Settings, augmented: bool) -> None:
        import albumentations as A  # noqa: N812

        self.paths, self.labels = table["path"].tolist(), table[label_column(task)].tolist()
        self.size = settings.image_size
        transforms = resolve_augment(settings.augment) if augmented else ()
        built = [getattr(A, name)(**_tuples(arguments)) for item in transforms for name, arguments in item.items()]
        self.augment = A.Compose(built)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        image = cv2.cvtColor(cv2.imread(self.paths[row]), cv2.COLOR_BGR2RGB)
        height, width = image.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = cv2.resize(image[top : top + side, left : left + side], (self.size, self.size), interpolation=cv2.INTER_AREA)
        return torch.from_numpy(self.augment(image=image)["image"]).permute(2, 0, 1), self.labels[row]


def _tuples(arguments: dict[str, Any] | None) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in (arguments or {}).items()}


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


class Network:
    """A model with its optimizer, and a step of it."""

    def __init__(self, settings: Settings, classes: int, steps: int) -> None:
        torch.manual_seed(0)
        self.settings = settings
        self.model = timm.create_model(settings.backbone, num_classes=classes)
        stages = settings.frozen_stages
        self.frozen = [module for _, module in frozen_modules(self.model, stages)] if stages else []
        for module in self.frozen:
            module.requires_grad_(False)
        if settings.channels_last:
            self.model.to(memory_format=torch.channels_last)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=0.02)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, settings.lr, total_steps=max(2, steps + 1), pct_start=0.1
        )
        config = self.model.default_cfg
        self.mean = torch.tensor(config["mean"]).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(config["std"]).view(1, 3, 1, 1) * 255

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", dtype=torch.bfloat16) if self.settings.amp else nullcontext()

    def images(self, pixels: Tensor) -> Tensor:
        images = (pixels.float() - self.mean) / self.std
        return images.contiguous(memory_format=torch.channels_last) if self.settings.channels_last else images

    def step(self, pixels: Tensor, labels: Tensor) -> None:
        self.model.train()
        for module in self.frozen:
            module.eval()
        with self.autocast():
            loss = nn.functional.cross_entropy(self.model(self.images(pixels)).float(), labels)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)

    def predict(self, loader: DataLoader[Any], flips: bool) -> np.ndarray:
        self.model.eval()
        parts = []
        with torch.inference_mode(), self.autocast():
            for pixels, _ in loader:
                images = self.images(pixels)
                said = self.model(images).float().softmax(1)
                if flips:
                    said = (said + self.model(images.flip(-1)).float().softmax(1)) / 2
                parts.append(said)
        return torch.cat(parts).numpy()


def train_replica(
    table: pd.DataFrame, task: str, fold: int, settings: Settings, begun: Callable[[], None] = lambda: None
) -> np.ndarray:
    """Trains on all other folds and predicts this one, after each epoch and, with flips, at the end: (n, classes)."""
    torch.set_num_threads(settings.threads)
    cv2.setNumThreads(0)
    own, others = table[table["fold"] == fold], table[table["fold"] != fold]
    batch_size = round(settings.batch_size * (settings.folds - 1) / settings.folds)
    keywords: dict[str, Any] = {"num_workers": settings.workers, "worker_init_fn": _one_thread}
    keywords["persistent_workers"] = settings.workers > 0
    loader = DataLoader(Photos(others, task, settings, True), batch_size, shuffle=True, **keywords)
    own_loader = DataLoader(Photos(own, task, settings, False), 128, **keywords)
    network = Network(settings, int(table[label_column(task)].max()) + 1, settings.epochs * len(loader))
    begun()
    for epoch in range(settings.epochs):
        for pixels, labels in loader:
            if len(labels) > 1:
                network.step(pixels, labels)
        said = network.predict(own_loader, flips=epoch + 1 == settings.epochs)
        np.mean(said.argmax(1) == own[label_column(task)].to_numpy())
    return said


def tuned(table: pd.DataFrame, task: str, settings: Settings, steps: int = 6) -> Settings:
    """The quickest settings for this machine: precision and memory format first, then threads and loader processes."""
    best = min(_modes(settings), key=lambda mode: _seconds_of_steps(mode, steps))
    cores = usable_cpus()
    machines = [replace(best, threads=threads, workers=workers) for threads in {1, cores} for workers in range(cores + 1)]
    return min(machines, key=lambda machine: _seconds_of_loading(table, task, machine, 3 * steps))


def _modes(settings: Settings) -> Iterator[Settings]:
    for amp in (False, True):
        for channels_last in (False, True):
            yield replace(settings, amp=amp, channels_last=channels_last, threads=usable_cpus())


def _seconds_of_steps(settings: Settings, steps: int) -> float:
    torch.set_num_threads(settings.threads)
    network = Network(settings, 3, 4 * steps)
    pixels = torch.randint(0, 256, (settings.batch_size, 3, settings.image_size, settings.image_size), dtype=torch.uint8)
    labels = torch.zeros(settings.batch_size, dtype=torch.int64)
    return _seconds(lambda: network.step(pixels, labels), steps)


def _seconds_of_loading(table: pd.DataFrame, task: str, settings: Settings, steps: int) -> float:
    torch.set_num_threads(settings.threads)
    loader = DataLoader(
        Photos(table, task, settings, True),
        settings.batch_size,
        shuffle=True,
        num_workers=settings.workers,
        worker_init_fn=_one_thread,
    )
    network = Network(settings, 100, 100 * steps)
    batches = iter(loader)
    return _seconds(lambda: network.step(*next(batches)), min(steps, len(loader) - 3))


def _seconds(work: Callable[[], Any], times: int) -> float:
    work()
    work()
    began = time.perf_counter()
    for _ in range(times):
        work()
    return time.perf_counter() - began


def described(settings: Settings) -> str:
    """The settings that were chosen, in a line."""
    chosen = asdict(settings)
    return ", ".join(f"{name} {chosen[name]}" for name in ("threads", "workers", "amp", "channels_last"))
