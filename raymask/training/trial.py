"""What happens inside a trial: a pack's learners are built or taken up again, trained, and their results written."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import torch

import raymask
from raymask.cluster.resources import Slots
from raymask.config.members import Member
from raymask.core.columns import by_column
from raymask.core.tasks import LabelSpace, heads_of
from raymask.data.features import open_bank
from raymask.data.sampling import BatchSampler
from raymask.data.specs import bank_spec
from raymask.data.statistics import channel_sums
from raymask.data.stream import open_batch_sampler, prepared_images, stream
from raymask.io.atomic import replacing, write_table
from raymask.io.hashing import file_digest
from raymask.models.classifier import Classifier, build_classifier, save_classifier
from raymask.models.precision import prepare_process
from raymask.models.pretrained import load_backbone
from raymask.models.trunks import shared_cuts
from raymask.runs.directory import ReplicaId, Run
from raymask.runs.schemas import Meta, write_run_file
from raymask.runs.tables import read_manifest, read_targets
from raymask.training.checkpoints import Checkpoints, History
from raymask.training.failures import Failure
from raymask.training.inputs import FeatureFeed, Feed, PixelFeed
from raymask.training.learner import Learner, LearnerSpec, Order
from raymask.training.loop import EpochReport, train_pack
from raymask.training.pace import Pace
from raymask.training.packs import Job, Pack
from raymask.training.reporting import Report, Reporter, without_nan
from raymask.training.targets import LabelTable, label_table, teach

META_FORMAT = 1


def train_pack_of_run(job: Job, pack: Pack, slots: Slots, report: Report) -> None:
    """Trains one pack, or what is unfinished of it when it is begun again.

    A fold model whose numbers cease to be finite is given up and reported; the others are finished.

    Raises:
        InputError: a recipe cannot be trained.
    """
    device = prepare_process(slots.threads)
    manifest = read_manifest(job.run, job.space)
    labels = label_table(manifest, job.space)
    targets = read_targets(job.run, job.space) if job.run.targets.exists() else None
    replicas = [replica for replica in pack.replicas if not job.run.ended(replica)]
    sampler = open_batch_sampler(pack.stream, job.run.manifest)
    steps = sampler.steps
    taught = {fold: teach(labels, manifest["image_id"], targets, fold) for fold in {replica.fold for replica in replicas}}
    specs = {
        replica: learner_spec(job.members[replica.member], replica.fold, taught[replica.fold], steps, sampler.order)
        for replica in replicas
    }
    statistics = statistics_of(job, pack, specs)
    checkpoints = Checkpoints(job.run)
    begun = [
        checkpoints.resume(replica, partial(build_learner, job, replica, spec, device, statistics.get(replica)), device)
        for replica, spec in specs.items()
    ]
    learners, histories = [learner for learner, _ in begun], [history for _, history in begun]
    _give_up_marked(job.run, replicas, learners)
    reporter = Reporter(job, pack, replicas, Pace(steps, pack.epochs, len(job.views)), report)
    if pack.frozen:
        share_backbone(learners)
    feed = open_feed(job, pack, slots, learners, sampler, device)

    def on_epoch(epoch: EpochReport) -> None:
        scored = [each for each in zip(replicas, learners, histories, strict=True) if each[1].name in epoch.metrics]
        for _, learner, history in scored:
            history.append(_history_row(epoch, learner.name))
        if pack.frozen is None and epoch.epoch + 1 < pack.epochs:
            checkpoints.save(scored)
        reporter.epoch(epoch)
        if epoch.epoch + 1 in job.judged_at:  # the driver has taken the report, and may have given some up
            _give_up_marked(job.run, replicas, learners)

    train_pack(learners, feed, on_epoch, reporter.step)
    for learner, replica, history in zip(learners, replicas, histories, strict=True):
        if not learner.failure:
            _finish(job, replica, learner, feed, manifest["image_id"], history)
    failures = [(replica, learner.failure) for replica, learner in zip(replicas, learners, strict=True) if learner.failure]
    for replica, failure in failures:
        reporter.refuse(_give_up(job.run, replica, failure, manifest["image_id"]))
    if not failures:
        reporter.done()


def _give_up_marked(run: Run, replicas: Sequence[ReplicaId], learners: Sequence[Learner]) -> None:
    """Ends fold models that have come to where their trials of a search end."""
    for replica, learner in zip(replicas, learners, strict=True):
        last = run.stops_after(replica)
        learner.given_up = last is not None and learner.epoch >= last


def learner_spec(member: Member, fold: int, labels: LabelTable, steps: int, order: Order | None = None) -> LearnerSpec:
    """What decides the training of a member's model of a fold; see `LearnerSpec`."""
    name = str(ReplicaId(member.name, fold))
    return LearnerSpec(name, fold, member.recipe, labels, steps, derive_seed(member.seed, name), order)


