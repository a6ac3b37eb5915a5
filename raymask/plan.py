"""Members × folds -> packs -> resources and concurrency. Pure functions; the plan is proved before anything is started."""

from __future__ import annotations

import heapq
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from raymask.config import ComputeConfig, Member, Recipe
from raymask.data.augment import resolve_augment
from raymask.data.batches import StreamSpec
from raymask.data.decode import InputSpec
from raymask.data.features import BankSpec
from raymask.errors import InputError
from raymask.store import ReplicaId, Run
from raymask.tasks import LabelSpace

MOST_PIECES = 8
"""Packs that a slot's fair share is cut into at most to make the slots end together."""

IMAGES_PER_GPU = 5000
"""Which keep a GPU busy for longer than it takes to start."""


@dataclass(frozen=True)
class Node:
    """What one machine of the cluster offers."""

    cpus: float
    gpus: float = 0.0
    cuda: bool = True
    """Whether torch can compute on its GPUs."""


@dataclass(frozen=True)
class Pack:
    """Replicas that read the same stream and are trained together in one trial."""

    name: str
    replicas: tuple[ReplicaId, ...]
    stream: StreamSpec
    epochs: int
    frozen: str | None = None
    """What identifies the frozen backbone that the replicas share; None where backbones are trained."""

    @property
    def cost(self) -> float:
        """Work relative to other packs: steps of replicas × pixels; for heads alone, features stand for pixels."""
        pixels = self.stream.input.height * self.stream.input.width
        return float(self.epochs * len(self.replicas) * (1 if self.frozen else pixels))


@dataclass(frozen=True)
class Slots:
    """How many packs run side by side and what each may use."""

    count: int
    cpus: float
    """CPUs that Ray books for a pack; less than its threads use, so that its stream always finds a free CPU."""
    gpus: float
    threads: int
    """torch threads of a pack."""
    stream_cpus: float
    """CPUs that Ray books for one augmenting task."""


@dataclass(frozen=True)
class Plan:
    """What is trained where."""

    packs: tuple[Pack, ...]
    slots: Slots


@dataclass(frozen=True)
class Job:
    """What every trial of a run needs to know beside its pack."""

    run: Run
    space: LabelSpace
    members: Mapping[str, Member]
    views: tuple[str, ...]
    caches: Mapping[InputSpec, Path]
    backbones: Mapping[str, Path]
    """Starting weights of the backbone by the member's name; none for those that start from random weights."""
    banks: Mapping[str, Path]
    """Folder of the frozen backbone's features by the member's name; none for those that train their backbones."""
    stream_memory: int
    """Bytes of batches that a pack may have waiting."""


def input_spec(recipe: Recipe) -> InputSpec:
    """How the files are prepared for a recipe."""
    height, width = recipe.height_width
    return InputSpec(height, width, recipe.crop)


def frozen_backbone(recipe: Recipe, weights: str) -> str | None:
    """What makes frozen backbones the same, so that their features are shared; None for one that is trained.

    Args:
        recipe: the backbone's.
        weights: digest of the weights that it starts from.
    """
    return f"{recipe.backbone} {weights} {recipe.amp}" if recipe.freeze == "backbone" else None


def bank_spec(recipe: Recipe, seed: int, views: Sequence[str]) -> BankSpec:
    """The features that heads on a recipe's frozen backbone learn from and predict with."""
    return BankSpec(stream_spec(recipe, seed), tuple(views), recipe.amp)


def stream_spec(recipe: Recipe, seed: int) -> StreamSpec:
    """The stream that a recipe's replicas read."""
    return StreamSpec(
        input=input_spec(recipe),
        augment=json.dumps(resolve_augment(recipe.augment), sort_keys=True),
        batch_size=recipe.batch_size,
        epochs=min(recipe.feature_passes, recipe.epochs) if recipe.freeze == "backbone" else recipe.epochs,
        seed=seed,
    )


