"""Folders that a command writes to: new, empty, or one of its own; never one in which other files would be lost."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from raymask.core.errors import InputError
from raymask.runs.directory import ERROR_LOG, Run


def check_output(folder: Path, option: str, own: str = "", begun: Collection[str] | None = None) -> None:
    """Refuses a folder that holds other files than a command's own, or lies in a run.

    Args:
        folder: absolute path of the folder; it need not be there.
        option: what it is given by, such as `--out`.
        own: name of the file by which a folder of this command's own is known.
        begun: names of what the command may have written before that; without, the folder must be new or empty.

    Raises:
        InputError: names a file that is in the way.
    """
    _check_above(folder, option)
    if not folder.exists() or (own and (folder / own).is_file() and not Run(folder).members.exists()):
        return
    if not folder.is_dir():
        raise InputError(f"{option} '{folder}' is a file; name a folder that is new or empty.")
    if is_run(Run(folder)):
        raise InputError(f"{option} '{folder}' is a run, whose own files would be lost; name a folder that is new or empty.")
    present = sorted(entry.name for entry in folder.iterdir())
    foreign = present if begun is None else [name for name in present if name not in (ERROR_LOG, *begun) and name[0] != "."]
    if foreign:
        raise InputError(f"{option} '{folder}' holds other files, such as '{foreign[0]}'; name a folder that is new or empty.")


def check_output_page(page: Path, option: str, mark: str) -> None:
    """Refuses the path of a page where another file lies, or which lies in a run.

    Args:
        page: absolute path of the file; it need not be there.
        option: what it is given by, such as `--out`.
        mark: text near the beginning of every page that the command writes.

    Raises:
        InputError: says what is in the way.
    """
    _check_above(page, option)
    if page.is_dir():
        raise InputError(f"{option} '{page}' is a folder; name the file of the page, such as '{page / 'eda.html'}'.")
    if os.path.lexists(page) and not _begins_with(page, mark):
        raise InputError(f"{option} '{page}' is another file, which would be lost; name one that is not there yet.")


def _begins_with(file: Path, mark: str) -> bool:
    """Whether a regular file has a text among its first 1,000 bytes."""
    if not file.is_file():
        return False
    try:
        with file.open("rb") as opened:
            return mark.encode() in opened.read(1000)
    except OSError:
        return False


def _check_above(path: Path, option: str) -> None:
    for above in path.parents:
        if above.exists() and not above.is_dir():
            raise InputError(f"{option} '{path}' lies below '{above}', which is a file; name another folder.")
        if is_run(Run(above)):
            raise InputError(f"{option} '{path}' lies in the run '{above}', among its own files; name a folder outside of it.")


def is_run(run: Run) -> bool:
    """Whether a folder is a run's, finished or begun."""
    return run.config.is_file() and any(path.exists() for path in (run.source, run.manifest, run.ensemble))
