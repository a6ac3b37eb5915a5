"""The only machine with a GPU dies while a run trains on it, comes again, and dies while it predicts.

`python lost_gpu.py PHOTOS OUT` writes what was said to `OUT/trained.txt`, `OUT/again.txt`, `OUT/predicted.txt`.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from made import MISSED_SOON
from ray.cluster_utils import Cluster
from rich.console import Console

from raymask.cluster.connection import LOCAL_ENVIRONMENT, WORKER_ENVIRONMENT
from raymask.config.loading import load_config
from raymask.config.schema import RunConfig
from raymask.core.console import Display
from raymask.core.errors import RunError
from raymask.data.test_sets import ImageList
from raymask.inference import bulk
from raymask.runs.directory import ReplicaId, Run
from raymask.runs.folders import PredictionFolder
from raymask.workflows import predict
from raymask.workflows.train import run

EPOCHS = 8


def main(photos: Path, out: Path) -> None:
    bulk.IMAGES_PER_CHUNK, bulk.CHUNKS_PER_SHARD = 8, 1
    os.environ.update({**WORKER_ENVIRONMENT, **LOCAL_ENVIRONMENT, **MISSED_SOON})
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    os.environ["RAY_ADDRESS"] = cluster.address
    table = out / "many.csv"
    names = [file.name for file in sorted((photos / "eval" / "images").iterdir())]
    rows = [f"{place},{photos / 'eval' / 'images' / names[place % len(names)]}" for place in range(2000)]
    table.write_text("\n".join(["id,image", *rows]))

    with_gpu = cluster.add_node(num_cpus=2, num_gpus=1)
    train = partial(run, tiny_run(photos, out))
    kept = [Run(out / "run").checkpoint(ReplicaId("mask", fold)) for fold in (0, 1)]
    tell(out / "trained.txt", train, cluster, with_gpu, lambda: all(file.exists() for file in kept))
    with_gpu = cluster.add_node(num_cpus=2, num_gpus=1)
    tell(out / "again.txt", train)

    parts = PredictionFolder(out / "new").predictions
    again = partial(predict.predict, out / "run", ImageList(str(table), id_column="id"), out / "new")
    tell(out / "predicted.txt", again, cluster, with_gpu, lambda: any(parts.glob("part-*")))
    cluster.shutdown()


def tell(
    file: Path,
    work: Callable[..., Any],
    cluster: Cluster | None = None,
    node: Any = None,
    begun: Callable[[], bool] = lambda: False,
) -> None:
    """Writes what work says, its error last; kills a machine when the work has begun."""
    said = io.StringIO()

    def kill() -> None:
        while not begun():
            time.sleep(0.05)
        cluster.remove_node(node, allow_graceful=False)

    if cluster:
        threading.Thread(target=kill, daemon=True).start()
    try:
        work(display=Display(Console(file=said, width=500)))
    except RunError as error:
        said.write(f"RunError: {error}\n")
    file.write_text(said.getvalue())


def tiny_run(photos: Path, out: Path) -> RunConfig:
    recipe = {
        "backbone": "test_resnet",
        "pretrained": False,
        "image_size": 32,
        "schedule": {"epochs": EPOCHS},
        "batch_size": 16,
        "amp": "off",
    }
    over = {
        "name": "run",
        "runs": out,
        "data": {"path": str(photos / "train")},
        "tasks": {"gender": None, "age": None},
        "recipe": recipe,
        "folds": {"k": 2},
        "vote": {"rule": "soft", "adjust": "none"},
        "compute": {"gpus": 1, "wait_minutes": 0.08},
    }
    return load_config("demo", overrides=over)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
