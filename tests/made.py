"""A finished run without training: random weights, and a vote decided on drawn out-of-fold predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from raymask.config import load_config, resolve_members
from raymask.data.sources import read_source
from raymask.metrics import heads_of
from raymask.models import build_classifier, save_classifier
from raymask.store import ReplicaId, Run, save_run_config, write_json
from raymask.tasks import JOINT
from raymask.vote import Evidence, decide, summary

FOLDS = 2
RECIPE = {"backbone": "test_resnet", "pretrained": False, "image_size": 32, "amp": "off"}
MEMBERS = [
    {"task": "mask"},
    {"task": "gender"},
    {"task": "age"},
    {"task": "multi", "recipe": {"image_size": 40}},
    {"task": "joint"},
]
VOTE = {"rule": "soft", "level": "joint", "adjust": "none", "views": "all", "merge": "mean"}


def make_run(root: Path, photos: Path, **over: Any) -> Run:
    """Writes config.yaml, ensemble.json and the members' models of a run on a data set in the competition's layout.

    Args:
        root: directory of the run.
        photos: the data set.
        over: what differs from the config above.
    """
    values = {"recipe": RECIPE, "members": MEMBERS, "vote": VOTE, "folds": {"k": FOLDS}, "data": {"path": str(photos)}, **over}
    config = load_config("demo", overrides={**values, "name": root.name, "runs": root.parent})
    config = config.model_copy(update={"data": config.data.model_copy(update={"kind": "competition"})})
    source = read_source(config)
    config = config.model_copy(update={"tasks": source.task_configs})
    run = Run(root)
    save_run_config(run, config)
    heads = {member.name: heads_of(member.task, source.space) for member in resolve_members(config)}
    for place, member in enumerate(resolve_members(config)):
        for fold in range(FOLDS):
            folder = run.replica(ReplicaId(member.name, fold))
            folder.mkdir(parents=True)
            torch.manual_seed(10 * place + fold)
            save_classifier(build_classifier(member.recipe, heads[member.name]), folder / "model.safetensors")
            meta = {
                "classes": {head: source.space.classes(head) for head in heads[member.name]},
                "recipe": member.recipe.model_dump(mode="json"),
                "member": member.name,
                "fold": fold,
                "task": member.task,
                "versions": {},
            }
            write_json(folder / "meta.json", meta)
    truth = source.images[f"label_{JOINT}"].to_numpy(np.int64)
    rng = np.random.default_rng(0)
    drawn = {
        name: {head: rng.dirichlet(np.ones(classes), (len(config.views), len(truth))) for head, classes in of_member.items()}
        for name, of_member in heads.items()
    }
    groups = np.unique(source.images["group"], return_inverse=True)[1]
    evidence = Evidence(source.space, drawn, tuple(config.views), truth, groups, groups % FOLDS)
    told = summary(decide(evidence, config.vote, 0))
    prior = np.bincount(truth, minlength=source.space.joint_size) / len(truth)
    members = {name: {"run": str(root), "member": name} for name in heads}
    counted = {"images": len(truth), "groups": len(np.unique(groups))}
    write_json(run.ensemble, {"members": members, "prior": prior.tolist(), **counted, "oof": {}, **told})
    return run
