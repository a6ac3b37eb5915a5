"""Models and the vote as torch modules that can be exported: tensors in, tensors out, of any number of images.

Merges of views and the vote are those of `raymask.transforms` and `raymask.voting`, which take tensors as well as arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from raymask.inference.definition import EnsembleDefinition
from raymask.inference.predictor import Predictor
from raymask.models.classifier import Classifier
from raymask.models.trunks import SharedPass
from raymask.transforms.tta import VIEWS, merge_views
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

    All models under all views, the views merged, the vote of each round, and the rounds' mean; backbones and frozen stages that
    several models share are there once.
    """

    def __init__(self, definition: EnsembleDefinition, predictor: Predictor, examples: Sequence[Tensor] = ()) -> None:
        """Takes the models that a predictor has loaded, and its views.

        Args:
            definition: the ensemble.
            predictor: with its models.
            examples: at least two images for each spec, where the graph is to be exported.

        Raises:
            InputError: the vote is by a user's own rule, which has no graph.
        """
        super().__init__()
        self.vote = VoteGraph(definition.vote)
        self.views, self.rounds, self.names = predictor.views, definition.rounds, predictor.names
        self.groups = [(spec, places) for spec, backbones in predictor.groups.items() for places in backbones.values()]
        self.models = nn.ModuleList(predictor.models)
        self.cuts = [predictor.cuts.get(id(predictor.models[places[0]])) for _, places in self.groups]
        traced: dict[str, nn.Module] = {}
        for (spec, places), cut in zip(self.groups, self.cuts, strict=True):
            if examples and cut and cut.trunk not in traced:
                normalised = predictor.models[places[0]].normalise(examples[spec])
                traced[cut.trunk] = cut.backbone.traced_trunk(normalised)
        self.trunks, self.trunk_names = nn.ModuleList(traced.values()), list(traced)

    def forward(self, *pixels: Tensor) -> dict[str, Tensor]:
        """The ensemble's probabilities and the labels of the greatest."""
        models = cast("list[Classifier]", list(self.models))
        trunks = dict(zip(self.trunk_names, self.trunks, strict=True))
        probabilities: list[list[dict[str, Tensor]]] = [[] for _ in self.names]
        for view in self.views.names:
            viewed = [SharedPass(VIEWS[view](of_spec), trunks) for of_spec in pixels]
            for (spec, places), cut in zip(self.groups, self.cuts, strict=True):
                features = viewed[spec].features(models[places[0]], cut)
                for index in places:
                    logits = models[index].classify(features)
                    probabilities[index].append({head: of_head.softmax(dim=1) for head, of_head in logits.items()})
        merged = {name: self._merged(of_model) for name, of_model in zip(self.names, probabilities, strict=True)}
        votes = [self.vote({member: merged[model] for member, model in of_round.items()}) for of_round in self.rounds]
        joint = torch.stack(votes).mean(dim=0)
        return {"joint": joint.float(), "labels": joint.argmax(dim=1)}

    def _merged(self, by_view: Sequence[Heads]) -> dict[str, Tensor]:
        """As the predictor gives them: merged in float64, kept in float32."""
        weights, merge = self.views.weights, self.views.merge
        stacked = {head: torch.stack([heads[head] for heads in by_view]) for head in by_view[0]}
        return {head: merge_views(of_head, weights, merge).float() for head, of_head in stacked.items()}


class VoteGraph(nn.Module):
    """Members' (N, C) probabilities by head, their views merged -> (N, J) float64 joint probabilities: a `Vote` on tensors."""

    def __init__(self, vote: Vote) -> None:
        super().__init__()
        self.vote = vote.with_arrays(lambda values: torch.as_tensor(values, dtype=torch.float64))

    def forward(self, members: Mapping[str, Heads]) -> Tensor:
        """The vote's result."""
        given: Any = members
        return cast("Tensor", self.vote(given))
