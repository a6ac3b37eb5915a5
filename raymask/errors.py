"""What ends a run early."""


class InputError(ValueError):
    """Something given to raymask is wrong: its message says what, where, and what to do.

    Entry points print the message alone, without a stack trace, and exit with status 2.
    """


class RunError(RuntimeError):
    """A part of a run failed for good, though nothing given to raymask was wrong; what is finished is kept.

    Entry points print the message alone and exit with status 1.
    """


def shortened(names: list[str], most: int = 5) -> str:
    """`a, b, c and 7 more`, for messages that would otherwise list thousands of names."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"
