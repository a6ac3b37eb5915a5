"""The groups of a recipe, one for each exchangeable component.

They lie here and not beside their components, since a config is read and checked in processes that never load torch. A group's
`name` chooses a component from the registry of its package, such as `raymask.training.losses.LOSSES`; the other keys are the
component's arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from raymask.config.base import Positive, Share, Strict


class Component(Strict):
    """A component and its arguments, some of which are of some names alone."""

    ARGUMENTS: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Names that an argument is for; arguments that are not listed are for every name."""

    name: str

    @model_validator(mode="after")
    def _arguments_have_an_effect(self) -> Self:
        for key, names in self.ARGUMENTS.items():
            default = type(self).model_fields[key].get_default(call_default_factory=True)
            if self.name not in names and getattr(self, key) != default:
                shown = "null" if default is None else default
                owners = " and ".join(names)
                raise ValueError(
                    f"{key} is an argument of {owners}, but name is {self.name}: leave it at {shown}, or change name"
                )
        return self


class OptimConfig(Strict):
    """The optimizer and its steps."""

    name: str = Field("adamw", description="any optimizer name of timm")
    lr: Annotated[float, Field(gt=0)] = Field(1e-3, description="highest learning rate of the heads")
    backbone_lr_scale: Annotated[float, Field(gt=0)] = Field(1.0, description="the backbone's learning rate over the heads'")
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="factor of the learning rate from each layer of the backbone to the one below it"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.02, description="of all weights but norms and biases")
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="further arguments of the optimizer, such as {momentum: 0.9}"
    )
    clip_grad: Annotated[float, Field(ge=0)] = Field(0.0, description="largest norm of the gradient; 0 for any")
    accumulate: Positive = Field(1, description="batches to a step of the optimizer")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="decay of averaged weights; 0 for none")


class ScheduleConfig(Component):
    """How long a model is trained, and how its learning rate changes."""

    ARGUMENTS: ClassVar[Mapping[str, Sequence[str]]] = {
        "every": ("step",),
        "factor": ("step", "plateau"),
        "patience": ("plateau",),
    }

    name: Literal["cosine", "constant", "step", "one_cycle", "plateau"] = Field(
        "cosine", description="`cosine` falls to 0 by half a cosine"
    )
    epochs: Positive = Field(10, description="times that each image is learned from")
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="share of the steps with a rising learning rate")
    every: Positive = Field(1, description="epochs between two falls of `step`")
    factor: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="by which `step` and `plateau` multiply the rate")
    patience: Positive = Field(2, description="epochs without a lower loss after which `plateau` falls")
    average_last: Positive = Field(1, description="the model's weights are the mean over the ends of so many last epochs")


class StopConfig(Strict):
    """When training ends early, judged on a part of the images that the model does not learn from."""

    patience: Annotated[int, Field(ge=0)] = Field(0, description="epochs without a lower loss before training ends; 0 for never")
    share: Annotated[float, Field(gt=0, le=0.5)] = Field(
        0.1, description="share of the groups of the training folds that training is judged on, and that are not learned from"
    )


class LossConfig(Component):
    """The loss of each head."""

    ARGUMENTS: ClassVar[Mapping[str, Sequence[str]]] = {
        "label_smoothing": ("cross_entropy", "focal", "logit_adjusted", "balanced_softmax", "ldam_drw", "soft_f1", "bce"),
        "gamma": ("focal",),
        "tau": ("logit_adjusted",),
        "max_margin": ("ldam_drw",),
        "drw_from": ("ldam_drw",),
        "cross_entropy_weight": ("soft_f1",),
        "gamma_negative": ("asymmetric",),
        "gamma_positive": ("asymmetric",),
        "clip": ("asymmetric",),
    }

    name: Literal["cross_entropy", "focal", "logit_adjusted", "balanced_softmax", "ldam_drw", "soft_f1", "bce", "asymmetric"] = (
        Field("cross_entropy", description="the loss")
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="share of the target spread over all classes")
    class_weight_power: Share = Field(0.0, description="weight classes by (1/frequency)^power: 0 not at all, 1 in full")
    effective_number: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="weight classes by (1 - beta) / (1 - beta^n), such as beta = 0.999; 0 not at all"
    )
    gamma: Annotated[float, Field(ge=0)] = Field(2.0, description="how much `focal` looks away from what is easy")
    tau: Annotated[float, Field(ge=0)] = Field(1.0, description="weight of the classes' log-frequencies in `logit_adjusted`")
    max_margin: Annotated[float, Field(gt=0)] = Field(0.5, description="margin of the rarest class in `ldam_drw`, in logits")
    drw_from: Share = Field(
        0.8, description="share of the epochs after which `ldam_drw` weights classes, if not else told by effective_number 0.9999"
    )
    cross_entropy_weight: Share = Field(0.5, description="share of cross-entropy beside the soft macro-F1 of `soft_f1`")
    gamma_negative: Annotated[float, Field(ge=0)] = Field(4.0, description="focus of `asymmetric` on negatives")
    gamma_positive: Annotated[float, Field(ge=0)] = Field(1.0, description="focus of `asymmetric` on positives")
    clip: Annotated[float, Field(ge=0, lt=1)] = Field(0.05, description="probability below which `asymmetric` drops negatives")

    @model_validator(mode="after")
    def _one_weighting(self) -> Self:
        if self.class_weight_power and self.effective_number:
            raise ValueError("class_weight_power and effective_number both weight classes: set one of them to 0")
        return self


