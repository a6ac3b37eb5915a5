"""What ends a run early, and how it is said."""

from __future__ import annotations

import difflib
import errno
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

GOES_ON = "the same command goes on with what is unfinished"
BEGINS_ANEW = "nothing is left half-written, and the same command begins anew"


class InputError(ValueError):
    """Something given to raymask is wrong: its message says what, where, and what to do.

    Entry points print the message alone, without a stack trace, and exit with status 2. It is one line, whatever names it holds.
    """

    def __init__(self, message: str) -> None:
        super().__init__(legible(message))


class RunError(RuntimeError):
    """A part of a run failed for good, though nothing given to raymask was wrong; what is finished is kept.

    Entry points print the message alone and exit with status 1.
    """


def legible(text: str) -> str:
    """A text with what cannot be seen in it escaped, line ends too."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


FULL = (errno.ENOSPC, errno.EDQUOT)
# torch writes its files in C++, which says of a full disk that its own position in the file is unexpected.
FULL_IN_WORDS = ("No space left on device", "Disk quota exceeded", "OutOfDiskError", "unexpected pos", "PytorchStreamWriter")
OUT_OF_MEMORY = ("ray.exceptions.OutOfMemoryError", "MemoryError", "CUDA out of memory")
MAX_SAID = 300


def reason(error: BaseException, folder: Path) -> str:
    """Why something failed, in a few words: a full disk and used up memory by name, anything else by its type and last line.

    Args:
        error: what was raised, whose causes are looked at too.
        folder: where it was writing.
    """
    chain = [*_causes(error)]
    words = "\n".join(f"{type(cause).__name__}: {cause}" for cause in chain)
    if is_full(error) or any(mark in words for mark in FULL_IN_WORDS):
        places = {str(place): shutil.disk_usage(place).free for place in (_there(folder), Path(tempfile.gettempdir()))}
        free = " and ".join(f"{bytes_free / 1e6:,.0f} MB at '{place}'" for place, bytes_free in places.items())
        return f"a disk is full; free are {free}"
    if isinstance(error, MemoryError) or any(mark in words for mark in OUT_OF_MEMORY):
        return "the memory was used up; smaller batches, and fewer packs side by side or models in a pack, need less"
    last = [line.strip() for line in str(error).splitlines() if line.strip()][-1:]
    name = type(error).__name__
    message = last[0] if last and name.startswith("RayTaskError") else ": ".join([name, *last])
    return message if len(message) <= MAX_SAID else f"{message[:MAX_SAID]}…"


def is_full(error: BaseException) -> bool:
    """Whether an error comes of a full disk."""
    return any(isinstance(cause, OSError) and cause.errno in FULL for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it, also what Ray brings from another process."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        cause = waiting.pop()
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            waiting += [cause.__cause__, cause.__context__, getattr(cause, "cause", None)]


def _there(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def shortened(names: list[str], most: int = 5) -> str:
    """`a, b, c and 7 more`, for messages that would otherwise list thousands of names."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def one_of(names: Iterable[str], given: str) -> str:
    """`a, b or c`, with the nearest to what was given in front: `'demo' (nearest), 'probe' or 'baseline'`."""
    listed = list(names)
    near = difflib.get_close_matches(given, listed, n=1, cutoff=0.5)
    shown = [f"'{name}'" for name in listed if name not in near]
    if near:
        shown = [f"'{near[0]}' (the nearest)", *shown]
    return " or ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown) or "nothing"
