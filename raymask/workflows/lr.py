"""`raymask lr`: the learning-rate range test of a recipe, with a picture and a suggestion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from raymask.config.members import Member
from raymask.config.recipe import Recipe
from raymask.config.schema import RunConfig
from raymask.core.console import Display
from raymask.core.errors import InputError
from raymask.core.paths import absolute, check_writable
from raymask.data.folds import replica_folds
from raymask.data.stream import open_batch_sampler
from raymask.io.atomic import write_table
from raymask.models.precision import prepare_process
from raymask.report.range_test import write_plot
from raymask.runs.directory import ReplicaId, Run, cache_root
from raymask.runs.outputs import check_output
from raymask.runs.tables import read_manifest
from raymask.training.packs import plan_run
from raymask.training.range_test import LEAST_STEPS, RangeTest, range_test
from raymask.training.targets import label_table
from raymask.training.trial import build_learner, learner_spec, open_feed, statistics_of
from raymask.workflows.context import run_context
from raymask.workflows.fold_models import job_of, stream_of
from raymask.workflows.images import prepare_images
from raymask.workflows.setup import PreparedRun, member_named, prepare_run, resolve

PICTURE = "lr.png"


def lr(
    config: RunConfig,
    member: str | None = None,
    rates: tuple[float, float] = (1e-6, 1.0),
    steps: int = 100,
    out: Path | None = None,
    display: Display | None = None,
) -> RangeTest:
    """Trains a fold model of one member while its learning rate rises, and says which rate to begin with.

    Args:
        config: the run's, as for training; nothing is written into its directory.
        member: name of a member (default: the first).
        rates: the lowest and the highest rate.
        steps: between them.
        out: folder of the picture and of its numbers (default: `lr-NAME` here).
        display: what shows progress.

    Raises:
        InputError: the data, the config or the rates are wrong.
        RunError: a part failed for good.
    """
    low, high = rates
    if not 0 < low < high:
        raise InputError(f"--from is {low:g} and --to {high:g}; the first must be above 0, and less than the second.")
    if steps < LEAST_STEPS:
        raise InputError(f"--steps is {steps}; {LEAST_STEPS} are the fewest that show where the loss falls.")
    display, folder = display or Display(), absolute(out or Path(f"lr-{config.name}"))
    check_output(folder, "--out", own=PICTURE)
    check_writable(folder, "--out")
    config = resolve(config)
    check_writable(cache_root(config), "folder by --set cache=FOLDER")
    with scratch_run(config) as run, run_context(run, config, display) as context:
        context.session.begin()
        prepared = prepare_run(context, with_test=False)
        chosen = member_named(prepared.members, member)
        found = _tested(prepared, chosen, rates, steps)
    if len(found.lr) < LEAST_STEPS:
        raise InputError(f"the loss of '{chosen.name}' diverged within {len(found.lr)} steps; begin lower, by --from.")
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "lr.csv", pd.DataFrame({"lr": found.lr, "loss": found.loss}))
    write_plot(found.lr, found.loss, found.suggested, folder / PICTURE)
    steepest = f"the loss falls the most steeply at {found.suggested:.2g} and is lowest at {found.lowest:.2g}"
    display.line("lr", f"{steepest}: {folder / PICTURE}")
    display.line("lr", f"try --set recipe.optim.lr={found.suggested:.2g}")
    return found


@contextmanager
def scratch_run(config: RunConfig) -> Iterator[Run]:
    """A run's directory that goes as it came, among the others, so that all nodes of a cluster see it."""
    config.runs.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".lr-", dir=config.runs) as folder:
        yield Run(Path(folder) / "run")


def without_end(recipe: Recipe, epochs: int) -> Recipe:
    """A recipe whose training lasts so many epochs, and keeps its last weights."""
    schedule = {"epochs": epochs, "average_last": 1}
    return recipe.model_copy(
        update={
            "schedule": recipe.schedule.model_copy(update=schedule),
            "optim": recipe.optim.model_copy(update={"ema": 0.0}),
            "stop": recipe.stop.model_copy(update={"patience": 0}),
        }
    )


def _tested(prepared: PreparedRun, chosen: Member, rates: tuple[float, float], steps: int) -> RangeTest:
    context, config = prepared.context, prepared.config
    images = prepare_images(prepared)
    context.session.connect()
    fold = replica_folds(images.manifest["fold"])[0]
    learns = int((images.manifest["fold"] != fold).sum())
    epochs = -(-steps * chosen.recipe.batch_size // max(1, learns)) + 1
    member = chosen.model_copy(update={"recipe": without_end(chosen.recipe, epochs)})
    job, weights = job_of(replace(prepared, members=[member]), [member], images)
    nodes = context.session.nodes(1)
    streams = {member.name: stream_of(prepared, member)}
    plan = plan_run([member], [fold], nodes, config.compute, streams, weights)
    [pack], replica = plan.packs, ReplicaId(member.name, fold)
    device = prepare_process(plan.slots.threads)
    sampler = open_batch_sampler(pack.stream, prepared.run.manifest)
    labels = label_table(read_manifest(prepared.run, prepared.space), prepared.space)
    spec = learner_spec(member, fold, labels, sampler.steps, sampler.order)
    learner = build_learner(job, replica, spec, device, statistics_of(job, pack, {replica: spec}).get(replica))
    feed = open_feed(job, pack, plan.slots, [learner], sampler, device)
    with context.display.counting("lr", "steps") as count:
        return range_test(learner, feed, *rates, steps, on_step=lambda done: count(done, steps))
