"""When two values of the user's are one: the one place that decides it for labels, groups and ids.

Three forms of a value, from the nearest to what was written to the farthest:

- `tidy` is how it is shown and answered: without blanks around it and without invisible characters.
- `canonical` is what it is: equal for all spellings of one value.
- `loose` is what it may be: equal for values that differ only in case or in how a number is written.

Two labels or ids are one where `canonical` says so. Two groups are one where `loose` says so: one person in two groups leaks into
validation, and two persons in one group cost nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation
from typing import Literal

import numpy as np
import pandas as pd

from raymask.core.errors import legible

MISSING = frozenset(
    ["", "nan", "NaN", "NAN", "-nan", "-NaN", "null", "NULL", "Null", "n/a", "N/A", "#N/A", "NA", "#NA", "<NA>", "NaT", "None"]
)
"""Canonical forms that stand for a missing value, as pandas writes and reads it. `none` is a word like any other."""

INVISIBLE = frozenset(["Cc", "Cf", "Cs"])
"""Unicode categories of characters without a shape: control, zero-width and half characters."""
FILLERS = frozenset("\u034f\u115f\u1160\u2800\u3164\uffa0")
WHOLE_NUMBER = re.compile(r"([+-]?)([0-9]+)(?:\.0*)?")


def tidy(value: object) -> str:
    """The text of a table's value, its blanks single and none around it: 1.0 is `1`, a null is nothing."""
    if pd.isna(value) is True:  # type: ignore[call-overload]
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    text = str(value)
    return " ".join(text.split()) if text.isascii() and text.isprintable() else _without_invisible(text, "NFC")


def canonical(value: object) -> str:
    """What all spellings of one value share: Unicode forms (NFKC), blanks, and `7`, `7.0` and `+7`; `007` is another name."""
    text = tidy(value)
    if not text.isascii():
        text = _without_invisible(text, "NFKC")
    number = WHOLE_NUMBER.fullmatch(text)
    if number is None:
        return text
    sign, digits = number.groups()
    return f"-{digits}" if sign == "-" and digits.strip("0") else digits


def loose(value: object) -> str:
    """What values share that are likely one: they differ only in case, or in how a number is written (`7`, `007`, `7e0`)."""
    text = canonical(value)
    try:
        number = Decimal(text)
    except InvalidOperation:
        return unicodedata.normalize("NFKC", text.casefold())
    return f"{number.normalize() + 0:f}" if number.is_finite() and abs(number.adjusted()) < 400 else text.casefold()


def is_missing(value: object) -> bool:
    """Whether a value stands for a missing one, see `MISSING`."""
    return canonical(value) in MISSING


def spelling(values: Iterable[object]) -> str:
    """How one value that is written in several ways is shown: as most often, of equally frequent ways the first by alphabet."""
    counts = Counter(map(tidy, values))
    return min(counts, key=lambda name: (-counts[name], name))


def mapped(values: pd.Series, form: Callable[[object], str]) -> pd.Series:
    """The form of each value, found once for each distinct one."""
    codes, distinct = pd.factorize(values, use_na_sentinel=False)
    forms = np.array([form(value) for value in distinct], dtype=object)
    return pd.Series(forms[codes] if len(values) else forms, index=values.index, dtype=object)


def written_twice(what: str, values: pd.Series, forms: pd.Series) -> str:
    """`WHAT written in several ways are taken as one: 3, such as 'a' and 'a '`, or "" where none are.

    Args:
        what: what has one form each.
        values: (N,) as they are written.
        forms: (N,) equal where they are one.
    """
    if values.nunique() == forms.nunique():
        return ""
    ways = pd.DataFrame({"value": values.astype(str), "form": forms}).drop_duplicates()
    several = ways[ways["form"].duplicated(keep=False)].sort_values(["form", "value"])
    one, other = several["value"][several["form"] == several["form"].iloc[0]].iloc[:2].map(legible)
    return f"{what} written in several ways are taken as one: {several['form'].nunique()}, such as '{one}' and '{other}'"


def _without_invisible(text: str, form: Literal["NFC", "NFKC"]) -> str:
    shown = (char for char in text if char.isspace() or not (unicodedata.category(char) in INVISIBLE or _is_filler(char)))
    return " ".join(unicodedata.normalize(form, "".join(shown)).split())


def _is_filler(char: str) -> bool:
    return char in FILLERS or "\ufe00" <= char <= "\ufe0f"
