"""What a cluster has, and how it is shared out: slots for trials, actors for prediction. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from raymask.config.compute import ComputeConfig
from raymask.core.errors import InputError
from raymask.core.types import ActorPool

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
