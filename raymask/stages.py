"""The stages of a run: each looks at the run directory, does what is not done yet, and says what it did."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from raymask.config import ENSEMBLE, DataConfig, Member, RunConfig, differences, resolve_members
from raymask.data import files, sources
from raymask.data.augment import check_augment
from raymask.data.decode import InputSpec
from raymask.data.features import bank_folder, missing_parts
from raymask.data.folds import assign_folds, thin_classes
from raymask.display import Display, duration
from raymask.ensemble import ballots_of, vote
from raymask.errors import InputError, shortened
from raymask.metrics import Score, score_heads, score_joint
from raymask.oof import collect_oof, oof_by_head, replica_by_head
from raymask.plan import Job, bank_spec, input_spec, plan_actors, plan_run
from raymask.session import RaySession
from raymask.store import (
    ReplicaId,
    Run,
    absolute_runs,
    add_timing,
    load_run_config,
    read_json,
    save_run_config,
    write_json,
    write_table,
)
from raymask.submit import prediction_table, submission_table
from raymask.tasks import JOINT, LabelSpace
from raymask.tta import check_views

Scores = dict[str, dict[str, Score]]


@dataclass(frozen=True)
class Opened:
    """A run whose data are read and whose config is whole."""

    run: Run
    config: RunConfig
    space: LabelSpace
    members: list[Member]
    source: sources.Source
    test: sources.TestSet | None


@contextmanager
def timed(run: Run, stage: str) -> Iterator[None]:
    """Records the wall time of a stage."""
    began = time.monotonic()
    yield
    add_timing(run, stage, time.monotonic() - began)


def open_run(config: RunConfig, display: Display) -> Opened:
    """Reads the data, completes the config by what they hold, and opens the run's directory.

    Raises:
        InputError: the data or config are wrong, or the directory holds a run of another config or other data.
    """
    check_views(config.views)
    config = config.model_copy(update={"runs": absolute_runs(config.runs)})
    data = absolute_paths(config.data)
    data = data.model_copy(update={"kind": sources.resolve_kind(data)})
    config = config.model_copy(update={"data": data})
    run = Run(config.runs / config.name)
    if data.kind == "demo":
        data = data.model_copy(update={"path": str(draw_demo(config, display))})
    source = sources.read_source(config.model_copy(update={"data": data}))
    config = config.model_copy(update={"tasks": source.task_configs})
    members = resolve_members(config)
    for member in members:
        check_augment(member.recipe.augment, *member.recipe.height_width)
    test = sources.read_test(data, source.space)
    _refuse_other_run(run, config, source)
    people = source.images["group"].nunique()
    groups = f" of {people} groups" if people < len(source.images) else ""
    classes = " × ".join(f"{name} {size}" for name, size in zip(source.space.names, source.space.shape, strict=True))
    asked = f"; {len(test.images)} test images" if test else ""
    display.line("data", f"{len(source.images)} images{groups}, {classes} = {source.space.joint_size} classes{asked}")
    run.root.mkdir(parents=True, exist_ok=True)
    save_run_config(run, config)
    write_json(run.source, {"fingerprint": _fingerprint(source.images)})
    return Opened(run, config, source.space, members, source, test)


def absolute_paths(data: DataConfig) -> DataConfig:
    """The data's paths so that they hold in any working directory."""
    given = {key: value for key in ("path", "test", "image_root") if (value := getattr(data, key))}
    return data.model_copy(update={key: files.absolute(value) for key, value in given.items()})


def cache_root(config: RunConfig) -> Path:
    """Folder of everything that runs share."""
    return (config.cache.expanduser().absolute() if config.cache else config.runs / ".cache").resolve()


def draw_demo(config: RunConfig, display: Display) -> Path:
    """The embedded demo data set, drawn if it is not there yet."""
    from raymask.data.demo import write_demo

    people, test_people = config.data.demo_people, config.data.demo_test_people
    folder = cache_root(config) / f"demo-{people}-{test_people}"
    if not folder.exists():
        display.line("data", f"drawing the photos of {people} + {test_people} people")
    return write_demo(folder, people=people, test_people=test_people)


def _fingerprint(images: pd.DataFrame) -> str:
    hashed = pd.util.hash_pandas_object(images, index=False).to_numpy()
    return hashlib.sha256(hashed.tobytes()).hexdigest()[:16]


def _refuse_other_run(run: Run, config: RunConfig, source: sources.Source) -> None:
    if not run.config.exists():
        return
    changed = differences(load_run_config(run), config)
    if not changed and run.source.exists() and read_json(run.source)["fingerprint"] != _fingerprint(source.images):
        changed = ["the images or labels are not the ones that it began with"]
    if changed:
        more = f" (and {len(changed) - 1} more differences)" if len(changed) > 1 else ""
        raise InputError(
            f"'{run.root}' holds another run: {changed[0]}{more}; give this one another --name, or delete that folder."
        )


