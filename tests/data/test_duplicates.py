"""Tests that one person is one group, and one file one image, however they are written."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import aside, image, read, sentence, write, write_table

from raymask.config.data import FoldsConfig
from raymask.data.duplicates import MAX_GROUPS, among, copies_joined, file_keys, joined, read_group_numbers, read_groups
from raymask.data.folds import assign_folds
from raymask.data.sources import Source, class_counts

TWICE = "the file is there already under another image_id"
UNLIKE = "the file is there more than once, with different labels"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    for number in range(8):
        write(tmp_path / f"{number}.jpg", image(number))
    return tmp_path


def read_rows(here: Path, header: list[str], rows: list[list[str]], **data: Any) -> Source:
    return read(write_table(here / "all.csv", [header, *rows]), ["label"], max_rejected=1, **data)


# --- persons


SPELLINGS = [
    ["p1", "p1 ", " p1", "p1\t"],
    ["p1", "p1\u00a0", "p1\u200b", "\ufeffp1", "ｐ１"],
    ["p1", "P1"],
    ["José", unicodedata.normalize("NFD", "José"), "JOSÉ"],
    ["7", "7.0", "07", "007", "+7"],
    ["van  Dyck", "van Dyck", "Van\u00a0Dyck"],
]


@pytest.mark.parametrize("spellings", SPELLINGS, ids=ascii)
def test_a_person_is_one_group_however_it_is_written(here: Path, spellings: list[str]) -> None:
    persons = [*spellings, *["other", "third", "fourth", "fifth"]][:8]
    rows = [[f"{place}.jpg", "xy"[place % 2], person] for place, person in enumerate(persons)]
    source = read_rows(here, ["image", "label", "person"], rows, group_column="person")
    assert source.images["group"].nunique() == len(persons) - len(spellings) + 1
    assert source.images["group"][: len(spellings)].nunique() == 1
    assert any("groups written in several ways are taken as one: 1, such as " in remark for remark in source.remarks)
    folds = assign_folds(source.images, FoldsConfig(k=2), 0)
    assert len(set(folds[: len(spellings)].tolist())) == 1


def test_images_whose_group_is_missing_are_groups_of_their_own_and_counted(here: Path) -> None:
    persons = ["ann", "", "nan", "None", "NULL", "N/A", " ", "ann"]
    rows = [[f"{place}.jpg", "xy"[place % 2], person] for place, person in enumerate(persons)]
    source = read_rows(here, ["image", "label", "person"], rows, group_column="person")
    assert source.images["group"].tolist() == ["ann", *(f"{place}.jpg" for place in range(1, 7)), "ann"]
    assert source.remarks == ("6 images have no group; each is a group of its own",)


def test_a_group_of_an_image_alone_is_no_persons() -> None:
    groups, _ = read_groups(pd.Series(["b", "", "b"]), pd.Series(["a", "b", "c"]))
    assert groups.tolist() == ["b", "b (alone)", "b"]


def test_groups_are_named_as_most_often_in_any_order() -> None:
    values = pd.Series(["P1", "p1", "p1 ", "P1", "q", "P1 "])
    ids = pd.Series([str(place) for place in range(6)])
    for order in ([0, 1, 2, 3, 4, 5], [5, 2, 1, 0, 4, 3]):
        groups, remarks = read_groups(values[order], ids[order])
        assert groups.sort_index().tolist() == ["P1"] * 4 + ["q", "P1"]
        assert remarks == ["groups written in several ways are taken as one: 1, such as 'P1' and 'P1 '"]


@pytest.mark.parametrize("ways", SPELLINGS)
def test_new_groups_are_told_apart_as_those_of_training_images(ways: list[str]) -> None:
    numbers, remarks = read_group_numbers(pd.Series([*ways, "another", ways[0]], dtype=object))
    assert len(set(numbers[:-2].tolist())) == 1
    assert numbers[-2] != numbers[-1] == numbers[0]
    assert len(remarks) == 1
    assert remarks[0].startswith("groups written in several ways are taken as one: 1, such as ")


def test_a_new_image_without_a_group_is_a_group_of_its_own() -> None:
    numbers, remarks = read_group_numbers(pd.Series(["a", "", None, float("nan"), "NaN", "a", "  "], dtype=object))
    assert numbers[0] == numbers[5]
    assert len(set(numbers.tolist())) == 6
    assert sorted(set(numbers.tolist())) == list(range(6))
    assert remarks == ["5 images have no group; each is a group of its own"]
    assert read_group_numbers(pd.Series([], dtype=object))[0].tolist() == []


# --- files


def spelled(here: Path, name: str) -> list[str]:
    """Ways to write the path of a file."""
    os.link(here / name, here / "hard.jpg")
    (here / "soft.jpg").symlink_to(here / name)
    (here / "folder").symlink_to(here)
    return [
        f"./{name}",
        f".//{name}",
        f"folder/../{here.name}/{name}",
        f"folder/{name}",
        str(here / name),
        f"file://{here}/{name}",
        "hard.jpg",
        "soft.jpg",
    ]


def test_a_file_is_one_image_however_its_path_is_written(here: Path) -> None:
    ways = spelled(here, "0.jpg")
    rows = [["0.jpg", "x"], ["1.jpg", "y"], *([way, "x"] for way in ways)]
    source = read_rows(here, ["image", "label"], rows)
    assert len(source.images) == 2
    assert list(aside(source).values()) == [TWICE] * len(ways)
    assert read_rows(here, ["image", "label"], rows[::-1]).images.equals(source.images)


@pytest.mark.parametrize("ids", [[], ["key"]])
def test_a_file_with_two_labels_is_set_aside_wholly(here: Path, ids: list[str]) -> None:
    rows = [["0.jpg", "x", "a"], ["1.jpg", "y", "b"], ["2.jpg", "x", "c"], ["./0.jpg", "y", "d"], ["0.jpg", "x", "e"]]
    source = read_rows(here, ["image", "label", "key"], rows, id_column=ids[0] if ids else None)
    assert source.images["path"].tolist() == [str(here / "1.jpg"), str(here / "2.jpg")]
    assert set(aside(source).values()) == {UNLIKE}
    assert len(source.rejected) == 3


def test_groups_that_share_a_file_are_one(here: Path) -> None:
    rows = [["0.jpg", "x", "a"], ["1.jpg", "y", "a"], ["./1.jpg", "y", "b"], ["2.jpg", "x", "b"], ["3.jpg", "y", "c"]]
    source = read_rows(here, ["image", "label", "person"], rows, group_column="person")
    assert source.images[["image_id", "group"]].to_numpy().tolist() == [
        ["./1.jpg", "a"],
        ["0.jpg", "a"],
        ["2.jpg", "a"],
        ["3.jpg", "c"],
    ]
    assert source.remarks == ("groups that share an image are taken as one, such as 'b' and 'a'",)


def test_groups_are_joined_through_others() -> None:
    groups = joined(pd.Series(["d", "c", "c", "b", "b", "a", "e"]), pd.Series([1, 1, 2, 2, 3, 3, 4]))
    assert groups.tolist() == ["a"] * 6 + ["e"]


def test_ids_that_are_one_name_one_image(here: Path) -> None:
    rows = [["0.jpg", "x", "7"], ["1.jpg", "y", "7.0"], ["2.jpg", "x", "007"], ["3.jpg", "y", "8"], ["4.jpg", "y", "8 "]]
    source = read_rows(here, ["image", "label", "key"], rows, id_column="key")
    assert source.images["image_id"].tolist() == ["007", "7", "8"]
    assert set(aside(source).values()) == {"the image_id is there twice; the first row counts"}


def test_files_whose_names_differ_in_blanks_and_unicode_are_others(here: Path) -> None:
    names = ["a b.jpg", "a  b.jpg", "é.jpg", "e\u0301.jpg"]
    for name in names:
        write(here / name, image())
    source = read_rows(here, ["image", "label"], [[name, "xy"[place % 2]] for place, name in enumerate(names)])
    assert sorted(source.images["image_id"]) == sorted(names)


def test_images_that_are_among_others_are_found_by_their_content() -> None:
    images = pd.DataFrame({"image_id": ["a", "b", "c", "d"], "digest": ["1", "2", "", "1"]})
    assert among(images, pd.DataFrame({"digest": ["1", "3", ""]})) == {"a", "d"}


def contents(digests: list[str], groups: list[str] | None = None, labels: list[int] | None = None) -> pd.DataFrame:
    ids = [f"{place:03d}.jpg" for place in range(len(digests))]
    label = labels or [0] * len(ids)
    return pd.DataFrame(
        {"image_id": ids, "group": groups or ids, "digest": digests, "label_joint": label, "train_label_joint": label}
    )


def test_copies_under_other_names_share_a_group_and_are_said() -> None:
    images = contents(["1", "1", "2", "3", "3", ""], ["p", "p", "q", "q", "r", "s"], [0, 0, 1, 0, 1, 1])
    assert copies_joined(images[:3])[1] == []
    joined_images, said = copies_joined(images)
    assert joined_images["group"].tolist() == ["p", "p", "q", "q", "q", "s"]
    assert said == [
        "2 images are there byte for byte once more under another name; copies share a fold, such as '003.jpg' and '004.jpg'",
        "2 images are there byte for byte once more with another label, such as '003.jpg' and '004.jpg'",
    ]


def test_a_picture_that_stands_for_many_persons_does_not_join_them() -> None:
    persons = [f"p{number}" for number in range(MAX_GROUPS + 1)]
    images, said = copies_joined(contents(["same"] * len(persons), persons))
    assert images["group"].tolist() == persons
    assert said == [
        "11 images are there byte for byte once more in other groups, so that validation sees what training saw, such as "
        "'000.jpg' and '001.jpg'"
    ]
    alone, _ = copies_joined(contents(["same"] * 30))
    assert alone["group"].nunique() == 1, "images without groups are joined however many they are"


@given(st.lists(st.sampled_from(["", *"abcdefgh"]), min_size=12, max_size=60), st.integers(0, 5))
def test_no_content_lies_in_two_folds(digests: list[str], seed: int) -> None:
    images, _ = copies_joined(contents([*digests, *(f"own{number}" for number in range(8))]))
    fold = assign_folds(images, FoldsConfig(k=2), seed)
    known = images.assign(fold=fold)[images["digest"] != ""]
    assert (known.groupby("digest")["fold"].nunique() == 1).all()


def test_objects_behind_urls_are_told_by_their_version_too() -> None:
    paths = ["s3://b/f/a.jpg", "s3://b/f/./a.jpg", "s3://b//f/x/../a.jpg", "s3://b/f/%61.jpg", "s3://b/f/a.jpg", "s3://c/f/a.jpg"]
    keys = file_keys(pd.DataFrame({"path": paths, "size": 9, "stamp": ["v1", "v1", "v1", "v1", "v2", "v1"]}))
    assert [keys.index(key) for key in keys] == [0, 0, 0, 0, 4, 5]


# --- classes


def test_a_class_is_one_however_it_is_written_and_its_name_and_number_are_shown(here: Path) -> None:
    labels = ["cat", "cat ", "\u200bcat", "ｃａｔ", "dog", "Dog", "", "NULL"]
    source = read_rows(here, ["image", "label"], [[f"{place}.jpg", label] for place, label in enumerate(labels)])
    assert source.space["label"].classes == ("Dog", "cat", "dog")
    assert source.remarks == (
        "classes of label written in several ways are taken as one: 1, such as 'cat' and 'cat '",
        "'Dog' and 'dog' are two classes of label; write them alike if they are one",
    )
    assert class_counts(source) == ["label: Dog 1, cat 4, dog 1"]
    assert aside(source) == {
        "6.jpg": "label is empty",
        "7.jpg": "label is 'NULL', which stands for a missing value unless tasks.label.classes lists it",
    }


def test_folders_may_be_named_like_missing_values(tmp_path: Path) -> None:
    for name in ("None", "nan", "NA"):
        write(tmp_path / "classes" / name / "1.jpg", image())
    assert read(tmp_path / "classes").space["label"].classes == ("NA", "None", "nan")


def test_more_than_a_thousand_folders_are_classes(tmp_path: Path) -> None:
    for number in range(1200):
        write(tmp_path / "classes" / f"c{number}" / "1.jpg", b"x")
    assert read(tmp_path / "classes").space.joint_size == 1200


def test_a_column_that_is_a_key_is_no_label(here: Path) -> None:
    rows = [[f"{place}.jpg", "xy"[place % 2], f"p{place}"] for place in range(8)]
    for key in ("image_column", "id_column", "group_column"):
        text = sentence(lambda key=key: read_rows(here, ["image", "other", "label"], rows, **{key: "label"}))  # type: ignore[misc]
        assert text == f"tasks.label: its column 'label' is data.{key} too; a label has a column of its own."