MIXERS_OF_PIXELS = ("cutmix", "half_cutmix")


class MixConfig(Component):
    """How the images of a batch and their targets are mixed with each other."""

    ARGUMENTS: ClassVar[Mapping[str, Sequence[str]]] = {
        "alpha": ("mixup", "cutmix"),
        "probability": ("mixup", "cutmix", "half_cutmix"),
        "until": ("mixup", "cutmix", "half_cutmix"),
        "rare": ("mixup", "cutmix", "half_cutmix"),
    }

    name: Literal["none", "mixup", "cutmix", "half_cutmix"] = Field("none", description="`none` leaves batches as they are")
    alpha: Annotated[float, Field(gt=0)] = Field(1.0, description="both parameters of the Beta distribution of the share")
    probability: Share = Field(1.0, description="of a batch being mixed")
    until: Positive | None = Field(None, description="epochs in which batches are mixed (default: all)")
    rare: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="classes by task that one of two mixed images is always of, such as {age: ['>=60']}"
    )


class SamplerConfig(Component):
    """Which images are in which batch, each fold spread evenly."""

    ARGUMENTS: ClassVar[Mapping[str, Sequence[str]]] = {
        "by": ("balanced", "dynamic", "repeat"),
        "power": ("balanced", "dynamic"),
        "factors": ("repeat",),
    }

    name: Literal["shuffle", "balanced", "dynamic", "repeat", "one_per_group"] = Field(
        "shuffle", description="`shuffle` draws each image once an epoch"
    )
    by: str | None = Field(None, description="task whose classes are counted, or joint (default: the member's own)")
    power: Share = Field(1.0, description="how balanced: 1 draws all classes alike, 0 as they are")
    factors: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="times an epoch that `repeat` draws images of a class, such as {'>=60': 3}; others once"
    )

    @model_validator(mode="after")
    def _repeats(self) -> Self:
        if self.name == "repeat" and not self.factors:
            raise ValueError("name is repeat, which needs factors, such as {'>=60': 3}")
        return self


class HeadConfig(Component):
    """What stands between the backbone's features and the logits of a task."""

    ARGUMENTS: ClassVar[Mapping[str, Sequence[str]]] = {"hidden": ("mlp", "conv"), "depth": ("mlp", "conv")}

    name: Literal["linear", "mlp", "conv"] = Field(
        "linear", description="`linear` has one layer, `mlp` hidden ones before it, `conv` convolutions of the feature map"
    )
    norm: bool = Field(False, description="normalise each feature over the batch first (as for linear probes)")
    hidden: Annotated[int, Field(ge=0)] = Field(0, description="width of the hidden layers of `mlp`, or channels of `conv`")
    depth: Positive = Field(1, description="hidden layers of `mlp`, or convolutions of `conv`")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="share of the features dropped before the last layer")
    samples: Positive = Field(1, description="dropouts of one image whose logits are averaged while training")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.name != "linear" and not self.hidden:
            raise ValueError(f"name is {self.name}, which needs the width of its hidden layers: set hidden, such as 256")
        if self.samples > 1 and not self.dropout:
            raise ValueError("samples averages over dropouts, but dropout is 0: set dropout, such as 0.5")
        return self


class OrdinalConfig(Component):
    """How the heads of tasks with edges learn the number behind the band."""

    ARGUMENTS: ClassVar[Mapping[str, Sequence[str]]] = {
        "width": ("bins",),
        "sigma": ("bins",),
        "expectation": ("bins",),
        "decode": ("bins",),
    }

    name: Literal["none", "bins", "corn", "regression"] = Field(
        "none", description="`none` knows bands alone; `bins` a distribution over numbers, `corn` ordered bands"
    )
    width: Annotated[float, Field(gt=0)] = Field(1.0, description="width of a bin, in units of the number")
    sigma: Annotated[float, Field(ge=0)] = Field(2.0, description="deviation of the soft label around the number, in its units")
    expectation: Annotated[float, Field(ge=0)] = Field(1.0, description="weight of the expected number's error in the loss")
    decode: Literal["expected", "mass"] = Field(
        "expected", description="bands by the expected number, or by the sum of each band's bins"
    )


class FreezeConfig(Strict):
    """What of the network keeps its pretrained weights."""

    part: Literal["none", "backbone"] = Field("none", description="`backbone` trains the heads alone, on features")
    passes: Positive = Field(4, description="augmented passes whose features a frozen backbone's heads learn from")
    stages: Annotated[int, Field(ge=0)] = Field(0, description="first stages of the backbone that keep their weights")
    unfreeze_at: Positive | None = Field(None, description="epochs after which what is frozen is trained too (default: never)")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.part == "backbone" and self.stages:
            raise ValueError("stages freezes a part of the backbone, but part is backbone: set part to none, or stages to 0")
        if self.unfreeze_at and self.part == "none" and not self.stages:
            raise ValueError("unfreeze_at needs something frozen: set part to backbone, or stages")
        return self
