"""What the server says of images: the models of its JSON, and how they are made from probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from raymask.core.tasks import LabelSpace
from raymask.core.types import ByHead, Probabilities
from raymask.inference.definition import EnsembleDefinition
from raymask.voting.grouping import pooled

TOP = 5


class LabelProbability(BaseModel):
    """A class and its probability."""

    label: str
    probability: float


class ClassProbability(LabelProbability):
    """A class of the joint label, its number among them, and its probability."""

    number: int


class Prediction(BaseModel):
    """What the ensemble says of one image."""

    name: str = Field("", description="the file's name, if it had one")
    labels: dict[str, str] = Field(description="the label of each task; together they are the joint label")
    joint: ClassProbability
    probabilities: dict[str, dict[str, float]] = Field(description="of each class, by task")
    top: list[ClassProbability] = Field(description="the most probable joint labels")
    agreement: float = Field(description="share of the models' heads that elect what the ensemble elects of the image by itself")
    sets: dict[str, list[str]] | None = Field(
        None, description="by task, and of the joint label: the classes of which one is true with the chance `vote.coverage`"
    )
    unusual: float | None = Field(
        None, description="share of the training images that the vote doubted less of; near 1 for an image unlike these"
    )
    members: dict[str, dict[str, LabelProbability]] = Field(description="by member and head: what the mean of its models elects")


class About(BaseModel):
    """Which models answer."""

    name: str = Field(description="the run's name")
    models: str = Field(description="which of the run's models: `folds`, or one a member")
    number: int = Field(description="how many models")
    members: list[str]
    versions: dict[str, str] = Field(description="versions of the packages that the models were trained with")
    server: str = Field(description="version of raymask that answers")
    by_group: list[str] = Field(
        default=[],
        description="tasks that are voted over all images of a request with one_group=true; none where it changes nothing",
    )


class Answer(BaseModel):
    """What is said of a request's images, in their order."""

    model: About
    predictions: list[Prediction]
    by_group: list[str] = Field(default=[], description="tasks that were voted over all of these images")
    milliseconds: float = Field(description="from the request's arrival to its answer")


class Ready(BaseModel):
    """The models are loaded and answer."""

    status: str = "ready"
    model: About


class Problem(BaseModel):
    """Why there is no answer, in one sentence."""

    error: str


def predictions_of(definition: EnsembleDefinition, probs: Mapping[str, ByHead], joint: Probabilities) -> list[Prediction]:
    """What a definition makes of its models' (N, C) probabilities and their (N, J) vote, image by image."""
    space = definition.space
    unusual, sets = definition.unusual(probs), definition.sets.names(joint) if definition.sets else [None] * len(joint)
    agreement, members = definition.agreement(probs, joint), definition.member_probabilities(probs)

    def voted(head: str, probabilities: Probabilities) -> LabelProbability:
        label = int(probabilities.argmax())
        return LabelProbability(label=space.classes(head)[label], probability=_rounded(probabilities[label]))

    return [
        Prediction(
            **elected,
            agreement=_rounded(agreement[image]),
            sets=sets[image],
            unusual=None if unusual is None else _rounded(unusual[image]),
            members={
                member: {head: voted(head, head_probs[image]) for head, head_probs in by_head.items()}
                for member, by_head in members.items()
            },
        )
        for image, elected in enumerate(_elected(space, joint))
    ]


def voted_together(definition: EnsembleDefinition, alone: Sequence[Prediction], joint: Probabilities) -> list[Prediction]:
    """What is said of images that are all of one group: by the group where the run votes so, else of each alone.

    Args:
        definition: says which tasks are voted by group.
        alone: what is said of each image by itself.
        joint: (N, J) vote on each image by itself.
    """
    together = pooled(definition.space, joint, np.zeros(len(joint), dtype=np.int64), definition.grouping)
    said = _elected(definition.space, together)
    if definition.sets_by_group and definition.grouping.tasks and len(alone) > 1:
        said = [{**one, "sets": sets} for one, sets in zip(said, definition.sets_by_group.names(together), strict=True)]
    return [one.model_copy(update=elected) for one, elected in zip(alone, said, strict=True)]


def _elected(space: LabelSpace, joint: Probabilities) -> list[dict[str, Any]]:
    """The parts of each image's prediction that its (N, J) joint probabilities decide."""
    marginals = {task: space.marginal(joint, task) for task in space.names}
    labels = space.split(joint.argmax(axis=1))
    parts = []
    for image, probabilities in enumerate(joint):
        order = (-probabilities).argsort(kind="stable")[:TOP].tolist()
        top = [
            ClassProbability(label=space.joint_classes[number], number=number, probability=_rounded(probabilities[number]))
            for number in order
        ]
        parts.append(
            {
                "labels": {task: space.classes(task)[of_task[image]] for task, of_task in labels.items()},
                "joint": top[0],
                "probabilities": {
                    task: dict(zip(space.classes(task), map(_rounded, of_task[image]), strict=True))
                    for task, of_task in marginals.items()
                },
                "top": top,
            }
        )
    return parts


def _rounded(probability: Any) -> float:
    return round(float(probability), 6)
