"""Most memory that a whole job holds in all its processes: `python benchmarks/memory.py --images 18900 --image-size 224`.

Three specialists, one fold held out, one epoch, as many prepared images as asked for, whose files are some drawn photos that many
rows name. Memory is the proportional set size: a page that n processes share counts 1/n in each.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import yaml

from benchmarks.common import WORK, photos, show, watch_memory, write_results

GIGABYTE = 2**30


def write_table(images: int, folder: Path) -> Path:
    """A CSV of so many images of people with seven each."""
    people = pd.read_csv(photos(100) / "train" / "train.csv").set_index("path")
    files = sorted((photos(100) / "train" / "images").glob("*/*.jpg"))
    chosen = [files[number % len(files)] for number in range(images)]
    table = pd.DataFrame(
        {
            "id": [f"{number:07d}" for number in range(images)],
            "image": [str(file) for file in chosen],
            "person": [number // 7 for number in range(images)],
            "gender": [people.loc[file.parent.name, "gender"] for file in chosen],
            "mask": [re.sub(r"\d", "", file.stem) for file in chosen],
            "race": [number % 2 for number in range(images)],
        }
    )
    file = folder / "images.csv"
    table.to_csv(file, index=False)
    return file


def recipe_of(table: Path, given: argparse.Namespace) -> dict[str, object]:
    """One fold held out, one epoch."""
    columns = {"id_column": "id", "image_column": "image", "group_column": "person"}
    return {
        "data": {"kind": "csv", "path": str(table), **columns},
        "tasks": ["mask", "gender", "race"],
        "folds": {"scheme": "holdout", "k": 5},
        "views": ["original"],
        "recipe": {
            "backbone": given.backbone,
            "pretrained": False,
            "image_size": given.image_size,
            "schedule": {"epochs": 1},
            "batch_size": 64,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=18_900)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--backbone", default="mobilenetv3_small_050")
    given = parser.parse_args()
    folder = WORK / f"memory-{given.images}-{given.image_size}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder.mkdir(parents=True)
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_of(write_table(given.images, folder), given)))
    command = [sys.executable, "jobs/ensemble.py", "--recipe", str(recipe), "--runs", str(folder), "--name", "run"]
    began = time.perf_counter()
    with (folder / "output.txt").open("w") as output:
        job = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        with watch_memory(job.pid) as memory:
            status = job.wait()
    seconds = time.perf_counter() - began
    assert status == 0, (folder / "output.txt").read_text()
    rows = sorted(((name, size / GIGABYTE) for name, size in memory.by_name.items()), key=lambda row: -row[1])
    title = f"{given.images} images at {given.image_size} px, 3 × {given.backbone}, {seconds:.0f} s: GB at the peak"
    show(title, ["process", "GB"], [["all", memory.peak / GIGABYTE], *(row for row in rows if row[1] > 0.02)])
    peak = {"peak_gb": memory.peak / GIGABYTE, "by_process_gb": dict(rows), "seconds": seconds}
    write_results(f"memory-{given.images}-{given.image_size}", peak)


if __name__ == "__main__":
    main()
