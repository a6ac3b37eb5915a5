"""What happens inside a trial: a pack's learners are built or taken up again, trained, and their results written."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pickle import UnpicklingError
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from ray.util.metrics import Gauge

import raymask
from raymask.config import Member
from raymask.data.batches import Schedule
from raymask.data.features import BankSpec, open_bank
from raymask.data.stream import open_schedule, prepared_images, stream
from raymask.device import prepare_process
from raymask.engine import EpochReport, LabelTable, Learner, train_pack
from raymask.feeds import FeatureFeed, Feed, PixelFeed
from raymask.metrics import heads_of
from raymask.models import Classifier, build_classifier, load_backbone, save_classifier
from raymask.plan import Job, Pack, Slots
from raymask.run_files import DamagedFileError, check_archive, digest_of, replacing, write_json, write_table
from raymask.run_tables import read_manifest, read_targets
from raymask.store import ANY_FOLD, PART_NAMES, ReplicaId, Run
from raymask.tasks import JOINT, UNLABELLED, Labels, LabelSpace, Probabilities

SECONDS_BETWEEN_REPORTS = 2.0
META_FORMAT = 1

History = list[dict[str, Any]]
Report = Callable[[dict[str, Any]], None]


def train_pack_of_run(job: Job, pack: Pack, slots: Slots, report: Report) -> None:
    """Trains one pack, or what is unfinished of it when it is begun again.

    Raises:
        InputError: a recipe cannot be trained.
    """
    device = prepare_process(slots.threads)
    manifest = read_manifest(job.run, job.space)
    labels = label_table(manifest, job.space)
    targets = read_targets(job.run, job.space) if job.run.targets.exists() else None
    replicas = [replica for replica in pack.replicas if not job.run.finished(replica)]
    schedule = open_schedule(pack.stream, job.run.manifest)
    steps = schedule.steps
    taught = {fold: teach(labels, manifest["image_id"], targets, fold) for fold in {replica.fold for replica in replicas}}
    begun = [take_up(job, replica, taught[replica.fold], steps, device) for replica in replicas]
    learners, histories = [learner for learner, _ in begun], [history for _, history in begun]
    reporter = Reporter(job.run.name, pack, replicas, steps, report)
    feed = _feed(job, pack, slots, learners, schedule, device)

    def on_epoch(epoch: EpochReport) -> None:
        for learner, replica, history in zip(learners, replicas, histories, strict=True):
            if learner.name in epoch.metrics:
                history.append(_history_row(epoch, learner.name))
                if pack.frozen is None and learner.epoch < pack.epochs:
                    _save_checkpoint(job.run, learner, replica, history)
        reporter.epoch(epoch)

    train_pack(learners, feed, on_epoch, reporter.step)
    for learner, replica, history in zip(learners, replicas, histories, strict=True):
        _finish(job, replica, learner, feed, manifest["image_id"], history)
    reporter.done()


def label_table(manifest: pd.DataFrame, space: LabelSpace) -> LabelTable:
    """The labels and folds of a manifest as the engine takes them; unlabelled images are not learned from."""
    targets = [*space.names, JOINT]
    return LabelTable(
        space=space,
        fold=manifest["fold"].to_numpy(np.int64),
        truth={target: manifest[f"label_{target}"].to_numpy(np.int64) for target in targets},
        train={target: manifest[f"train_label_{target}"].to_numpy(np.int64) for target in targets},
        trains=manifest[f"label_{JOINT}"].to_numpy(np.int64) != UNLABELLED,
    )


def teach(labels: LabelTable, image_ids: pd.Series, targets: pd.DataFrame | None, fold: int) -> LabelTable:
    """The labels that a replica of a fold learns from: a teacher's targets in place of the manifest's where it has any.

    Images without a target keep their label, and are not learned from where they have none. As long as each target names one
    class for sure, labels stay labels; else all of them become probabilities.

    Args:
        labels: those of the manifest.
        image_ids: (N,) ids of the manifest's rows.
        targets: `image_id`, `fold` (of the replicas that a target is for, or `ANY_FOLD`; one for the fold itself goes first) and
            `joint:CLASS` for each joint class; None where there is no teacher.
        fold: the replica's.
    """
    if targets is None:
        return labels
    of_fold = targets[targets["fold"] == fold]
    of_any = targets[(targets["fold"] == ANY_FOLD) & ~targets["image_id"].isin(of_fold["image_id"])]
    applying = pd.concat([of_fold, of_any])
    place = pd.Index(applying["image_id"]).get_indexer(image_ids.to_numpy())
    rows, space = np.flatnonzero(place >= 0), labels.space
    joint = applying[[f"{JOINT}:{name}" for name in space.joint_classes]].to_numpy(np.float64)[place[rows]]
    heads = {**{name: space.marginal(joint, name) for name in space.names}, JOINT: joint}
    trains = np.ones(len(image_ids), bool) if labels.trains is None else labels.trains.copy()
    trains[rows] = True
    put = _with_labels if (joint.max(axis=1, initial=0) == 1).all() else _with_probabilities
    train = {head: put(labels.train[head].astype(np.int64), rows, taught) for head, taught in heads.items()}
    return replace(labels, train=train, trains=trains)


def _with_labels(labels: Labels, rows: Labels, taught: Probabilities) -> Labels:
    put = labels.copy()
    put[rows] = taught.argmax(axis=1)
    return put


def _with_probabilities(labels: Labels, rows: Labels, taught: Probabilities) -> npt.NDArray[np.float32]:
    """(N, C); zeros for unlabelled rows."""
    put = np.equal(labels[:, None], np.arange(taught.shape[1])).astype(np.float32)
    put[rows] = taught
    return put


def build_learner(job: Job, replica: ReplicaId, labels: LabelTable, steps: int, device: torch.device) -> Learner:
    """A replica at the start of its training; the folds of a member start from equal weights."""
    member = job.members[replica.member]
    torch.manual_seed(_mixed(member.seed, member.task))
    model = build_classifier(member.recipe, heads_of(member.task, job.space))
    if file := job.backbones.get(member.name):
        load_backbone(model, file)
    seed = _mixed(member.seed, str(replica))
    return Learner(str(replica), replica.fold, model, member.recipe, labels, steps, seed, device)


def _mixed(seed: int, name: str) -> int:
    return int(np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1)[0])


def _feed(job: Job, pack: Pack, slots: Slots, learners: Sequence[Learner], schedule: Schedule, device: torch.device) -> Feed:
    if pack.frozen:
        for learner in learners[1:]:
            learner.model.backbone = learners[0].model.backbone
        bank = open_bank(job.banks[pack.replicas[0].member], BankSpec(pack.stream, job.views, learners[0].recipe.amp))
        return FeatureFeed(bank, schedule, pack.epochs, device)
    cache = job.caches[pack.stream.input]
    batches = stream(
        pack.stream,
        cache,
        job.run.manifest,
        first_epoch=min(learner.epoch for learner in learners),
        memory=job.stream_memory,
        cpus_per_task=slots.stream_cpus,
        tasks=None if slots.gpus else slots.threads,  # a CPU thread never learns faster than another augments
    )
    return PixelFeed(batches, prepared_images(cache, job.run.manifest), device)


def take_up(job: Job, replica: ReplicaId, labels: LabelTable, steps: int, device: torch.device) -> tuple[Learner, History]:
    """A learner where its checkpoint left it, and the metrics of the epochs that it has behind it.

    Without a checkpoint, or with one that is damaged or of another model, it is at the start of its training.
    """
    file, learner = job.run.checkpoint(replica), build_learner(job, replica, labels, steps, device)
    if not file.exists():
        return learner, []
    try:
        check_archive(file)
        checkpoint = torch.load(file, map_location=device, weights_only=True)
        learner.load_state(checkpoint["learner"])
        return learner, list(checkpoint["history"])
    except (DamagedFileError, UnpicklingError, LookupError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        print(f"{replica} begins anew, since '{file}' cannot be used: {error}")  # in the trial's log; see `stages.is_sound`
        file.unlink()
        return build_learner(job, replica, labels, steps, device), []


def _save_checkpoint(run: Run, learner: Learner, replica: ReplicaId, history: History) -> None:
    with replacing(run.checkpoint(replica)) as draft:
        torch.save({"learner": learner.state(), "history": history}, draft)


def _history_row(epoch: EpochReport, name: str) -> dict[str, Any]:
    metrics = asdict(epoch.metrics[name])
    scores = metrics.pop("scores")
    by_target = {f"{kind}_{target}": value for target, both in scores.items() for kind, value in both.items()}
    return {**metrics, **by_target, "images_per_second": epoch.images_per_second, "waiting": epoch.waiting}


def _finish(job: Job, replica: ReplicaId, learner: Learner, feed: Feed, image_ids: pd.Series, history: History) -> None:
    """Writes a replica's OOF predictions, history and weights, and last its meta.json, which marks it as finished.

    A replica that no fold is left out of has no OOF predictions.
    """
    run, member = job.run, job.members[replica.member]
    if len(learner.own_rows):
        write_table(run.replica_oof(replica), _predict_own_fold(job, learner, feed, image_ids))
    write_table(run.history(replica), pd.DataFrame(history))
    scores = _without_nan(history[-1]) if history else {}
    write_model(run, member, replica.fold, learner.best_model, job.space, epochs=learner.epoch, scores=scores)
    run.checkpoint(replica).unlink(missing_ok=True)


def write_model(run: Run, member: Member, fold: int, model: Classifier, space: LabelSpace, **more: Any) -> None:
    """Writes a member's model, and last its meta.json, which marks it as finished.

    Args:
        run: where it is kept.
        member: what the model is of.
        fold: that of the replica, or what stands for it.
        model: its weights.
        space: the label space.
        more: what else meta.json holds of it.
    """
    replica = ReplicaId(member.name, fold)
    with replacing(run.weights(replica)) as draft:
        save_classifier(model, draft)
    meta = {
        "format": META_FORMAT,
        "member": member.name,
        "fold": fold,
        "task": member.task,
        "classes": {head: space.classes(head) for head in model.classes},
        "recipe": member.recipe.model_dump(mode="json"),
        "seed": member.seed,
        "sha256": digest_of(run.weights(replica)),
        **more,
        "versions": {name: version(name) for name in ("torch", "timm")} | {"raymask": raymask.__version__},
    }
    write_json(run.meta(replica), meta)


def _without_nan(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if not math.isnan(value)}


def _predict_own_fold(job: Job, learner: Learner, feed: Feed, image_ids: pd.Series) -> pd.DataFrame:
    """One row an image of the replica's own fold and view: image_id, view, and float32 `head:class` probabilities."""
    ids = image_ids.to_numpy()[learner.own_rows]
    tables = []
    for view in job.views:
        probabilities = learner.predict(learner.own_rows, view, feed)
        columns = {
            f"{head}:{name}": of_head[:, label]
            for head, of_head in probabilities.items()
            for label, name in enumerate(job.space.classes(head))
        }
        tables.append(pd.DataFrame({"image_id": ids, "view": view, **columns}))
    return pd.concat(tables, ignore_index=True)


