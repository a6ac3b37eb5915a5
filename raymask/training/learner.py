"""Trains a pack: batches in, metrics and models out. Knows neither Ray nor files.

Every fold model of a pack takes, from each batch, the rows whose fold is not its own, mixes them, and learns from them. Its
result depends on its own recipe, seed and stream alone, never on who else is in the pack.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from timm.utils import ModelEmaV3
from torch import Tensor

from raymask.config.recipe import Recipe
from raymask.core.errors import InputError
from raymask.core.tasks import JOINT
from raymask.metrics.scores import Score, score_heads
from raymask.models.classifier import Classifier
from raymask.models.ops import fuse_depthwise_gradients
from raymask.models.precision import mixed_precision
from raymask.training.inputs import Feed, Inputs
from raymask.training.losses import build_loss
from raymask.training.mixers import build_mixer
from raymask.training.optim import build_optimizer
from raymask.training.schedules import build_schedule, set_lr
from raymask.training.targets import LabelTable

EVALUATION_BATCH = 128
MIN_ROWS = 2
"""Images of a batch that is learned from: batch normalisation has nothing to say of a single one."""
ByHead = dict[str, npt.NDArray[np.float32]]


def _chunks(rows: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    for start in range(0, len(rows), EVALUATION_BATCH):
        yield rows[start : start + EVALUATION_BATCH]


@dataclass(frozen=True)
class EpochMetrics:
    """One fold model after one epoch."""

    epoch: int
    """Finished epochs."""
    images: int
    """Images learned from: all that the fold model may learn from."""
    train_loss: float
    loss: float
    """Cross-entropy on the model's own fold, mean over heads as in training, without smoothing and weights.

    This and the scores are NaN, and `scores` is empty, where a fold model is trained on all rows and has no fold of its own.
    """
    f1: float
    accuracy: float
    """Of the joint label where the fold model gives it, else of its task."""
    scores: dict[str, Score]
    lr: float


@dataclass(frozen=True)
class LearnerSpec:
    """What decides a fold model's training, beside its weights at the start and the batches."""

    name: str
    fold: int
    """The fold that is left out; where no row is of it, the model is trained on all rows and validated on none."""
    recipe: Recipe
    labels: LabelTable
    steps_per_epoch: int
    seed: int


