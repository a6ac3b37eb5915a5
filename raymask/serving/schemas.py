"""What the server says of images: the models of its JSON, and how they are made from probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field

from raymask.core.types import ByHead, Probabilities
from raymask.inference.definition import EnsembleDefinition

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
    agreement: float = Field(description="share of the models' heads that elect what the ensemble elects")
    members: dict[str, dict[str, LabelProbability]] = Field(description="by member and head: what the mean of its models elects")


class About(BaseModel):
    """Which models answer."""

    name: str = Field(description="the run's name")
    models: str = Field(description="which of the run's models: `folds`, or one a member")
    number: int = Field(description="how many models")
    members: list[str]
    versions: dict[str, str] = Field(description="versions of the packages that the models were trained with")
    server: str = Field(description="version of raymask that answers")


class Answer(BaseModel):
    """What is said of a request's images, in their order."""

    model: About
    predictions: list[Prediction]
    milliseconds: float = Field(description="from the request's arrival to its answer")


class Ready(BaseModel):
    """The models are loaded and answer."""

    status: str = "ready"
    model: About


class Problem(BaseModel):
    """Why there is no answer, in one sentence."""

    error: str


def predictions_of(definition: EnsembleDefinition, probs: Mapping[str, ByHead]) -> list[Prediction]:
    """What a definition makes of its models' (N, C) probabilities, image by image."""
    space, joint = definition.space, definition.count(probs)
    agreement, members = definition.agreement(probs, joint), definition.member_probabilities(probs)
    marginals = {task: space.marginal(joint, task) for task in space.names}
    elected = space.split(joint.argmax(axis=1))

    def voted(head: str, probabilities: Probabilities) -> LabelProbability:
        label = int(probabilities.argmax())
        return LabelProbability(label=space.classes(head)[label], probability=_rounded(probabilities[label]))

    def ranked(probabilities: Probabilities) -> list[ClassProbability]:
        order = (-probabilities).argsort(kind="stable")[:TOP].tolist()
        return [
            ClassProbability(label=space.joint_classes[number], number=number, probability=_rounded(probabilities[number]))
            for number in order
        ]

    predictions = []
    for image in range(len(joint)):
        top = ranked(joint[image])
        prediction = Prediction(
            labels={task: space.classes(task)[labels[image]] for task, labels in elected.items()},
            joint=top[0],
            probabilities={
                task: dict(zip(space.classes(task), map(_rounded, of_task[image]), strict=True))
                for task, of_task in marginals.items()
            },
            top=top,
            agreement=_rounded(agreement[image]),
            members={
                member: {head: voted(head, head_probs[image]) for head, head_probs in by_head.items()}
                for member, by_head in members.items()
            },
        )
        predictions.append(prediction)
    return predictions


def _rounded(probability: Any) -> float:
    return round(float(probability), 6)
