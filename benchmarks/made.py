"""Finished runs of random weights, for what is measured on trained ones: specialists that vote by the mean under two views."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch

from raymask.config.components import FreezeConfig
from raymask.config.recipe import Recipe
from raymask.core.tasks import JOINT, LabelSpace, heads_of
from raymask.io.atomic import replacing, write_json
from raymask.models.classifier import build_classifier, save_classifier
from raymask.models.stages import frozen_modules
from raymask.runs.directory import ReplicaId, Run
from raymask.transforms.tta import even
from raymask.voting.calibration import Calibration
from raymask.voting.selection import Candidate, Fitted
from raymask.voting.vote import Vote

VIEWS = ("original", "hflip")
FOLDS = 5


def frozen_after(recipe: Recipe, stages: int) -> Recipe:
    """A recipe whose first stages are frozen; none for 0."""
    return recipe.model_copy(update={"pretrained": True, "freeze": FreezeConfig(stages=stages)}) if stages else recipe


def write_replicas(run: Run, recipe: Recipe, space: LabelSpace, folds: int) -> tuple[ReplicaId, ...]:
    """A specialist of each task, in each fold; with frozen stages all from one backbone, as if that were pretrained."""
    replicas = tuple(ReplicaId(task, fold) for task in space.names for fold in range(folds))
    torch.manual_seed(0)
    first = build_classifier(recipe, {})
    for replica in replicas:
        heads = heads_of(replica.member, space)
        model = build_classifier(recipe, heads)
        if recipe.freeze.stages:
            for name, module in frozen_modules(model.backbone, recipe.freeze.stages):
                module.load_state_dict(first.backbone.get_submodule(name).state_dict())
        with replacing(run.weights(replica)) as draft:
            save_classifier(model, draft)
        classes = {head: space.classes(head) for head in heads}
        write_json(run.meta(replica), {"classes": classes, "recipe": recipe.model_dump(mode="json")})
    return replicas


def write_vote(run: Run, space: LabelSpace) -> None:
    """How the specialists of all tasks vote."""
    as_said = {name: {name: _unchanged(len(space.classes(name)))} for name in space.names}
    fitted = Fitted(Candidate("soft", JOINT, "none"), {JOINT: {}}, {JOINT: None})
    vote = Vote(space, even(VIEWS), as_said, fitted, _unchanged(space.joint_size))
    members = {name: {"run": str(run.root), "member": name} for name in space.names}
    prior = np.full(space.joint_size, 1 / space.joint_size).tolist()
    write_json(run.ensemble, {"vote": vote.to_json(), "members": members, "prior": prior})


def _unchanged(classes: int) -> Calibration:
    return Calibration(np.ones(classes), np.zeros(classes))


def write_run(root: Path, recipe: Recipe, space: LabelSpace) -> tuple[Run, tuple[ReplicaId, ...]]:
    """A run directory with finished replicas of random weights: a specialist of each task, in each fold."""
    run = Run(root)
    shutil.rmtree(root, ignore_errors=True)
    replicas = write_replicas(run, recipe, space, FOLDS)
    return run, replicas
