"""Local paths as they are given: the absolute ones that they stand for, and whether anything can be written there."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from raymask.core.errors import InputError


def in_ray_job() -> bool:
    """Whether this is the process of a Ray job, whose working directory is a copy that is thrown away."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def absolute(path: str | Path) -> Path:
    """The absolute path that a given one stands for; inside a Ray job a relative one starts at the home folder.

    Raises:
        InputError: the path is empty, or the folder that it starts from is not known.
    """
    text = os.fspath(path)
    if not text.strip() or "\0" in text:
        raise InputError(f"{text!r} is no path; give the name of a file or folder.")
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise InputError(f"'{text}' starts at a home folder that is not known; give the path from / on.")
    try:
        whole = Path(expanded) if os.path.isabs(expanded) else (Path.home() if in_ray_job() else Path.cwd()) / expanded
    except RuntimeError:
        raise InputError(f"'{text}' starts at the home folder in a Ray job, and there is none; give it from / on.") from None
    except OSError as error:
        raise InputError(f"'{text}' starts at the working directory, which is gone ({error.strerror}).") from None
    try:
        whole.stat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"'{text[:40]}…' is longer than a path may be.") from None
        if error.errno == errno.ELOOP:
            raise InputError(f"'{text}' leads over links that go in a circle.") from None
    return whole


def check_writable(folder: Path, option: str) -> None:
    """Makes sure that files can be written below a folder, which need not be there yet; leaves nothing behind.

    Args:
        folder: absolute path.
        option: what it is given by, such as `--runs`.

    Raises:
        InputError: says why not.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".raymask-", dir=_nearest(folder)) as probe:
            (Path(probe) / "probe").write_bytes(bytes(2**16))
    except OSError as error:
        raise InputError(f"nothing can be written to '{folder}' ({error.strerror}); give another {option}.") from None


def _nearest(folder: Path) -> Path:
    """The folder itself, or what of the way to it is there."""
    for place in (folder, *folder.parents):
        try:
            place.lstat()
        except FileNotFoundError:
            continue
        return place
    raise FileNotFoundError(2, "No such file or directory")
