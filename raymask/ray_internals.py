"""What raymask uses of Ray beyond its public interface, or by names that its releases do not share.

No other module of raymask names such a thing. Where a release has it no longer, raymask does without, as each function says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.data
from ray.data import DataContext

try:
    from ray.data._internal.execution.execution_callback import ExecutionCallback
except ImportError:
    ExecutionCallback = object

__all__ = [
    "ExecutionCallback",
    "agent_on_any_port",
    "autoscaler_report",
    "autoscales_by_v2",
    "call_after_each_step",
    "dashboard_url",
    "pending_by_v2",
    "store_share",
    "system_memory",
    "unfinished_needs",
]

GONE = (ImportError, AttributeError, TypeError)
"""What a name that a release lacks, or has with other parameters, is answered with."""


@contextmanager
def agent_on_any_port() -> Iterator[None]:
    """Lets the agent of a Ray that is started meanwhile listen wherever there is room.

    By default the agents of all of a machine's Rays want one port: the second one tries for 4 s, for which its Ray waits, and
    gives up. Where Ray cannot be told otherwise, it is so.
    """
    try:
        from ray._private.parameter import RayParams

        usual = RayParams.__init__
    except GONE:
        yield
        return

    def on_any_port(params: Any, *given: Any, **more: Any) -> None:
        usual(params, *given, **{"dashboard_agent_listen_port": 0, **more})

    RayParams.__init__ = on_any_port
    try:
        yield
    finally:
        RayParams.__init__ = usual


def call_after_each_step(callback: type[Any], context: DataContext) -> None:
    """Has Ray Data call `on_execution_step` of a callback in the executions of a context; once, however often it is said.

    Where that cannot be said, nothing is called: its loop then spins, and nobody hears what an execution waits for.
    """
    classes = getattr(context, "custom_execution_callback_classes", None)
    if classes is not None and callback not in classes:
        context.custom_execution_callback_classes = [*classes, callback]


def unfinished_needs(executor: Any) -> list[dict[str, float]]:
    """What a worker of each unfinished step of a Ray Data execution needs of one machine; nothing where that is not told."""
    try:
        needs = [step.min_scheduling_resources() for step in executor._topology if not step.has_completed()]
        return [{"CPU": need.cpu, "GPU": need.gpu} for need in needs]
    except GONE:
        return []


def autoscales_by_v2() -> bool:
    """Whether the cluster's autoscaler is of the second version; False where that is not told."""
    try:
        from ray.autoscaler.v2.utils import is_autoscaler_v2

        return bool(is_autoscaler_v2())
    except GONE:
        return False


def pending_by_v2() -> int:
    """Machines that an autoscaler of the second version is starting; none where that is not told."""
    try:
        from ray.autoscaler.v2.sdk import get_cluster_status

        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        return len(status.pending_nodes) + len(status.pending_launches)
    except GONE:
        return 0


def autoscaler_report() -> dict[str, Any]:
    """What an autoscaler of the first version says of itself; nothing where it has not yet, or that is not told."""
    try:
        from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
        from ray.experimental.internal_kv import _internal_kv_get

        report = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or b"{}").get("autoscaler_report")
    except GONE:
        return {}
    return dict(report or {})


def system_memory() -> int:
    """Bytes of memory that Ray takes this machine for; the machine's own where it does not tell."""
    try:
        from ray._common.utils import get_system_memory

        return int(get_system_memory())
    except GONE:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def store_share() -> float:
    """The part of that memory that Ray takes for objects."""
    try:
        from ray._private.ray_constants import DEFAULT_OBJECT_STORE_MEMORY_PROPORTION

        return float(DEFAULT_OBJECT_STORE_MEMORY_PROPORTION)
    except GONE:
        return 0.3


def dashboard_url() -> str | None:
    """Where Ray's dashboard is; None where it is off, or that is not told."""
    try:
        from ray._private.worker import get_dashboard_url

        url = get_dashboard_url()
    except GONE:
        return None
    return f"http://{url}" if url and "://" not in url else url or None
