"""`raymask bakeoff`: heads on the frozen features of several backbones, which cost an image one pass, and which to fine-tune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from raymask.cluster.resources import plan_actors
from raymask.config.loading import differences
from raymask.config.members import member_recipe
from raymask.config.recipe import Recipe
from raymask.config.schema import RunConfig
from raymask.core.columns import label_column
from raymask.core.console import Display
from raymask.core.errors import InputError
from raymask.core.paths import absolute, check_writable
from raymask.core.tasks import JOINT, LabelSpace
from raymask.core.types import Labels
from raymask.data.folds import replica_folds
from raymask.inference.timing import measure
from raymask.io.atomic import write_table
from raymask.io.checked import DamagedFileError
from raymask.io.hashing import file_digest, text_digest
from raymask.metrics.bootstrap import group_numbers, parse_metric
from raymask.report.bakeoff import Probed, as_table, scored, shown, verdict, write_plot
from raymask.runs.configs import load_run_config, save_run_config
from raymask.runs.directory import ReplicaId, Run, cache_root
from raymask.runs.folders import BakeOffFiles
from raymask.runs.models import network_size, read_model
from raymask.runs.predictions import collect_oof, oof_by_view
from raymask.runs.schemas import BackboneScore, BakeOff, read_run_file, write_run_file
from raymask.training.backbones import check_backbones, refused_backbones
from raymask.transforms.tta import even
from raymask.workflows.context import run_context
from raymask.workflows.fold_models import train_fold_models
from raymask.workflows.images import prepare_images
from raymask.workflows.setup import PreparedRun, prepare_run, record_run, resolve


def bakeoff(config: RunConfig, display: Display | None = None) -> BakeOff:
    """Compares frozen backbones by what heads on their features score out of fold, and by what an image costs.

    A backbone that cannot be had has a row that says why. Backbones may join and leave later: features and heads that are there
    are used again.

    Args:
        config: see `raymask.config.bakeoff.bakeoff_config`.
        display: what shows progress.

    Raises:
        InputError: a name is none of timm's, no backbone can be had, or the data or the config are wrong.
        RunError: a part failed for good; started again, it goes on with what is unfinished.
    """
    display, folder = display or Display(), absolute(config.runs) / config.name
    check_writable(folder, "--out")
    check_writable(cache_root(config.model_copy(update={"runs": folder.parent})), "folder by --set cache=FOLDER")
    check_backbones(member_recipe(config.recipe, member) for member in config.members)
    config = resolve(config)
    with run_context(Run(folder), config, display, option="--out") as context:
        context.session.begin()
        admit(context.run, config)
        prepared = prepare_run(context, with_test=False)
        refused = _refused(prepared)
        record_run(prepared)
        if not BakeOffFiles(folder).comparison.exists():
            write_run_file(BakeOffFiles(folder).comparison, BakeOff(format=1))
        prepared = replace(prepared, members=[member for member in prepared.members if member.name not in refused])
        images = prepare_images(prepared)
        train_fold_models(prepared, "train", prepared.members, replica_folds(images.manifest["fold"]), images)
        result = _compare(prepared, refused, images.manifest)
    _show(result, BakeOffFiles(folder), display)
    return result


def admit(run: Run, config: RunConfig) -> None:
    """Lets backbones join and leave a bake-off that is begun; what else of it must be the same, `prepare_run` sees to.

    Raises:
        InputError: a backbone that joins left with another recipe than it has now.
    """
    if not (run.config.exists() and BakeOffFiles(run.root).comparison.exists()):
        return
    known = load_run_config(run)
    changed = known.model_copy(update={"members": config.members})
    if differences(changed, config.model_copy(update={"tasks": known.tasks})):
        return
    for member in config.members:
        recipe = member_recipe(config.recipe, member)
        for model in run.fold_models(str(member.name)):
            if run.finished(model) and _without_weights(read_model(run.replica(model)).recipe) != _without_weights(recipe):
                raise InputError(
                    f"'{run.root}' compared '{member.name}' by another recipe; put that back, give it a `label` of its own, or "
                    "name another --out."
                )
    save_run_config(run, changed)


def _without_weights(recipe: Recipe) -> Recipe:
    """A recipe wherever its weights lie; what they are is known by their digests."""
    return recipe.model_copy(update={"weights": None})


def _refused(prepared: PreparedRun) -> dict[str, str]:
    """Why a backbone cannot be had, by member.

    Raises:
        InputError: none can.
    """
    context = prepared.context
    context.session.connect()
    refused = refused_backbones(prepared.members, cache_root(prepared.config) / "backbones")
    if len(refused) == len(prepared.members):
        name = prepared.members[0].name
        raise InputError(f"none of the {len(refused)} backbones can be had, such as '{name}': {refused[name]}")
    return refused


def _compare(prepared: PreparedRun, refused: Mapping[str, str], manifest: pd.DataFrame) -> BakeOff:
    """The comparison, which is kept in the run's directory; one that is there of the same predictions is read."""
    run, config, space = prepared.run, prepared.config, prepared.space
    folds = replica_folds(manifest["fold"])
    images = manifest[manifest["fold"].isin(folds)].reset_index(drop=True)
    for member in prepared.members:
        collect_oof(run, member.name, folds, images["image_id"])
    metric = parse_metric(config.vote.metric, space)
    parts = [repr((str(metric), config.seed, sorted(refused.items())))]
    parts += [f"{member.name} {file_digest(run.oof(member.name))}" for member in prepared.members]
    source = text_digest(*parts)[:16]
    if (known := _known(run)) and known.fingerprint == source:
        prepared.context.display.line("bakeoff", "compared already")
        return known
    probed, device = _probed(prepared, folds[0], images)
    truth, groups = images[label_column(JOINT)].to_numpy(np.int64), group_numbers(images["group"])
    rows = scored(probed, metric, space, truth, groups, config.seed)
    result = BakeOff(
        format=1,
        fingerprint=source,
        metric=str(metric),
        images=len(images),
        groups=int(groups.max()) + 1,
        device=device,
        rows=[*rows, *_rows_of_refused(prepared.config, refused)],
    )
    write_run_file(BakeOffFiles(run.root).comparison, result)
    return result


