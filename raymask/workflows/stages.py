"""The stages of a run: each looks at the run directory, does what is not done yet, and says what it did."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from raymask.cluster.resources import gpus_worth, plan_actors, room_of
from raymask.cluster.session import RaySession
from raymask.config.members import Member
from raymask.config.schema import RunConfig
from raymask.core.console import Display
from raymask.core.errors import InputError, shortened
from raymask.data.features import bank_folder, missing_parts
from raymask.data.folds import assign_folds, rare_classes, reserve_rows
from raymask.data.rejected import check_rejected
from raymask.data.specs import InputSpec, bank_spec, input_spec
from raymask.io.atomic import write_table
from raymask.io.checked import DamagedFileError, check_archive
from raymask.io.hashing import file_digest
from raymask.runs.directory import ReplicaId, Run, cache_root, timed
from raymask.runs.identity import check_unchanged, relocate
from raymask.runs.tables import read_manifest
from raymask.training.packs import Job, plan_run
from raymask.workflows.setup import PreparedRun
from raymask.workflows.teacher import TeacherData, learn


def prepare_images(prepared: PreparedRun, session: RaySession, display: Display) -> tuple[dict[InputSpec, Path], pd.DataFrame]:
    """Prepares the images for every size that members want; returns the caches and the manifest with its folds.

    Raises:
        InputError: too many images are broken, or the folds cannot be made.
    """
    from raymask.data.cache import find_cache, problems

    run, config, images = prepared.run, prepared.config, prepared.source.images
    teacher_data = learn(run, prepared.teacher, prepared.source, session, display) if prepared.teacher else None
    if teacher_data:
        images = teacher_data.images
    root = cache_root(config) / "prepared"
    caches = {spec: find_cache(images, spec, root) for spec in sorted({input_spec(m.recipe) for m in prepared.members})}
    missing = [spec for spec, (_, whole) in caches.items() if not whole]
    for spec, (folder, whole) in caches.items():
        if whole:
            display.line("prepare", f"{len(images)} images at {spec.width}×{spec.height} are prepared already, in {folder}")
    if missing:
        from raymask.cluster.connection import check_shared
        from raymask.data.prepare import prepare

        session.cluster  # noqa: B018
        root.mkdir(parents=True, exist_ok=True)
        check_shared(root)
        with timed(run, "prepare"):
            for spec in missing:
                with display.counting("prepare", f"images at {spec.width}×{spec.height}") as count:
                    prepare(images, spec, caches[spec][0], count)
                _check_prepared(images, caches[spec][0], config)
                display.line("prepare", f"{len(images)} images at {spec.width}×{spec.height}")
    folders = {spec: folder for spec, (folder, _) in caches.items()}
    broken = pd.concat([problems(folder) for folder in folders.values()]).drop_duplicates("image_id")
    return folders, _manifest(prepared, teacher_data, broken, display)


def _check_prepared(images: pd.DataFrame, folder: Path, config: RunConfig) -> None:
    from raymask.data.cache import index_path

    try:
        check_unchanged(images, config, "images")
    except InputError:
        index_path(folder).unlink()  # what was prepared is not what the cache's name says
        raise


def _manifest(prepared: PreparedRun, teacher_data: TeacherData | None, broken: pd.DataFrame, display: Display) -> pd.DataFrame:
    run, config, source = prepared.run, prepared.config, prepared.source
    rejected = pd.concat([source.rejected, broken], ignore_index=True)
    check_rejected(rejected, len(source.images) + len(source.rejected), config.data.max_rejected)
    write_table(run.rejected, rejected)
    if len(rejected):
        display.warn(f"{len(rejected)} images are set aside, see {run.rejected}")
    if run.manifest.exists():
        images = teacher_data.images if teacher_data else source.images
        if run.reserve.exists():
            relocate(run.reserve, images)
        relocate(run.manifest, images)
        return read_manifest(run, prepared.space)
    if teacher_data:
        if len(teacher_data.reserve):
            write_table(run.reserve, teacher_data.reserve)
        manifest = teacher_data.manifest[~teacher_data.manifest["image_id"].isin(set(broken["image_id"]))].reset_index(drop=True)
        write_table(run.manifest, manifest)
        return manifest
    manifest = source.images[~source.images["image_id"].isin(set(broken["image_id"]))].reset_index(drop=True)
    manifest = _without_reserve(prepared, manifest, display)
    manifest = manifest.assign(fold=assign_folds(manifest, config.folds, config.seed))
    thin = rare_classes(manifest, prepared.space.joint_classes, config.folds.k)
    if thin:
        display.warn(f"some folds validate without these classes, which have fewer groups than folds: {shortened(thin, 4)}")
    write_table(run.manifest, manifest)
    return manifest


def _without_reserve(prepared: PreparedRun, images: pd.DataFrame, display: Display) -> pd.DataFrame:
    """The images that are not held out from everything; the others are written to a file of their own."""
    config, reserve = prepared.config, prepared.run.reserve
    reserved = reserve_rows(images, config.folds, config.seed)
    if not reserved.any():
        return images
    held_out = images[reserved].reset_index(drop=True)
    write_table(reserve, held_out)
    groups = held_out["group"].nunique()
    display.line("data", f"{len(held_out)} images of {groups} groups are held out from everything, see {reserve}")
    return images[~reserved].reset_index(drop=True)


def train_members(
    prepared: PreparedRun,
    folds: list[int],
    caches: Mapping[InputSpec, Path],
    image_ids: pd.Series,
    session: RaySession,
    display: Display,
) -> None:
    """Trains every member's replica of each fold that is not finished."""
    train_replicas(prepared, "train", prepared.members, folds, caches, image_ids, session, display)