class Learner:
    """A fold model while it is trained.

    Raises:
        InputError: it has too few images to learn from, or its recipe names what cannot be used.
    """

    def __init__(self, spec: LearnerSpec, model: Classifier, device: torch.device) -> None:
        self.name, self.fold, self.seed, self.device = spec.name, spec.fold, spec.seed, device
        recipe, labels = spec.recipe, spec.labels
        self.recipe = recipe
        self.labels = labels
        self.model = model.to(device)
        if recipe.frozen:
            self.model.backbone.requires_grad_(False).eval()
        if device.type == "cuda":
            self.model.to(memory_format=torch.channels_last)
        else:
            fuse_depthwise_gradients(self.model)
        self.optimizer = build_optimizer(recipe.optim, model)
        self.ema = ModelEmaV3(model, decay=recipe.optim.ema, use_warmup=True) if recipe.optim.ema else None
        self.amp, self.scaler = mixed_precision(recipe, device)
        self.learned = labels.learned(self.fold)
        self.images = int(self.learned.sum())
        if self.images < MIN_ROWS:
            raise InputError(
                f"{self.name} has {self.images} image(s) to learn from, and needs {MIN_ROWS}; give the run more images, or other "
                "folds."
            )
        self.own_rows = np.flatnonzero(labels.fold == self.fold)
        assert all((truth[self.own_rows] >= 0).all() for truth in labels.truth.values()), "no fold holds unlabelled rows"
        self.loss = {
            head: build_loss(recipe.loss, labels.counts(head, classes, self.fold)).to(device)
            for head, classes in self.heads.items()
        }
        self.train_labels = {head: torch.tensor(labels.train[head], device=device) for head in self.heads}
        self.mixer = build_mixer(recipe.mix)
        self.steps_per_epoch = spec.steps_per_epoch
        self.optimizer_steps = -(-self.steps_per_epoch // recipe.optim.accumulate) * recipe.schedule.epochs
        self.lr_factor = build_schedule(recipe.schedule, self.optimizer_steps)
        self.epoch = 0
        self.optimizer_step = 0
        self._loss_sum = torch.zeros((), device=device)
        self._batches = 0
        self._seen = 0
        """Rows to learn from that this epoch's batches have held until now."""
        self._held: Inputs | None = None
        """Those of them that wait for more."""

    @property
    def heads(self) -> dict[str, int]:
        """Classes by head."""
        return self.model.classes

    @property
    def best_model(self) -> Classifier:
        """The model that predicts: the averaged weights where they are kept."""
        return self.ema.module if self.ema else self.model

    def learn(self, inputs: Inputs, feed: Feed) -> int:
        """One batch, without the rows that the fold model does not learn from. Returns the number of images learned from.

        Rows that are too few for a step wait for the next batch's, and a batch waits for the epoch's last row if that would be
        left alone, so that every row is learned from once an epoch. A batch of an epoch that the model has
        behind it is passed over.
        """
        if inputs.epoch < self.epoch:
            return 0
        if inputs.step == 0:
            for loss in self.loss.values():
                loss.begin_epoch(inputs.epoch, self.recipe.schedule.epochs)
        learned = 0
        indices = np.flatnonzero(self.learned[inputs.rows])
        self._seen += len(indices)
        if self._held is not None and len(indices):
            inputs = inputs.take(indices).after(self._held)
            self._held, indices = None, np.arange(len(inputs.rows))
        if len(indices) >= MIN_ROWS and self.images - self._seen != 1:
            self._backward(inputs, indices, feed)
            learned = len(indices)
        elif len(indices):
            self._held = inputs.take(indices)
        if inputs.step == self.steps_per_epoch - 1 or (inputs.step + 1) % self.recipe.optim.accumulate == 0:
            self._update()
        return learned

    def _backward(self, inputs: Inputs, kept: npt.NDArray[np.int64], feed: Feed) -> None:
        self._train_mode()
        # Dropout and stochastic depth draw from a generator of this fold model and step, so that pack-mates change nothing.
        torch.manual_seed(int(np.random.SeedSequence([self.seed, inputs.epoch, inputs.step]).generate_state(1)[0]))
        indices = torch.from_numpy(kept).to(self.device)
        rows = torch.from_numpy(inputs.rows[kept]).to(self.device)
        with self.amp():
            selected = feed.select(self.model, inputs, indices)
            targets = {head: labels[rows] for head, labels in self.train_labels.items()}
            # Mixed after the selection: rows of the model's own fold must not reach it.
            selected, mixed = self.mixer(selected, targets)
            logits = feed.logits(self.model, selected)
            losses = [self.loss[head](head_logits.float(), mixed[head]) for head, head_logits in logits.items()]
            loss = torch.stack(losses).mean()
        self.scaler.scale(loss / self.recipe.optim.accumulate).backward()  # type: ignore[no-untyped-call]
        self._loss_sum += loss.detach()
        self._batches += 1

    def _train_mode(self) -> None:
        if not self.model.training:
            self.model.train()
            if self.recipe.frozen:
                self.model.backbone.eval()

    def _update(self) -> None:
        set_lr(self.optimizer, self.lr_factor(self.optimizer_step))
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        if any(parameter.grad is not None for parameter in parameters):  # there is none while rows wait for more
            if self.recipe.optim.clip_grad:
                self.scaler.unscale_(self.optimizer)
                torch.nn.utils.clip_grad_norm_(parameters, self.recipe.optim.clip_grad)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
        self.optimizer_step += 1
        if self.ema:
            self.ema.update(self.model, step=self.optimizer_step)

    def end_epoch(self, feed: Feed) -> EpochMetrics:
        """Predicts the model's own fold, where it has one, and scores it.

        Raises:
            InputError: the loss is not finite, or the weights are not where there is no fold to see it by.
        """
        assert (self._held, self._seen) == (None, self.images), "every row is learned from once an epoch"
        train_loss = float(self._loss_sum) / self._batches
        self._loss_sum.zero_()
        self._batches = self._seen = 0
        self.epoch += 1
        lr = self.optimizer.param_groups[-1]["lr"]
        if not len(self.own_rows):
            sound = self._has_finite_weights()
            self._refuse_unless(sound, train_loss, f"its weights are {'finite' if sound else 'not finite'}")
            return EpochMetrics(self.epoch, self.images, train_loss, math.nan, math.nan, math.nan, {}, lr)
        probabilities = self.predict(self.own_rows, "original", feed)
        truth = {target: labels[self.own_rows] for target, labels in self.labels.truth.items()}
        own_loss = float(np.mean([cross_entropy(head_probs, truth[head]) for head, head_probs in probabilities.items()]))
        self._refuse_unless(math.isfinite(own_loss), train_loss, f"{own_loss} on its own fold")
        scores = score_heads(self.labels.space, probabilities, truth)
        main = scores.get(JOINT) or next(iter(scores.values()))
        return EpochMetrics(self.epoch, self.images, train_loss, own_loss, main["f1"], main["accuracy"], scores, lr)

    def _refuse_unless(self, sound: bool, train_loss: float, found: str) -> None:
        if not (sound and math.isfinite(train_loss)):
            raise InputError(
                f"the loss of {self.name} is {train_loss} in epoch {self.epoch} ({found}); lower recipe.optim.lr or set "
                "recipe.optim.clip_grad."
            )

    def _has_finite_weights(self) -> bool:
        return all(bool(torch.isfinite(weight).all()) for weight in self.best_model.state_dict().values())

    def predict(self, rows: npt.NDArray[np.int64], view: str, feed: Feed) -> ByHead:
        """(n, C) float32 probabilities by head of these rows under one view."""
        model = self.best_model.eval()
        parts: dict[str, list[Tensor]] = {head: [] for head in self.heads}
        with torch.inference_mode(), self.amp():
            for chunk in _chunks(rows):
                for head, logits in feed.clean_logits(model, chunk, view).items():
                    parts[head].append(logits.float().softmax(dim=1).cpu())
        return {head: torch.cat(chunks).numpy() for head, chunks in parts.items()}

    def state(self) -> dict[str, Any]:
        """All that is needed to go on from the end of this epoch."""
        return {
            "epoch": self.epoch,
            "optimizer_step": self.optimizer_step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes back to what `state` gave."""
        self.epoch, self.optimizer_step = state["epoch"], state["optimizer_step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])


@dataclass(frozen=True)
class EpochReport:
    """A pack after one epoch."""

    epoch: int
    metrics: dict[str, EpochMetrics]
    """By the learner's name; without learners that had this epoch behind them."""
    images_per_second: float
    """Images learned from, summed over the fold models."""
    waiting: float
    """Share of the time spent waiting for batches."""


def train_pack(
    learners: Sequence[Learner],
    feed: Feed,
    on_epoch: Callable[[EpochReport], None],
    on_step: Callable[[int, int], None] = lambda epoch, step: None,
) -> None:
    """Trains all learners on one feed; `on_epoch` is called when an epoch is finished and scored."""
    steps = learners[0].steps_per_epoch
    learned, waited, started = 0, 0.0, time.perf_counter()
    inputs_of_epoch = feed.training()
    while True:
        requested_at = time.perf_counter()
        inputs = next(inputs_of_epoch, None)
        waited += time.perf_counter() - requested_at
        if inputs is None:
            return
        learned += sum(learner.learn(inputs, feed) for learner in learners)
        on_step(inputs.epoch, inputs.step)
        if inputs.step == steps - 1:
            trained = time.perf_counter() - started
            metrics = {learner.name: learner.end_epoch(feed) for learner in learners if learner.epoch == inputs.epoch}
            on_epoch(EpochReport(inputs.epoch, metrics, learned / trained, waited / trained))
            learned, waited, started = 0, 0.0, time.perf_counter()


def cross_entropy(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Mean of -log p of the true class, of (N, C) probabilities and (N,) labels.

    Not by scikit-learn's `log_loss`, which cuts float32 probabilities at 1.2e-7 in place of 1e-12.

    Example:
        >>> round(cross_entropy([[0.5, 0.5], [0.2, 0.8]], [0, 1]), 4)
        0.4581
    """
    of_truth = np.take_along_axis(np.asarray(probabilities), np.asarray(labels)[:, None], axis=1)
    return float(-np.log(np.maximum(of_truth, 1e-12)).mean())