def statistics_of(job: Job, pack: Pack, specs: Mapping[ReplicaId, LearnerSpec]) -> dict[ReplicaId, tuple[float, ...]]:
    """Mean and deviation of the images that fold models learn from, for those whose recipes normalise by them.

    Args:
        job: the run.
        pack: whose prepared images they are.
        specs: the fold models'.
    """
    wanting = {replica: spec for replica, spec in specs.items() if spec.recipe.normalize == "dataset"}
    if not wanting:
        return {}
    spec = pack.stream.input
    sums = channel_sums(prepared_images(job.caches[spec.prepared], job.run.manifest).seen_by(spec))
    return {replica: sums.statistics(spec.learned_labels()[0].learned(spec.fold)) for replica, spec in wanting.items()}


def build_learner(
    job: Job, replica: ReplicaId, spec: LearnerSpec, device: torch.device, statistics: Sequence[float] | None = None
) -> Learner:
    """A fold model at the start of its training; the folds of a member start from equal weights."""
    member = job.members[replica.member]
    torch.manual_seed(derive_seed(member.seed, member.task))
    heads = heads_of(member.task, job.space)
    model = build_classifier(member.recipe, heads, spec.labels.scales(heads), statistics)
    if file := job.backbones.get(member.name):
        load_backbone(model, file)
    return Learner(spec, model, device)


def share_backbone(learners: Sequence[Learner]) -> None:
    """Keeps one of equal frozen backbones for all learners, so that memory holds it once."""
    for learner in learners[1:]:
        learner.model.backbone = learners[0].model.backbone


def derive_seed(seed: int, name: str) -> int:
    """A seed of its own for each name, from the run's."""
    return int(np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1)[0])


def open_feed(
    job: Job, pack: Pack, slots: Slots, learners: Sequence[Learner], sampler: BatchSampler, device: torch.device
) -> Feed:
    """What a pack's learners are fed with: batches of a stream, or features from a bank."""
    if pack.frozen:
        bank = open_bank(job.banks[pack.replicas[0].member], bank_spec(learners[0].recipe, pack.stream, job.views))
        return FeatureFeed(bank, sampler, pack.epochs, device)
    cache = job.caches[pack.stream.input.prepared]
    batches = stream(
        pack.stream,
        cache,
        job.run.manifest,
        first_epoch=min((learner.epoch for learner in learners if not learner.ended), default=pack.epochs),
        memory=job.stream_memory,
        cpus_per_task=slots.stream_cpus,
        tasks=None if slots.gpus else slots.threads,  # a CPU thread never learns faster than another augments
    )
    prepared = prepared_images(cache, job.run.manifest).seen_by(pack.stream.input)
    unmixed = [learner for learner in learners if learner.recipe.mix.name == "none"]  # else pixels differ from model to model
    cuts = shared_cuts((learner.recipe, model) for learner in unmixed for model in learner.models)
    return PixelFeed(batches, prepared, device, cuts)


