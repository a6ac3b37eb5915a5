"""The command line: each command is a function that imports its workflow when it is called."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from raymask.core.endings import conclude, open_streams
from raymask.core.errors import InputError

RESUMES = ("train", "tune", "bakeoff", "refit", "soup", "pseudo", "distil", "predict")
"""Commands that go on where they were cut off."""
USAGE_ERROR: Any = typer.BadParameter.__mro__[2]
"""What typer raises for arguments that it cannot take."""

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="KEY.PATH=VALUE", help="any other setting, such as recipe.optim.lr=0.01, or vote.rule=soft"
    ),
]

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
        str | None,
        typer.Option(
            help="training data: a folder, a table (CSV, TSV, Parquet) or a URL; without it the demo's people are drawn"
        ),
    ] = None,
    test: Annotated[str | None, typer.Option(help="test data: a folder or a table (CSV, TSV, Parquet)")] = None,
    name: Annotated[str | None, typer.Option(help="the run's name (default: the recipe's)")] = None,
    runs: Annotated[Path | None, typer.Option(help="folder of all runs; on a cluster one that all nodes see")] = None,
    set_: SetOption = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="try everything on 5% of the people for 2 epochs, and say how long the real run takes")
    ] = False,
) -> None:
    """Trains an ensemble, votes, and writes a submission. Started again, it goes on with what is unfinished."""
    from raymask.config.loading import load_config

    given: dict[str, Any] = {"name": name, "runs": runs, "data": {"path": data, "test": test}}
    config = load_config(recipe, set_ or (), _without_none(given))
    if debug:
        from raymask.workflows.debug import debug as run
    else:
        from raymask.workflows.train import run
    run(config)


@app.command()
def show(
    recipe: Annotated[str, typer.Argument(help="a recipe's name (see `raymask recipes`) or a YAML file")],
    data: Annotated[
        str | None, typer.Option(help="training data, as for `raymask train`; without it the demo's people are drawn")
    ] = None,
    member: Annotated[str | None, typer.Option(metavar="NAME", help="a member (default: the first)")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the page and the contact sheets (default: show-NAME here)")] = None,
    batches: Annotated[int, typer.Option(min=1, help="how many batches")] = 1,
    set_: SetOption = None,
) -> None:
    """Draws what a recipe feeds the network: images as prepared, augmented and mixed, with their labels. Trains nothing."""
    from raymask.config.loading import load_config

    config = load_config(recipe, set_ or (), _without_none({"data": {"path": data}}))
    from raymask.workflows import show

    show.show(config, out, member, batches)


@app.command()
def tune(
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="a YAML file that says under `search` what is searched, or a recipe's name")
    ] = "search",
    data: Annotated[str | None, typer.Option(help="training data as for train; without it the demo's people are drawn")] = None,
    name: Annotated[str | None, typer.Option(help="the search's name (default: the recipe's and -tune)")] = None,
    runs: Annotated[Path | None, typer.Option(help="folder of all runs; on a cluster one that all nodes see")] = None,
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
    search = search_config(recipe, set_ or (), _without_none(given), _without_none({"trials": trials, "minutes": minutes}))
    from raymask.workflows.tune import tune as run_search

    run_search(search)


@app.command()
def bakeoff(
    backbones: Annotated[
        str | None, typer.Option(help="NAME,NAME=WEIGHTS,...: models of timm (default: those that the recipe lists)")
    ] = None,
    data: Annotated[str | None, typer.Option(help="training data as for train; without it the demo's people are drawn")] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="a recipe's name or a YAML file, which may list `backbones`")
    ] = "bakeoff",
    out: Annotated[Path | None, typer.Option(help="folder of the results (default: runs/bakeoff)")] = None,
    set_: SetOption = None,
) -> None:
    """Compares backbones by heads on their frozen features, in one pass over the images, and says which to fine-tune."""
    from raymask.config.bakeoff import bakeoff_config

    given: dict[str, Any] = {"data": {"path": data}, **({"runs": out.parent, "name": out.name} if out else {})}
    config = bakeoff_config(recipe, backbones, set_ or (), _without_none(given))
    from raymask.workflows.bakeoff import bakeoff as compare

    compare(config)


@app.command()
def refit(
    run: Annotated[Path, typer.Argument(help="directory of a trained run")],
    member: Annotated[list[str] | None, typer.Option(metavar="NAME", help="a member (default: all of them)")] = None,
    rule: Annotated[str | None, typer.Option(metavar="MODULE:NAME", help="the rule of your own that the run votes by")] = None,
) -> None:
    """Trains a finished run's members on the people of all folds. Started again, it goes on with what is unfinished."""
    from raymask.workflows import refit

    refit.refit(run, member or (), rule=rule)


