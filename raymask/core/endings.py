"""How a command ends: well, or early with one sentence, a status that tells why, and a log of what nobody expected."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Never

from raymask.core.errors import BEGINS_ANEW, GOES_ON, InputError, RunError, reason

INPUT, FAILED, UNEXPECTED, NOBODY_READS = 2, 1, 70, 128 + signal.SIGPIPE


def conclude(work: Callable[[], None], resumes: bool) -> int:
    """Runs a command and returns its status; what ends it early is said in one line on stderr.

    Args:
        work: the command.
        resumes: whether it goes on where it was cut off when it is started again.
    """
    again = GOES_ON if resumes else BEGINS_ANEW
    received: list[int] = []
    try:
        with _ended_by_sigterm() as received:
            work()
            sys.stdout.flush()
        return 0
    except InputError as error:
        return _say(str(error), INPUT)
    except RunError as error:
        return _say(str(error), FAILED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python fails once more when it writes what is left at its end
        return _say(f"nobody reads its output any more; {again}.", NOBODY_READS)
    except KeyboardInterrupt:
        number = signal.SIGTERM if received else signal.SIGINT
        return _say(f"ended by {number.name}; {again}.", 128 + number)
    except (OSError, MemoryError) as error:
        message = f"{reason(error, Path.cwd())}; all that is known lies in {log_of(error)}"
        return _say(f"{message}. Once its cause is gone, {again}.", FAILED)
    except Exception as error:
        message = f"this should not happen ({reason(error, Path.cwd())}); all that is known lies in {log_of(error)}"
        return _say(f"{message}, which helps to mend it where you report it.", UNEXPECTED)


def log_of(error: BaseException) -> str:
    """Writes all that is known of an error to a file of its own; returns its path."""
    text = "".join(traceback.format_exception(error))
    try:
        handle, path = tempfile.mkstemp(prefix="raymask-error-", suffix=".log")
        with os.fdopen(handle, "w", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return "no file, since none can be written"
    return path


def forgiving(stream: IO[str]) -> None:
    """Lets a stream print what it has no character for as another, where it would fail."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure and getattr(stream, "errors", "strict") == "strict":
        reconfigure(errors="replace")


def open_streams() -> None:
    """Gives the process streams to write to where it was started without, and makes them forgiving."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
        forgiving(getattr(sys, name))


def _say(text: str, status: int) -> int:
    with suppress(OSError):  # nobody may listen any more
        print(f"raymask: {' '.join(text.split())}", file=sys.stderr, flush=True)  # noqa: T201
    return status


@contextmanager
def _ended_by_sigterm() -> Iterator[list[int]]:
    """Lets SIGTERM end a command as Ctrl-C does; yields a list that it is put into, as Ray raises an exception of its own."""
    received: list[int] = []

    def end(number: int, _: object) -> Never:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: Ray is being ended
        received.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)
