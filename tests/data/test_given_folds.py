"""Folds that a column of the user's table names: taken as they are, or refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import image, sentence, write, write_people, write_table

from raymask.config.data import FoldsConfig
from raymask.config.loading import validate
from raymask.config.search import search_config
from raymask.core.columns import FOLD_NAME
from raymask.core.errors import InputError
from raymask.data.folds import assign_folds, reserve_rows
from raymask.data.given_folds import given_folds, read_fold_names
from raymask.data.kinds import resolve_kind
from raymask.data.sources import Source, read_source
from raymask.runs.identity import changes


def images_of(folds: list[str], groups: list[str] | None = None) -> pd.DataFrame:
    ids = [f"{place:03}" for place in range(len(folds))]
    return pd.DataFrame({"image_id": ids, "group": groups or ids, "label_joint": 0, FOLD_NAME: folds})


@given(st.lists(st.integers(-3, 12).map(str), min_size=2, max_size=40).filter(lambda folds: len(set(folds)) > 1))
def test_numbers_are_folds_in_their_order(folds: list[str]) -> None:
    numbers, names = given_folds(images_of(folds), "part")
    assert names == [str(number) for number in sorted(set(map(int, folds)))]
    assert [names[number] for number in numbers.tolist()] == folds
    assert numbers.dtype == np.int64
    np.testing.assert_array_equal(assign_folds(images_of(folds), FoldsConfig(column="part"), seed=3), numbers)


def test_texts_are_folds_in_the_order_of_the_alphabet_behind_numbers() -> None:
    assert given_folds(images_of(["b", "a", "10", "9", "b"]), "part")[1] == ["9", "10", "a", "b"]


def test_one_fold_in_several_ways_of_writing_is_one() -> None:
    names, remarks = read_fold_names(pd.Series(["Fold A", "fold a ", "Fold A", "1", "1.0", "01"]), "part")
    assert names.tolist() == ["Fold A"] * 3 + ["01"] * 3
    assert remarks == ["folds written in several ways are taken as one: 2, such as '01' and '1'"]


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        (["a", "", "b", " "], "column 'part' is empty in 2 row(s): 2, 4; name a fold there."),
        (["a", "nan", "b", "NULL"], "column 'part' is empty in 2 row(s): 2, 4; name a fold there."),
        (["a", "A", "a"], "column 'part' names 1 fold, and 2 are the fewest; name another column."),
        ([str(number) for number in range(101)], "column 'part' names 101 folds, and 100 are the most; name another column."),
    ],
)
def test_a_column_of_no_folds_is_refused(cells: list[str], why: str) -> None:
    assert sentence(lambda: read_fold_names(pd.Series(cells), "part")) == f"folds.column: {why}"


def test_a_group_in_two_folds_is_named() -> None:
    images = images_of(["a", "b", "b", "a", "c", "c"], ["p", "p", "q", "r", "r", "s"])
    assert sentence(lambda: given_folds(images, "part")) == (
        "folds.column: group 'p' lies in the folds 'a' and 'b' of column 'part' (as do 1 others); put each group, and "
        "the copies of an image, into one, so that validation sees no one whom training saw."
    )


def test_images_of_one_fold_alone_are_refused() -> None:
    why = "folds.column: all images lie in fold 'a' of column 'part', and 2 folds are the fewest."
    assert sentence(lambda: given_folds(images_of(["a", "a"]), "part")) == why


def test_the_reserve_is_taken_from_the_groups_first() -> None:
    groups = [f"p{place // 3}" for place in range(60)]
    images = images_of([str(place // 3 % 4) for place in range(60)], groups)
    config = FoldsConfig(column="part", reserve=0.25)
    reserved = reserve_rows(images, config, seed=0)
    kept = images[~reserved]
    assert kept["group"].nunique() == 15
    assert not set(kept["group"]) & set(images["group"][reserved])
    assert assign_folds(kept, config, 0).tolist() == kept[FOLD_NAME].astype(int).tolist()


def test_a_scheme_beside_it_is_refused() -> None:
    said = sentence(lambda: validate({"folds": {"column": "part", "scheme": "group"}}))
    assert said == "folds: column names the folds, so that scheme=group has no effect: leave one of them out."


class TestTable:
    def source(self, folder: Path, rows: list[tuple[str, ...]], **folds: Any) -> Source:
        for number, row in enumerate(rows[1:]):
            write(folder / row[0], image(number))
        table = write_table(folder / "table.csv", rows)
        config = validate({"data": {"path": str(table)}, "tasks": ["colour"], "folds": {"column": "part", **folds}})
        return read_source(config.model_copy(update={"data": config.data.model_copy(update={"kind": resolve_kind(config.data)})}))

    ROWS = (
        ("image", "colour", "part"),
        ("b.jpg", "red", "2"),
        ("a.jpg", "blue", "1"),
        ("c.jpg", "red", "1"),
        ("d.jpg", "blue", "2"),
    )

    def test_each_image_has_the_fold_of_its_row(self, tmp_path: Path) -> None:
        images = self.source(tmp_path, [*self.ROWS]).images
        assert dict(zip(images["image_id"], images[FOLD_NAME], strict=True)) == {
            "a.jpg": "1",
            "b.jpg": "2",
            "c.jpg": "1",
            "d.jpg": "2",
        }

    def test_a_column_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"has no column 'prt'; it has 'part' \(the nearest\)"):
            self.source(tmp_path, [*self.ROWS], column="prt")

    def test_another_kind_of_data_is_refused(self, tmp_path: Path) -> None:
        config = validate({"data": {"path": str(write_people(tmp_path)), "kind": "competition"}, "folds": {"column": "part"}})
        said = sentence(lambda: read_source(config))
        assert said == "folds.column is 'part', but has no effect with the competition's layout; leave it out, or give a table."

    def test_another_fold_later_is_another_run(self, tmp_path: Path) -> None:
        before = self.source(tmp_path, [*self.ROWS])
        after = self.source(tmp_path, [*self.ROWS[:4], ("d.jpg", "blue", "1")])
        told = list(changes(before.images.assign(digest=""), after.images.assign(digest=""), before.space))
        assert told == ["1 images have another fold, such as 'd.jpg', which was '2' and is '1'"]


def test_more_folds_of_a_search_or_a_member_than_the_column_has_wait_for_the_column() -> None:
    validate({"folds": {"column": "part", "k": 2}, "members": [{"task": "age", "folds": 7}]})
    search_config("search", ["folds.column=part", "folds.k=2", "tune.folds=3"])