@app.command()
def soup(
    run: Annotated[Path, typer.Argument(help="directory of a trained run from which people are held out (folds.reserve)")],
    member: Annotated[list[str] | None, typer.Option(metavar="NAME", help="a member (default: all of them)")] = None,
    rule: Annotated[str | None, typer.Option(metavar="MODULE:NAME", help="the rule of your own that the run votes by")] = None,
) -> None:
    """Averages each member's models of all folds to one, and scores what is lost on the people held out."""
    from raymask.workflows import soup

    soup.soup(run, member or (), rule=rule)


@app.command()
def pseudo(
    run: Annotated[Path, typer.Argument(help="directory of a trained run with test images")],
    name: Annotated[str | None, typer.Option(help="the new run's name (default: RUN-pseudo)")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY.PATH=VALUE", help="a setting, such as teacher.precision=0.9"),
    ] = None,
) -> None:
    """Trains a run anew with the test images that it is sure of, and says whether that paid."""
    from raymask.workflows import distill

    distill.pseudo(run, name, set_ or ())


@app.command()
def distil(
    run: Annotated[Path, typer.Argument(help="directory of a trained run")],
    task: Annotated[str, typer.Option(help="the student's heads: multi for one a task, or joint")] = "multi",
    name: Annotated[str | None, typer.Option(help="the new run's name (default: RUN-student)")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY.PATH=VALUE", help="a setting, such as recipe.backbone=mobilenetv3_small_050"),
    ] = None,
) -> None:
    """Trains one model on what a run's ensemble says, to deploy in its place, and says what that costs."""
    from raymask.workflows import distill

    distill.distil(run, task, name, set_ or ())


@app.command()
def vote(
    runs: Annotated[list[Path], typer.Argument(help="directories of trained runs, whose members vote together")],
    into: Annotated[Path | None, typer.Option(help="folder of the result (default: the run's own; needed with several)")] = None,
    predict: Annotated[bool, typer.Option("--predict", help="predict test images where the decided views need it")] = False,
    set_: SetOption = None,
) -> None:
    """Decides the vote anew, in seconds, from out-of-fold predictions alone; also over members of several runs."""
    from raymask.workflows import vote as workflow

    workflow.vote(runs, into, set_ or (), predict)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="directory of a finished run, or of an exported one")],
    images: Annotated[str, typer.Option(help="a folder or a table (CSV, TSV, Parquet) of images, or its URL")],
    out: Annotated[Path, typer.Option(help="folder of the predictions; on a cluster one that all nodes see")],
    models: Annotated[str, typer.Option(help="folds, or one model a member: all, soup or greedy-soup")] = "folds",
    image_column: Annotated[str | None, typer.Option(help="column of the images' paths")] = None,
    id_column: Annotated[str | None, typer.Option(help="column of the images' ids")] = None,
    image_root: Annotated[
        str | None, typer.Option(help="folder that relative paths start from (default: that of the table)")
    ] = None,
    group_column: Annotated[str | None, typer.Option(help="column of the images' groups, such as the person")] = None,
    group_by_folder: Annotated[bool, typer.Option("--group-by-folder", help="images of one folder are one group")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", "-s", metavar="KEY.PATH=VALUE", help="a setting, such as compute.cpus=2")
    ] = None,
    rule: Annotated[str | None, typer.Option(metavar="MODULE:NAME", help="the rule of your own that the run votes by")] = None,
) -> None:
    """Predicts any number of images by a finished run. Started again, it goes on with what is unfinished."""
    from raymask.data.test_sets import ImageList
    from raymask.workflows import predict as workflow

    listed = ImageList(images, image_column, id_column, image_root, group_column, group_by_folder)
    workflow.predict(run, listed, out, models, set_ or (), rule=rule)


