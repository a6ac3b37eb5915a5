"""Training of members' models, one a fold, or one on the people of all folds; finished ones are left as they are."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from raymask.cluster.connection import check_shared
from raymask.cluster.resources import gpus_worth, plan_actors, room_of
from raymask.config.members import Member
from raymask.core.console import Display
from raymask.core.errors import InputError
from raymask.data.features import bank_folder, missing_parts
from raymask.data.specs import StreamSpec, bank_spec, input_spec, stream_spec
from raymask.io.checked import DamagedFileError, check_archive
from raymask.io.hashing import file_digest
from raymask.runs.directory import ReplicaId, Run, cache_of, cache_root
from raymask.runs.timings import add_timing, timed
from raymask.training.backbones import check_starts, fetch_backbones
from raymask.training.embedding import EmbedJob, embed
from raymask.training.launch import OnReport, first_of, train
from raymask.training.packs import Job, plan_run
from raymask.workflows.images import TrainingImages
from raymask.workflows.setup import PreparedRun


@dataclass(frozen=True)
class Watch:
    """Who follows a training, and may give up fold models of it: those that are to end are marked by `ModelFiles.stopped`."""

    judged_at: frozenset[int]
    """Numbers of finished epochs after which it may."""
    on_report: OnReport


def train_fold_models(
    prepared: PreparedRun,
    stage: str,
    members: Sequence[Member],
    folds: Sequence[int],
    images: TrainingImages,
    watch: Watch | None = None,
) -> list[str]:
    """Trains these members' models of these folds, but for finished ones.

    Args:
        prepared: the run.
        stage: what its messages and its time are called by.
        members: whose models are trained.
        folds: of which each member has its own; `WHOLE` for the people of all of them.
        images: what they are trained on.
        watch: who follows it.

    Returns:
        With a watch, a sentence for each model that cannot be trained; without, that is an error.

    Raises:
        InputError: pretrained weights cannot be had, or the recipes cannot be trained here.
        RunError: a part failed for good.
    """
    run, config, display = prepared.run, prepared.config, prepared.context.display
    of_member = {member.name: [ReplicaId(member.name, fold) for fold in member.folds_of(folds)] for member in members}
    models = [model for of_one in of_member.values() for model in of_one]
    finished = {model for model in models if run.ended(model)}
    unfinished = len(models) - len(finished)
    if finished:
        display.line(stage, f"{len(finished)} of {len(models)} models are trained already")
    if not unfinished:
        return []
    if cut_off := sum(is_sound(run, model, display) for model in models if run.checkpoint(model).exists()):
        display.line(stage, f"{cut_off} models go on from their last finished epoch")
    prepared.context.session.connect()
    check_shared(run.root)
    job, weights = job_of(prepared, [m for m in members if not finished.issuperset(of_member[m.name])], images)
    if watch:
        job = replace(job, judged_at=watch.judged_at)
    nodes = prepared.context.session.nodes(-(-unfinished // config.compute.packs_per_gpu))
    streams = {member.name: stream_of(prepared, member) for member in members}
    plan = plan_run(list(members), list(folds), nodes, config.compute, streams, weights, finished)
    room = room_of(plan.slots, nodes)
    display.line(stage, f"{unfinished} models in {len(plan.packs)} pack(s), {plan.slots.count} side by side, {room}")
    names = {pack.name: [str(model) for model in pack.replicas] for pack in plan.packs}
    with timed(run, stage), display.training(names) as on_report:

        def take(report: dict[str, Any]) -> None:
            on_report(report)
            if watch:
                watch.on_report(report)

        refusals = train(job, plan, config.compute.retries, take)
    if refusals and not watch:
        raise InputError(first_of(refusals))
    given_up = sum(map(run.stopped, models))
    more = f", {given_up} others ended early" if given_up else ""
    display.line(stage, f"{sum(map(run.finished, models))} models are trained{more}")
    return refusals


def stream_of(prepared: PreparedRun, member: Member) -> StreamSpec:
    """The stream that a member's fold models read."""
    return stream_spec(member.recipe, prepared.config.seed, member.task, prepared.space)


def job_of(prepared: PreparedRun, unfinished: Sequence[Member], images: TrainingImages) -> tuple[Job, dict[str, str]]:
    """What trials need to know, with starting weights and features at hand; and the digests of the weights by member."""
    config = prepared.config
    backbones = fetch_backbones(unfinished, cache_root(config) / "backbones")
    weights = {name: file_digest(file) for name, file in backbones.items()}
    check_starts(prepared.run, weights, unfinished, prepared.context.option)
    job = Job(
        run=prepared.run,
        space=prepared.space,
        members={member.name: member for member in prepared.members},
        views=config.views,
        caches=images.caches,
        backbones=backbones,
        banks=embed_images(prepared, unfinished, images, backbones, weights),
        stream_memory=config.compute.stream_memory_mb * 2**20,
    )
    return job, weights


def is_sound(run: Run, model: ReplicaId, display: Display) -> bool:
    """Whether a model can go on from its checkpoint; a damaged one is dropped, and that is said."""
    try:
        check_archive(run.checkpoint(model))
    except DamagedFileError as error:
        display.warn(f"{error.fault}, so that {model} begins anew")
        run.checkpoint(model).unlink()
        return False
    return True


def embed_images(
    prepared: PreparedRun,
    members: Sequence[Member],
    images: TrainingImages,
    backbones: Mapping[str, Path],
    weights: Mapping[str, str],
) -> dict[str, Path]:
    """Computes the features that members with frozen backbones want; returns the folder of each such member.

    Args:
        prepared: the run.
        members: whose features are computed, where their backbones are frozen.
        images: what features are computed of.
        backbones: the file of each member's starting weights.
        weights: digests of these files.
    """
    config, session, display = prepared.config, prepared.context.session, prepared.context.display
    banks: dict[str, Path] = {}
    seconds = 0.0
    image_ids: pd.Series = images.manifest["image_id"]
    for member in members:
        recipe = member.recipe
        if not recipe.frozen:
            continue
        spec = bank_spec(recipe, stream_of(prepared, member), config.views)
        cache = images.caches[input_spec(recipe).prepared]
        folder = bank_folder(cache_of(config, "features"), spec, cache, recipe.backbone, weights[member.name], image_ids)
        parts = missing_parts(folder, spec)
        shared = folder in banks.values()
        banks[member.name] = folder
        if not parts:
            if not shared:
                display.line("embed", f"features of {recipe.backbone} are there already, in {folder}")
            continue
        memory = config.compute.stream_memory_mb * 2**20
        pool = plan_actors(session.nodes(gpus_worth(len(parts) * len(image_ids))))
        began = time.monotonic()
        with display.counting("embed", "features") as count:
            job = EmbedJob(spec, tuple(parts), folder, recipe, backbones[member.name], cache, prepared.run.manifest)
            embed(job, pool, memory, count)
        seconds += time.monotonic() - began
        display.line("embed", f"{len(parts)} × {len(image_ids)} features of {recipe.backbone}")
    if seconds:
        add_timing(prepared.run, "embed", seconds)
    return banks
