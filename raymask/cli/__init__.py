"""The command line: each command is a function that imports its workflow when it is called."""

from __future__ import annotations

import sys
from itertools import pairwise

import typer

from raymask.cli import looking as _looking
from raymask.cli import training as _training
from raymask.cli import using as _using
from raymask.cli.app import USAGE_ERROR, app
from raymask.core.endings import conclude, open_streams
from raymask.core.errors import InputError

__all__ = ["USAGE_ERROR", "app", "main"]

COMMANDS = (_training, _using, _looking)
"""The modules whose commands there are."""
RESUMES = ("train", "add", "tune", "bakeoff", "refit", "soup", "pseudo", "distil", "predict")
"""Commands that go on where they were cut off."""


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
