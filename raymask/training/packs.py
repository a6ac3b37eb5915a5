"""Members × folds -> packs -> resources and concurrency. Pure functions; the plan is proved before anything is started."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from raymask.cluster.resources import Node, Slots, plan_slots, with_packs
from raymask.config.compute import ComputeConfig
from raymask.config.members import Member
from raymask.core.tasks import LabelSpace
from raymask.data.specs import InputSpec, StreamSpec, frozen_backbone
from raymask.runs.directory import ReplicaId, Run

MAX_PIECES = 8
"""Packs that a slot's fair share is cut into at most to make the slots end together."""


@dataclass(frozen=True)
class Pack:
    """Replicas that read the same stream and are trained together in one trial."""

    name: str
    replicas: tuple[ReplicaId, ...]
    stream: StreamSpec
    epochs: int
    frozen: str | None = None
    """What identifies the frozen backbone that the fold models share; None where backbones are trained."""

    @property
    def cost(self) -> float:
        """Work relative to other packs: steps of fold models × pixels; for heads alone, features stand for pixels."""
        height, width = self.stream.input.size
        pixels = height * width
        return float(self.epochs * len(self.replicas) * (1 if self.frozen else pixels))


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
    """Folder of the prepared images by `InputSpec.prepared`."""
    backbones: Mapping[str, Path]
    """Starting weights of the backbone by the member's name; none for those that start from random weights."""
    banks: Mapping[str, Path]
    """Folder of the frozen backbone's features by the member's name; none for those that train their backbones."""
    stream_memory: int
    """Bytes of batches that a pack may have waiting."""
    judged_at: frozenset[int] = frozenset()
    """Numbers of finished epochs after which the driver may give up a fold model, so that they are always reported."""


def plan_run(
    members: Sequence[Member],
    folds: Sequence[int],
    nodes: Sequence[Node],
    compute: ComputeConfig,
    streams: Mapping[str, StreamSpec],
    weights: Mapping[str, str],
    finished: Iterable[ReplicaId] = (),
) -> Plan:
    """Packs of everything unfinished, and the slots that they run in.

    Args:
        members: the members of the run.
        folds: of which each member has models for its own.
        nodes: the machines of the cluster.
        compute: what the run may use.
        streams: by member what its fold models read.
        weights: by member the digest of the weights that its backbone starts from; none for random ones.
        finished: fold models that need no training.

    Raises:
        InputError: the cluster cannot run a single pack.
    """
    done = set(finished)
    together: dict[tuple[StreamSpec, int, str | None], list[ReplicaId]] = defaultdict(list)
    for member in members:
        key = (
            streams[member.name],
            member.recipe.schedule.epochs,
            frozen_backbone(member.recipe, weights.get(member.name, "")),
        )
        replicas = [ReplicaId(member.name, fold) for fold in member.folds_of(folds)]
        together[key] += [replica for replica in replicas if replica not in done]
    packs = [
        Pack("", tuple(replicas), stream, epochs, frozen) for (stream, epochs, frozen), replicas in together.items() if replicas
    ]
    slots = plan_slots(nodes, compute, sum(len(pack.replicas) for pack in packs))
    split = split_packs(packs, slots.count, compute.replicas_per_pack)
    named = [replace(pack, name=f"pack-{number}") for number, pack in enumerate(split)]
    return Plan(tuple(named), with_packs(slots, nodes, len(named)))


def split_packs(packs: Sequence[Pack], slots: int, most_replicas: int) -> list[Pack]:
    """Packs of at most so many fold models, split until the slots end together, and no further, as each pack has its own stream.

    The longest come first, so that they are started first.
    """
    chosen = _split(packs, slots, most_replicas)
    for pieces in range(2, MAX_PIECES + 1):
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
    """Packs cut into about so many pieces of equal work, or into more where a piece would have too many fold models."""
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
