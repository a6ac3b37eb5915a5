"""`raymask train --debug`: the whole pipeline on few people, whether it learns, and how long the real run will take."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping

import pandas as pd

from raymask.config.debug import debug_config
from raymask.config.schema import RunConfig, resolve_members
from raymask.core.console import Display
from raymask.core.errors import InputError
from raymask.core.paths import absolute
from raymask.core.stopwatch import Stopwatch
from raymask.data.folds import replica_folds
from raymask.data.specs import input_spec
from raymask.io.checked import Kind, read_table
from raymask.runs.configs import load_run_config
from raymask.runs.directory import ReplicaId, Run
from raymask.runs.tables import read_folds, read_reserve
from raymask.runs.timings import read_timings
from raymask.workflows.context import Result
from raymask.workflows.forecast import Measured, decoding_seconds, forecast, in_words
from raymask.workflows.train import Trained, train_and_vote

COLUMNS: dict[str, Kind] = {"epoch": "whole", "images": "whole", "train_loss": "finite", "images_per_second": "finite"}
"""Of a history, those that are looked at."""


def debug(config: RunConfig, display: Display | None = None) -> Result:
    """Trains a debug run of a real run anew, and says of each member whether it learns, and how long the real run will take.

    Args:
        config: that of the real run.
        display: what shows progress.

    Returns:
        The debug run, which lies in a folder of its own.

    Raises:
        InputError: the data or the config are wrong, or where the debug run would lie there is a real one.
        RunError: a part failed for good.
    """
    watch, began = Stopwatch(display or Display()), time.monotonic()
    of_debug = debug_config(config)
    remove_debug_run(Run(absolute(of_debug.runs) / of_debug.name))
    trained = train_and_vote(of_debug, watch)
    seconds = time.monotonic() - began
    show_losses(histories_of(trained.prepared.run), watch)
    _show_forecast(seconds, config, trained, watch)
    return Result(trained.prepared.run, trained.decided.scores)


def remove_debug_run(run: Run) -> None:
    """Deletes a debug run.

    Raises:
        InputError: what lies there is a run, but no debug run by its config.
    """
    if not run.config.exists():
        return
    if run.root.is_symlink() or not load_run_config(run).debug:
        raise InputError(f"'{run.root}' is no debug run, and --debug would replace it; give the run another --name.")
    shutil.rmtree(run.root)


def histories_of(run: Run) -> dict[str, pd.DataFrame]:
    """Epochs of the fold models of each member, with the fold of each."""
    members = [member.name for member in resolve_members(load_run_config(run))]
    return {
        name: pd.concat([_history(run, model).assign(fold=model.fold) for model in run.fold_models(name)], ignore_index=True)
        for name in members
    }


def _history(run: Run, model: ReplicaId) -> pd.DataFrame:
    return read_table(run.history(model), COLUMNS, only=True)


def show_losses(histories: Mapping[str, pd.DataFrame], display: Display) -> None:
    """Says of each member whether its training loss fell from the first epoch to the last, on the mean over its folds."""
    rows = []
    for name, history in histories.items():
        by_epoch = history.groupby("epoch")["train_loss"].mean()
        first, last = float(by_epoch.iloc[0]), float(by_epoch.iloc[-1])
        rows.append([name, f"{first:.4f}", f"{last:.4f}", "fell" if last < first else "did not fall"])
    display.table("Training loss", ["", "first epoch", "last epoch", ""], rows)
    for name, before, after, verdict in rows:
        if verdict != "fell":
            display.warn(
                f"the training loss of '{name}' did not fall ({before}, then {after}): look at its labels, and at recipe.optim.lr"
            )


def _show_forecast(seconds: float, config: RunConfig, trained: Trained, watch: Stopwatch) -> None:
    measured = _measured(config, trained, watch)
    stages = forecast(seconds, measured.works())
    longest = sorted((stage for stage in stages if stages[stage] >= 1), key=lambda stage: -stages[stage])
    parts = ", ".join(f"{stage} {in_words(stages[stage])}" for stage in longest)
    images = round(measured.images * measured.growth)
    nodes = trained.prepared.context.session.connect().nodes
    where = "this machine" if len(nodes) == 1 else f"these {len(nodes)} machines"
    watch.line("debug", f"the real run, of {images} images, will take about {in_words(sum(stages.values()))} on {where}: {parts}")


def _measured(config: RunConfig, trained: Trained, watch: Stopwatch) -> Measured:
    prepared, run = trained.prepared, trained.prepared.run
    source, test = prepared.source, prepared.test
    images, nodes = len(source.images), prepared.context.session.connect().nodes
    growth = (images + source.left_out) / images
    held_out = len(read_reserve(run)) if run.reserve.exists() else 0
    here = (len(test.images) if test else 0) + held_out
    real = (len(test.images) + test.left_out if test else 0) + held_out * growth
    paths = read_table(run.manifest, {"path": "text"}, only=True)["path"].tolist()
    members = resolve_members(config.model_copy(update={"tasks": prepared.config.tasks, "folds": prepared.config.folds}))
    return Measured(
        watch=watch,
        histories=histories_of(run),
        members={member.name: (member, other) for member, other in zip(prepared.members, members, strict=True)},
        images=images,
        growth=growth,
        predicted=(here, real),
        views=(len(prepared.config.views), len(trained.decided.vote.views.names)),
        folds=len(replica_folds(read_folds(run))),
        vote=read_timings(run).get("vote", 0.0),
        decoding=decoding_seconds(paths, sorted({input_spec(member.recipe) for member in prepared.members})),
        cpus=sum(node.cpus for node in nodes),
    )
