"""What a search costs beside its trials one by one, and what its best gains on people whom it never saw.

    python benchmarks/search.py --data DIR --weights mobilenetv2_100.pth --trials 16

The search is that of a recipe's file, by default `search`. Some of its trials are trained anew, each alone and to its end; their
time is scaled to all. The recipe before and after the search is trained as a run, with the same people held out from everything.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.common import WORK, show, write_results
from benchmarks.held_out import scored, voted
from raymask.config.loading import load_config
from raymask.config.search import SearchConfig, search_config
from raymask.config.search_space import label_of
from raymask.config.yaml_files import dump_yaml
from raymask.core.console import Display
from raymask.runs.configs import load_run_config
from raymask.runs.directory import Run
from raymask.runs.folders import SearchFiles
from raymask.runs.search_schemas import Trial
from raymask.workflows.train import run as train
from raymask.workflows.tune import tune


def alone(search: SearchConfig, trial: Trial, given: argparse.Namespace) -> float:
    """Seconds of a trial that is trained by itself, to its end."""
    settings = [f"search={label_of({key: {'choice': [value]} for key, value in trial.values.items()})}", *settings_of(given)]
    over = {"name": f"search-alone-{trial.number}", "runs": WORK / "runs", "data": {"path": given.data}}
    one = search_config(given.recipe, settings, over, {"method": "grid", "stop": "none", "trials": 1})
    return tune(one, quiet()).seconds


def quiet() -> Display:
    return Display(Console(file=io.StringIO()))


def settings_of(given: argparse.Namespace) -> list[str]:
    weights = [f"recipe.weights={given.weights}"] if given.weights else []
    return [f"folds.reserve={given.reserve}", *weights, *given.set]


def trained(recipe: str, name: str, given: argparse.Namespace, settings: list[str]) -> Run:
    over = {"name": name, "runs": WORK / "runs", "data": {"path": given.data}}
    return train(load_config(recipe, settings, over), Display()).run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipe", default="search", help="of the search")
    parser.add_argument(
        "--weights", type=lambda text: str(Path(text).absolute()), help="of the backbone, where no hub can be reached"
    )
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--alone", type=int, default=2, help="trials that are trained alone, too")
    parser.add_argument("--reserve", type=float, default=0.2, help="share of the people held out")
    parser.add_argument("--set", action="append", default=[], help="settings of the search and of both runs")
    given = parser.parse_args()
    over: dict[str, Any] = {"name": "search", "runs": WORK / "runs", "data": {"path": given.data}}
    search = search_config(given.recipe, settings_of(given), over, {"trials": given.trials})
    found = tune(search)
    finished = [trial for trial in found.trials if trial.state == "finished"]
    one_by_one = [alone(search, trial, given) for trial in finished[: given.alone]]
    before = WORK / "runs" / "search-before.yaml"
    before.write_text(dump_yaml(dict(search.values)))
    first = trained(str(before), "search-before", given, [])
    best = trained(str(SearchFiles(WORK / "runs" / "search").best), "search-best", given, [])
    assert load_run_config(first).folds == load_run_config(best).folds
    (score, _), (score_of_best, gain) = scored(first, [voted(first), voted(best)])
    together, apart = found.seconds, float(np.mean(one_by_one)) * len(found.trials)
    show(
        "A search",
        ("", "seconds", "search / it"),
        [("raymask tune", together, 1.0), ("its trials alone", apart, together / apart)],
    )
    rows = [(name, f["score"], f["low"], f["high"]) for name, f in (("before", score), ("best", score_of_best), ("gain", gain))]
    show(f"{found.metric} on people held out", ("", "score", "95% from", "to"), rows)
    told = {"found": found.model_dump(), "alone": one_by_one, "before": score, "best": score_of_best, "gain": gain}
    write_results("search", {**vars(given), **told})


if __name__ == "__main__":
    main()
