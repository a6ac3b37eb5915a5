"""A cluster whose head has no CPU, and which starts at most one machine with a GPU: `python scaled_cluster.py OUT`.

Its autoscaler is of Ray's first version: the second wants a file for simulated machines that Ray's wheels leave out. What the
sessions of several runs said, and what they were given, is written to `OUT/said.json`.
"""

from __future__ import annotations

import io
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_TYPE
from ray.cluster_utils import Cluster
from rich.console import Console

from raymask.cluster.connection import LOCAL_ENVIRONMENT, WORKER_ENVIRONMENT, check_shared
from raymask.cluster.session import RaySession
from raymask.config.compute import ComputeConfig
from raymask.core.console import Display
from raymask.core.errors import InputError

EMPTY = ("docker", "auth", "file_mounts")
NO_COMMANDS = (
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)


def main(out: Path) -> None:
    os.environ |= WORKER_ENVIRONMENT | LOCAL_ENVIRONMENT | {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    config = out / "cluster.json"
    config.write_text(json.dumps(cluster_of_one_gpu(f"{ray.util.get_node_ip_address()}:{port}")))
    head = {"num_cpus": 0, "include_dashboard": False, "autoscaling_config": str(config), "gcs_server_port": port}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    os.environ["RAY_ADDRESS"] = cluster.address
    told = {
        "demanded": asked(ComputeConfig(gpus=1, wait_minutes=2), 1),
        "too many": asked(ComputeConfig(gpus=2, wait_minutes=0.2), 2),
        "default": asked(ComputeConfig(wait_minutes=0.2), 3),
    }
    os.chdir(out)
    ray.init(log_to_driver=False)
    try:
        check_shared(Path("/proc/self/cwd"))  # each process sees its own
    except InputError as error:
        told["shared"] = {"said": str(error)}
    ray.shutdown()
    (out / "said.json").write_text(json.dumps(told))
    cluster.shutdown()


def asked(compute: ComputeConfig, gpus: int) -> dict[str, Any]:
    """What is said and given to a run that has work for so many GPUs, and how many are free afterwards."""
    said, given = io.StringIO(), []
    with RaySession(compute, Display(Console(file=said, width=500))) as session:
        try:
            for _ in range(2):
                given = [[node.cpus, node.gpus] for node in session.nodes(gpus)]
        except InputError as error:
            said.write(f"InputError: {error}")
        for _ in range(40):
            if ray.available_resources().get("GPU") == 1:
                break
            time.sleep(0.25)
        free = ray.available_resources().get("GPU", 0)
    return {"said": said.getvalue(), "given": given, "free": free}


def cluster_of_one_gpu(address: str) -> dict[str, Any]:
    types = {
        FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 1},
    }
    return {
        **{key: {} for key in EMPTY},
        **{key: [] for key in NO_COMMANDS},
        "cluster_name": "tests",
        "max_workers": 4,
        "idle_timeout_minutes": 5,
        "upscaling_speed": 1.0,
        "provider": {"type": "fake_multinode", "gcs_address": address},
        "available_node_types": types,
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "file_mounts_sync_continuously": False,
    }


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
