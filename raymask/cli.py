"""The command line: `raymask train`, `raymask recipes`, `raymask demo-data`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from raymask.errors import InputError, RunError

app = typer.Typer(
    name="raymask",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Trains, votes and submits ensembles of image classifiers that share one stream of data, on Ray.",
)


@app.command()
def train(
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="a recipe's name (see `raymask recipes`) or a YAML file")
    ] = "demo",
    data: Annotated[
        str | None, typer.Option(help="training data: a folder, a CSV file or a URL; without it the demo's people are drawn")
    ] = None,
    test: Annotated[str | None, typer.Option(help="test data: a CSV file or a folder")] = None,
    name: Annotated[str | None, typer.Option(help="the run's name (default: the recipe's)")] = None,
    runs: Annotated[Path | None, typer.Option(help="folder of all runs; on a cluster one that all nodes see")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", "-s", metavar="KEY.PATH=VALUE", help="any other setting, such as recipe.epochs=8")
    ] = None,
) -> None:
    """Trains an ensemble, votes, and writes a submission. Started again, it goes on with what is unfinished."""
    from raymask.config import load_config

    given: dict[str, Any] = {"name": name, "runs": runs, "data": {"path": data, "test": test}}
    config = load_config(recipe, set_ or (), _without_none(given))
    from raymask.pipeline import run

    run(config)


@app.command()
def recipes() -> None:
    """Lists the recipes, each with its command, time and score."""
    from raymask.config import RECIPES, recipe_names

    for name in recipe_names():
        lines = (RECIPES / f"{name}.yaml").read_text().splitlines()
        comment = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
        typer.echo(f"{name}\n" + "".join(f"    {line}\n" for line in comment))


@app.command("demo-data")
def demo_data(
    folder: Annotated[Path, typer.Argument(help="folder to write, which must not be there yet")],
    people: Annotated[int, typer.Option(min=1, help="people of the training set, seven photos each")] = 80,
    test_people: Annotated[int, typer.Option(min=0, help="people of the test set")] = 20,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Draws a data set in the competition's layout."""
    from raymask.data.demo import write_demo

    try:
        typer.echo(write_demo(folder, people=people, test_people=test_people, seed=seed))
    except ValueError as error:
        raise InputError(str(error)) from None


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    nested = {key: _without_none(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: value for key, value in nested.items() if value not in (None, {})}


def main() -> None:
    """Runs the command line; what is the user's to mend ends in one sentence and status 2."""
    try:
        app()
    except InputError as error:
        print(f"raymask: {error}", file=sys.stderr)
        sys.exit(2)
    except RunError as error:
        print(f"raymask: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("raymask: interrupted; the same command goes on with what is unfinished.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