def train_replicas(
    prepared: PreparedRun,
    stage: str,
    members: list[Member],
    folds: list[int],
    caches: Mapping[InputSpec, Path],
    image_ids: pd.Series,
    session: RaySession,
    display: Display,
) -> None:
    """Trains these members' replicas of these folds, but for finished ones; `stage` is the name that its time is kept under."""
    run, config = prepared.run, prepared.config
    replicas = [ReplicaId(member.name, fold) for member in members for fold in folds]
    finished = {replica for replica in replicas if run.finished(replica)}
    if finished:
        display.line(stage, f"{len(finished)} of {len(replicas)} replicas are trained already")
    if len(finished) == len(replicas):
        return
    cut_off = sum(is_sound(run, replica, display) for replica in replicas if run.checkpoint(replica).exists())
    if cut_off:
        display.line(stage, f"{cut_off} replicas go on from their last finished epoch")
    from raymask.cluster.connection import check_shared
    from raymask.training.backbones import check_starts, fetch_backbones
    from raymask.training.launch import train

    session.cluster  # noqa: B018
    check_shared(run.root)
    unfinished = [m for m in members if any(ReplicaId(m.name, fold) not in finished for fold in folds)]
    backbones = fetch_backbones(unfinished, cache_root(config) / "backbones")
    weights = {name: file_digest(file) for name, file in backbones.items()}
    check_starts(run, weights, unfinished)
    banks = embed_images(prepared, unfinished, caches, backbones, weights, image_ids, session, display)
    nodes = session.nodes(-(-(len(replicas) - len(finished)) // config.compute.packs_per_gpu))
    plan = plan_run(members, folds, nodes, config.compute, config.seed, weights, finished)
    slots = plan.slots
    message = f"{len(replicas) - len(finished)} replicas in {len(plan.packs)} pack(s), {slots.count} side by side"
    display.line(stage, f"{message}, {room_of(slots, nodes)}")
    job = Job(
        run=run,
        space=prepared.space,
        members={member.name: member for member in prepared.members},
        views=config.views,
        caches=caches,
        backbones=backbones,
        banks=banks,
        stream_memory=config.compute.stream_memory_mb * 2**20,
    )
    names = {pack.name: [str(replica) for replica in pack.replicas] for pack in plan.packs}
    with timed(run, stage), display.training(names) as take:
        train(job, plan, config.compute.retries, take)
    display.line(stage, f"{len(replicas)} replicas are trained")


def is_sound(run: Run, replica: ReplicaId, display: Display) -> bool:
    """Whether a replica can go on from its checkpoint; a damaged one is dropped, and that is said."""
    try:
        check_archive(run.checkpoint(replica))
    except DamagedFileError as error:
        display.warn(f"{error.fault}, so that {replica} begins anew")
        run.checkpoint(replica).unlink()
        return False
    return True


def embed_images(
    prepared: PreparedRun,
    members: list[Member],
    caches: Mapping[InputSpec, Path],
    backbones: Mapping[str, Path],
    weights: Mapping[str, str],
    image_ids: pd.Series,
    session: RaySession,
    display: Display,
) -> dict[str, Path]:
    """Computes the features that members with frozen backbones want; returns the folder of each such member."""
    run, config = prepared.run, prepared.config
    banks: dict[str, Path] = {}
    for member in members:
        recipe = member.recipe
        if recipe.freeze != "backbone":
            continue
        spec, cache = bank_spec(recipe, config.seed, config.views), caches[input_spec(recipe)]
        of_all = cache_root(config) / "features"
        folder = bank_folder(of_all, spec, cache, recipe.backbone, weights[member.name], image_ids)
        parts = missing_parts(folder, spec)
        shared = folder in banks.values()
        banks[member.name] = folder
        if not parts:
            if not shared:
                display.line("embed", f"features of {recipe.backbone} are there already, in {folder}")
            continue
        from raymask.training.embedding import embed

        memory = config.compute.stream_memory_mb * 2**20
        pool = plan_actors(session.nodes(gpus_worth(len(parts) * len(image_ids))))
        with timed(run, "embed"), display.counting("embed", "features") as count:
            embed(spec, parts, folder, recipe, backbones[member.name], cache, run.manifest, pool, memory, count)
        display.line("embed", f"{len(parts)} × {len(image_ids)} features of {recipe.backbone}")
    return banks
