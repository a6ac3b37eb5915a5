"""Folds that a column of the user's table names."""

from __future__ import annotations

import pandas as pd

from raymask.core.columns import FOLD_NAME
from raymask.core.errors import InputError, shortened
from raymask.core.spelling import MISSING, canonical, loose, mapped, spelling, written_twice
from raymask.core.types import Labels

MOST = 100
"""Folds beyond which a column is likely another one, such as that of the ids."""


def read_fold_names(values: pd.Series, column: str) -> tuple[pd.Series, list[str]]:
    """The fold of each row under one name, and what is to be said of them; in several ways of writing it is one fold.

    Args:
        values: (N,) folds as they are written, integers or texts.
        column: the column's name, for messages.

    Raises:
        InputError: a cell is empty, or there are fewer than 2 folds, or more than anyone trains for.
    """
    empty = mapped(values, canonical).isin(list(MISSING)).to_numpy(dtype=bool)
    if empty.any():
        rows = [str(place + 1) for place, lacking in enumerate(empty.tolist()) if lacking]
        raise InputError(f"folds.column: column '{column}' is empty in {len(rows)} row(s): {shortened(rows)}; name a fold there.")
    forms = mapped(values, loose)
    count = forms.nunique()
    if count < 2:
        raise InputError(f"folds.column: column '{column}' names {count} fold, and 2 are the fewest; name another column.")
    if count > MOST:
        raise InputError(f"folds.column: column '{column}' names {count} folds, and {MOST} are the most; name another column.")
    names = {form: spelling(written) for form, written in values.groupby(forms, sort=False)}
    remark = written_twice("folds", values, forms)
    return forms.map(names), [remark] if remark else []


def given_folds(images: pd.DataFrame, column: str) -> tuple[Labels, list[str]]:
    """(N,) int64 folds from 0 on, and their names: in the order of the numbers where all are such, else of the alphabet.

    Args:
        images: group and fold's name of each.
        column: the column's name, for messages.

    Raises:
        InputError: a group lies in two folds, or the images in one alone.
    """
    table = images[["group", FOLD_NAME]].drop_duplicates()
    if (twice := table["group"].duplicated(keep=False)).any():
        leaking = table[twice].sort_values(["group", FOLD_NAME], kind="stable")
        group, groups = leaking["group"].iloc[0], leaking["group"].nunique()
        one, other = leaking[FOLD_NAME][leaking["group"] == group].iloc[:2]
        raise InputError(
            f"folds.column: group '{group}' lies in the folds '{one}' and '{other}' of column '{column}' "
            f"(as do {groups - 1} others); put each group, and the copies of an image, into one, so that validation sees no one "
            "whom training saw."
        )
    names = sorted(table[FOLD_NAME].unique().tolist(), key=_place)
    if len(names) < 2:
        raise InputError(f"folds.column: all images lie in fold '{names[0]}' of column '{column}', and 2 folds are the fewest.")
    return images[FOLD_NAME].map({name: number for number, name in enumerate(names)}).to_numpy("int64"), names


def _place(name: str) -> tuple[bool, int, str]:
    """What folds are ordered by: numbers by their size, then texts."""
    number = name.lstrip("+-").isdecimal()
    return not number, int(name) if number else 0, name
