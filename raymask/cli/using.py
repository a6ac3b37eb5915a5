"""The commands that use trained runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raymask.cli.app import Rule, Settings, TrainedRun, app


@app.command()
def vote(
    runs: Annotated[list[Path], typer.Argument(help="directories of trained runs, whose members vote together")],
    into: Annotated[Path | None, typer.Option(help="folder of the result (default: the run's own; needed with several)")] = None,
    predict: Annotated[bool, typer.Option("--predict", help="predict test images where the decided views need it")] = False,
    set_: Settings = None,
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
    set_: Settings = None,
    rule: Rule = None,
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
    rule: Rule = None,
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
    run: TrainedRun,
    out: Annotated[Path, typer.Option(help="a new folder for graphs, checkpoints of timm, the vote and a model card")],
    models: Annotated[str, typer.Option(help="`folds`; or `all`, `soup`, `greedy-soup` for one model a member")] = "folds",
    member: Annotated[list[str] | None, typer.Option(metavar="NAME", help="a member (default: all of them and the vote)")] = None,
    format_: Annotated[str, typer.Option("--format", help="onnx, torch or both")] = "both",
    opset: Annotated[int, typer.Option(help="version of the ONNX operators")] = 20,
    rule: Rule = None,
) -> None:
    """Writes a finished run as ONNX and torch graphs, the vote among them, to be used without raymask; and checks them."""
    from raymask.export.export import GraphFormat
    from raymask.export.export import export as export_run

    export_run(run, out, models, member or (), GraphFormat(format_, opset), rule=rule)