def prepare_images(opened: Opened, session: RaySession, display: Display) -> tuple[dict[InputSpec, Path], pd.DataFrame]:
    """Prepares the images for every size that members want; returns the caches and the manifest with its folds.

    Raises:
        InputError: too many images are broken, or the folds cannot be made.
    """
    from raymask.data.cache import find_cache, problems

    run, config, images = opened.run, opened.config, opened.source.images
    root = cache_root(config) / "prepared"
    caches = {spec: find_cache(images, spec, root) for spec in sorted({input_spec(m.recipe) for m in opened.members})}
    missing = [spec for spec, (_, whole) in caches.items() if not whole]
    for spec, (folder, whole) in caches.items():
        if whole:
            display.line("prepare", f"{len(images)} images at {spec.width}×{spec.height} are prepared already, in {folder}")
    if missing:
        from raymask.cluster import check_shared
        from raymask.data.prepare import prepare

        session.cluster  # noqa: B018
        root.mkdir(parents=True, exist_ok=True)
        check_shared(root)
        with timed(run, "prepare"):
            for spec in missing:
                with display.counting("prepare", f"images at {spec.width}×{spec.height}") as count:
                    prepare(images, spec, caches[spec][0], count)
                display.line("prepare", f"{len(images)} images at {spec.width}×{spec.height}")
    folders = {spec: folder for spec, (folder, _) in caches.items()}
    broken = pd.concat([problems(folder) for folder in folders.values()]).drop_duplicates("image_id")
    return folders, _manifest(opened, broken, display)


def _manifest(opened: Opened, broken: pd.DataFrame, display: Display) -> pd.DataFrame:
    run, config, source = opened.run, opened.config, opened.source
    rejected = pd.concat([source.rejected, broken], ignore_index=True)
    sources.check_rejected(rejected, len(source.images) + len(source.rejected), config.data.max_rejected)
    write_table(run.rejected, rejected)
    if len(rejected):
        display.warn(f"{len(rejected)} images are set aside, see {run.rejected}")
    if run.manifest.exists():
        return pd.read_parquet(run.manifest)
    manifest = source.images[~source.images["image_id"].isin(set(broken["image_id"]))].reset_index(drop=True)
    manifest = manifest.assign(fold=assign_folds(manifest, config.folds, config.seed))
    thin = thin_classes(manifest, opened.space.joint_classes, config.folds.k)
    if thin:
        display.warn(f"some folds validate without these classes, which have fewer groups than folds: {shortened(thin, 4)}")
    write_table(run.manifest, manifest)
    return manifest


def train_members(
    opened: Opened,
    folds: list[int],
    caches: Mapping[InputSpec, Path],
    image_ids: pd.Series,
    session: RaySession,
    display: Display,
) -> None:
    """Trains every replica that is not finished."""
    run, config = opened.run, opened.config
    replicas = [ReplicaId(member.name, fold) for member in opened.members for fold in folds]
    finished = {replica for replica in replicas if run.finished(replica)}
    if finished:
        display.line("train", f"{len(finished)} of {len(replicas)} replicas are trained already")
    if len(finished) == len(replicas):
        return
    cut_off = sum(run.checkpoint(replica).exists() for replica in replicas)
    if cut_off:
        display.line("train", f"{cut_off} replicas go on from their last finished epoch")
    from raymask.backbones import fetch_backbones
    from raymask.cluster import check_shared
    from raymask.train import train

    cluster = session.cluster
    check_shared(run.root)
    unfinished = [m for m in opened.members if any(ReplicaId(m.name, fold) not in finished for fold in folds)]
    backbones = fetch_backbones(unfinished, cache_root(config) / "backbones")
    banks = embed_images(opened, unfinished, caches, backbones, image_ids, session, display)
    plan = plan_run(opened.members, folds, cluster.nodes, config.compute, config.seed, finished)
    slots = plan.slots
    where = f"{slots.gpus:g} GPU each" if slots.gpus else f"{slots.threads} thread(s) each"
    display.line(
        "train",
        f"{len(replicas) - len(finished)} replicas in {len(plan.packs)} pack(s), {slots.count} side by side, {where}",
    )
    job = Job(
        run=run,
        space=opened.space,
        members={member.name: member for member in opened.members},
        views=config.views,
        caches=caches,
        backbones=backbones,
        banks=banks,
        stream_memory=config.compute.stream_memory_mb * 2**20,
    )
    names = {pack.name: [str(replica) for replica in pack.replicas] for pack in plan.packs}
    with timed(run, "train"), display.training(names) as take:
        train(job, plan, config.compute.retries, take)
    display.line("train", f"{len(replicas)} replicas are trained")


