"""How far raymask goes: plans of thousands of replicas, a cluster's GPUs in use, a million images, and the choice of a vote.

python benchmarks/scale.py [plan|cluster|rows|vote ...]
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import WORK, show, write_results
from raymask.cluster.resources import Node, Slots
from raymask.config.components import ScheduleConfig
from raymask.config.compute import ComputeConfig
from raymask.config.data import FoldsConfig
from raymask.config.loading import validate
from raymask.config.members import Member
from raymask.config.recipe import Recipe
from raymask.config.schema import ENSEMBLE
from raymask.config.tasks import label_space
from raymask.config.vote import VoteConfig
from raymask.core.columns import label_column, probability_columns, train_label_column, true_labels
from raymask.core.tasks import JOINT, LabelSpace
from raymask.data.folds import assign_folds, check_leak, rare_classes
from raymask.data.specs import StreamSpec, stream_spec
from raymask.io.atomic import write_json, write_table
from raymask.io.checked import read_json
from raymask.metrics.scores import score_joint
from raymask.report.run_report import build_report
from raymask.runs.configs import save_run_config
from raymask.runs.directory import ReplicaId, Run
from raymask.runs.predictions import collect_oof, oof_by_view, prediction_table
from raymask.training.packs import Job, Pack, Plan, makespan, plan_run
from raymask.voting.view_selection import OofByView
from raymask.voting.vote import decide

Results = list[dict[str, Any]]


def members_of(recipes: Sequence[Recipe], count: int) -> list[Member]:
    """Members of these recipes in turn."""
    return [Member(name=f"m{n}", task="mask", seed=n, recipe=recipes[n % len(recipes)]) for n in range(count)]


def streams_of(members: Sequence[Member]) -> dict[str, StreamSpec]:
    """What the members' replicas read."""
    return {member.name: stream_spec(member.recipe, 0, member.task, LabelSpace(())) for member in members}


ONE_RECIPE = [Recipe(image_size=128)]
THREE_RECIPES = [Recipe(image_size=96), Recipe(image_size=160), Recipe(image_size=128, schedule=ScheduleConfig(epochs=15))]


# --- plans

CLUSTERS = {"2 CPUs": [Node(2)], "16 GPUs": [Node(32, 4)] * 4, "64 GPUs": [Node(64, 8)] * 8}


