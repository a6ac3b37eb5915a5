"""How a model is trained: a recipe in groups, one for each exchangeable component."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from raymask.config.base import LocalPath, Positive, Strict
from raymask.config.components import (
    MIXERS_OF_PIXELS,
    FreezeConfig,
    HeadConfig,
    LossConfig,
    MixConfig,
    OptimConfig,
    OrdinalConfig,
    SamplerConfig,
    ScheduleConfig,
    StopConfig,
)
from raymask.config.flat_recipes import GROUPED
from raymask.core.paths import absolute


class NormalizeConfig(Strict):
    """Mean and deviation of the channels, on a scale from 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


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
    prepare_size: Positive | tuple[Positive, Positive] | None = Field(
        None, description="size of the prepared images; predictions take the centre of image_size, and augment crops to it"
    )
    crop: Annotated[float, Field(gt=0)] = Field(
        1.0, description="share kept of the largest centred box; above 1 the pixels of the box's shorter side"
    )
    normalize: Literal["pretrained", "dataset"] | NormalizeConfig = Field(
        "pretrained", description="`pretrained`, `dataset` (of the images that a model learns from), or {mean: [...], std: [...]}"
    )
    augment: Annotated[str, Field(coerce_numbers_to_str=False)] | tuple[dict[str, dict[str, Any] | None], ...] = Field(
        "light",
        description="none, light, medium, heavy, competition, cutout, distort, randaugment or trivialaugment; or a list of "
        "albumentations transforms",
    )
    batch_size: Annotated[int, Field(ge=2)] = Field(64, description="images to a batch, those of the left-out fold among them")
    amp: Literal["auto", "off", "bf16", "fp16"] = Field(
        "auto", description="`auto` is bf16 where the processor has it, else fp16 on a GPU and off on a CPU"
    )
    drop_path: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="share of residual blocks skipped in training")
    freeze: FreezeConfig = FreezeConfig()
    head: HeadConfig = HeadConfig()
    ordinal: OrdinalConfig = OrdinalConfig()
    sampler: SamplerConfig = SamplerConfig()
    mix: MixConfig = MixConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    stop: StopConfig = StopConfig()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for conflict in (*self._conflicts(), *self._conflicts_of_a_frozen_backbone()):
            raise ValueError(conflict)
        return self

    def _conflicts(self) -> Iterator[str]:
        """What cannot be together, and what to change."""
        (height, width), (prepared_height, prepared_width) = self.height_width, self.prepared_height_width
        unfreeze_at, until, epochs = self.freeze.unfreeze_at, self.mix.until, self.schedule.epochs
        if self.weights is not None and not self.pretrained:
            yield "weights is set but pretrained is false: set pretrained to true, or leave weights out"
        if self.freeze.stages and not self.pretrained:
            yield "freeze.stages needs pretrained=true: frozen stages of random weights learn nothing"
        if self.optim.ema and self.schedule.average_last > 1:
            yield "optim.ema and schedule.average_last both average weights: set ema to 0, or average_last to 1"
        if self.stop.patience and self.schedule.average_last > 1:
            yield "stop.patience goes back to the best epoch, and schedule.average_last averages the last ones: set one of them"
        if self.schedule.average_last > epochs:
            yield f"schedule.average_last={self.schedule.average_last} is more than the {epochs} epochs of schedule.epochs"
        if unfreeze_at is not None and unfreeze_at >= epochs:
            yield f"freeze.unfreeze_at={unfreeze_at} never comes with schedule.epochs={epochs}"
        if until is not None and until > epochs:
            yield f"mix.until={until} is more than the {epochs} epochs of schedule.epochs"
        if prepared_height < height or prepared_width < width:
            prepared = f"{prepared_height}×{prepared_width}"
            yield f"prepare_size is {prepared}, too small to cut image_size, {height}×{width}, from: set it to as much or more"
        if self.crop > 1 and not float(self.crop).is_integer():
            yield f"crop is a share up to 1, or a whole number of pixels, but is {self.crop:g}"

    def _conflicts_of_a_frozen_backbone(self) -> Iterator[str]:
        if self.freeze.part != "backbone":
            return
        if not self.pretrained:
            yield "freeze.part=backbone needs pretrained=true: a frozen backbone of random weights learns nothing"
        if not self.frozen:
            return
        if self.optim.ema:
            yield "optim.ema averages weights that are fine-tuned; with freeze.part=backbone set it to 0"
        why = "with freeze.part=backbone the heads learn from features that are computed once, the same for all folds"
        if self.mix.name in MIXERS_OF_PIXELS:
            yield f"mix.name={self.mix.name} mixes pixels, but {why}: set mix.name to mixup, or freeze.part to none"
        if self.head.name == "conv":
            yield f"head.name=conv needs whole feature maps, but {why}: set head.name to mlp, or freeze.part to none"
        if self.normalize == "dataset":
            yield f"normalize=dataset differs from fold to fold, but {why}: set normalize to pretrained, or freeze.part to none"
        if self.drop_path:
            yield f"drop_path changes the backbone, but {why}: set drop_path to 0, or freeze.part to none"

    @property
    def frozen(self) -> bool:
        """Whether the backbone keeps its weights to the end, so that the heads alone are trained, on features."""
        return self.freeze.part == "backbone" and self.freeze.unfreeze_at is None

    @property
    def statistics(self) -> tuple[float, ...] | None:
        """Mean and then deviation of each channel where they are given, on a scale from 0 to 1."""
        given = self.normalize
        return (*given.mean, *given.std) if isinstance(given, NormalizeConfig) else None

    @property
    def height_width(self) -> tuple[int, int]:
        """Image size in pixels."""
        return _pair(self.image_size)

    @property
    def prepared_height_width(self) -> tuple[int, int]:
        """Size in pixels of the prepared images that training reads."""
        return self.height_width if self.prepare_size is None else _pair(self.prepare_size)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)
