"""What a trial reports to Tune, and how often."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ray.util.metrics import Gauge

from raymask.runs.directory import PART_NAMES, ReplicaId
from raymask.training.loop import EpochReport
from raymask.training.pace import Pace
from raymask.training.packs import Job, Pack

SECONDS_BETWEEN_REPORTS = 2.0
Report = Callable[[dict[str, Any]], None]


class Reporter:
    """Tells Tune and Ray's metrics how a pack is doing.

    A report holds `pack`, `phase` (starting, training, done), `share` of the phase's work done, from the second epoch on
    `seconds_left`, and after an epoch `images_per_second`, `waiting` and, in `replicas`, the metrics of each fold model by name.
    """

    def __init__(self, job: Job, pack: Pack, replicas: Sequence[ReplicaId], pace: Pace, report: Report) -> None:
        self.pack, self.replicas, self.pace, self.report = pack, replicas, pace, report
        self.run, self.judged_at, self.last = job.run.name, job.judged_at, time.monotonic()
        tags = ("run", "member", "fold")
        self.gauges = {
            "epoch": Gauge("raymask_epoch", "Finished epochs of a fold model", tag_keys=tags),
            "loss": Gauge("raymask_loss", "Cross-entropy of a fold model on its own fold", tag_keys=tags),
            "f1": Gauge("raymask_f1", "Macro-F1 of a fold model on its own fold", tag_keys=tags),
            "images_per_second": Gauge("raymask_images_per_second", "Images that a fold model's pack learns from", tag_keys=tags),
            "waiting": Gauge("raymask_waiting_share", "Share of time that a fold model's pack waits for data", tag_keys=tags),
        }
        self.phase = "starting"
        self._send("starting", 0.0)

    def step(self, epoch: int, step: int) -> None:
        """A batch is learned."""
        self.pace.step()
        began, self.phase = self.phase == "starting", "training"
        if step < self.pace.steps - 1 and (began or self._due()):
            self._send_training(epoch + (step + 1) / self.pace.steps)

    def epoch(self, report: EpochReport) -> None:
        """An epoch is finished, scored and kept."""
        self.pace.end_epoch(report.scoring)
        rates = {"images_per_second": report.images_per_second, "waiting": report.waiting}
        for replica in self.replicas:
            if metrics := report.metrics.get(str(replica)):
                values = {"epoch": metrics.epoch, "loss": metrics.loss, "f1": metrics.f1, **rates}
                tags = {"run": self.run, "member": replica.member, "fold": PART_NAMES.get(replica.fold, str(replica.fold))}
                for name, value in without_nan(values).items():
                    self.gauges[name].set(value, tags)
        last = report.epoch + 1 == self.pack.epochs
        if self.pack.frozen is None or last or report.epoch + 1 in self.judged_at or self._due():
            by_replica = {name: asdict(metrics) for name, metrics in report.metrics.items()}
            self._send_training(report.epoch + 1, **rates, replicas=by_replica)

    def done(self) -> None:
        """All results are written."""
        self._send("done", 1.0)

    def refuse(self, sentence: str) -> None:
        """A fold model cannot be trained; the others of its pack are finished."""
        self.report({"pack": self.pack.name, "refusal": sentence})

    def _due(self) -> bool:
        return time.monotonic() - self.last >= SECONDS_BETWEEN_REPORTS

    def _send_training(self, done: float, **more: Any) -> None:
        left = self.pace.seconds_left(done)
        self._send("training", done / self.pack.epochs, **({} if left is None else {"seconds_left": left}), **more)

    def _send(self, phase: str, share: float, **more: Any) -> None:
        self.last = time.monotonic()
        self.report({"pack": self.pack.name, "phase": phase, "share": share, "epochs": self.pack.epochs, **more})


def without_nan(values: Mapping[str, float]) -> dict[str, float]:
    """The values that are numbers."""
    return {name: value for name, value in values.items() if not math.isnan(value)}
