"""How a model is trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from raymask.config.base import LocalPath, Positive, Share, Strict
from raymask.core.paths import absolute


class HeadConfig(Strict):
    """What stands between the backbone's features and the logits of a task."""

    norm: bool = Field(False, description="normalise each feature over the batch first (as for linear probes)")
    hidden: Annotated[int, Field(ge=0)] = Field(0, description="width of one hidden layer; 0 for a linear head")
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Recipe(Strict):
    """How a model is trained."""

    backbone: str = Field("mobilenetv3_small_050", description="any model name of timm")
    pretrained: bool = Field(True, description="start from weights that timm downloads, or from `weights`")
    weights: Annotated[LocalPath, AfterValidator(absolute)] | None = Field(
        None, description="a local weights file, used in place of the download"
    )
    freeze: Literal["none", "backbone"] = Field("none", description="`backbone` trains the heads alone")
    feature_passes: Positive = Field(4, description="augmented passes whose features a frozen backbone's heads learn from")
    image_size: Positive | tuple[Positive, Positive] = Field(224, description="pixels: one side, or [height, width]")
    crop: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="share kept of the largest centred box")
    augment: Annotated[str, Field(coerce_numbers_to_str=False)] | tuple[dict[str, dict[str, Any] | None], ...] = Field(
        "light", description="none, light, medium or heavy; or a list of albumentations transforms"
    )
    epochs: Positive = 10
    batch_size: Annotated[int, Field(ge=2)] = 64
    accumulate: Positive = Field(1, description="batches to a step of the optimizer")
    optimizer: str = Field("adamw", description="any optimizer name of timm")
    lr: Annotated[float, Field(gt=0)] = 1e-3
    backbone_lr_scale: Annotated[float, Field(gt=0)] = Field(1.0, description="the backbone's learning rate over the heads'")
    weight_decay: Annotated[float, Field(ge=0)] = 0.02
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="share of the steps with a rising learning rate")
    clip_grad: Annotated[float, Field(ge=0)] = Field(0.0, description="largest norm of the gradient; 0 for any")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    class_weight_power: Share = Field(0.0, description="weight classes by (1/frequency)^power: 0 not at all, 1 in full")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="decay of averaged weights; 0 for none")
    amp: Literal["auto", "off", "bf16", "fp16"] = Field(
        "auto", description="`auto` is bf16 where the processor has it, else fp16 on a GPU and off on a CPU"
    )
    head: HeadConfig = HeadConfig()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.freeze == "backbone" and not self.pretrained:
            raise ValueError("freeze=backbone needs pretrained=true: a frozen backbone of random weights learns nothing")
        if self.freeze == "backbone" and self.ema:
            raise ValueError("ema averages weights that are fine-tuned; with freeze=backbone set ema to 0")
        if self.weights is not None and not self.pretrained:
            raise ValueError("weights is set but pretrained is false: set pretrained to true, or leave weights out")
        return self

    @property
    def height_width(self) -> tuple[int, int]:
        """Image size in pixels."""
        size = self.image_size
        return size if isinstance(size, tuple) else (size, size)
