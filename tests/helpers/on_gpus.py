"""All that books GPUs, on a Ray with one GPU in its books and none in the machine: `python on_gpus.py PHOTOS OUT`.

What each job said is written to `OUT/NAME.txt`, and to `OUT/rows.csv` how many rows an actor on a GPU was called with.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray.data
import timm
import torch
from rich.console import Console

from raymask.cluster.connection import connect
from raymask.cluster.resources import plan_slots, room_of
from raymask.cluster.session import RaySession
from raymask.config.compute import ComputeConfig
from raymask.config.loading import load_config
from raymask.config.schema import RunConfig
from raymask.core.console import Display
from raymask.core.types import ActorPool
from raymask.data.stream import by_actors
from raymask.inference import bulk
from raymask.workflows import predict, soup
from raymask.workflows.train import run

COMPUTE = {"cpus": 2, "gpus": 1, "packs_per_gpu": 2, "replicas_per_pack": 2}
RECIPE = {
    "backbone": "test_resnet",
    "pretrained": False,
    "image_size": 32,
    "schedule": {"epochs": 1},
    "batch_size": 16,
    "amp": "off",
}


def main(photos: Path, out: Path) -> None:
    bulk.IMAGES_PER_CHUNK, bulk.CHUNKS_PER_SHARD = 8, 2
    whole, images = out / "whole", str(photos / "eval" / "images")
    with connect(ComputeConfig.model_validate(COMPUTE)):
        count_rows(out)
        tell(out / "whole.txt", partial(run, whole_run(photos, out)))
        tell(out / "predict.txt", partial(predict.predict, whole, images, out / "new"))
        tell(out / "soup.txt", partial(soup.soup, whole, ["mask"]))
        tell(out / "heads.txt", partial(run, heads_on_a_frozen_backbone(photos, out)))
        tell(out / "unwanted.txt", say_in_what_room)


def tell(file: Path, work: Callable[..., Any]) -> None:
    said = io.StringIO()
    work(display=Display(Console(file=said, width=500)))
    file.write_text(said.getvalue())


def whole_run(photos: Path, out: Path) -> RunConfig:
    over = {
        "name": "whole",
        "runs": out,
        "data": {"path": str(photos)},
        "recipe": RECIPE,
        "members": [{"task": "mask"}, {"task": "multi"}],
        "folds": {"k": 2, "reserve": 0.3},
        "vote": {"rule": "soft", "adjust": "none"},
        "compute": COMPUTE,
    }
    return load_config("demo", overrides=over)


def heads_on_a_frozen_backbone(photos: Path, out: Path) -> RunConfig:
    weights = out / "backbone.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), weights)
    over = {
        "name": "heads",
        "runs": out,
        "data": {"path": str(photos / "train")},
        "tasks": {"gender": None, "age": None},
        "recipe": {
            **RECIPE,
            "pretrained": True,
            "weights": str(weights),
            "freeze": {"part": "backbone", "passes": 2},
            "schedule": {"epochs": 2},
        },
        "folds": {"k": 2},
        "vote": {"rule": "soft", "adjust": "none"},
        "compute": COMPUTE,
    }
    return load_config("demo", overrides=over)


def say_in_what_room(display: Display) -> None:
    """What a run that wants no number of GPUs would be planned for."""
    with RaySession(ComputeConfig(), display) as session:
        nodes = session.nodes(2)
    display.line("room", room_of(plan_slots(nodes, ComputeConfig(), 2), nodes))


class Counter:
    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        return {"rows": np.array([len(rows["item"])])}


def count_rows(out: Path) -> None:
    """Of five blocks of 8 rows and one of 3."""
    pool = ActorPool(size=1, cpus=0.5, gpus=1.0, threads=1, decode_cpus=0.5)
    blocks = ray.data.from_items([8, 8, 8, 8, 8, 3], override_num_blocks=6).map_batches(_block, batch_size=None, num_cpus=0.5)
    blocks.map_batches(Counter, **by_actors(pool, 6, 8)).to_pandas().to_csv(out / "rows.csv", index=False)


def _block(rows: dict[str, Any]) -> dict[str, Any]:
    return {"item": np.arange(rows["item"][0])}


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
