"""Models and the vote as torch modules that can be exported: tensors in, tensors out, of any number of images.

Rules and adjustments are those of `raymask.voting`, which take tensors as well as arrays; all is in float64, as there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from raymask.core.tasks import JOINT, LabelSpace
from raymask.inference.definition import EnsembleDefinition
from raymask.inference.predictor import Predictor
from raymask.metrics.calibration import FLOOR
from raymask.models.classifier import Classifier
from raymask.transforms.tta import LEAST, VIEWS, ViewPlan
from raymask.voting.calibration import Calibration
from raymask.voting.combine import adjusted
from raymask.voting.rules import RULES
from raymask.voting.vote import Vote

Heads = Mapping[str, Tensor]
"""(N, C) probabilities by head."""
PIXELS = "pixels"
"""What a model's graph calls its input."""


class ModelGraph(nn.Module):
    """(N, 3, H, W) float32 pixels from 0 to 255 -> (N, C) float32 probabilities by head."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model, self.outputs = model, output_names(model.classes)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Probabilities by head, see `output_names`."""
        return {self.outputs[head]: logits.softmax(dim=1) for head, logits in self.model(pixels).items()}


def output_names(heads: Iterable[str]) -> dict[str, str]:
    """What a model's graph calls each head's probabilities: the head's name, unless the input has it."""
    names = {head: head for head in heads}
    while (clash := names.get(PIXELS)) in names:
        names[PIXELS] = f"{clash}_probabilities"
    return names


class EnsembleGraph(nn.Module):
    """Pixels for each spec, (N, 3, H, W) float32 from 0 to 255 -> `joint`, (N, J) float32, and `labels`, (N,) int64.

    All models under all views, the views merged, the vote of each round, and the rounds' mean; a backbone that several models
    share is there once.
    """

    def __init__(self, definition: EnsembleDefinition, predictor: Predictor) -> None:
        """Takes the models that a predictor has loaded, and its views.

        Raises:
            InputError: the vote is by a user's own rule, which has no graph.
        """
        super().__init__()
        self.vote = VoteGraph(definition.vote)
        self.views, self.rounds, self.names = predictor.views, definition.rounds, predictor.names
        self.groups = [(spec, places) for spec, backbones in predictor.groups.items() for places in backbones.values()]
        firsts = [predictor.models[places[0]] for _, places in self.groups]
        self.statistics = [model.statistics for model in firsts]
        self.backbones = nn.ModuleList(model.backbone for model in firsts)
        for number, model in enumerate(firsts):
            self.register_buffer(f"mean_{number}", model.mean, persistent=False)
            self.register_buffer(f"std_{number}", model.std, persistent=False)
        self.classes = [list(model.classes) for model in predictor.models]
        self.heads = nn.ModuleList(nn.ModuleList(model.heads.values()) for model in predictor.models)

    def forward(self, *pixels: Tensor) -> dict[str, Tensor]:
        """The ensemble's probabilities and the labels of the greatest."""
        probabilities: list[list[dict[str, Tensor]]] = [[] for _ in self.names]
        for view in self.views.names:
            normalised: dict[tuple[int, tuple[float, ...]], Tensor] = {}
            for number, (spec, places) in enumerate(self.groups):
                key = spec, self.statistics[number]
                if key not in normalised:
                    viewed = VIEWS[view](pixels[spec])
                    normalised[key] = (viewed - getattr(self, f"mean_{number}")) / getattr(self, f"std_{number}")
                features = self.backbones[number](normalised[key])
                for index in places:
                    probabilities[index].append(self._classified(index, features))
        merged = {name: self._merged(of_model) for name, of_model in zip(self.names, probabilities, strict=True)}
        votes = [self.vote({member: merged[model] for member, model in models.items()}) for models in self.rounds]
        joint = torch.stack(votes).mean(dim=0)
        return {"joint": joint.float(), "labels": joint.argmax(dim=1)}

    def _classified(self, index: int, features: Tensor) -> dict[str, Tensor]:
        heads: nn.ModuleList = self.heads[index]  # type: ignore[assignment]
        return {name: head(features).softmax(dim=1) for name, head in zip(self.classes[index], heads, strict=True)}

    def _merged(self, probabilities: Sequence[Heads]) -> dict[str, Tensor]:
        """As the predictor gives them: merged in float64, kept in float32."""
        return {head: merge_views([of_view[head] for of_view in probabilities], self.views).float() for head in probabilities[0]}


def merge_views(probabilities: Sequence[Tensor], plan: ViewPlan) -> Tensor:
    """(N, C) float64 from (N, C) under each view; see `raymask.transforms.tta.merge_views`."""
    heard = [(weight, of_view) for weight, of_view in zip(plan.weights, probabilities, strict=True) if weight > 0]
    total, stacked = sum(weight for weight, _ in heard), torch.stack([of_view.double() for _, of_view in heard])
    if plan.merge == "max":
        return _shares(stacked.amax(dim=0))
    logs = plan.merge == "geometric"
    values = stacked.clamp(min=LEAST).log() if logs else stacked
    mean = sum((values[index] * (weight / total) for index, (weight, _) in enumerate(heard)), torch.zeros_like(values[0]))
    return _shares(mean.exp()) if logs else mean


