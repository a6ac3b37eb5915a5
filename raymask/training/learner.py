"""A fold model while it is trained: batches in, metrics and a model out. Knows neither Ray nor files.

From each batch it takes the rows whose fold is not its own, mixes them, and learns from them. Its result depends on its own
recipe, seed and stream alone, never on who else is in the pack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raymask.config.recipe import Recipe
from raymask.core.errors import InputError
from raymask.core.tasks import JOINT
from raymask.metrics.scores import Score, cross_entropy, score_heads
from raymask.models.classifier import Classifier
from raymask.models.ops import fuse_depthwise_gradients
from raymask.models.precision import mixed_precision, seed_torch
from raymask.training.encoding import build_head_targets
from raymask.training.failures import EpochLosses, Failure
from raymask.training.freezing import Freezing
from raymask.training.inputs import Feed, Inputs
from raymask.training.keeping import build_keeper, trained_part
from raymask.training.mixers import Examples, build_mixer
from raymask.training.stepping import Stepper
from raymask.training.stopping import EarlyStopping, hold_out
from raymask.training.targets import LabelTable

EVALUATION_BATCH = 128
MIN_ROWS = 2
"""Images of a batch that is learned from: batch normalisation has nothing to say of a single one."""
ByHead = dict[str, npt.NDArray[np.float32]]
Order = Callable[[int], npt.NDArray[np.int64]]
"""From an epoch to the (D,) rows that its batches hold, some of them maybe several times."""


def _chunks(rows: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    for start in range(0, len(rows), EVALUATION_BATCH):
        yield rows[start : start + EVALUATION_BATCH]


@dataclass(frozen=True)
class EpochMetrics:
    """One fold model after one epoch."""

    epoch: int
    """Finished epochs."""
    images: int
    """Images learned from, each counted as often as it was drawn."""
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
    judged_loss: float = math.nan
    """As `loss`, on the images that early stopping judges the training on; NaN without it."""


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
    order: Order | None = None
    """None for each row once an epoch."""

    def learned_labels(self) -> tuple[LabelTable, npt.NDArray[np.int64]]:
        """The labels without those of people whom early stopping holds out, and the rows that it judges on; none without it."""
        stop = self.recipe.stop
        if not stop.patience:
            return self.labels, np.empty(0, np.int64)
        return hold_out(self.labels, self.fold, stop.share, self.seed)


class Learner:
    """A fold model while it is trained.

    With `recipe.stop` some people of its training folds are held out, and it learns from so many fewer: it ends by its loss on
    them, never by that on its own fold, whose scores stay honest.

    Raises:
        InputError: it has too few images to learn from, or its recipe names what cannot be used.
    """

    def __init__(self, spec: LearnerSpec, model: Classifier, device: torch.device) -> None:
        self.name, self.fold, self.seed, self.device = spec.name, spec.fold, spec.seed, device
        recipe = self.recipe = spec.recipe
        labels, self.judged_rows = spec.learned_labels()
        self.labels = labels
        self.model = model.to(device).eval()
        self.freezing = Freezing(recipe.freeze, model)
        if device.type == "cuda":
            self.model.to(memory_format=torch.channels_last)
        else:
            fuse_depthwise_gradients(self.model)
        self.amp, scaler = mixed_precision(recipe, device)
        self.stepper = Stepper(recipe, model, scaler, spec.steps_per_epoch)
        self.keeper = build_keeper(recipe, model)
        patience = recipe.stop.patience
        self.stopping = EarlyStopping(trained_part(recipe, self.best_model), patience) if patience else None
        self.learned = labels.learned(self.fold)
        self._order = spec.order
        self._images: tuple[int, int] = (0, self._count_images(0))
        self.own_rows = np.flatnonzero(labels.fold == self.fold)
        assert all((truth[self.own_rows] >= 0).all() for truth in labels.truth.values()), "no fold holds unlabelled rows"
        built = build_head_targets(recipe, labels, self.fold, model)
        self.loss = {head: of_head.loss.to(device) for head, of_head in built.items()}
        self.targets = {head: of_head.targets.to(device) for head, of_head in built.items()}
        self.row_weights = {head: of_head.weights.to(device) for head, of_head in built.items() if of_head.weights is not None}
        self.mixer = build_mixer(recipe.mix, self.heads)
        self.rare = torch.from_numpy(labels.rare_rows(recipe.mix.rare))
        self.steps_per_epoch = spec.steps_per_epoch
        self.epoch = 0
        self.failure: Failure | None = None
        """Where its numbers ceased to be finite, since when it learns no more."""
        self.given_up = False
        """Whether its trial of a search was ended early."""
        self._losses = EpochLosses(device)
        self._seen = 0
        """Rows to learn from that this epoch's batches have held until now."""
        self._held: Inputs | None = None
        """Those of them that wait for more."""
        self._scored: tuple[int, ByHead] = (0, {})
        """The last epoch that was scored, and what its weights say of the model's own fold."""

    @property
    def heads(self) -> dict[str, int]:
        """Classes by head."""
        return self.model.classes

    @property
    def images(self) -> int:
        """Images to learn from in this epoch, each counted as often as it is drawn."""
        if self._images[0] != self.epoch:
            self._images = (self.epoch, self._count_images(self.epoch))
        return self._images[1]

    def _count_images(self, epoch: int) -> int:
        images = int((self.learned if self._order is None else self.learned[self._order(epoch)]).sum())
        if images < MIN_ROWS:
            raise InputError(
                f"{self.name} has {images} image(s) to learn from, and needs {MIN_ROWS}; give the run more images, other folds "
                "or another recipe.sampler."
            )
        return images

    @property
    def best_model(self) -> Classifier:
        """The model that predicts: the averaged weights where they are kept."""
        return self.keeper.model

    @property
    def models(self) -> list[Classifier]:
        """The model that is trained, and after it that which averages its weights, where there is one."""
        return [self.model] if self.best_model is self.model else [self.model, self.best_model]

    @property
    def ended(self) -> bool:
        """Whether it learns no more, though epochs are left: it was stopped early, failed, or was given up."""
        return self.given_up or self.failure is not None or (self.stopping is not None and self.stopping.ended)

    @property
    def last_loss(self) -> float:
        """Mean loss of the last batch that it learned from; NaN before the first."""
        return self._losses.last

    @property
    def kept_epoch(self) -> int:
        """Finished epochs of the weights that are kept: those of the best one with early stopping, else the last one."""
        return self.stopping.best_epoch if self.stopping else self.epoch

    def learn(self, inputs: Inputs, feed: Feed) -> int:
        """One batch, without the rows that the fold model does not learn from. Returns the number of images learned from.

        Rows that are too few for a step wait for the next batch's, and a batch waits for the epoch's last row if that would be
        left alone, so that every row is learned from as often as it is drawn. A batch of an epoch that the model has
        behind it is passed over, and all of them when it has ended.
        """
        if inputs.epoch < self.epoch or self.ended:
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
        if not self.failure and self.stepper.end_batch(inputs.step):
            self.keeper.end_step(self.stepper.step)
        return learned

    def _backward(self, inputs: Inputs, kept: npt.NDArray[np.int64], feed: Feed) -> None:
        self._train_mode()
        # Dropout and stochastic depth draw from a generator of this fold model and step, so that pack-mates change nothing.
        seed_torch(int(np.random.SeedSequence([self.seed, inputs.epoch, inputs.step]).generate_state(1)[0]), self.device)
        indices = torch.from_numpy(kept).to(self.device)
        rows = torch.from_numpy(inputs.rows[kept]).to(self.device)
        with self.amp():
            selected = feed.select(self.model, inputs, indices)
            targets = {head: targets(rows) for head, targets in self.targets.items()}
            # Mixed after the selection: rows of the model's own fold must not reach it.
            weights = {head: weights[rows] for head, weights in self.row_weights.items()}
            mixed = self.mixer(Examples(selected, targets, weights), self.rare[inputs.rows[kept]], inputs.epoch)
            outputs = feed.outputs(self.model, mixed.inputs)
            losses = [
                loss(outputs[head].float(), mixed.targets[head], mixed.weights.get(head)) for head, loss in self.loss.items()
            ]
            loss = torch.stack(losses).mean()
        self._losses.add(loss, inputs.step, inputs.rows[kept])
        if self._losses.at_once:
            self.failure = self._losses.failure(self.epoch + 1)
        if not self.failure:
            self.stepper.learn(loss, len(kept))

    def _train_mode(self) -> None:
        if not self.model.training:
            self.model.train()
            self.freezing.hold(self.epoch)

    def end_epoch(self, feed: Feed) -> EpochMetrics | None:
        """Predicts the model's own fold, where it has one, and scores it; None if the model failed in this epoch."""
        self.failure = self.failure or self._losses.failure(self.epoch + 1)
        if self.failure:
            return None
        images = self.images
        assert (self._held, self._seen) == (None, images), "every row that is drawn is learned from"
        self._seen, self.epoch = 0, self.epoch + 1
        self.keeper.end_epoch(self.epoch)
        metrics = self._metrics(feed, images)
        if metrics is not None:
            self._judge(metrics)
        self._losses.clear()
        self.model.eval()  # so that the next epoch freezes what it wants frozen
        return metrics

    def _metrics(self, feed: Feed, images: int) -> EpochMetrics | None:
        _, judged_loss = self._loss_on(self.judged_rows, feed)
        probabilities, own_loss = self._loss_on(self.own_rows, feed)
        self._scored = (self.epoch, probabilities)
        if found := self._fault(own_loss, judged_loss):
            self.failure = self._losses.at(-1, self.epoch, found)
            return None
        truth = {target: labels[self.own_rows] for target, labels in self.labels.truth.items()}
        scores = score_heads(self.labels.space, probabilities, truth) if probabilities else {}
        main = scores.get(JOINT) or next(iter(scores.values()), {"f1": math.nan, "accuracy": math.nan})
        return EpochMetrics(
            epoch=self.epoch,
            images=images,
            train_loss=self._losses.mean,
            loss=own_loss,
            f1=main["f1"],
            accuracy=main["accuracy"],
            scores=scores,
            lr=self.stepper.lr,
            judged_loss=judged_loss,
        )

    def _fault(self, own_loss: float, judged_loss: float) -> str | None:
        """What is not finite of it, as when the last step of an epoch broke its weights."""
        losses = [loss for loss, rows in ((own_loss, self.own_rows), (judged_loss, self.judged_rows)) if len(rows)]
        if not all(math.isfinite(loss) for loss in losses):
            return "its predictions are not finite after it"
        if not len(self.own_rows) and not self._has_finite_weights():
            return "its weights are not finite after it"
        return None

    def _judge(self, metrics: EpochMetrics) -> None:
        """Lets the schedule and early stopping know how the epoch went."""
        self.stepper.schedule.end_epoch(metrics.judged_loss if self.stopping else metrics.train_loss)
        if self.stopping:
            self.stopping.end_epoch(self.epoch, metrics.judged_loss)
            if self.ended or self.epoch == self.recipe.schedule.epochs:
                self.stopping.restore()

    def _loss_on(self, rows: npt.NDArray[np.int64], feed: Feed) -> tuple[ByHead, float]:
        """Probabilities of some labelled rows, and their cross-entropy, mean over heads; NaN where there are none."""
        if not len(rows):
            return {}, math.nan
        probabilities = self.predict(rows, "original", feed)
        losses = [cross_entropy(head_probs, self.labels.truth[head][rows]) for head, head_probs in probabilities.items()]
        return probabilities, float(np.mean(losses))

    def _has_finite_weights(self) -> bool:
        return all(bool(torch.isfinite(weight).all()) for weight in self.best_model.state_dict().values())

    def predict_own_fold(self, view: str, feed: Feed) -> ByHead:
        """As `predict` for the rows of the model's own fold, which the last epoch's scoring may have predicted already."""
        epoch, probabilities = self._scored
        if view == "original" and epoch == self.kept_epoch and probabilities:
            return probabilities
        return self.predict(self.own_rows, view, feed)

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
            "model": self.model.state_dict(),
            "kept": self.keeper.state(),
            "stopping": self.stopping.state() if self.stopping else None,
            **self.stepper.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes back to what `state` gave."""
        self.epoch = state["epoch"]
        self.model.load_state_dict(state["model"])
        self.keeper.load_state(state["kept"])
        if self.stopping:
            self.stopping.load_state(state["stopping"])
        self.stepper.load_state(state)
