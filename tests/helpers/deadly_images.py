"""Images of which some kill the process that decodes them, by each way that decodes: `python deadly_images.py PHOTOS OUT`.

Needs `faulty_decoder` imported in all its processes. Writes the problems found to `OUT/NAME.csv`.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import pandas as pd
from made import make_run
from PIL import Image
from rich.console import Console

from raymask.cluster.connection import connect
from raymask.config.compute import ComputeConfig
from raymask.core.console import Display
from raymask.core.types import ActorPool
from raymask.data.cache import open_cache, problems
from raymask.data.prepare import prepare
from raymask.data.specs import InputSpec
from raymask.inference import actors, bulk
from raymask.runs.directory import ReplicaId
from raymask.transforms.tta import even
from raymask.workflows import predict

DEADLY = (3, 4, 9)


def main(photos: Path, out: Path) -> None:
    bulk.IMAGES_PER_CHUNK = 8
    run = make_run(out / "run", photos)
    images = out / "images"
    shutil.copytree(photos / "eval" / "images", images)
    files = sorted(images.iterdir())
    for place in DEADLY:
        with Image.open(files[place]) as whole:
            pixels = whole.copy()
        pixels.save(files[place], comment=b"deadly")
    table = pd.DataFrame({"image_id": [file.name for file in files], "path": [str(file) for file in files]})
    with connect(ComputeConfig(cpus=2, gpus=1)):
        spec = InputSpec(32, 32, 1.0)
        prepare(table, spec, out / "cache", lambda done, in_all: None)
        problems(out / "cache").to_csv(out / "prepare.csv", index=False)
        open_cache(out / "cache", table["image_id"].drop([*DEADLY]).reset_index(drop=True))
        for name, gpus in (("predict", 0.0), ("predict-on-gpus", 1.0)):  # with GPUs decoding has processes of its own
            pool = ActorPool(size=1, cpus=0.5, gpus=gpus, threads=1, decode_cpus=0.5)
            said = actors.predict(run, table, [ReplicaId("mask", 0)], even(["original"]), pool, lambda done, in_all: None)
            said.loc[said["problem"] != "", ["image_id", "problem"]].to_csv(out / f"{name}.csv", index=False)
        predict.predict(run.root, str(images), out / "bulk", display=Display(Console(file=io.StringIO())))
    shutil.copy(out / "bulk" / "problems.csv", out / "bulk.csv")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
