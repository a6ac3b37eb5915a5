"""`raymask predict`: images that no run knows are read, predicted shard by shard, written, and summed up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from raymask.cluster.connection import check_shared
from raymask.cluster.resources import Node, gpus_worth, plan_actors
from raymask.config.tasks import label_space
from raymask.core.console import Display
from raymask.core.errors import shortened
from raymask.core.machine import usable_memory
from raymask.core.paths import absolute, check_writable
from raymask.core.types import ActorPool
from raymask.data.test_sets import ImageList, TestSet, check_missing, read_images
from raymask.inference import bulk
from raymask.inference.definition import EnsembleDefinition, check_models, read_definition
from raymask.inference.group_tables import vote_shards_by_group
from raymask.inference.submission import submission_table
from raymask.io.atomic import write_table
from raymask.runs.configs import settled_config
from raymask.runs.directory import Run
from raymask.runs.folders import PredictionFolder
from raymask.runs.outputs import check_output
from raymask.workflows.context import RunContext, run_context
from raymask.workflows.uncertainty import unusual_line

SHARE_OF_MEMORY = 0.5
"""Of a processor's memory, what models may fill; the rest is for images and activations."""


def predict(
    folder: Path,
    images: ImageList | str,
    out: Path,
    models: str = "folds",
    settings: Sequence[str] = (),
    display: Display | None = None,
    rule: str | None = None,
) -> Path:
    """Predicts any number of images by a finished run, and returns the folder of Parquet files; cut off, it goes on.

    Args:
        folder: directory of the run.
        images: a folder or a table (CSV, TSV, Parquet) of images, local or by URL.
        out: folder of the predictions.
        models: `folds` for all fold models; `all`, `soup` or `greedy-soup` for one model a member.
        settings: `compute.key=value`, in place of what the run's config says.
        display: what shows progress.
        rule: import path of the rule of your own that the run votes by, if it does; a run's files are not believed there.

    Raises:
        InputError: the run is not finished, the images are not there, or `out` holds other predictions.
        RunError: a part failed for good; started again, it goes on with what is unfinished.
    """
    display, root, target = display or Display(), absolute(folder), absolute(out)
    check_output(target, "--out", own="job.json", begun=("images.parquet",))
    config = settled_config(Run(root), settings, {"vote": {"rule": rule}} if rule else None)
    config = config.model_copy(update={"runs": root.parent})
    check_writable(target, "--out")
    with run_context(Run(root), config, display, errors_in=target) as context:
        context.session.begin()
        definition, space = read_definition(root, models, config.vote.rule), label_space(config.tasks)
        check_models(definition.models)
        listed = images if isinstance(images, ImageList) else ImageList(images)
        wanted = read_images(listed, config.data)
        _describe(context, definition, wanted)
        output, grouped = PredictionFolder(target), "group" in wanted.images and bool(definition.grouping.tasks)
        alone = PredictionFolder(target, "each-alone") if grouped else output
        named = wanted.images if grouped else wanted.images.drop(columns="group", errors="ignore")
        nodes = context.session.nodes(gpus_worth(len(named)))
        _begin(context, definition, named, alone)
        for shard in output.shards() if grouped else []:
            shard.unlink()  # what a group says may have changed; it is soon said again
        _predict_missing(context, definition, nodes, alone)
        if grouped:
            vote_shards_by_group(
                alone, output, named["group"].to_numpy(np.int64), definition.grouping, space, definition.sets_by_group
            )
        _write_summary(context, definition, wanted, output)
        return output.predictions


def _describe(context: RunContext, definition: EnsembleDefinition, wanted: TestSet) -> None:
    missing = check_missing(wanted, context.config.data.max_missing_test, "--image-root")
    views = len(definition.vote.views.names)
    context.display.line("data", f"{len(wanted.images)} images; {len(definition.models)} models under {views} view(s)")
    for remark in filter(None, [*wanted.remarks, missing]):
        context.display.warn(remark)
    if "group" in wanted.images:
        context.display.line("data", _told_groups(definition, wanted))


def _told_groups(definition: EnsembleDefinition, wanted: TestSet) -> str:
    groups = f"{wanted.images['group'].nunique()} groups of images"
    if definition.grouping.tasks:
        return f"{groups}; {' and '.join(definition.grouping.tasks)} are voted over all images of each"
    return f"{groups}, which change nothing, since the run's vote goes by each image alone (`raymask vote` decides it anew)"


def _begin(context: RunContext, definition: EnsembleDefinition, images: pd.DataFrame, output: PredictionFolder) -> None:
    """Opens the folder, and forgets the shards whose images have changed."""
    output.root.mkdir(parents=True, exist_ok=True)
    check_shared(output.root)
    grouping = str(definition.grouping) if "group" in images else ""
    changed = bulk.begin(output, images, bulk.identity_of(definition, context.config) + grouping)
    if changed:
        sentence = f"{len(changed)} images have changed since, and are predicted again: {shortened(changed)}"
        context.display.line("predict", sentence)


def _predict_missing(
    context: RunContext, definition: EnsembleDefinition, nodes: tuple[Node, ...], output: PredictionFolder
) -> None:
    """Predicts the shards that are not written yet."""
    config, display = context.config, context.display
    pool = plan_actors(nodes)
    groups = bulk.split_models(definition.models, memory_of(nodes, pool))
    if len(groups) > 1:
        display.line("predict", f"the models do not fit into one actor, so that {len(groups)} of them pass each image on")
    with display.counting("predict", "images") as count:
        bulk.predict_shards(definition, groups, output, pool, config.compute.stream_memory_mb * 2**20, count)


def _write_summary(context: RunContext, definition: EnsembleDefinition, wanted: TestSet, output: PredictionFolder) -> None:
    """Writes submission.csv and problems.csv from the shards."""
    space = definition.space
    unusual = ["unusual"] if definition.doubt else []
    table = bulk.read_predictions(output, ["image_id", "problem", *unusual, "joint", *space.names])
    broken = table[table["problem"] != ""]
    write_table(output.problems, broken[["image_id", "problem"]])
    if len(broken):
        context.display.warn(f"{len(broken)} images cannot be read and get the classes' frequencies, see {output.problems}")
    write_table(output.submission, submission_table(wanted, table, space), wanted.line_end)
    context.display.line("predict", f"{len(table)} images, see {output.predictions} and {output.submission}")
    if definition.doubt and (told := unusual_line(table["unusual"], output.predictions)):
        context.display.line("predict", told)


def memory_of(nodes: tuple[Node, ...], pool: ActorPool) -> float:
    """Bytes of weights that one actor may hold: a share of a GPU's memory, or of its part of this machine's."""
    if pool.gpus:
        import torch  # noqa: PLC0415 -- takes seconds, and a machine without GPUs needs none of it

        if torch.cuda.is_available():
            return SHARE_OF_MEMORY * torch.cuda.get_device_properties(0).total_memory
        return SHARE_OF_MEMORY * 16e9  # the driver's machine has none; the least that is usual
    return SHARE_OF_MEMORY * usable_memory() / max(1, pool.size // len(nodes))