def _shares(scores: Tensor) -> Tensor:
    return scores / scores.sum(dim=1, keepdim=True)


class VoteGraph(nn.Module):
    """Members' (N, C) probabilities by head, their views merged -> (N, J) float64 joint probabilities, as of `Vote`."""

    def __init__(self, vote: Vote) -> None:
        """Takes the vote's numbers as buffers.

        Raises:
            InputError: it is by a user's own rule, which has no graph.
        """
        super().__init__()
        self.space, self.members = vote.space, {name: list(heads) for name, heads in vote.calibrations.items()}
        self.combine = RULES.get(vote.fitted.candidate.rule).combine
        self.calibrations = nn.ModuleList(
            CalibrationGraph(calibration) for heads in vote.calibrations.values() for calibration in heads.values()
        )
        self.result = CalibrationGraph(vote.result)
        self.params = {space: list(params) for space, params in vote.fitted.params.items()}
        self.adjusted = [space for space, factors in vote.fitted.factors.items() if factors is not None]
        for number, (space, params) in enumerate(vote.fitted.params.items()):
            for name, value in params.items():
                self.register_buffer(f"{name}_{number}", torch.as_tensor(value, dtype=torch.float64), persistent=False)
            if space in self.adjusted:
                factors = torch.as_tensor(vote.fitted.factors[space], dtype=torch.float64)
                self.register_buffer(f"factors_{number}", factors, persistent=False)

    def forward(self, members: Mapping[str, Heads]) -> Tensor:
        """The vote's result."""
        calibrations = iter(self.calibrations)
        calibrated = {
            name: {head: next(calibrations)(members[name][head]) for head in heads} for name, heads in self.members.items()
        }
        results: dict[str, Tensor] = {}
        for number, (space, names) in enumerate(self.params.items()):
            of_space = joint_ballots if space == JOINT else task_ballots
            ballots = torch.stack(of_space(self.space, calibrated, space))
            combined = self.combine(ballots, {name: getattr(self, f"{name}_{number}") for name in names})
            if space in self.adjusted:
                combined = adjusted(combined, getattr(self, f"factors_{number}"))
            results[space] = combined
        return self.result(results[JOINT] if JOINT in results else product(self.space, results))  # type: ignore[no-any-return]


class CalibrationGraph(nn.Module):
    """`raymask.voting.calibration.Calibration.apply`."""

    scale: Tensor
    bias: Tensor

    def __init__(self, of: Calibration) -> None:
        super().__init__()
        self.idle = bool((of.scale == 1).all() and (of.bias == 0).all())
        self.register_buffer("scale", torch.as_tensor(of.scale), persistent=False)
        self.register_buffer("bias", torch.as_tensor(of.bias), persistent=False)

    def forward(self, probabilities: Tensor) -> Tensor:
        """(N, C) float64 calibrated probabilities."""
        given = probabilities.double()
        if self.idle:
            return given
        return (self.scale * given.clamp(min=FLOOR).log() + self.bias).softmax(dim=1)


def joint_ballots(space: LabelSpace, members: Mapping[str, Heads], _: str = JOINT) -> list[Tensor]:
    """(N, J) ballots of the voters of the joint label; see `raymask.voting.ballots.joint_ballots`."""
    wholes = {name: whole for name, heads in members.items() if (whole := joint_of(space, heads)) is not None}
    specialists = {
        task: [heads[task] for name, heads in members.items() if name not in wholes and task in heads] for task in space.names
    }
    teams = [
        product(
            space,
            {
                task: of_task[index] if index < len(of_task) else _said_of(space, task, of_task, list(wholes.values()))
                for task, of_task in specialists.items()
            },
        )
        for index in range(max(map(len, specialists.values())))
    ]
    return [*teams, *wholes.values()]


def _said_of(space: LabelSpace, task: str, specialists: Sequence[Tensor], wholes: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(specialists) or [marginal(space, whole, task) for whole in wholes]).mean(dim=0)


def task_ballots(space: LabelSpace, members: Mapping[str, Heads], task: str) -> list[Tensor]:
    """(N, C) ballots of the voters of a task; see `raymask.voting.ballots.task_ballots`."""
    return [
        heads[task] if task in heads else marginal(space, heads[JOINT], task)
        for heads in members.values()
        if task in heads or JOINT in heads
    ]


def joint_of(space: LabelSpace, heads: Heads) -> Tensor | None:
    """(N, J) joint probabilities of a member whose heads give them, else None."""
    if JOINT in heads:
        return heads[JOINT]
    return product(space, heads) if set(heads) == set(space.names) else None


def product(space: LabelSpace, heads: Heads) -> Tensor:
    """(N, J) joint probabilities of independent tasks."""
    joint, *parts = (heads[name] for name in space.names)
    for part in parts:
        joint = (joint[:, :, None] * part[:, None, :]).flatten(1)
    return joint


def marginal(space: LabelSpace, joint: Tensor, task: str) -> Tensor:
    """(N, C) probabilities of one task from (N, J) joint ones."""
    others = [axis + 1 for axis, other in enumerate(space.names) if other != task]
    table = joint.reshape(-1, *space.shape)
    return table.sum(dim=others) if others else table