def _known(run: Run) -> BakeOff | None:
    """The comparison that was written; None where there is none that can be read, and it is made again."""
    try:
        return read_run_file(BakeOffFiles(run.root).comparison, BakeOff)
    except DamagedFileError:
        return None


def _probed(prepared: PreparedRun, fold: int, images: pd.DataFrame) -> tuple[list[Probed], str]:
    """What is known of each backbone, and the device that all were timed on, by turns."""
    run, views = prepared.run, prepared.config.views
    models = [ReplicaId(member.name, fold) for member in prepared.members]
    pool = plan_actors(prepared.context.session.nodes(1))
    milliseconds, device = measure(run, [[model] for model in models], images["path"].tolist(), even(views), pool)
    probed = []
    for member, model, ms in zip(prepared.members, models, milliseconds, strict=True):
        parameters, features = network_size(read_model(run.replica(model)))
        labels = _labels(run, member.name, views, images["image_id"], prepared.space)
        backbone, size = member.recipe.backbone, member.recipe.height_width
        probed.append(Probed(member.name, backbone, size, labels, parameters, features, ms))
    return probed, device


def _labels(run: Run, member: str, views: Sequence[str], image_ids: pd.Series, space: LabelSpace) -> Labels:
    """(N,) joint labels of the most probable class of each task, out of fold."""
    by_view = oof_by_view(run.oof(member), member, views, image_ids)
    return space.join({task: of_task.mean(axis=0).argmax(axis=1) for task, of_task in by_view.items()})


def _rows_of_refused(config: RunConfig, refused: Mapping[str, str]) -> list[BackboneScore]:
    recipes = {str(member.name): member_recipe(config.recipe, member) for member in config.members}
    return [
        BackboneScore(
            name=name,
            backbone=recipes[name].backbone,
            height=recipes[name].height_width[0],
            width=recipes[name].height_width[1],
            problem=why,
        )
        for name, why in refused.items()
    ]


def _show(result: BakeOff, files: BakeOffFiles, display: Display) -> None:
    write_table(files.table, as_table(result))
    write_plot(result, files.plot)
    title = f"Heads on frozen backbones, out of fold on {result.images} images of {result.groups} groups (95% intervals)"
    display.table(f"{title}, timed on {result.device}", *shown(result))
    for row in result.rows:
        if row.problem:
            display.warn(f"{row.name}: {row.problem}")
    display.table("Files", ["", ""], [[file.name, str(file)] for file in (files.table, files.comparison, files.plot)])
    display.line("bakeoff", verdict(result))