@app.command()
def serve(
    run: Annotated[Path, typer.Argument(help="directory of a finished run, or of an exported one")],
    host: Annotated[str, typer.Option(help="address to listen at; 0.0.0.0 for all of this machine's")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    models: Annotated[str, typer.Option(help="folds, or one model a member: all, soup or greedy-soup")] = "folds",
    replicas: Annotated[int | None, typer.Option(min=1, help="processes with all models (default: one a GPU, or 1 to 4)")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="most images that are predicted at once")] = 16,
    batch_wait_ms: Annotated[float, typer.Option(min=0, help="how long a batch waits for more images")] = 10.0,
    max_mb: Annotated[float, typer.Option(min=0.001, help="largest request")] = 10.0,
    max_megapixels: Annotated[float, typer.Option(min=0.001, max=178, help="largest image")] = 25.0,
    max_request_megapixels: Annotated[float, typer.Option(min=0.001, help="most of all images of a request together")] = 100.0,
    timeout_s: Annotated[float, typer.Option(min=0.001, help="longest time from a request's last byte to its answer")] = 30.0,
    upload_s: Annotated[float, typer.Option(min=0.001, help="longest time from a request's first byte to its last")] = 60.0,
    drain_s: Annotated[float, typer.Option(min=0, help="longest wait for requests under way, at Ctrl-C or SIGTERM")] = 30.0,
    token_file: Annotated[
        Path | None, typer.Option(help="file of the token that requests must carry (default: RAYMASK_TOKEN, or none)")
    ] = None,
    allow_host: Annotated[list[str] | None, typer.Option(metavar="NAME", help="a name to be asked by (default: any)")] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(metavar="ORIGIN", help="a site whose pages may ask, such as https://example.com")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="file of requests and failures, - for the terminal (default: serve-PORT.log in the run)")
    ] = None,
    rule: Annotated[str | None, typer.Option(metavar="MODULE:NAME", help="the rule of your own that the run votes by")] = None,
) -> None:
    """Answers photos with their labels over HTTP, with a page to try it, until Ctrl-C, which answers first what is under way."""
    from raymask.core.paths import absolute
    from raymask.serving.access import Access
    from raymask.serving.deployment import TERMINAL, Settings, serve_until_stopped
    from raymask.serving.requests import Limits

    limits = Limits(max_mb, max_megapixels, max_request_megapixels, timeout_s, upload_s)
    access = Access.checked(token_file and absolute(token_file), allow_host or (), allow_origin or ())
    file = log if log is None or log == TERMINAL else absolute(log)
    settings = Settings(host, port, models, replicas, batch_size, batch_wait_ms, limits, rule, access, drain_s, file)
    serve_until_stopped(run, settings)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="directory of a trained run")],
    out: Annotated[Path, typer.Option(help="a new folder for graphs, checkpoints of timm, the vote and a model card")],
    models: Annotated[str, typer.Option(help="`folds`; or `all`, `soup`, `greedy-soup` for one model a member")] = "folds",
    member: Annotated[list[str] | None, typer.Option(metavar="NAME", help="a member (default: all of them and the vote)")] = None,
    format_: Annotated[str, typer.Option("--format", help="onnx, torch or both")] = "both",
    opset: Annotated[int, typer.Option(help="version of the ONNX operators")] = 20,
    rule: Annotated[str | None, typer.Option(metavar="MODULE:NAME", help="the rule of your own that the run votes by")] = None,
) -> None:
    """Writes a finished run as ONNX and torch graphs, the vote among them, to be used without raymask; and checks them."""
    from raymask.export.export import GraphFormat
    from raymask.export.export import export as export_run

    export_run(run, out, models, member or (), GraphFormat(format_, opset), rule=rule)


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


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    nested = {key: _without_none(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: value for key, value in nested.items() if value not in (None, {})}


def main() -> None:
    """Runs the command line; what ends it early is one sentence, and a status: 2 for what is the user's to mend."""
    open_streams()
    arguments = sys.argv[1:] or ["--help"]
    sys.exit(conclude(lambda: _invoke(arguments), resumes=arguments[0] in RESUMES and "--debug" not in arguments))


def _invoke(arguments: list[str]) -> None:
    _refuse_empty(arguments)
    command = typer.main.get_command(app)
    try:
        with command.make_context("raymask", list(arguments)) as context:
            command.invoke(context)
    except typer.Exit as ended:
        if ended.exit_code:
            raise
    except USAGE_ERROR as error:
        where = error.ctx.command_path if error.ctx else "raymask"
        raise InputError(f"{error.format_message().rstrip('.?')}; `{where} --help` lists what there is.") from None


def _refuse_empty(arguments: list[str]) -> None:
    """Refuses empty values: an empty path would be the working directory."""
    for before, argument in pairwise(["", *arguments]):
        option, equals, value = argument.partition("=")
        if not argument.strip():
            raise InputError(f"{before if before.startswith('-') else 'an argument'} is empty; give it a value, or leave it out.")
        if option.startswith("--") and equals and not value.strip():
            raise InputError(f"{option} is empty; give it a value, or leave it out.")


if __name__ == "__main__":
    main()
