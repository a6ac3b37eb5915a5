"""The commands that train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from raymask.cli.app import Members, OneMember, Recipe, Rule, Runs, Settings, TrainedRun, TrainingData, app, without_none


@app.command()
def train(
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="a recipe's name (see `raymask recipes`) or a YAML file")
    ] = "demo",
    data: Annotated[
        str | None,
        typer.Option(
            help="training data: a folder, a table (CSV, TSV, Parquet) or a URL; without it the demo's people are drawn"
        ),
    ] = None,
    test: Annotated[str | None, typer.Option(help="test data: a folder or a table (CSV, TSV, Parquet)")] = None,
    name: Annotated[str | None, typer.Option(help="the run's name (default: the recipe's)")] = None,
    runs: Runs = None,
    set_: Settings = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="try everything on 5% of the people for 2 epochs, and say how long the real run takes")
    ] = False,
) -> None:
    """Trains an ensemble, votes, and writes a submission. Started again, it goes on with what is unfinished."""
    from raymask.config.loading import load_config

    given: dict[str, Any] = {"name": name, "runs": runs, "data": {"path": data, "test": test}}
    config = load_config(recipe, set_ or (), without_none(given))
    if debug:
        from raymask.workflows.debug import debug as run
    else:
        from raymask.workflows.train import run
    run(config)


@app.command()
def add(
    run: TrainedRun,
    member: Annotated[
        list[str],
        typer.Option("--member", metavar="YAML", help='such as "{task: joint, name: big, recipe: {backbone: resnet18}}"'),
    ],
    set_: Settings = None,
    rule: Rule = None,
) -> None:
    """Adds members to a finished run and votes anew; nothing else is trained again. Started again, it goes on."""
    from raymask.workflows import add

    add.add(run, member, rule=rule, settings=set_ or ())


@app.command()
def tune(
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="a YAML file that says under `search` what is searched, or a recipe's name")
    ] = "search",
    data: TrainingData = None,
    name: Annotated[str | None, typer.Option(help="the search's name (default: the recipe's and -tune)")] = None,
    runs: Runs = None,
    trials: Annotated[int | None, typer.Option(min=1, help="trials in all (default: 32, or the whole grid)")] = None,
    minutes: Annotated[float | None, typer.Option(help="after which no trial begins, and all but the best end")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY.PATH=VALUE", help="any other setting, such as tune.method=random"),
    ] = None,
) -> None:
    """Searches keys of a recipe by trials that share packs, and writes the best as a recipe. Started again, it goes on."""
    from raymask.config.search import search_config

    given: dict[str, Any] = {"name": name, "runs": runs, "data": {"path": data}}
    search = search_config(recipe, set_ or (), without_none(given), without_none({"trials": trials, "minutes": minutes}))
    from raymask.workflows.tune import tune as run_search

    run_search(search)


@app.command()
def lr(
    recipe: Recipe,
    data: TrainingData = None,
    member: OneMember = None,
    low: Annotated[float, typer.Option("--from", help="lowest learning rate")] = 1e-6,
    high: Annotated[float, typer.Option("--to", help="highest learning rate")] = 1.0,
    steps: Annotated[int, typer.Option(help="steps between them")] = 100,
    out: Annotated[Path | None, typer.Option(help="folder of the picture and its numbers (default: lr-NAME here)")] = None,
    set_: Settings = None,
) -> None:
    """Trains one model while its learning rate rises, and says which rate to begin with."""
    from raymask.config.loading import load_config

    config = load_config(recipe, set_ or (), without_none({"data": {"path": data}}))
    from raymask.workflows.lr import lr as range_test

    range_test(config, member, (low, high), steps, out)


@app.command()
def bakeoff(
    backbones: Annotated[
        str | None, typer.Option(help="NAME,NAME=WEIGHTS,...: models of timm (default: those that the recipe lists)")
    ] = None,
    data: TrainingData = None,
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="a recipe's name or a YAML file, which may list `backbones`")
    ] = "bakeoff",
    out: Annotated[Path | None, typer.Option(help="folder of the results (default: runs/bakeoff)")] = None,
    set_: Settings = None,
) -> None:
    """Compares backbones by heads on their frozen features, in one pass over the images, and says which to fine-tune."""
    from raymask.config.bakeoff import bakeoff_config

    given: dict[str, Any] = {"data": {"path": data}, **({"runs": out.parent, "name": out.name} if out else {})}
    config = bakeoff_config(recipe, backbones, set_ or (), without_none(given))
    from raymask.workflows.bakeoff import bakeoff as compare

    compare(config)


@app.command()
def refit(
    run: TrainedRun,
    member: Members = None,
    rule: Rule = None,
) -> None:
    """Trains a finished run's members on the people of all folds. Started again, it goes on with what is unfinished."""
    from raymask.workflows import refit

    refit.refit(run, member or (), rule=rule)


@app.command()
def soup(
    run: Annotated[Path, typer.Argument(help="directory of a trained run from which people are held out (folds.reserve)")],
    member: Members = None,
    rule: Rule = None,
) -> None:
    """Averages each member's models of all folds to one, and scores what is lost on the people held out."""
    from raymask.workflows import soup

    soup.soup(run, member or (), rule=rule)


@app.command()
def pseudo(
    run: Annotated[Path, typer.Argument(help="directory of a trained run with test images")],
    name: Annotated[str | None, typer.Option(help="the new run's name (default: RUN-pseudo)")] = None,
    set_: Settings = None,
) -> None:
    """Trains a run anew with the test images that it is sure of, and says whether that paid."""
    from raymask.workflows import distill

    distill.pseudo(run, name, set_ or ())


@app.command()
def distil(
    run: TrainedRun,
    task: Annotated[str, typer.Option(help="the student's heads: multi for one a task, or joint")] = "multi",
    name: Annotated[str | None, typer.Option(help="the new run's name (default: RUN-student)")] = None,
    set_: Settings = None,
) -> None:
    """Trains one model on what a run's ensemble says, to deploy in its place, and says what that costs."""
    from raymask.workflows import distill

    distill.distil(run, task, name, set_ or ())