def embed_images(
    opened: Opened,
    members: list[Member],
    caches: Mapping[InputSpec, Path],
    backbones: Mapping[str, Path],
    image_ids: pd.Series,
    session: RaySession,
    display: Display,
) -> dict[str, Path]:
    """Computes the features that members with frozen backbones want; returns the folder of each such member."""
    run, config = opened.run, opened.config
    banks: dict[str, Path] = {}
    for member in members:
        recipe = member.recipe
        if recipe.freeze != "backbone":
            continue
        spec, cache = bank_spec(recipe, config.seed, config.views), caches[input_spec(recipe)]
        folder = bank_folder(cache_root(config) / "features", spec, cache, backbones[member.name], image_ids)
        parts = missing_parts(folder, spec)
        shared = folder in banks.values()
        banks[member.name] = folder
        if not parts:
            if not shared:
                display.line("embed", f"features of {recipe.backbone} are there already, in {folder}")
            continue
        from raymask.embed import embed

        memory = config.compute.stream_memory_mb * 2**20
        pool = plan_actors(session.cluster.nodes)
        with timed(run, "embed"), display.counting("embed", "features") as count:
            embed(spec, parts, folder, recipe, backbones[member.name], cache, run.manifest, pool, memory, count)
        display.line("embed", f"{len(parts)} × {len(image_ids)} features of {recipe.backbone}")
    return banks


def vote_oof(opened: Opened, folds: list[int], manifest: pd.DataFrame, display: Display) -> Scores:
    """Collects the members' OOF predictions, votes, scores, and keeps the result in ensemble.json."""
    run, config, space = opened.run, opened.config, opened.space
    validated = manifest[manifest["fold"].isin(folds)]
    ids = validated["image_id"]
    there = [collect_oof(run, member.name, folds, ids) for member in opened.members]
    if all(there):
        display.line("oof", f"predictions of {len(there)} members are there already")
    else:
        display.line("oof", f"{len(ids)} images, predicted once by each of {len(there)} members")
    truth = {target: validated[f"label_{target}"].to_numpy(np.int64) for target in (*space.names, JOINT)}
    by_member = {member.name: oof_by_head(run, member.name, config.views, ids) for member in opened.members}
    scores = {name: score_heads(space, heads, truth) for name, heads in by_member.items()}
    joint = vote(config.vote.rule, ballots_of(space, list(by_member.values())))
    scores[ENSEMBLE] = score_joint(space, joint.argmax(axis=1), truth)
    no_problems = pd.Series("", index=ids.index)
    write_table(run.oof_ensemble, prediction_table(ids, no_problems, joint, space))
    write_json(run.ensemble, {"rule": config.vote.rule, "views": config.views, "images": len(ids), "oof": scores})
    return scores


def predict_test(opened: Opened, folds: list[int], manifest: pd.DataFrame, session: RaySession, display: Display) -> None:
    """Predicts the test set and writes predictions.parquet and submission.csv."""
    run, config, space, test = opened.run, opened.config, opened.space, opened.test
    if test is None:
        display.line("predict", "there is no test set (data.test), so there is no submission")
        return
    fingerprint = _fingerprint(test.images)
    replicas = [ReplicaId(member.name, fold) for member in opened.members for fold in folds]
    if run.test_source.exists() and read_json(run.test_source)["fingerprint"] == fingerprint:
        display.line("predict", f"{len(test.images)} test images are predicted already")
        predicted = pd.read_parquet(run.test_predictions)
    else:
        from raymask.predict import predict

        pool = plan_actors(session.cluster.nodes)
        with timed(run, "predict"), display.counting("predict", "test images") as count:
            predicted = predict(run, test.images, replicas, config.views, pool, count)
        write_table(run.test_predictions, predicted)
        write_json(run.test_source, {"fingerprint": fingerprint})
        display.line("predict", f"{len(predicted)} test images by {len(replicas)} replicas under {len(config.views)} view(s)")
    ballots = [
        ballots_of(space, [replica_by_head(predicted, ReplicaId(member.name, fold)) for member in opened.members])
        for fold in folds
    ]
    joint = vote(config.vote.rule, np.concatenate(ballots))
    broken = (predicted["problem"] != "").to_numpy()
    if broken.any():
        joint[broken] = np.bincount(manifest[f"label_{JOINT}"], minlength=space.joint_size) / len(manifest)
        display.warn(
            f"{broken.sum()} test images cannot be read and get the classes' frequencies, see `problem` in {run.predictions}"
        )
    table = prediction_table(predicted["image_id"], predicted["problem"], joint, space)
    submission = submission_table(test, table, space)
    write_table(run.predictions, table)
    write_table(run.submission, submission)


def summarise(opened: Opened, scores: Scores, seconds: float, display: Display) -> None:
    """Writes the report and shows what came of the run."""
    from raymask.report import build_report

    run, space = opened.run, opened.space
    build_report(run)
    targets = [*space.names, JOINT] if len(space.names) > 1 else [*space.names]
    columns = ["", *(f"{target} {kind}" for target in targets for kind in ("F1", "acc"))]
    rows = [
        [name, *(f"{of_member[t][kind]:.4f}" if t in of_member else "-" for t in targets for kind in ("f1", "accuracy"))]
        for name, of_member in scores.items()
    ]
    display.table("Out-of-fold scores (macro-F1 and accuracy)", columns, rows)
    timings = read_json(run.timings) if run.timings.exists() else {}
    display.table("Wall time", [*timings, "this command"], [[*map(duration, timings.values()), duration(seconds)]])
    names = [path for path in (run.submission, run.predictions, run.report, run.ensemble, run.rejected) if path.exists()]
    display.table("Files", ["", ""], [[path.name, str(path)] for path in names])
