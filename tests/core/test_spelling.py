"""Tests of what is one value: blanks, Unicode forms, numbers, missing values."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymask.core.spelling import canonical, is_missing, loose, spelling, tidy


@pytest.mark.parametrize(
    "same",
    [
        ["p1", " p1", "p1 ", "\tp1\n", "p1\u00a0", "p1\u200b", "\ufeffp1", "p1\u3000", "ｐ１", "p\u00ad1", "p1\x00", "p1\ufe0f"],
        ["a b", "a  b", "a\u00a0b", " a\tb ", "a\nb", "a\u2003b"],
        ["é", "e\u0301", "e\u200d\u0301"],
        ["7", "7.0", "7.00", "7.", "+7", "７", " 7 ", 7, 7.0, np.int64(7), np.float32(7)],
        ["0", "-0", "0.0", "-0.0", -0.0, 0],
        ["007", "007.0"],
        ["", " ", "\u200b", None, float("nan"), pd.NA, pd.NaT, "\u3164"],
        ["서울", unicodedata.normalize("NFD", "서울")],
    ],
)
def test_one_value_is_one_however_it_is_written(same: list[Any]) -> None:
    assert len({canonical(value) for value in same}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [("p1", "P1"), ("7", "07"), ("1.1", "1.10"), ("p1", "p 1"), ("7", "-7"), ("1e3", "1000"), ("none", "None"), ("a-b", "ab")],
)
def test_other_values_stay_apart(one: str, other: str) -> None:
    assert canonical(one) != canonical(other)


@pytest.mark.parametrize(
    "same", [["p1", "P1 ", "ｐ１"], ["7", "007", "7.0", "7e0", "+07"], ["1.1", "1.10"], ["straße", "STRASSE"], ["1e3", "1000"]]
)
def test_persons_are_one_whatever_their_case_and_zeros(same: list[str]) -> None:
    assert len({loose(value) for value in same}) == 1


@pytest.mark.parametrize(
    "value", ["", " ", None, float("nan"), pd.NA, "nan", "NaN ", "None", "NULL", "N/A", "<NA>", "NaT", "null"]
)
def test_missing_values_are_known_by_all_their_names(value: Any) -> None:
    assert is_missing(value)


@pytest.mark.parametrize("value", ["none", "0", "no", "-", "?", "unknown", "n", False])
def test_words_are_no_missing_values(value: Any) -> None:
    assert not is_missing(value)


def test_a_value_is_shown_as_it_is_written_most_often() -> None:
    assert spelling(["b", " a", "a ", "b", "a"]) == "a"
    assert spelling(["b", "a"]) == "a"
    assert spelling(["9.0", "9.0", "9"]) == "9.0"
    assert [tidy(value) for value in (1.0, "1.0", " a \n b ", 1.5, True)] == ["1", "1.0", "a b", "1.5", "True"]


TEXT = st.one_of(st.text(max_size=8), st.from_regex(r"\A[ +-]?0{0,2}[0-9]{0,3}\.?0{0,2}[ \u00a0]?\Z"), st.floats().map(str))


@given(TEXT)
def test_the_forms_are_settled_and_each_is_coarser_than_the_one_before(text: str) -> None:
    assert tidy(tidy(text)) == tidy(text)
    assert canonical(tidy(text)) == canonical(text) == canonical(canonical(text))
    assert loose(canonical(text)) == loose(text) == loose(loose(text))
    assert tidy(text) == tidy(text).strip()
    assert "\n" not in tidy(text)
    tidy(text).encode()


@given(TEXT, st.sampled_from([" ", "\u00a0", "\u200b", "\t", "\u3000"]), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_blanks_around_a_value_and_its_unicode_form_change_nothing(text: str, blank: str, form: str) -> None:
    assert canonical(blank + unicodedata.normalize(form, text) + blank) == canonical(text)
