"""What ends a run early, and how it is said."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
