"""Where a pack's inputs come from: batches of pixels from the stream, or features of a frozen backbone. Without Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raymask.data.cache import PreparedImages
from raymask.data.features import FeatureBank, Features
from raymask.data.sampling import Batch, BatchSampler
from raymask.models.classifier import Classifier, Logits, to_pixels
from raymask.models.trunks import SharedCut, SharedPass
from raymask.transforms.tta import VIEWS

KEPT_BYTES = 2**28
"""Of what trunks say of images without augmentation, in a process."""


@dataclass(frozen=True)
class Inputs:
    """One batch for all fold models of a pack."""

    tensor: Tensor
    """(B, 3, H, W) uint8 pixels, or (B, F) float32 features of a frozen backbone."""
    rows: npt.NDArray[np.int64]
    """(B,) rows of the manifest."""
    epoch: int
    step: int

    def take(self, indices: npt.NDArray[np.int64]) -> Inputs:
        """The inputs at some indices of the batch."""
        return replace(self, tensor=self.tensor[torch.from_numpy(indices).to(self.tensor.device)], rows=self.rows[indices])

    def after(self, earlier: Inputs) -> Inputs:
        """One batch of earlier inputs and then these, at these ones' step."""
        return replace(self, tensor=torch.cat([earlier.tensor, self.tensor]), rows=np.concatenate([earlier.rows, self.rows]))


class Feed(Protocol):
    """Where a pack's inputs come from, and how its models take them."""

    def training(self) -> Iterator[Inputs]:
        """Augmented inputs, epoch after epoch."""
        ...

    def select(self, model: Classifier, inputs: Inputs, indices: Tensor) -> Tensor:
        """What the trained part of a model takes of some indices of a batch: normalised images, or features."""
        ...

    def outputs(self, model: Classifier, selected: Tensor) -> Logits:
        """What a model's losses are made of, from what `select` gave."""
        ...

    def clean_logits(self, model: Classifier, rows: npt.NDArray[np.int64], view: str) -> Logits:
        """Logits of these rows without augmentation, under one view."""
        ...


class PixelFeed:
    """Batches as they come from the stream; for fold models that train their backbones.

    Args:
        batches: the stream's.
        prepared: all images, without augmentation.
        device: where the models are.
        cuts: by the id of a model, how its backbone is cut; see `shared_cuts`.
    """

    def __init__(
        self,
        batches: Iterable[Batch],
        prepared: PreparedImages,
        device: torch.device,
        cuts: Mapping[int, SharedCut] = MappingProxyType({}),
    ) -> None:
        self.batches, self.prepared, self.device, self.cuts = batches, prepared, device, cuts
        self._batch: SharedPass | None = None
        self._clean = KeptFeatures(KEPT_BYTES)

    def training(self) -> Iterator[Inputs]:
        """See `Feed`."""
        for batch in self.batches:
            yield Inputs(to_pixels(batch.images, self.device), batch.rows, batch.epoch, batch.step)

    def select(self, model: Classifier, inputs: Inputs, indices: Tensor) -> Tensor:
        """See `Feed`; a batch is normalised, and passes a trunk, once for all models that want the same."""
        if self._batch is None or self._batch.pixels is not inputs.tensor:
            self._batch = SharedPass(inputs.tensor)
        return self._batch.into(model, self.cuts.get(id(model)))[indices]

    def outputs(self, model: Classifier, selected: Tensor) -> Logits:
        """See `Feed`."""
        cut = self.cuts.get(id(model))
        return model.outputs(cut.backbone.tail(selected) if cut else model.backbone(selected))

    def clean_logits(self, model: Classifier, rows: npt.NDArray[np.int64], view: str) -> Logits:
        """See `Feed`; what a trunk says of images without augmentation is kept for the epochs and models that come after."""
        cut = self.cuts.get(id(model))

        def viewed() -> Tensor:
            return VIEWS[view](to_pixels(self.prepared.read(rows), self.device).float())  # so that no view rounds

        if cut is None:
            return model(viewed())  # type: ignore[no-any-return]
        key = (cut.key(model), view, rows.tobytes())
        return model.classify(cut.backbone.tail(self._clean.get(key, lambda: SharedPass(viewed()).into(model, cut))))


class KeptFeatures:
    """Features that were computed once, as long as there is room for them.

    Args:
        most: bytes.
    """

    def __init__(self, most: int) -> None:
        self.room = most
        self._kept: dict[object, Tensor] = {}

    def get(self, key: object, make: Callable[[], Tensor]) -> Tensor:
        """What is known by a key, and made when it is not."""
        if key in self._kept:
            return self._kept[key]
        made = make()
        if made.nbytes <= self.room:
            self._kept[key] = made
            self.room -= made.nbytes
        return made


class FeatureFeed:
    """Features of a frozen backbone from a bank; for fold models that train their heads alone.

    Epoch e trains on pass e mod P of the bank, in the order and batches that a stream of all epochs would have. A row that comes
    again in an epoch is taken from the pass after that.
    """

    def __init__(self, bank: FeatureBank, sampler: BatchSampler, epochs: int, device: torch.device) -> None:
        self.bank, self.sampler, self.epochs, self.device = bank, sampler, epochs, device

    def training(self) -> Iterator[Inputs]:
        """See `Feed`."""
        for epoch in range(self.epochs):
            for step in range(self.sampler.steps):
                rows = self.sampler.rows(epoch, step)
                yield Inputs(self._tensor(self._augmented(rows, epoch + self.sampler.repeats(epoch, step))), rows, epoch, step)

    def _augmented(self, rows: npt.NDArray[np.int64], passes: npt.NDArray[np.int64]) -> Features:
        """(B, F) features of each row from the pass of its number, counted round and round."""
        of_row = passes % len(self.bank.passes)
        features: Features = self.bank.passes[of_row[0]][rows]
        for number in np.unique(of_row[of_row != of_row[0]]):
            here = of_row == number
            features[here] = self.bank.passes[number][rows[here]]
        return features

    def select(self, model: Classifier, inputs: Inputs, indices: Tensor) -> Tensor:  # noqa: ARG002
        """See `Feed`."""
        return inputs.tensor[indices]

    def outputs(self, model: Classifier, selected: Tensor) -> Logits:
        """See `Feed`."""
        return model.outputs(selected)

    def clean_logits(self, model: Classifier, rows: npt.NDArray[np.int64], view: str) -> Logits:
        """See `Feed`."""
        return model.classify(self._tensor(self.bank.views[view][rows]))

    def _tensor(self, features: Features) -> Tensor:
        return torch.from_numpy(features).to(self.device)
