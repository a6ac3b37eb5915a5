"""Predicts on two simulated machines and kills one half-way: `python two_nodes.py RUN IMAGES OUT`.

How many shards there were is written beside OUT: to `killed` when one was killed, and to `done` at the end.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from pathlib import Path

from made import MISSED_SOON
from ray.cluster_utils import Cluster
from rich.console import Console

from raymask.cluster.connection import LOCAL_ENVIRONMENT, WORKER_ENVIRONMENT
from raymask.core.console import Display
from raymask.data.test_sets import ImageList
from raymask.inference import bulk
from raymask.runs.folders import PredictionFolder
from raymask.workflows import predict


def main(run: Path, images: Path, out: Path) -> None:
    bulk.IMAGES_PER_CHUNK, bulk.CHUNKS_PER_SHARD = 8, 2
    os.environ.update({**WORKER_ENVIRONMENT, **LOCAL_ENVIRONMENT, **MISSED_SOON})
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    other = cluster.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = cluster.address
    parts = PredictionFolder(out).predictions

    def kill_half_way() -> None:
        while len(list(parts.glob("part-*"))) < 5:
            time.sleep(0.05)
        cluster.remove_node(other, allow_graceful=False)
        (out.parent / "killed").write_text(str(len(list(parts.glob("part-*")))))

    threading.Thread(target=kill_half_way, daemon=True).start()
    predict.predict(run, ImageList(str(images), id_column="id"), out, display=Display(Console(file=io.StringIO())))
    (out.parent / "done").write_text(str(len(list(parts.glob("part-*")))))
    cluster.shutdown()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