def plan_run(
    members: Sequence[Member],
    folds: Sequence[int],
    nodes: Sequence[Node],
    compute: ComputeConfig,
    seed: int,
    weights: Mapping[str, str],
    finished: Iterable[ReplicaId] = (),
) -> Plan:
    """Packs of everything unfinished, and the slots that they run in.

    Args:
        members: the members of the run.
        folds: folds that each member has a replica for.
        nodes: the machines of the cluster.
        compute: what the run may use.
        seed: the run's seed, that of its streams.
        weights: by member the digest of the weights that its backbone starts from; none for random ones.
        finished: replicas that need no training.

    Raises:
        InputError: the cluster cannot run a single pack.
    """
    done = set(finished)
    together: dict[tuple[StreamSpec, int, str | None], list[ReplicaId]] = defaultdict(list)
    for member in members:
        key = (
            stream_spec(member.recipe, seed),
            member.recipe.epochs,
            frozen_backbone(member.recipe, weights.get(member.name, "")),
        )
        replicas = [ReplicaId(member.name, fold) for fold in folds]
        together[key] += [replica for replica in replicas if replica not in done]
    packs = [
        Pack("", tuple(replicas), stream, epochs, frozen) for (stream, epochs, frozen), replicas in together.items() if replicas
    ]
    slots = plan_slots(nodes, compute, sum(len(pack.replicas) for pack in packs))
    split = split_packs(packs, slots.count, compute.replicas_per_pack)
    named = [replace(pack, name=f"pack-{number}") for number, pack in enumerate(split)]
    return Plan(tuple(named), with_packs(slots, nodes, len(named)))


def split_packs(packs: Sequence[Pack], slots: int, most_replicas: int) -> list[Pack]:
    """Packs of at most so many replicas, split until the slots end together, and no further, as each pack has its own stream.

    The longest come first, so that they are started first.
    """
    chosen = _split(packs, slots, most_replicas)
    for pieces in range(2, MOST_PIECES + 1):
        finer = _split(packs, pieces * slots, most_replicas)
        if makespan(finer, slots) < 0.97 * makespan(chosen, slots):
            chosen = finer
    return sorted(chosen, key=lambda pack: -pack.cost)


def makespan(packs: Iterable[Pack], slots: int) -> float:
    """Work of the fullest slot, when pack after pack, the longest first, goes to the slot that is free first."""
    work = [0.0] * slots
    for cost in sorted((pack.cost for pack in packs), reverse=True):
        heapq.heapreplace(work, work[0] + cost)
    return max(work)