class Reporter:
    """Tells Tune and Ray's metrics how a pack is doing.

    A report holds `pack`, `phase` (starting, training, done), `share` of the phase's work done, and after an epoch
    `images_per_second`, `waiting` and, in `replicas`, the metrics of each replica by name.
    """

    def __init__(self, run: str, pack: Pack, replicas: Sequence[ReplicaId], steps: int, report: Report) -> None:
        self.pack, self.replicas, self.steps, self.report = pack, replicas, steps, report
        self.run, self.last = run, time.monotonic()
        tags = ("run", "member", "fold")
        self.gauges = {
            "epoch": Gauge("raymask_epoch", "Finished epochs of a replica", tag_keys=tags),
            "loss": Gauge("raymask_loss", "Cross-entropy of a replica on its own fold", tag_keys=tags),
            "f1": Gauge("raymask_f1", "Macro-F1 of a replica on its own fold", tag_keys=tags),
            "images_per_second": Gauge("raymask_images_per_second", "Images that a replica's pack learns from", tag_keys=tags),
            "waiting": Gauge("raymask_waiting_share", "Share of time that a replica's pack waits for data", tag_keys=tags),
        }
        self.phase = "starting"
        self._send("starting", 0.0)

    def step(self, epoch: int, step: int) -> None:
        """A batch is learned."""
        began, self.phase = self.phase == "starting", "training"
        if step < self.steps - 1 and (began or self._due()):
            self._send("training", (epoch + (step + 1) / self.steps) / self.pack.epochs)

    def epoch(self, report: EpochReport) -> None:
        """An epoch is finished and scored."""
        rates = {"images_per_second": report.images_per_second, "waiting": report.waiting}
        for replica in self.replicas:
            if metrics := report.metrics.get(str(replica)):
                values = {"epoch": metrics.epoch, "loss": metrics.loss, "f1": metrics.f1, **rates}
                tags = {"run": self.run, "member": replica.member, "fold": PART_NAMES.get(replica.fold, str(replica.fold))}
                for name, value in _without_nan(values).items():
                    self.gauges[name].set(value, tags)
        last = report.epoch + 1 == self.pack.epochs
        if self.pack.frozen is None or last or self._due():
            by_replica = {name: asdict(metrics) for name, metrics in report.metrics.items()}
            self._send("training", (report.epoch + 1) / self.pack.epochs, **rates, replicas=by_replica)

    def done(self) -> None:
        """All results are written."""
        self._send("done", 1.0)

    def _due(self) -> bool:
        return time.monotonic() - self.last >= SECONDS_BETWEEN_REPORTS

    def _send(self, phase: str, share: float, **more: Any) -> None:
        self.last = time.monotonic()
        self.report({"pack": self.pack.name, "phase": phase, "share": share, "epochs": self.pack.epochs, **more})
