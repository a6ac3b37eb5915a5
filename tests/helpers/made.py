"""A finished run without training: random weights, drawn predictions, and a vote that is decided on them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from raymask.cluster.session import RaySession
from raymask.config.loading import load_config
from raymask.config.members import Member
from raymask.config.schema import RunConfig, resolve_members
from raymask.core.columns import by_column
from raymask.core.console import Display
from raymask.core.tasks import LabelSpace, heads_of
from raymask.data.sources import Source, read_source
from raymask.inference.voting_runs import VotingRun, reserved_images, voting_runs
from raymask.io.atomic import write_json, write_table
from raymask.io.checked import read_json
from raymask.io.hashing import file_digest
from raymask.models.classifier import build_classifier
from raymask.report.run_report import build_report
from raymask.runs.configs import load_run_config, save_run_config
from raymask.runs.digests import with_digests
from raymask.runs.directory import ReplicaId, Run
from raymask.runs.identity import keep_source
from raymask.runs.schemas import write_run_file
from raymask.runs.timings import add_timing
from raymask.training.trial import write_model
from raymask.transforms.tta import ViewPlan
from raymask.workflows import vote
from raymask.workflows.context import RunContext
from raymask.workflows.predictions import prediction_source
from raymask.workflows.setup import read_test_set

HELPERS = Path(__file__).parent
MISSED_SOON = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
"""Environment of a Ray that takes a machine for dead after 3 seconds, in place of 15."""
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
    """Writes a run on a data set in the competition's layout as training leaves it, and its vote.

    Args:
        root: directory of the run.
        photos: the data set.
        over: what differs from the config above.
    """
    values = {"recipe": RECIPE, "members": MEMBERS, "vote": VOTE, "folds": {"k": FOLDS}, "data": {"path": str(photos)}, **over}
    config = load_config("demo", overrides={**values, "name": root.name, "runs": root.parent})
    config = config.model_copy(update={"data": config.data.model_copy(update={"kind": "competition"})})
    source = read_source(config)
    source = replace(source, images=with_digests(source.images, config))
    config = config.model_copy(update={"tasks": source.task_configs})
    run, rng = Run(root), np.random.default_rng(0)
    save_run_config(run, config)
    keep_source(run, source.images)
    write_table(run.rejected, source.rejected)
    manifest = source.images.assign(fold=np.unique(source.images["group"], return_inverse=True)[1] % FOLDS)
    write_table(run.manifest, manifest)
    for place, member in enumerate(resolve_members(config)):
        for fold in member.folds_of(range(FOLDS)):
            torch.manual_seed(10 * place + fold)
            _write_replica(run, member, fold, manifest, config.views, source.space, rng)
    add_timing(run, "train", 1.5)
    vote.decide_vote(context_of(run, config), voting_runs([run]))
    return run


def _silent() -> Display:
    return Display(Console(file=io.StringIO()))


def _write_replica(
    run: Run, member: Member, fold: int, manifest: pd.DataFrame, views: tuple[str, ...], space: LabelSpace, rng: Any
) -> None:
    replica, heads = ReplicaId(member.name, fold), heads_of(member.task, space)
    ids = manifest["image_id"][manifest["fold"] == fold]
    tables = [
        pd.DataFrame({"image_id": ids, "view": view, **_drawn(heads, space, len(ids), rng)}).astype({"view": str})
        for view in views
    ]
    write_table(run.replica_oof(replica), pd.concat(tables))
    epochs = pd.DataFrame({"epoch": [1, 2], "train_loss": [1.0, 0.5], "loss": [1.1, 0.9], "f1": [0.3, 0.5]})
    write_table(run.history(replica), epochs.assign(images_per_second=100.0, waiting=0.25))
    write_model(run, member, fold, build_classifier(member.recipe, heads), space, epochs=2, scores={"f1": 0.5})


def _drawn(heads: dict[str, int], space: LabelSpace, images: int, rng: Any, model: str = "") -> dict[str, Any]:
    """Columns of random probabilities."""
    said = {head: rng.dirichlet(np.ones(classes), images).astype(np.float32) for head, classes in heads.items()}
    return by_column(said, space, model)


def context_of(run: Run, config: RunConfig, display: Display | None = None) -> RunContext:
    """A command that may not predict, with a Ray that never starts."""
    display = display or _silent()
    return RunContext(run, config, RaySession(config.compute, display), display, may_predict=False)


def predict_and_report(run: Run, source: Source) -> None:
    """Writes drawn predictions of the test set and of some people held out, what is voted of them, and the report."""
    config, rng = load_run_config(run), np.random.default_rng(1)
    [one], context = voting_runs([run]), context_of(run, config)
    decided = vote.decide_vote(context, [one])
    test, _ = read_test_set(config, config.data, _silent())
    assert test is not None
    write_table(run.reserve, with_digests(source.images.head(20), config))
    for file, images in ((run.test_predictions, test.images), (run.reserve_predictions, reserved_images(run))):
        _write_predictions(file, one, images, decided.vote.views, rng)
    vote.predict_test_set(context, decided, test)
    vote.score_reserve(context, decided)
    build_report(run)


def _write_predictions(file: Path, one: VotingRun, images: pd.DataFrame, views: ViewPlan, rng: Any) -> None:
    columns: dict[str, Any] = {}
    for member in resolve_members(one.config):
        for fold in member.folds_of(range(FOLDS)):
            columns |= _drawn(heads_of(member.task, one.space), one.space, len(images), rng, str(ReplicaId(member.name, fold)))
    table = pd.DataFrame({"image_id": images["image_id"].to_numpy(), "problem": "", **columns})
    write_table(file, table.sort_values("image_id", kind="stable"))
    write_run_file(file.with_name("source.json"), prediction_source(one, images, one.fold_models, views))


def make_cut_run(root: Path, photos: Path) -> Run:
    """A run of two members of two folds whose first two stages are those of one of them, as if those had been frozen."""
    recipe = {**RECIPE, "pretrained": True, "freeze": {"stages": 2}}
    run = make_run(root, photos, recipe=recipe, members=[{"task": "mask"}, {"task": "joint"}])
    replicas = [ReplicaId(member, fold) for member in ("mask", "joint") for fold in range(FOLDS)]
    frozen = ("backbone.conv1", "backbone.bn1", "backbone.layer1", "backbone.layer2")
    trunk = {name: tensor for name, tensor in load_file(run.weights(replicas[0])).items() if name.startswith(frozen)}
    for replica in replicas:
        save_file({**load_file(run.weights(replica)), **trunk}, run.weights(replica))
        write_json(run.meta(replica), {**read_json(run.meta(replica)), "sha256": file_digest(run.weights(replica), "sha256")})
    return run
