"""Each name of Ray that is not public is there in this release, and raymask does without those that a later one may lack."""

from __future__ import annotations

import socket
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.data import DataContext, ExecutionResources

from raymask import ray_internals


@pytest.mark.usefixtures("ray_session")
def test_a_callback_is_called_after_each_step_and_told_what_is_needed() -> None:
    needs: list[dict[str, float]] = []

    class Listens(ray_internals.ExecutionCallback):  # type: ignore[misc]  # inside the test, so that it travels to a worker that knows no tests
        def on_execution_step(self, executor: Any) -> None:
            needs.extend(ray_internals.unfinished_needs(executor))

    before = DataContext.get_current()
    context = before.copy()
    for _ in range(2):
        ray_internals.call_after_each_step(Listens, context)
    assert context.custom_execution_callback_classes.count(Listens) == 1
    DataContext._set_current(context)
    try:
        rows = ray.data.from_items(list(range(8))).map(lambda row: row, num_cpus=0.5)
        assert sum(row["item"] for row in rows.iter_rows()) == 28
    finally:
        DataContext._set_current(before)
    assert {"CPU": 0.5, "GPU": 0.0} in needs


@pytest.mark.usefixtures("ray_session")
def test_what_this_release_tells() -> None:
    assert ray_internals.ExecutionCallback is not object
    assert 0 < ray_internals.store_share() < 1
    assert ray_internals.system_memory() > 2**28
    assert (ray_internals.dashboard_url() or "").startswith("http://")
    assert not ray_internals.autoscales_by_v2()
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.autoscaler.v2.sdk import get_cluster_status  # asked of a cluster with that autoscaler alone
    from ray.experimental.internal_kv import _internal_kv_get

    assert DEBUG_AUTOSCALING_STATUS
    assert callable(get_cluster_status)
    assert callable(_internal_kv_get)


@pytest.mark.usefixtures("ray_session")
def test_a_second_ray_on_a_machine_does_not_want_the_port_of_the_first() -> None:
    from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
    from ray._private.worker import _global_node

    [agent] = ray.nodes()
    assert _global_node.dashboard_agent_listen_port not in (0, DEFAULT_DASHBOARD_AGENT_LISTEN_PORT)
    with socket.create_connection((agent["NodeManagerAddress"], _global_node.dashboard_agent_listen_port), timeout=10):
        pass  # it listens


def test_without_the_names_that_a_release_may_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (
        "ray._private.ray_constants",
        "ray._private.worker",
        "ray._common.utils",
        "ray.autoscaler.v2.sdk",
        "ray.autoscaler.v2.utils",
        "ray.experimental.internal_kv",
        "ray.data._internal.execution.execution_callback",
    ):
        monkeypatch.setitem(sys.modules, module, None)
    ray_internals.call_after_each_step(object, SimpleNamespace())
    assert ray_internals.unfinished_needs(SimpleNamespace()) == []
    assert not ray_internals.autoscales_by_v2()
    assert ray_internals.pending_by_v2() == 0
    assert ray_internals.autoscaler_report() == {}
    assert ray_internals.system_memory() > 2**28
    assert ray_internals.store_share() == 0.3
    assert ray_internals.dashboard_url() is None


def test_steps_that_are_over_need_nothing() -> None:
    steps = [
        SimpleNamespace(has_completed=lambda over=over: over, min_scheduling_resources=lambda: ExecutionResources(cpu=1, gpu=0))
        for over in (True, False)
    ]
    assert ray_internals.unfinished_needs(SimpleNamespace(_topology=steps)) == [{"CPU": 1, "GPU": 0}]
