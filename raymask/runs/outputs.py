"""Folders that a command writes to: new, empty, or one of its own; never one in which other files would be lost."""

from __future__ import annotations

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
    for above in folder.parents:
        if above.exists() and not above.is_dir():
            raise InputError(f"{option} '{folder}' lies below '{above}', which is a file; name another folder.")
        if is_run(Run(above)):
            raise InputError(f"{option} '{folder}' lies in the run '{above}', among its own files; name a folder outside of it.")
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


def is_run(run: Run) -> bool:
    """Whether a folder is a run's, finished or begun."""
    return run.config.is_file() and any(path.exists() for path in (run.source, run.manifest, run.ensemble))
