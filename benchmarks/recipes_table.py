"""The results of `recipes.py` as a table in Markdown: `python benchmarks/recipes_table.py recipes.jsonl`.

A choice's gain is the mean of its differences to the default over all backbones and seeds; beside it stands the spread of these
differences (their standard deviation), how many of them are above zero, and the time of a step of its training relative to the
default's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd

from raymask.core.tasks import JOINT

NOT_SCORES = ("mode", "backbone", "seed", "seconds", "step_seconds", "choice", "gain", "folds")


def aggregated(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a choice, in their order: mean scores, and mean, deviation and signs of its gain."""
    tasks = [str(name) for name in rows if name not in (*NOT_SCORES, JOINT)]
    gains = rows.assign(gain=[gain["score"] for gain in rows["gain"]])
    by_choice = gains.groupby("choice", sort=False)
    default = gains[gains["choice"] == "default"].set_index(["backbone", "seed"])["step_seconds"]
    relative = gains["step_seconds"] / default.reindex(pd.MultiIndex.from_frame(gains[["backbone", "seed"]])).to_numpy()
    return pd.DataFrame(
        {
            **{task: by_choice[task].mean() for task in [*tasks, JOINT]},
            "gain": by_choice["gain"].mean(),
            "spread": by_choice["gain"].std(),
            "above": by_choice["gain"].agg(lambda of_choice: f"{(of_choice > 0).sum()} of {len(of_choice)}"),
            "time": relative.groupby(gains["choice"], sort=False).median(),
        }
    )


def markdown(table: pd.DataFrame) -> str:
    """The table with a line a choice."""
    scores = [str(name) for name in table if name not in ("gain", "spread", "above", "time")]
    lines = [f"| choice | {' | '.join(scores)} | gain | spread | better in | time |", "|---|" + "---|" * (len(scores) + 4)]
    for choice, row in table.to_dict("index").items():
        told = [f"{row[name]:.3f}" for name in scores]
        gain = ["", "", ""] if choice == "default" else [f"{row['gain']:+.3f}", f"{row['spread']:.3f}", row["above"]]
        lines.append("| " + " | ".join([str(choice), *told, *gain, f"{row['time']:.1f} ×"]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    for file in sys.argv[1:]:
        print(markdown(aggregated(pd.DataFrame(map(json.loads, Path(file).read_text().splitlines())))))
