"""The Tune shell around a run's packs: each is a trial; what comes of its fold models lies in the run directory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray import tune
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback

from raymask.cluster.resources import Slots
from raymask.cluster.waiting import Need, check
from raymask.core.errors import GOES_ON, InputError, RunError, reason
from raymask.training.packs import Job, Pack, Plan

OnReport = Callable[[dict[str, Any]], None]
Work = Callable[[Job, Pack, Slots, OnReport], None]


def train_pack(job: Job, pack: Pack, slots: Slots, report: OnReport) -> None:
    """A trial's work."""
    from raymask.training.trial import train_pack_of_run  # with torch, which the driver never loads

    train_pack_of_run(job, pack, slots, report)


def train(job: Job, plan: Plan, retries: int, on_report: OnReport, work: Work = train_pack) -> list[str]:
    """Trains all packs of a plan, side by side in its slots, until the results of each fold model are in the run directory.

    Fold models that cannot be trained are left out, and a sentence says why.

    Args:
        job: the run.
        plan: packs and slots.
        retries: times that a pack is begun again when its process or node dies; it goes on from its last finished epoch.
        on_report: called in this process with each report of a trial, see `raymask.training.reporting.Reporter`.
        work: what a trial does with its pack; it reports, and leaves every fold model finished.

    Returns:
        A sentence for each that cannot be trained.

    Raises:
        RunError: a pack failed for good, or training was interrupted.
    """
    packs = {pack.name: pack for pack in plan.packs}
    resources = {"cpu": plan.slots.cpus, **({"gpu": plan.slots.gpus} if plan.slots.gpus else {})}
    named = {"CPU": plan.slots.cpus, "GPU": plan.slots.gpus}
    listener = _Listener(on_report, [named, {"CPU": plan.slots.stream_cpus}])
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(_trial, job=job, packs=packs, slots=plan.slots, work=work), resources),
        param_space={"pack": tune.grid_search(list(packs))},
        tune_config=tune.TuneConfig(max_concurrent_trials=plan.slots.count, reuse_actors=True),
        run_config=tune.RunConfig(
            name=time.strftime("%Y%m%d-%H%M%S"),
            storage_path=str(job.run.tune),
            failure_config=tune.FailureConfig(max_failures=retries),
            callbacks=[listener, JsonLoggerCallback(), CSVLoggerCallback()],
            stop=listener,
            verbose=0,
        ),
    )
    results = tuner.fit()
    if listener.given_up:
        raise listener.given_up
    if listener.refusals:
        return listener.refusals
    if results.errors:
        first = next(result for result in results if result.error)
        raise RunError(
            f"{len(results.errors)} of {len(packs)} packs failed ({reason(first.error, job.run.root)}); the whole error lies in "
            f"{first.path}/error.txt. Once its cause is gone, {GOES_ON}."
        )
    if not all(job.run.ended(replica) for pack in plan.packs for replica in pack.replicas):
        raise RunError(f"training ended before its end; {GOES_ON}.")
    return []


def first_of(refusals: Sequence[str]) -> str:
    """One sentence of several: the first, and how many others there are.

    Example:
        >>> first_of(["mask/fold-0 was given up: lower recipe.optim.lr.", "mask/fold-2 was given up: lower recipe.optim.lr."])
        'mask/fold-0 was given up: lower recipe.optim.lr; another cannot be trained either.'
    """
    first, *others = dict.fromkeys(refusals)  # a pack that was begun again says the same once more
    if not others:
        return first
    return f"{first.rstrip('.')}; {f'{len(others)} others' if len(others) > 1 else 'another'} cannot be trained either."


class _Listener(tune.Callback, tune.Stopper):  # type: ignore[misc]
    """Hands on what the trials report, and stops them all when no machine can run one for too long."""

    def __init__(self, on_report: OnReport, needs: Sequence[Need]) -> None:
        self.on_report, self.needs = on_report, needs
        self.refusals: list[str] = []
        self.given_up: RunError | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks for a restore that a run directory makes needless; a console cannot be pickled."""
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:  # noqa: ARG002
        """Called several times a second."""
        try:
            check(self.needs)
        except RunError as error:
            self.given_up = error

    def stop_all(self) -> bool:
        """Asked after each step."""
        return self.given_up is not None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        """Asked after each report; a trial ends by itself."""
        return False

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:  # noqa: ARG002
        if "refusal" in result:
            self.refusals.append(result["refusal"])
        else:
            self.on_report(result)


def _trial(config: dict[str, Any], job: Job, packs: Mapping[str, Pack], slots: Slots, work: Work) -> None:
    pack = packs[config["pack"]]
    try:
        work(job, pack, slots, tune.report)
    except InputError as error:  # retrying cannot help, so the trial ends well and the driver refuses the run
        tune.report({"pack": pack.name, "refusal": str(error)})
