"""The application that commands add themselves to, and options that several of them have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

USAGE_ERROR: Any = typer.BadParameter.__mro__[2]
"""What typer raises for arguments that it cannot take."""

app = typer.Typer(
    name="raymask",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Trains, votes and submits ensembles of image classifiers that share one stream of data, on Ray.",
)

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="KEY.PATH=VALUE", help="any other setting, such as recipe.optim.lr=0.01, or vote.rule=soft"
    ),
]
Members = Annotated[list[str] | None, typer.Option("--member", metavar="NAME", help="a member (default: all of them)")]
Rule = Annotated[
    str | None, typer.Option(metavar="MODULE:NAME", help="the rule of your own that the run votes by, where it does")
]
Runs = Annotated[Path | None, typer.Option(help="folder of all runs; on a cluster one that all nodes see")]
Recipe = Annotated[str, typer.Argument(help="a recipe's name (see `raymask recipes`) or a YAML file")]
TrainingData = Annotated[
    str | None, typer.Option(help="training data, as for `raymask train`; without it the demo's people are drawn")
]
OneMember = Annotated[str | None, typer.Option(metavar="NAME", help="a member (default: the first)")]
TrainedRun = Annotated[Path, typer.Argument(help="directory of a trained run")]


def without_none(values: dict[str, Any]) -> dict[str, Any]:
    """Nested values without those that are not given."""
    nested = {key: without_none(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: value for key, value in nested.items() if value not in (None, {})}