def _history_row(epoch: EpochReport, name: str) -> dict[str, Any]:
    metrics = asdict(epoch.metrics[name])
    scores = metrics.pop("scores")
    if math.isnan(metrics["judged_loss"]):  # without early stopping
        del metrics["judged_loss"]
    by_target = {f"{kind}_{target}": value for target, both in scores.items() for kind, value in both.items()}
    return {**metrics, **by_target, "images_per_second": epoch.images_per_second, "waiting": epoch.waiting}


def _finish(job: Job, replica: ReplicaId, learner: Learner, feed: Feed, image_ids: pd.Series, history: History) -> None:
    """Writes a fold model's OOF predictions, history and weights, and last its meta.json, which marks it as finished.

    A fold model that no fold is left out of has no OOF predictions, and one that was given up no weights.
    """
    run, member = job.run, job.members[replica.member]
    if len(learner.own_rows):
        write_table(run.replica_oof(replica), _predict_own_fold(job, learner, feed, image_ids))
    write_table(run.history(replica), pd.DataFrame(history))
    if learner.given_up:
        run.checkpoint(replica).unlink(missing_ok=True)
        return
    scores = {row["epoch"]: without_nan(row) for row in history}.get(learner.kept_epoch, {})
    write_model(run, member, replica.fold, learner.best_model, job.space, epochs=learner.kept_epoch, scores=scores)
    run.checkpoint(replica).unlink(missing_ok=True)
    run.files_of(replica).failed_batch.unlink(missing_ok=True)


def _give_up(run: Run, replica: ReplicaId, failure: Failure, image_ids: pd.Series) -> str:
    """Writes which images a fold model failed at, drops its checkpoint, so that it begins anew, and says what to do."""
    file = run.files_of(replica).failed_batch
    images = image_ids.to_numpy()[failure.rows]
    write_table(file, pd.DataFrame({"image_id": images, "epoch": failure.epoch, "step": failure.step}))
    run.checkpoint(replica).unlink(missing_ok=True)
    return (
        f"{replica} was given up in epoch {failure.epoch} at step {failure.step}, since {failure.found}: lower recipe.optim.lr, "
        f"set recipe.optim.clip_grad, or look at the images of that step, which are listed in '{file}'."
    )


def write_model(run: Run, member: Member, fold: int, model: Classifier, space: LabelSpace, **more: Any) -> None:
    """Writes a member's model, and last its meta.json, which marks it as finished.

    Args:
        run: where it is kept.
        member: what the model is of.
        fold: that of the model, or what stands for it.
        model: its weights.
        space: the label space.
        more: what else meta.json holds of it.
    """
    replica = ReplicaId(member.name, fold)
    with replacing(run.weights(replica)) as draft:
        save_classifier(model, draft)
    if member.recipe.normalize == "dataset":
        more["statistics"] = list(model.statistics)
    meta = Meta(
        format=META_FORMAT,
        member=member.name,
        fold=fold,
        task=member.task,
        classes={head: list(space.classes(head)) for head in model.classes},
        **({"scales": {head: asdict(scale) for head, scale in model.scales.items()}} if model.scales else {}),
        recipe=member.recipe.model_dump(mode="json"),
        seed=member.seed,
        sha256=file_digest(run.weights(replica), "sha256"),
        versions={name: version(name) for name in ("torch", "timm")} | {"raymask": raymask.__version__},
        **more,
    )
    write_run_file(run.meta(replica), meta)


def _predict_own_fold(job: Job, learner: Learner, feed: Feed, image_ids: pd.Series) -> pd.DataFrame:
    """One row an image of the model's own fold and view: image_id, view, and float32 `head:class` probabilities."""
    ids = image_ids.to_numpy()[learner.own_rows]
    tables = []
    for view in job.views:
        probabilities = learner.predict_own_fold(view, feed)
        tables.append(pd.DataFrame({"image_id": ids, "view": view, **by_column(probabilities, job.space)}))
    return pd.concat(tables, ignore_index=True)
