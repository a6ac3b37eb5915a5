"""How a model is trained: a recipe in groups, one for each exchangeable component.

The groups lie here and not beside their components, since a config is read and checked in processes that never load torch. A
group's `name` chooses a component from the registry of its package, such as `raymask.training.losses.LOSSES`; the other keys are
the component's arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from raymask.config.base import LocalPath, Positive, Share, Strict
from raymask.config.flat_recipes import GROUPED
from raymask.core.paths import absolute


class OptimConfig(Strict):
    """The optimizer and its steps."""

    name: str = Field("adamw", description="any optimizer name of timm")
    lr: Annotated[float, Field(gt=0)] = Field(1e-3, description="highest learning rate of the heads")
    backbone_lr_scale: Annotated[float, Field(gt=0)] = Field(1.0, description="the backbone's learning rate over the heads'")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.02, description="of all weights but norms and biases")
    clip_grad: Annotated[float, Field(ge=0)] = Field(0.0, description="largest norm of the gradient; 0 for any")
    accumulate: Positive = Field(1, description="batches to a step of the optimizer")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="decay of averaged weights; 0 for none")


class ScheduleConfig(Strict):
    """How long a model is trained, and how its learning rate changes."""

    name: Literal["cosine"] = Field("cosine", description="`cosine` falls to 0 by half a cosine")
    epochs: Positive = Field(10, description="times that each image is learned from")
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="share of the steps with a rising learning rate")


class LossConfig(Strict):
    """The loss of each head."""

    name: Literal["cross_entropy"] = Field("cross_entropy", description="the loss")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="share of the target spread over all classes")
    class_weight_power: Share = Field(0.0, description="weight classes by (1/frequency)^power: 0 not at all, 1 in full")


class MixConfig(Strict):
    """How the images of a batch and their targets are mixed with each other."""

    name: Literal["none"] = Field("none", description="`none` leaves batches as they are")


class SamplerConfig(Strict):
    """Which images are in which batch."""

    name: Literal["shuffle"] = Field("shuffle", description="`shuffle` draws each image once an epoch, each fold spread evenly")


class HeadConfig(Strict):
    """What stands between the backbone's features and the logits of a task."""

    name: Literal["linear", "mlp"] = Field("linear", description="`linear` has one layer, `mlp` a hidden one before it")
    norm: bool = Field(False, description="normalise each feature over the batch first (as for linear probes)")
    hidden: Annotated[int, Field(ge=0)] = Field(0, description="width of the hidden layer of `mlp`")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="share of the features dropped before the last layer")

    @model_validator(mode="after")
    def _hidden_fits(self) -> Self:
        if self.name == "mlp" and not self.hidden:
            raise ValueError("name is mlp, which needs the width of its hidden layer: set hidden, such as 256")
        if self.name == "linear" and self.hidden:
            raise ValueError("hidden is the width of the hidden layer of mlp, but name is linear: set name to mlp")
        return self


class FreezeConfig(Strict):
    """What of the network keeps its pretrained weights."""

    part: Literal["none", "backbone"] = Field("none", description="`backbone` trains the heads alone, on features")
    passes: Positive = Field(4, description="augmented passes whose features a frozen backbone's heads learn from")


class Recipe(Strict):
    """How a model is trained."""

    RENAMED: ClassVar[Mapping[str, str]] = GROUPED
    """New keys of those that have moved, for messages."""

    backbone: str = Field("mobilenetv3_small_050", description="any model name of timm")
    pretrained: bool = Field(True, description="start from weights that timm downloads, or from `weights`")
    weights: Annotated[LocalPath, AfterValidator(absolute)] | None = Field(
        None, description="a local weights file, used in place of the download"
    )
    image_size: Positive | tuple[Positive, Positive] = Field(224, description="pixels: one side, or [height, width]")
    crop: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="share kept of the largest centred box")
    augment: Annotated[str, Field(coerce_numbers_to_str=False)] | tuple[dict[str, dict[str, Any] | None], ...] = Field(
        "light", description="none, light, medium or heavy; or a list of albumentations transforms"
    )
    batch_size: Annotated[int, Field(ge=2)] = Field(64, description="images to a batch, those of the left-out fold among them")
    amp: Literal["auto", "off", "bf16", "fp16"] = Field(
        "auto", description="`auto` is bf16 where the processor has it, else fp16 on a GPU and off on a CPU"
    )
    freeze: FreezeConfig = FreezeConfig()
    head: HeadConfig = HeadConfig()
    sampler: SamplerConfig = SamplerConfig()
    mix: MixConfig = MixConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.frozen and not self.pretrained:
            raise ValueError("freeze.part=backbone needs pretrained=true: a frozen backbone of random weights learns nothing")
        if self.frozen and self.optim.ema:
            raise ValueError("optim.ema averages weights that are fine-tuned; with freeze.part=backbone set it to 0")
        if self.weights is not None and not self.pretrained:
            raise ValueError("weights is set but pretrained is false: set pretrained to true, or leave weights out")
        return self

    @property
    def frozen(self) -> bool:
        """Whether the backbone keeps its weights, and the heads alone are trained."""
        return self.freeze.part == "backbone"

    @property
    def height_width(self) -> tuple[int, int]:
        """Image size in pixels."""
        size = self.image_size
        return size if isinstance(size, tuple) else (size, size)
