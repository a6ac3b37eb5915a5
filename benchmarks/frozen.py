"""What heads on a frozen backbone cost: a pack of 15 replicas against a pack of 1, from nothing prepared to trained heads.

python benchmarks/frozen.py --weights mobilenetv2_100.pth
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import WORK, photos, show, write_results
from raymask.runs.directory import Run


def seconds_of(weights: Path, people: int, name: str, settings: list[str]) -> dict[str, float]:
    """Seconds of the job's stages, and of the whole."""
    runs = WORK / f"frozen-{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    command = [sys.executable, "jobs/ensemble.py", "--recipe", "probe", "--data", str(photos(people) / "train")]
    command += ["--runs", str(runs), "--name", "run", "--set", f"recipe.weights={weights.absolute()}"]
    for setting in settings:
        command += ["--set", setting]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    whole = time.perf_counter() - began
    return {**json.loads(Run(runs / "run").timings.read_text()), "whole": whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="a weights file of mobilenetv2_100")
    parser.add_argument("--people", type=int, default=150)
    given = parser.parse_args()
    # One member with one replica, and the vote's other tasks dropped, since every task needs a member.
    one = ["tasks.gender=null", "tasks.age=null", "folds.scheme=holdout"]
    found = {"1": seconds_of(given.weights, given.people, "1", one), "15": seconds_of(given.weights, given.people, "15", [])}
    stages = [stage for stage in found["15"] if stage in found["1"]]
    rows = [[stage, found["1"][stage], found["15"][stage], found["15"][stage] / found["1"][stage]] for stage in stages]
    show(f"{7 * given.people} photos, mobilenetv2_100 frozen: seconds", ["stage", "1 replica", "15 replicas", "15 / 1"], rows)
    write_results("frozen", found)


if __name__ == "__main__":
    main()
