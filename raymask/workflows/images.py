"""The images of a run: prepared once for every size, checked, and assigned to folds in the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from raymask.cluster.connection import check_shared
from raymask.config.schema import RunConfig
from raymask.core.columns import FOLD_NAME
from raymask.core.errors import InputError, shortened
from raymask.data.cache import find_cache, index_path, problems
from raymask.data.folds import assign_folds, rare_classes, reserve_rows
from raymask.data.prepare import prepare
from raymask.data.rejected import check_rejected
from raymask.data.specs import InputSpec, input_spec
from raymask.io.atomic import write_table
from raymask.runs.directory import cache_of
from raymask.runs.identity import check_unchanged, relocate
from raymask.runs.tables import read_manifest
from raymask.runs.timings import timed
from raymask.workflows.setup import PreparedRun
from raymask.workflows.teacher import TeacherData, learn


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """The images that members are trained on."""

    caches: Mapping[InputSpec, Path]
    """The folder of the prepared images of each size, by `InputSpec.prepared`."""
    manifest: pd.DataFrame
    """One row an image, with its fold."""


def prepare_images(prepared: PreparedRun) -> TrainingImages:
    """Prepares the images for every size that members want, and assigns their folds.

    Raises:
        InputError: too many images are broken, or the folds cannot be made.
    """
    context, config, images = prepared.context, prepared.config, prepared.source.images
    taught = learn(context, prepared.teacher, prepared.source) if prepared.teacher else None
    if taught:
        images = taught.images
    root = cache_of(config, "prepared")
    caches = {spec: find_cache(images, spec, root) for spec in sorted({input_spec(m.recipe).prepared for m in prepared.members})}
    missing = {spec: folder for spec, (folder, whole) in caches.items() if not whole}
    for spec, (folder, whole) in caches.items():
        if whole:
            context.display.line(
                "prepare", f"{len(images)} images at {spec.width}×{spec.height} are prepared already, in {folder}"
            )
    if missing:
        _prepare(prepared, images, missing)
    folders = {spec: folder for spec, (folder, _) in caches.items()}
    broken = pd.concat([problems(folder) for folder in folders.values()]).drop_duplicates("image_id")
    return TrainingImages(folders, _manifest(prepared, taught, broken))


def _prepare(prepared: PreparedRun, images: pd.DataFrame, missing: Mapping[InputSpec, Path]) -> None:
    context, root = prepared.context, cache_of(prepared.config, "prepared")
    context.session.connect()
    root.mkdir(parents=True, exist_ok=True)
    check_shared(root)
    with timed(context.run, "prepare"):
        for spec, folder in missing.items():
            with context.display.counting("prepare", f"images at {spec.width}×{spec.height}") as count:
                prepare(images, spec, folder, count)
            _check_prepared(images, folder, context.config)
            context.display.line("prepare", f"{len(images)} images at {spec.width}×{spec.height}")


def _check_prepared(images: pd.DataFrame, folder: Path, config: RunConfig) -> None:
    try:
        check_unchanged(images, config, "images")
    except InputError:
        index_path(folder).unlink()  # what was prepared is not what the cache's name says
        raise


def _manifest(prepared: PreparedRun, taught: TeacherData | None, broken: pd.DataFrame) -> pd.DataFrame:
    """The manifest, which is written unless it is there already."""
    run, config, source, display = prepared.run, prepared.config, prepared.source, prepared.context.display
    rejected = pd.concat([source.rejected, broken], ignore_index=True)
    judged = broken if source.left_out else rejected  # the others are set aside of all images, and were judged among these
    check_rejected(judged, len(source.images) + len(judged) - len(broken), config.data.max_rejected)
    write_table(run.rejected, rejected)
    if len(rejected):
        display.warn(f"{len(rejected)} images are set aside, see {run.rejected}")
    if run.manifest.exists():
        images = taught.images if taught else source.images
        if run.reserve.exists():
            relocate(run.reserve, images)
        relocate(run.manifest, images)
        return read_manifest(run, prepared.space)
    unbroken = ~(taught.manifest if taught else source.images)["image_id"].isin(set(broken["image_id"]))
    if taught:
        if len(taught.reserve):
            write_table(run.reserve, taught.reserve)
        manifest = taught.manifest[unbroken].reset_index(drop=True)
    else:
        manifest = _with_folds(prepared, source.images[unbroken].reset_index(drop=True))
    write_table(run.manifest, manifest)
    return manifest


def _with_folds(prepared: PreparedRun, images: pd.DataFrame) -> pd.DataFrame:
    config = prepared.config
    images = _without_reserve(prepared, images)
    manifest = images.assign(fold=assign_folds(images, config.folds, config.seed))
    if config.folds.column:
        _name_folds(prepared, manifest)
    if rare := rare_classes(manifest, prepared.space.joint_classes, config.folds.k):
        prepared.context.display.warn(
            f"some folds validate without these classes, which have fewer groups than folds: {shortened(rare, 4)}"
        )
    return manifest


def _name_folds(prepared: PreparedRun, manifest: pd.DataFrame) -> None:
    """Says which folds those are that the user's column names, and which of them no image is left of."""
    folds, display = prepared.config.folds, prepared.context.display
    names = manifest.groupby("fold")[FOLD_NAME].agg(["first", "size"])
    shown = [f"{fold} is '{row['first']}' ({row['size']} images)" for fold, row in names.iterrows()]
    display.line("data", f"folds by column '{folds.column}': {', '.join(shown)}")
    if len(names) < folds.k:
        display.warn(f"no image is left of {folds.k - len(names)} of the {folds.k} folds of column '{folds.column}'")


def _without_reserve(prepared: PreparedRun, images: pd.DataFrame) -> pd.DataFrame:
    """The images that are not held out from everything; the others are written to a file of their own."""
    config, reserve = prepared.config, prepared.run.reserve
    reserved = reserve_rows(images, config.folds, config.seed)
    if not reserved.any():
        return images
    held_out = images[reserved].reset_index(drop=True)
    write_table(reserve, held_out)
    groups = held_out["group"].nunique()
    prepared.context.display.line(
        "data", f"{len(held_out)} images of {groups} groups are held out from everything, see {reserve}"
    )
    return images[~reserved].reset_index(drop=True)
