"""What a run may count on of the Ray that it works on: its machines, and of their GPUs those that torch can compute on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymask.cluster import alive_nodes
from raymask.config import ComputeConfig
from raymask.plan import Node

SECONDS_TO_LOOK = 120.0

Say = Callable[[str], None]


def look_for_cuda() -> None:
    """Begins to ask each machine that has GPUs whether torch can use them, which takes the seconds that torch is imported in."""
    for node in alive_nodes():
        if node["Resources"].get("GPU"):
            _looked(node["NodeID"])


def usable_nodes(compute: ComputeConfig, say: Say) -> tuple[Node, ...]:
    """The machines as a plan may count on them.

    GPUs that torch cannot use do not count, unless `compute.gpus` wants them.

    Args:
        compute: what the run may use.
        say: told where torch cannot use GPUs.
    """
    look_for_cuda()
    records = [node for node in alive_nodes() if node["Resources"].get("CPU")]
    why = {node["NodeID"]: reason for node in records if (reason := _why_no_cuda(node))}
    if why:
        say(_told(records, why, wanted=bool(compute.gpus)))
    left = compute.gpus
    nodes = []
    for node in records:
        blind = node["NodeID"] in why
        gpus = 0.0 if blind and not compute.gpus else node["Resources"].get("GPU", 0.0)
        gpus = gpus if left is None else min(gpus, left)
        left = left if left is None else left - int(gpus)
        nodes.append(Node(node["Resources"]["CPU"], gpus, cuda=not blind))
    return tuple(nodes)


def _told(records: list[dict[str, Any]], why: Mapping[str, str], wanted: bool) -> str:
    gpus = sum(node["Resources"]["GPU"] for node in records if node["NodeID"] in why)
    many = any(node["Resources"].get("GPU") and node["NodeID"] not in why for node in records)
    where = " on " + ", ".join(node["NodeManagerAddress"] for node in records if node["NodeID"] in why) if many else ""
    what = "they are booked as compute.gpus wants, and all is computed on CPUs" if wanted else "they are not used"
    return f"Ray has {gpus:g} GPU(s){where} that torch cannot use ({'; '.join(sorted(set(why.values())))}): {what}"


def _why_no_cuda(node: Mapping[str, Any]) -> str:
    """Why torch cannot use a machine's GPUs; nothing where it can, or cannot be asked."""
    if not node["Resources"].get("GPU"):
        return ""
    try:
        return str(ray.get(_looked(node["NodeID"]), timeout=SECONDS_TO_LOOK))
    except RayError:  # the machine has gone, or is too busy to answer
        return ""


@lru_cache
def _looked(node_id: str) -> ray.ObjectRef[str]:
    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    # A process that has counted CUDA's devices sees the same ones ever after, so it takes no other task.
    task = ray.remote(num_cpus=0, max_calls=1, max_retries=0)(_look)
    return task.options(scheduling_strategy=strategy).remote()


def _look() -> str:
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # Ray may hide GPUs from who books none
    import torch

    if torch.cuda.is_available():
        return ""
    if not (torch.version.cuda or torch.version.hip):
        return f"torch {torch.__version__} is built without CUDA"
    return f"torch {torch.__version__} finds no device"
