"""The commands that show what there is, and draw what there is not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raymask.cli.app import OneMember, Recipe, Settings, TrainingData, app, without_none
from raymask.core.errors import InputError


@app.command()
def show(
    recipe: Recipe,
    data: TrainingData = None,
    member: OneMember = None,
    out: Annotated[Path | None, typer.Option(help="folder of the page and the contact sheets (default: show-NAME here)")] = None,
    batches: Annotated[int, typer.Option(min=1, help="how many batches")] = 1,
    set_: Settings = None,
) -> None:
    """Draws what a recipe feeds the network: images as prepared, augmented and mixed, with their labels. Trains nothing."""
    from raymask.config.loading import load_config

    config = load_config(recipe, set_ or (), without_none({"data": {"path": data}}))
    from raymask.workflows import show

    show.show(config, out, member, batches)


@app.command()
def eda(
    data: TrainingData = None,
    test: Annotated[str | None, typer.Option(help="test data, as for `raymask train`")] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="a recipe's name or a YAML file: its tasks, folds and image size are looked at")
    ] = "demo",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="the page (default: eda-DATA.html here)")] = None,
    set_: Settings = None,
) -> None:
    """Writes a page about a data set: classes, pictures, near-duplicates, folds, and what a leak would show. Trains nothing."""
    from raymask.config.loading import load_config

    config = load_config(recipe, set_ or (), without_none({"data": {"path": data, "test": test}}))
    from raymask.workflows import eda

    eda.eda(config, out)


@app.command()
def recipes() -> None:
    """Lists the recipes, each with its command, time and score."""
    from raymask.config.yaml_files import RECIPES, recipe_names

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
    from raymask.core.paths import absolute, check_writable
    from raymask.data.demo.dataset import write_demo

    check_writable(absolute(folder), "folder")
    try:
        typer.echo(write_demo(absolute(folder), people=people, test_people=test_people, seed=seed))
    except ValueError as error:
        raise InputError(str(error)) from None
