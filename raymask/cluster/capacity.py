"""What a run may count on of the Ray that it works on: machines, those that its autoscaler starts, GPUs that torch can use."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymask.cluster.connection import alive_nodes
from raymask.cluster.resources import Node
from raymask.config.compute import ComputeConfig
from raymask.core.errors import InputError
from raymask.ray_internals import autoscaler_report, autoscales_by_v2, pending_by_v2

SECONDS_TO_LOOK = 120.0
SECONDS_TO_ANSWER = 40.0
"""That an autoscaler, which looks every five seconds, has to begin to start what it is asked for."""
SECONDS_TO_REPORT = 30.0
"""That are waited for what Ray's monitor, which looks every five seconds on any cluster, says for the first time."""
SECONDS_TO_END = 20.0
SECONDS_FOR_MORE = 180.0
"""That are waited for further machines when one has come."""

Say = Callable[[str], None]


def look_for_cuda() -> None:
    """Begins to ask each machine that has GPUs whether torch can use them, which takes the seconds that torch is imported in."""
    for node in alive_nodes():
        if node["Resources"].get("GPU"):
            _looked(_job(), node["NodeID"])


def usable_nodes(compute: ComputeConfig, gpus: int, say: Say, *, grows: bool) -> tuple[Node, ...]:
    """The machines as a plan may count on them, when those have come that the cluster's autoscaler starts.

    GPUs that torch cannot use do not count, unless `compute.gpus` wants them.

    Args:
        compute: what the run may use; `compute.gpus` is a demand.
        gpus: that there is work for, where none are demanded.
        say: told what is waited for, and where torch cannot use GPUs.
        grows: whether the cluster may have an autoscaler; a Ray that a run has started for itself has none.

    Raises:
        InputError: the cluster has fewer GPUs than are demanded.
    """
    _await(compute, gpus if compute.gpus is None else compute.gpus, say, grows)
    look_for_cuda()
    records = [node for node in alive_nodes() if node["Resources"].get("CPU")]
    why = {node["NodeID"]: reason for node in records if (reason := _why_no_cuda(node))}
    if why:
        say(_told(records, why, wanted=bool(compute.gpus)))
    left = float("inf") if compute.gpus is None else compute.gpus
    nodes = []
    for node in records:
        blind = node["NodeID"] in why
        offered = 0.0 if blind and not compute.gpus else node["Resources"].get("GPU", 0.0)
        counted = min(offered, left)
        left -= int(counted)
        nodes.append(Node(node["Resources"]["CPU"], counted, cuda=not blind))
    return tuple(nodes)


def _await(compute: ComputeConfig, gpus: int, say: Say, grows: bool) -> None:
    """Asks the cluster's autoscaler for GPUs, and for a CPU where there is none, and waits for what comes of it."""
    lacking = _lacking(gpus)
    if lacking and grows and autoscales():
        what = " and ".join(f"{number:g} {kind}(s)" for kind, number in lacking.items())
        limit = f"for up to {compute.wait_minutes:g} minutes (compute.wait_minutes)"
        say(f"asked the cluster's autoscaler for {what}; waiting {limit}")
        began = time.monotonic()
        with _demanded(gpus):
            _wait_while_they_come(gpus, 60 * compute.wait_minutes)
        lacking = _lacking(gpus)
        say(f"after {time.monotonic() - began:.0f} s there are {offered_of('CPU'):g} CPUs and {offered_of('GPU'):g} GPUs")
    if compute.gpus and "GPU" in lacking:
        raise InputError(
            f"compute.gpus is {compute.gpus}, but the Ray cluster has {offered_of('GPU'):g} GPUs and starts no more; start "
            "machines that have them, or ask for fewer."
        )


def _lacking(gpus: int) -> dict[str, float]:
    wanted = {"GPU": gpus, "CPU": 1}
    return {kind: number - offered for kind, number in wanted.items() if (offered := offered_of(kind)) < number}


def offered_of(kind: str) -> float:
    """How many CPUs or GPUs all machines have together."""
    return float(sum(node["Resources"].get(kind, 0.0) for node in alive_nodes()))


@contextmanager
def _demanded(gpus: int) -> Iterator[None]:
    """Tasks that want a GPU each, and one that wants a CPU: those that find none are what an autoscaler starts machines for.

    Ray's `request_resources` would be another way, but what one job asks for there is forgotten when another asks, stays for ever
    when a job is killed, and is not answered at all where it is more than the cluster may have.
    """
    wanted = [{"num_cpus": 0, "num_gpus": 1}] * gpus + [{"num_cpus": 1}]
    holders = [ray.remote(max_retries=0, **one)(_hold).remote() for one in wanted]
    try:
        yield
    finally:
        for holder in holders:
            ray.cancel(holder, force=True)
        ray.wait(holders, num_returns=len(holders), timeout=SECONDS_TO_END)


def _hold() -> None:
    while True:
        time.sleep(60.0)


def _wait_while_they_come(gpus: int, seconds: float) -> None:
    """Until all is there, the autoscaler starts nothing (more) of it, or the time is over."""
    began = heard = time.monotonic()
    came: float | None = None
    before = _lacking(gpus)
    while lacking := _lacking(gpus):
        time.sleep(1.0)
        now = time.monotonic()
        if lacking != before:
            came, before = now, lacking
        if _on_their_way():
            heard = now
        if now - began > seconds or now - heard > SECONDS_TO_ANSWER or (came is not None and now - came > SECONDS_FOR_MORE):
            return


def autoscales() -> bool:
    """Whether an autoscaler may start machines; where none does, Ray runs one that only looks, and names no kinds of machines."""
    if autoscales_by_v2():
        return any(node["Labels"].get("ray.io/node-group") for node in alive_nodes())
    return any(not kind.startswith("node_") for kind in (_first_report().get("node_type_mapping") or {}).values())


def _on_their_way() -> int:
    """Machines that the autoscaler is starting."""
    if autoscales_by_v2():
        return pending_by_v2()
    report = autoscaler_report()
    return len(report.get("pending_nodes", ())) + len(report.get("pending_launches", ()))


def _first_report() -> dict[str, Any]:
    """The report, waited for where a cluster is so young that there is none."""
    began = time.monotonic()
    while not (report := autoscaler_report()) and time.monotonic() - began < SECONDS_TO_REPORT:
        time.sleep(0.5)
    return report


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
        return str(ray.get(_looked(_job(), node["NodeID"]), timeout=SECONDS_TO_LOOK))
    except RayError:  # the machine has gone, or is too busy to answer
        return ""


def _job() -> str:
    """This connection to Ray, whose objects no later one can have."""
    return str(ray.get_runtime_context().get_job_id())


@lru_cache
def _looked(job: str, node_id: str) -> ray.ObjectRef[str]:  # noqa: ARG001 -- the cache tells by `job`, too
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