def measure_plans() -> Results:
    """Seconds to plan, and how long the fullest slot is at work beside a fair share of all work."""
    results = []
    for (cluster, nodes), replicas, recipes in [
        (cluster, replicas, recipes)
        for cluster in CLUSTERS.items()
        for recipes in (ONE_RECIPE, THREE_RECIPES)
        for replicas in (10, 100, 1_000, 10_000)
    ]:
        members = members_of(recipes, replicas // 5)
        began = time.perf_counter()
        plan = plan_run(members, range(5), nodes, ComputeConfig(), streams_of(members), {})
        seconds = time.perf_counter() - began
        share = sum(pack.cost for pack in plan.packs) / plan.slots.count / makespan(plan.packs, plan.slots.count)
        figures = {"replicas": replicas, "recipes": len(recipes), "packs": len(plan.packs), "slots": plan.slots.count}
        results.append({"cluster": cluster, **figures, "seconds": seconds, "share_in_use": share})
    rows = [[*result.values()] for result in results]
    show("Plans", ["cluster", "replicas", "recipes", "packs", "slots", "seconds", "share of slots in use"], rows)
    return results


# --- a cluster

NODES, GPUS_OF_NODE, CPUS_OF_NODE = 4, 4, 8
WORK_SECONDS = 30.0
"""Seconds that the simulated GPUs would take if each were always at work."""


def measure_cluster() -> Results:
    """480 replicas on a simulated cluster of 16 GPUs: all is real but the packs' work, which is slept away."""
    results = []
    with simulated_cluster() as nodes:
        for name, recipes in {"one recipe": ONE_RECIPE, "three recipes": THREE_RECIPES}.items():
            results.append({"case": name, **run_packs(members_of(recipes, 96), nodes)})
    columns = ["case", "packs", "GPUs in use, first to last pack", "of all wall time", "wall (s)", "first start (s)"]
    columns += ["starts' spread (s)", "between packs (s)", "end (s)", "by plan"]
    rows = [
        [result[key] for key in ("case", "packs", "share_of_span", "share_of_wall", "wall", *OVERHEADS)] for result in results
    ]
    show("480 replicas on 16 GPUs", columns, rows)
    return results


OVERHEADS = ("first_start", "starts_spread", "between_packs", "end", "share_by_plan")


@contextmanager
def simulated_cluster() -> Iterator[tuple[Node, ...]]:
    """Nodes of one machine that claim to have GPUs, joined as a run joins a cluster."""
    import ray

    from raymask.cluster.connection import LOCAL_ENVIRONMENT, connect

    logging.disable(logging.WARNING)
    os.environ.update({**LOCAL_ENVIRONMENT, "RAY_num_workers_soft_limit": "2"})
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": CPUS_OF_NODE, "num_gpus": GPUS_OF_NODE})
    try:
        for _ in range(NODES - 1):
            cluster.add_node(num_cpus=CPUS_OF_NODE, num_gpus=GPUS_OF_NODE)
        os.environ["RAY_ADDRESS"] = cluster.address
        with connect(ComputeConfig()) as joined:
            yield joined.nodes
    finally:
        os.environ.pop("RAY_ADDRESS", None)
        ray.shutdown()
        cluster.shutdown()


def run_packs(members: list[Member], nodes: Sequence[Node]) -> dict[str, Any]:
    """Plans and trains; returns shares of the GPUs' time in use, and where the rest went."""
    import ray

    from raymask.training.launch import train

    run = Run(WORK / "scale-cluster")
    shutil.rmtree(run.root, ignore_errors=True)
    plan = plan_run(members, range(5), nodes, ComputeConfig(), streams_of(members), {})
    cost = sum(pack.cost for pack in plan.packs)
    job = Job(run, LabelSpace(()), {m.name: m for m in members}, (), {}, {}, {}, 0)
    seconds_of_cost = WORK_SECONDS * plan.slots.count / cost

    def sleep_through_pack(job: Job, pack: Pack, slots: Slots, report: Callable[[dict[str, Any]], None]) -> None:
        began = time.time()
        for epoch in range(pack.epochs):
            time.sleep(max(0.0, began + pack.cost * seconds_of_cost * (epoch + 1) / pack.epochs - time.time()))
            report({"pack": pack.name, "phase": "training", "share": (epoch + 1) / pack.epochs})
        for replica in pack.replicas:
            write_json(job.run.meta(replica), {})
        slot = f"{ray.get_runtime_context().get_node_id()} {ray.get_gpu_ids()}"
        times = {"began": began, "ended": time.time(), "slot": slot, "process": os.getpid()}
        write_json(job.run.root / "times" / f"{pack.name}.json", times)

    began = time.time()
    train(job, plan, 0, lambda report: None, sleep_through_pack)
    ended = time.time()
    times = pd.DataFrame([read_json(file) for file in (run.root / "times").iterdir()])
    return figures_of(times, plan, began, ended)


def figures_of(times: pd.DataFrame, plan: Plan, began: float, ended: float) -> dict[str, Any]:
    """Shares of the GPUs' time, and the seconds in which they wait.

    Args:
        times: when each pack began and ended, on which GPU and in which process.
        plan: packs and slots.
        began: when training began.
        ended: when training ended.
    """
    gpus, busy = plan.slots.count, (times["ended"] - times["began"]).sum()
    span = times["ended"].max() - times["began"].min()
    firsts = times.groupby("slot")["began"].min()
    waits = times.sort_values("began").groupby("slot").apply(lambda of: of["began"].iloc[1:].sub(of["ended"].to_numpy()[:-1]))
    return {
        "packs": len(plan.packs),
        "gpus": len(firsts),
        "processes": times["process"].nunique(),
        "share_of_span": busy / gpus / span,
        "share_of_wall": busy / gpus / (ended - began),
        "wall": ended - began,
        "first_start": firsts.min() - began,
        "starts_spread": firsts.max() - firsts.min(),
        "between_packs": float(np.mean(waits)) if len(waits) else 0.0,
        "end": ended - times["ended"].max(),
        "share_by_plan": sum(pack.cost for pack in plan.packs) / gpus / makespan(plan.packs, gpus),
    }


# --- rows

IMAGES, PHOTOS_OF_PERSON = 1_000_000, (0, 0, 0, 0, 0, 1, 2)
MEMBER, VIEWS = "multi", ("original", "hflip")
TASKS = {
    "mask": {"classes": ["worn", "incorrect", "none"]},
    "gender": {"classes": ["male", "female"]},
    "age": {"edges": [30, 60], "classes": ["<30", "30-60", ">=60"]},
}
ROWS = Run(WORK / "scale-rows")
FOLDS = FoldsConfig()


def measure_rows() -> Results:
    """Each step on a million images, in a process of its own, whose peak memory is that of the step and what it reads."""
    shutil.rmtree(ROWS.root, ignore_errors=True)
    results = []
    for name, step in STEPS.items():
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            seconds, peak = process.submit(timed, step).result()
        if seconds is not None:
            results.append({"step": name, "seconds": seconds, "peak_gb": peak / 2**30})
    columns = ["step", "seconds", "peak memory (GB)"]
    show(f"{IMAGES:,} images, people of seven", columns, [[*result.values()] for result in results])
    shutil.rmtree(ROWS.root)
    return results


def timed(step: Callable[[], Callable[[], Any] | None]) -> tuple[float | None, int]:
    """Seconds of what a step returns once it has read what it needs, if anything, and the process's peak memory in bytes."""
    work = step()
    began = time.perf_counter()
    if work:
        work()
    return time.perf_counter() - began if work else None, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def draw_images() -> None:
    """A table as `raymask.data.sources` gives it."""
    config = validate({"name": ROWS.name, "runs": ROWS.root.parent, "tasks": TASKS, "members": [{"task": MEMBER}]})
    save_run_config(ROWS, config)
    space, people = label_space(config.tasks), -(-IMAGES // len(PHOTOS_OF_PERSON))
    of_person = np.random.default_rng(0).choice(6, people, p=[0.3, 0.3, 0.15, 0.1, 0.1, 0.05])
    groups = np.array([f"{person:06}" for person in range(people)])
    joint = (np.array(PHOTOS_OF_PERSON)[None] * 6 + of_person[:, None]).ravel()[:IMAGES]
    ids = [f"{group}_Asian/photo{photo}.jpg" for group in groups for photo in range(len(PHOTOS_OF_PERSON))][:IMAGES]
    images = pd.DataFrame({"image_id": ids, "path": [f"/data/faces/train/images/{name}" for name in ids]})
    images["group"] = np.repeat(groups, len(PHOTOS_OF_PERSON))[:IMAGES]
    for target, labels in {**space.split(joint), JOINT: joint}.items():
        images[label_column(target)] = images[train_label_column(target)] = labels
    write_table(ROWS.manifest, images.assign(size=100_000, stamp="1700000000000000000"))


def fold_images() -> Callable[[], None]:
    images, space = pd.read_parquet(ROWS.manifest), rows_space()

    def work() -> None:
        folds = assign_folds(images, FOLDS, 0)
        check_leak(images["group"], folds)
        rare_classes(images, space.joint_classes, FOLDS.k)
        write_table(ROWS.manifest, images.assign(fold=folds))

    return work


def predict_folds() -> None:
    """The files that a member's replicas leave, the vote and its scores."""
    manifest, space, rng = pd.read_parquet(ROWS.manifest), rows_space(), np.random.default_rng(0)
    for fold in range(FOLDS.k):
        ids = manifest["image_id"][manifest["fold"] == fold]
        tables = [pd.DataFrame({"image_id": ids, "view": view}) for view in VIEWS]
        for table in tables:
            for task in space.tasks:
                probabilities = rng.dirichlet(np.ones(len(task.classes)), len(ids)).astype(np.float32)
                table[probability_columns({task.name: task.classes})] = probabilities
        write_table(ROWS.replica_oof(ReplicaId(MEMBER, fold)), pd.concat(tables, ignore_index=True))
    joint = rng.dirichlet(np.ones(space.joint_size), len(manifest))
    write_table(ROWS.oof_ensemble, prediction_table(manifest["image_id"], manifest["image_id"].str[:0], joint, space))
    truth = true_labels(manifest, space)
    scores = score_joint(space, joint.argmax(axis=1), truth)
    write_json(ROWS.ensemble, {"images": len(manifest), "oof": {MEMBER: scores, ENSEMBLE: scores}})


def collect_member() -> Callable[[], Any]:
    ids = pd.read_parquet(ROWS.manifest)["image_id"]
    return lambda: collect_oof(ROWS, MEMBER, range(FOLDS.k), ids)


def read_member() -> Callable[[], Any]:
    ids = pd.read_parquet(ROWS.manifest)["image_id"]
    return lambda: oof_by_view(ROWS.oof(MEMBER), MEMBER, VIEWS, ids)


def report_rows() -> Callable[[], None]:
    return lambda: build_report(ROWS)


def rows_space() -> LabelSpace:
    return label_space(validate({"name": "rows", "tasks": TASKS}).tasks)


STEPS: Mapping[str, Callable[[], Callable[[], Any] | None]] = {
    "the table drawn": draw_images,
    "folds assigned, checked and written": fold_images,
    "predictions drawn": predict_folds,
    "a member's OOF collected, two views": collect_member,
    "a member's OOF read, two views": read_member,
    "report": report_rows,
}


# --- the vote

VOTING_PEOPLE, VOTING_VIEWS = 2_700, ("original", "hflip", "zoom", "zoom_hflip")


def measure_vote() -> Results:
    """The whole choice of views, calibration and rule for ten members on 18,900 images of drawn predictions."""
    config = VoteConfig()
    evidence = drawn_evidence()
    began = time.perf_counter()
    decision = decide(evidence, config, seed=0)
    seconds = time.perf_counter() - began
    rows = decision.choice.rows
    figures = {"members": len(evidence.members), "images": len(evidence.truth), "ways": len(rows), "seconds": seconds}
    show("A vote decided", [*figures, "chosen"], [[*figures.values(), str(decision.choice.chosen)]])
    return [{**figures, "chosen": str(decision.choice.chosen)}]


def drawn_evidence() -> OofByView:
    """Predictions of members of all kinds that err by person and by image, the older the more."""
    rng, space = np.random.default_rng(0), rows_space()
    images = len(PHOTOS_OF_PERSON)
    groups = np.arange(VOTING_PEOPLE).repeat(images)
    by_task = {
        task.name: rng.choice(len(task.classes), VOTING_PEOPLE, p=rng.dirichlet(np.full(len(task.classes), 5.0))).repeat(images)
        for task in space.tasks
    }
    truth = space.join(by_task)

    def said(labels: np.ndarray, classes: int, skill: float) -> np.ndarray:
        of_person = rng.normal(size=(VOTING_PEOPLE, classes)).repeat(images, axis=0)
        views = [np.eye(classes)[labels] * skill + of_person + rng.normal(size=(len(labels), classes)) for _ in VOTING_VIEWS]
        odds = np.exp(np.stack(views) - np.max(views, axis=2, keepdims=True))
        return (odds / odds.sum(axis=2, keepdims=True)).astype(np.float32)

    members: dict[str, dict[str, np.ndarray]] = {}
    for team in range(2):
        heads = {task.name: len(task.classes) for task in space.tasks}
        members |= {f"{name}-{team}": {name: said(by_task[name], size, 1.5)} for name, size in heads.items()}
        members[f"multi-{team}"] = {name: said(by_task[name], size, 1.4) for name, size in heads.items()}
        members[f"joint-{team}"] = {JOINT: said(truth, space.joint_size, 2.0)}
    return OofByView(space, members, VOTING_VIEWS, truth, groups, groups % FOLDS.k)


# --- the command

PARTS: dict[str, Callable[[], Results]] = {
    "plan": measure_plans,
    "cluster": measure_cluster,
    "rows": measure_rows,
    "vote": measure_vote,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parts = parser.parse_args().parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no part {sorted(unknown)}")
    write_results("scale", {part: PARTS[part]() for part in parts})


if __name__ == "__main__":
    main()