def _split(packs: Sequence[Pack], pieces: int, most_replicas: int) -> list[Pack]:
    """Packs cut into about so many pieces of equal work, or into more where a piece would have too many replicas."""
    fair_share = sum(pack.cost for pack in packs) / pieces
    split = []
    for pack in packs:
        replicas = len(pack.replicas)
        parts = max(1, round(pack.cost / fair_share), -(-replicas // most_replicas))
        split += [replace(pack, replicas=part) for part in _parts(pack.replicas, min(replicas, parts))]
    return split


def _parts(replicas: tuple[ReplicaId, ...], count: int) -> list[tuple[ReplicaId, ...]]:
    bounds = [round(part * len(replicas) / count) for part in range(count + 1)]
    return [replicas[start:end] for start, end in pairwise(bounds)]


def plan_slots(nodes: Sequence[Node], compute: ComputeConfig, packs: int) -> Slots:
    """The slots that a cluster has room for, at most as many as there can be packs.

    On GPUs a slot is a GPU or a part of one. On CPUs a slot is one thread on one CPU; several threads beside other busy processes
    only fight. However Ray lays the slots on the machines, all find a place, and a machine stays with room for a stream's task.

    Raises:
        InputError: the cluster has no CPU.
    """
    nodes = _with_cpus(nodes)
    packs, per_gpu = max(1, packs), compute.packs_per_gpu
    gpus = sum(int(node.gpus) for node in nodes)
    if gpus:
        booked, threads, free = _beside_gpus(nodes, per_gpu)
        return Slots(min(packs, gpus * per_gpu), booked, _rounded_down(1 / per_gpu), threads, _task_cpus(nodes, free))
    count = min(packs, compute.cpu_packs or sum(_whole_cpus(node) for node in nodes))
    return with_packs(Slots(count, 0.0, 0.0, 1, _task_cpus(nodes, min(map(_free_cpus, nodes)))), nodes, count)


def room_of(slots: Slots, nodes: Sequence[Node]) -> str:
    """What each slot has, in words."""
    threads = f"{slots.threads} thread(s) each"
    if not slots.gpus:
        return threads
    if any(node.gpus and node.cuda for node in nodes):
        return f"{slots.gpus:g} GPU each"
    return f"{threads} beside {slots.gpus:g} GPU that torch cannot use"


def with_packs(slots: Slots, nodes: Sequence[Node], packs: int) -> Slots:
    """The slots when there are only so many packs: on CPUs the fewer, the more threads each."""
    count = max(1, min(slots.count, packs))
    if slots.gpus:
        return replace(slots, count=count)
    nodes = _with_cpus(nodes)
    whole = [_whole_cpus(node) for node in nodes]
    threads = next((threads for threads in range(max(whole), 1, -1) if sum(cpus // threads for cpus in whole) >= count), 1)
    on_one_cpu = -(-count // sum(whole))  # more than one only where compute.cpu_packs asks for it
    on_node = [cpus // threads * on_one_cpu for cpus in whole]
    booked = min((node.cpus - _free_cpus(node)) / packs for node, packs in zip(nodes, on_node, strict=True) if packs)
    return replace(slots, count=count, threads=threads, cpus=_rounded_down(booked))


def _with_cpus(nodes: Sequence[Node]) -> list[Node]:
    usable = [node for node in nodes if node.cpus > 0]
    if not usable:
        raise InputError("the Ray cluster offers no CPU; start its nodes with at least one.")
    return usable


def _whole_cpus(node: Node) -> int:
    return max(1, int(node.cpus))


def _free_cpus(node: Node) -> float:
    """What packs leave of a machine's CPUs for streams: a quarter, and at least one or, of a single CPU, half."""
    return max(1.0, node.cpus / 4) if node.cpus >= 2 else node.cpus / 2


def _beside_gpus(nodes: Sequence[Node], per_gpu: int) -> tuple[float, int, float]:
    """CPUs to book for each of `per_gpu` processes a GPU, their threads, and what stays free on the freest machine.

    They book at most half of each machine's CPUs.
    """
    share = min(node.cpus / (int(node.gpus) * per_gpu) for node in nodes if node.gpus >= 1)
    booked = _rounded_down(min(1.0, share / 2))
    free = max(node.cpus - int(node.gpus) * per_gpu * booked for node in nodes)
    return booked, max(1, int(share / 2)), free


def _task_cpus(nodes: Sequence[Node], free: float) -> float:
    """CPUs to book for a task beside the packs or actors, where some machine is sure to have this much free."""
    return min(1.0 if sum(node.cpus for node in nodes) >= 4 else 0.5, _rounded_down(free))


def _rounded_down(amount: float) -> float:
    """To Ray's precision, which it would else round up."""
    return math.floor(amount * 10_000 + 1e-6) / 10_000


@dataclass(frozen=True)
class ActorPool:
    """The actors that predict."""

    size: int
    cpus: float
    gpus: float
    threads: int
    decode_cpus: float


def gpus_worth(images: int) -> int:
    """GPUs that so many images are worth to be shared among."""
    return 1 + images // IMAGES_PER_GPU


def even_chunk(items: int, workers: int, most: int) -> int:
    """The greatest size of chunks, at most so many items each, of which every worker gets equally many (one less for some)."""
    rounds = max(1, -(-items // (workers * most)))
    return max(1, -(-items // (workers * rounds)))


def split_pool(pool: ActorPool, groups: int) -> ActorPool:
    """The actors that each of so many groups of models gets of a pool, when the groups pass images on.

    Raises:
        InputError: there are fewer GPUs than groups.
    """
    if pool.gpus and pool.size < groups:
        raise InputError(
            f"the models fill {groups} GPUs, and there are {pool.size}; predict by fewer models (--models all, soup or "
            "greedy-soup), or on CPUs (--set compute.gpus=0)."
        )
    size = max(1, pool.size // groups)
    return replace(pool, size=size, cpus=_rounded_down(pool.cpus * min(1.0, pool.size / groups)))


def plan_actors(nodes: Sequence[Node]) -> ActorPool:
    """One actor a GPU, or one a CPU with one thread; half of every machine's CPUs stays free for decoding."""
    nodes = _with_cpus(nodes)
    gpus = sum(int(node.gpus) for node in nodes)
    if gpus:
        booked, threads, free = _beside_gpus(nodes, per_gpu=1)
        return ActorPool(gpus, booked, 1.0, threads, _task_cpus(nodes, free))
    booked = _rounded_down(min(node.cpus / 2 / _whole_cpus(node) for node in nodes))
    return ActorPool(sum(map(_whole_cpus, nodes)), booked, 0.0, 1, _task_cpus(nodes, min(node.cpus / 2 for node in nodes)))
