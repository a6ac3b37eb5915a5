"""Tests of the three layouts of data: what becomes the table of images, what is set aside, and what is refused."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from raymask.config import DataConfig, dump_config, load_config, resolve_members, validate
from raymask.data import files, sources
from raymask.data.decode import InputSpec, decode_file
from raymask.data.sources import (
    COMPETITION_TASKS,
    PHOTOS,
    Source,
    check_rejected,
    is_image,
    label_space,
    read_csv,
    read_source,
    read_test,
    resolve_kind,
)
from raymask.errors import InputError
from raymask.tasks import LabelSpace, Task

PEOPLE = [("000001", "female", "20"), ("000002", "male", "30"), ("000003", "male", "59"), ("000004", "female", "60")]
SPACE = LabelSpace((Task("label", "label", ("x", "y")),))


def image(shade: int = 100, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 9), (shade % 256, 50, 200)).save(buffer, kind)
    return buffer.getvalue()


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_table(path: Path, rows: Iterable[Iterable[str]]) -> Path:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return write(path, text.getvalue())


def folder_of(person: tuple[str, str, str]) -> str:
    return "_".join((person[0], person[1], "Asian", person[2]))


def write_people(root: Path, people: list[tuple[str, str, str]] | None = None, suffix: str = ".jpg") -> Path:
    """The competition's training data of people (id, gender, age), seven small photos each."""
    people = PEOPLE if people is None else people
    rows = [(number, gender, "Asian", age, folder_of((number, gender, age))) for number, gender, age in people]
    write_table(root / "train" / "train.csv", [("id", "gender", "race", "age", "path"), *rows])
    for *_, folder in rows:
        for shade, photo in enumerate(PHOTOS):
            write(root / "train" / "images" / folder / f"{photo}{suffix}", image(shade))
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_people(tmp_path / "data")


def read(path: Path | str, tasks: Any = (), **data: Any) -> Source:
    config = validate({"data": {"path": str(path), **data}, "tasks": tasks if tasks != () else {}})
    kind = resolve_kind(config.data)
    return read_source(config.model_copy(update={"data": config.data.model_copy(update={"kind": kind})}))


def sentence(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text


def aside(source: Source) -> dict[str, str]:
    """Reason by image_id."""
    return dict(zip(source.rejected["image_id"], source.rejected["reason"], strict=True))


def photos(root: Path, person: int = 0) -> Path:
    return root / "train" / "images" / folder_of(PEOPLE[person])


# --- the competition's layout


def test_every_photo_is_a_row_with_its_person_and_labels(root: Path) -> None:
    source = read(root)
    table = source.images.set_index("image_id")
    assert len(table) == 7 * 4
    assert source.rejected.empty
    assert source.space.names == ("mask", "gender", "age")
    assert source.space.joint_size == 18
    row = table.loc["000004_female_Asian_60/incorrect_mask.jpg"]
    assert row["group"] == "000004"
    assert [row["label_mask"], row["label_gender"], row["label_age"]] == [1, 1, 2]
    assert row["label_joint"] == row["train_label_joint"] == 6 + 3 + 2
    assert row["path"] == str(root / "train/images/000004_female_Asian_60/incorrect_mask.jpg")
    assert row["size"] == Path(row["path"]).stat().st_size
    assert table.groupby("group")["label_mask"].apply(sorted).tolist() == [[0, 0, 0, 0, 0, 1, 2]] * 4
    assert table.groupby("group")["label_age"].first().tolist() == [0, 1, 1, 2]


def test_the_table_is_sorted_and_typed(root: Path) -> None:
    table = read(root).images
    assert table["image_id"].is_monotonic_increasing
    assert table["image_id"].is_unique
    assert table.index.tolist() == list(range(28))
    labels = [f"{kind}{task}" for task in ("mask", "gender", "age", "joint") for kind in ("label_", "train_label_")]
    assert sorted(table.columns) == sorted(["image_id", "path", "group", *labels, "size", "stamp"])
    assert {str(table[name].dtype) for name in [*labels, "size"]} == {"int64"}


def test_the_order_of_the_people_does_not_matter(root: Path) -> None:
    before = read(root).images
    table = root / "train" / "train.csv"
    header, *rows = table.read_text().splitlines()
    for order in ([3, 1, 0, 2], [1, 0, 3, 2]):
        table.write_text("\n".join([header, *(rows[place] for place in order)]) + "\n")
        pd.testing.assert_frame_equal(read(root).images, before)


@pytest.mark.parametrize("suffix", [".JPG", ".png", ".Jpeg", ".webp", ".BMP"])
def test_photos_may_have_any_ending_of_an_image(tmp_path: Path, suffix: str) -> None:
    source = read(write_people(tmp_path, suffix=suffix))
    assert len(source.images) == 28
    assert source.rejected.empty
    assert source.images["image_id"].str.endswith(suffix).all()


@pytest.mark.parametrize(
    "name", ["._mask1.jpg", ".DS_Store", ".hidden/mask1.jpg", "Thumbs.db", "notes.txt", "../.ipynb_checkpoints/mask1.jpg"]
)
def test_hidden_and_other_files_are_passed_over(root: Path, name: str) -> None:
    write(photos(root) / name, b"no image")
    source = read(root, max_rejected=0)
    assert len(source.images) == 28
    assert source.rejected.empty


def test_a_table_without_a_train_folder_around_it_is_found_too(root: Path) -> None:
    inner, outer = read(root / "train").images, read(root).images
    pd.testing.assert_frame_equal(inner, outer)


def test_links_to_the_folders_of_people_are_followed(root: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    write(linked / "train" / "train.csv", (root / "train" / "train.csv").read_bytes())
    (linked / "train" / "images").mkdir()
    for folder in (root / "train" / "images").iterdir():
        (linked / "train" / "images" / folder.name).symlink_to(folder)
    assert read(linked).images["image_id"].tolist() == read(root).images["image_id"].tolist()


# --- what is set aside


def test_a_missing_photo_is_set_aside(root: Path) -> None:
    (photos(root) / "mask3.jpg").unlink()
    source = read(root, max_rejected=0.05)
    assert aside(source) == {f"{folder_of(PEOPLE[0])}/mask3": "the file is missing"}
    assert len(source.images) == 27


def test_a_missing_folder_of_a_person_sets_all_seven_photos_aside(root: Path) -> None:
    photos(root).rename(root / "train" / "elsewhere")
    source = read(root, max_rejected=0.5)
    assert aside(source) == {f"{folder_of(PEOPLE[0])}/{photo}": "the file is missing" for photo in PHOTOS}


def test_an_empty_photo_is_set_aside(root: Path) -> None:
    write(photos(root) / "normal.jpg", b"")
    source = read(root, max_rejected=0.05)
    assert aside(source) == {f"{folder_of(PEOPLE[0])}/normal.jpg": "the file is empty"}
    assert len(source.images) == 27


def test_a_link_to_nothing_is_set_aside_as_missing(root: Path) -> None:
    (photos(root) / "normal.jpg").unlink()
    (photos(root) / "normal.jpg").symlink_to("/no/such/photo.jpg")
    assert aside(read(root, max_rejected=0.05)) == {f"{folder_of(PEOPLE[0])}/normal.jpg": "the file is missing"}


@pytest.mark.parametrize("name", ["mask6.jpg", "Mask1.jpg", "mask1.copy.png", "portrait.jpg"])
def test_a_photo_of_an_unknown_name_is_set_aside(root: Path, name: str) -> None:
    write(photos(root) / name, image())
    source = read(root, max_rejected=0.05)
    reason = "the file's name is none of mask1, mask2, mask3, mask4, mask5, incorrect_mask, normal"
    assert aside(source) == {f"{folder_of(PEOPLE[0])}/{name}": reason}
    assert len(source.images) == 28


def test_a_photo_whose_name_is_no_utf8_is_set_aside(root: Path) -> None:
    write(photos(root) / os.fsdecode(b"\xb8\xb6.jpg"), image())
    assert [reason[:25] for reason in aside(read(root, max_rejected=0.05)).values()] == ["the file's name is none o"]


def test_a_folder_that_is_not_in_the_table_is_set_aside(root: Path) -> None:
    write(root / "train/images/999999_male_Asian_20/mask1.jpg", image())
    write(photos(root) / "more" / "mask1.jpg", image())
    source = read(root, max_rejected=0.1)
    assert aside(source) == {
        "999999_male_Asian_20/mask1.jpg": "the folder is not in train.csv",
        f"{folder_of(PEOPLE[0])}/more/mask1.jpg": "the folder is not in train.csv",
    }


@pytest.mark.parametrize(
    ("age", "reason"),
    [
        ("-1", "age is '-1', no number from 0 to 120"),
        ("120.5", "age is '120.5', no number from 0 to 120"),
        ("1999", "age is '1999', no number from 0 to 120"),
        ("young", "age is 'young', no number from 0 to 120"),
        ("inf", "age is 'inf', no number from 0 to 120"),
        ("nan", "age is 'nan', no number from 0 to 120"),
        ("", "age is empty"),
    ],
)
def test_people_of_a_wrong_age_are_set_aside(tmp_path: Path, age: str, reason: str) -> None:
    source = read(write_people(tmp_path, [*PEOPLE, ("000005", "male", age)]), max_rejected=0.2)
    assert set(aside(source).values()) == {reason}
    assert len(source.rejected) == 7
    assert set(source.images["group"]) == {person for person, *_ in PEOPLE}


@pytest.mark.parametrize("age", ["0", "120", "29.999", " 30 "])
def test_ages_at_the_ends_of_the_range_are_kept(tmp_path: Path, age: str) -> None:
    source = read(write_people(tmp_path, [*PEOPLE, ("000005", "male", age)]), max_rejected=0)
    assert len(source.images) == 35


@pytest.mark.parametrize(
    ("gender", "reason"),
    [("other", "gender is 'other', none of male, female"), ("", "gender is empty"), ("Male", "gender is 'Male'")],
)
def test_people_of_an_unknown_gender_are_set_aside(tmp_path: Path, gender: str, reason: str) -> None:
    source = read(write_people(tmp_path, [*PEOPLE, ("000005", gender, "40")]), max_rejected=0.2)
    assert all(said.startswith(reason) for said in aside(source).values())
    assert len(source.rejected) == 7


def test_a_person_with_two_faults_is_set_aside_once(tmp_path: Path) -> None:
    wrong = [("000005", "other", "999"), ("000006", "male", "999")]
    source = read(write_people(tmp_path, [*PEOPLE, *wrong]), max_rejected=0.4)
    assert source.rejected["image_id"].is_unique
    assert source.rejected["reason"].value_counts().to_dict() == {
        "gender is 'other', none of male, female": 7,
        "age is '999', no number from 0 to 120": 7,
    }


def test_a_person_who_is_listed_twice_counts_once(root: Path) -> None:
    table = root / "train" / "train.csv"
    table.write_text(table.read_text() + table.read_text().splitlines()[1] + "\n")
    source = read(root, max_rejected=0.5)
    assert len(source.images) == 28
    assert source.images["image_id"].is_unique
    assert set(aside(source).values()) == {"the image_id is there twice; the first row counts"}
    assert len(source.rejected) == 7


def test_too_many_images_set_aside_are_refused_with_counts_and_examples(root: Path) -> None:
    for name in ("mask1", "mask2"):
        (photos(root) / f"{name}.jpg").unlink()
    write(photos(root, 1) / "normal.jpg", b"")
    text = sentence(lambda: read(root))
    person, other = folder_of(PEOPLE[0]), folder_of(PEOPLE[1])
    assert text == (
        f"3 of 28 images would be set aside (2× the file is missing, such as '{person}/mask1'; "
        f"1× the file is empty, such as '{other}/normal.jpg'); mend them, or raise data.max_rejected (now 0.02)."
    )
    assert len(read(root, max_rejected=0.11).images) == 25


def test_the_limit_is_the_share_itself() -> None:
    rejected = pd.DataFrame({"image_id": ["a", "b"], "reason": ["why", "why"]})
    check_rejected(rejected, 100, 0.02)
    assert sentence(lambda: check_rejected(rejected, 99, 0.02)).startswith(
        "2 of 99 images would be set aside (2× why, such as 'a')"
    )
    check_rejected(rejected[:0], 0, 0.0)


def test_the_three_most_frequent_reasons_are_told() -> None:
    reasons = [*"a" * 4, *"b" * 3, *"c" * 2, "d"]
    rejected = pd.DataFrame({"image_id": [f"i{place}" for place in range(10)], "reason": reasons})
    text = sentence(lambda: check_rejected(rejected, 10, 0))
    assert "(4× a, such as 'i0'; 3× b, such as 'i4'; 2× c, such as 'i7')" in text


# --- competition data that cannot be read


def test_a_column_that_was_dropped_is_named(root: Path) -> None:
    table = root / "train" / "train.csv"
    people = pd.read_csv(table, dtype=str)
    for column in ("id", "gender", "age", "path"):
        people.drop(columns=column).to_csv(table, index=False)
        text = sentence(lambda: read(root))
        assert text.startswith(f"'{table}' has no column '{column}'; it has '")
        assert "'race'" in text
    people.rename(columns={"gender": "gendr"}).to_csv(table, index=False)
    assert sentence(lambda: read(root)).endswith("it has 'gendr' (the nearest), 'id', 'race', 'age' or 'path'.")


def test_a_missing_images_folder_is_refused(root: Path) -> None:
    (root / "train" / "images").rename(root / "train" / "pictures")
    assert sentence(lambda: read(root)) == (
        f"data.path: '{root}/train/images' is missing; the photos' folders of train.csv must lie there."
    )


def test_an_empty_table_is_refused(root: Path) -> None:
    table = write(root / "train" / "train.csv", "")
    assert sentence(lambda: read(root)) == f"'{table}' cannot be read as a CSV file: No columns to parse from file"
    write_table(table, [("id", "gender", "race", "age", "path")])
    assert sentence(lambda: read(root)).startswith("28 of 28 images would be set aside (28× the folder is not in train.csv")
    assert sentence(lambda: read(root, max_rejected=1)).startswith(f"data.path: '{root}' holds no usable image (28× ")


def test_a_folder_of_another_layout_is_no_competition(tmp_path: Path) -> None:
    text = sentence(lambda: read(tmp_path, kind="competition"))
    assert text == f"data.path: '{tmp_path}' has no train/train.csv, as the competition layout needs."


def test_a_path_with_nothing_there_is_refused(tmp_path: Path) -> None:
    assert sentence(lambda: read(tmp_path / "gone")) == f"data.path: there is nothing at '{tmp_path}/gone'."
    assert sentence(lambda: resolve_kind(DataConfig(kind="csv"))) == "data.path is missing; data.kind=csv needs it."


def test_the_kind_is_found_by_what_lies_at_the_path(root: Path) -> None:
    assert resolve_kind(DataConfig()) == "demo"
    assert resolve_kind(DataConfig(path=str(root))) == "competition"
    assert resolve_kind(DataConfig(path=str(root / "train" / "train.csv"))) == "csv"
    assert resolve_kind(DataConfig(path=str(root / "train" / "images"))) == "folders"
    assert resolve_kind(DataConfig(path=str(root), kind="folders")) == "folders"


# --- the competition's tasks refined


def test_a_task_can_be_dropped(root: Path) -> None:
    source = read(root, {"gender": None})
    assert source.space.names == ("mask", "age")
    assert "label_gender" not in source.images
    assert source.images["label_joint"].max() == 8


def test_a_dropped_task_stays_dropped_when_the_resolved_config_is_read_again(root: Path, tmp_path: Path) -> None:
    first = read(root, {"gender": None, "age": {"train_edges": [29, 58]}})
    config = validate({"data": {"kind": "competition", "path": str(root)}, "recipe": {"pretrained": False}})
    config = config.model_copy(update={"tasks": first.task_configs})
    again = load_config(write(tmp_path / "resolved.yaml", dump_config(config)))
    assert again.tasks == first.task_configs
    second = read_source(again)
    assert second.space == first.space == label_space(again.tasks)
    assert second.task_configs == first.task_configs
    pd.testing.assert_frame_equal(second.images, first.images)
    assert [member.task for member in resolve_members(again)] == ["mask", "age"]


def test_a_person_is_kept_where_only_a_dropped_task_is_wrong(tmp_path: Path) -> None:
    people = [*PEOPLE, ("000005", "other", "40")]
    assert len(read(write_people(tmp_path), {"gender": None}, max_rejected=0).images) == 28
    assert len(read(write_people(tmp_path, people), {"gender": None}, max_rejected=0).images) == 35


def test_train_edges_change_the_labels_of_the_loss_alone(root: Path) -> None:
    plain, refined = read(root), read(root, {"age": {"train_edges": [29, 59]}})
    assert refined.space["age"].edges == (30, 60)
    pd.testing.assert_series_equal(refined.images["label_joint"], plain.images["label_joint"])
    by_person = refined.images.groupby("group")[["label_age", "train_label_age"]].first()
    assert by_person["label_age"].tolist() == [0, 1, 1, 2]
    assert by_person["train_label_age"].tolist() == [0, 1, 2, 2]
    assert (refined.images["train_label_joint"] - refined.images["label_joint"]).groupby(
        refined.images["group"]
    ).max().tolist() == [
        0,
        0,
        1,
        0,
    ]


def test_edges_and_the_range_can_be_changed_apart(tmp_path: Path) -> None:
    root = write_people(tmp_path, [*PEOPLE, ("000005", "male", "130")])
    source = read(root, {"age": {"edges": [40]}}, max_rejected=0.3)
    assert source.space["age"].classes == ("<40", ">=40")
    assert len(source.rejected) == 7  # the range of the layout still holds
    source = read(root, {"age": {"valid_range": [0, 200]}}, max_rejected=0)
    assert source.space["age"].edges == (30, 60)
    assert len(source.images) == 35


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        ({"age": {"train_edges": [29]}}, "tasks.age: train_edges needs edges with as many numbers."),
        ({"age": {"classes": ["young", "old"]}}, "tasks.age: 2 edges make 3 classes, not 2."),
        ({"mask": {"train_edges": [1, 2]}}, "tasks.mask: train_edges needs edges with as many numbers."),
        ({"race": {}}, "tasks.race: there is no column 'race'; it may be 'age' (the nearest), 'mask' or 'gender'."),
        (dict.fromkeys(COMPETITION_TASKS), "tasks: every task is null; at least one must be left."),
    ],
)
def test_tasks_that_do_not_fit_the_layout_are_refused(root: Path, tasks: dict[str, Any], expected: str) -> None:
    assert sentence(lambda: read(root, tasks)) == expected


def test_another_task_can_be_made_of_a_column(root: Path) -> None:
    source = read(root, {"age": None, "decade": {"column": "age", "edges": [25, 35, 45]}})
    assert source.space.names == ("mask", "gender", "decade")
    assert source.images.groupby("group")["label_decade"].first().tolist() == [0, 1, 3, 3]


# --- a generic CSV


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Six images beside their table, of labels x and y."""
    for number in range(6):
        write(tmp_path / "csv" / f"{number}.jpg", image(number))
    return write_table(tmp_path / "csv" / "all.csv", [("image", "label"), *((f"{n}.jpg", "xy"[n % 2]) for n in range(6))])


def rewrite(table: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_csv(table, dtype=str)).to_csv(table, index=False)


def test_a_table_of_paths_and_labels_is_read(table: Path) -> None:
    source = read(table, ["label"])
    assert source.images["image_id"].tolist() == [f"{number}.jpg" for number in range(6)]
    assert source.images["path"].tolist() == [str(table.parent / f"{number}.jpg") for number in range(6)]
    assert source.images["label_label"].tolist() == [0, 1, 0, 1, 0, 1]
    assert source.images["group"].tolist() == source.images["image_id"].tolist()
    assert source.space["label"].classes == ("x", "y")
    assert source.task_configs["label"] == source.task_configs["label"].model_copy(
        update={"column": "label", "classes": ("x", "y")}
    )


def test_the_order_of_the_rows_does_not_matter(table: Path) -> None:
    before = read(table, ["label"]).images
    rewrite(table, lambda rows: rows.sample(frac=1, random_state=3))
    pd.testing.assert_frame_equal(read(table, ["label"]).images, before)


def test_groups_and_ids_come_from_their_columns(table: Path) -> None:
    rewrite(table, lambda rows: rows.assign(person=["p", "q"] * 3, key=[f"k{9 - n}" for n in range(6)]))
    images = read(table, ["label"], group_column="person", id_column="key").images
    assert images["image_id"].tolist() == [f"k{n}" for n in range(4, 10)]
    assert images["path"].iloc[0] == str(table.parent / "5.jpg")
    assert images["group"].tolist() == ["q", "p"] * 3


def test_paths_start_from_the_image_root_unless_they_are_absolute(table: Path, tmp_path: Path) -> None:
    moved = table.rename(tmp_path / "moved.csv")
    assert sentence(lambda: read(moved, ["label"])).startswith("6 of 6 images would be set aside (6× the file is missing")
    assert len(read(moved, ["label"], image_root=str(tmp_path / "csv")).images) == 6
    rewrite(moved, lambda rows: rows.assign(image=[str(tmp_path / "csv" / name) for name in rows["image"]]))
    images = read(moved, ["label"], image_root="/nowhere").images
    assert images["path"].tolist() == [str(tmp_path / "csv" / f"{n}.jpg") for n in range(6)]


def test_paths_of_a_table_are_relative_to_it_in_any_working_directory(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(table.parent)
    relative = read("all.csv", ["label"]).images
    pd.testing.assert_frame_equal(relative, read(table, ["label"]).images)


def test_several_tasks_make_a_joint_label(table: Path) -> None:
    rewrite(table, lambda rows: rows.assign(age=["10", "20", "30", "40", "50", "60"]))
    source = read(table, {"label": {}, "age": {"edges": [20, 40]}})
    assert source.images["label_age"].tolist() == [0, 1, 1, 2, 2, 2]
    assert source.images["label_joint"].tolist() == [0, 4, 1, 5, 2, 5]


def test_columns_of_any_name_can_be_the_images_and_the_label(table: Path) -> None:
    rewrite(table, lambda rows: rows.rename(columns={"image": "path", "label": "size class"}))
    source = read(table, {"size": {"column": "size class"}}, image_column="path")
    assert source.images["label_size"].tolist() == [0, 1] * 3
    assert source.images["path"].iloc[0] == str(table.parent / "0.jpg")


@pytest.mark.parametrize("name", ["group", "size", "path", "stamp", "image_id"])
def test_a_label_column_whose_name_is_taken_is_refused_and_never_read_wrongly(table: Path, name: str) -> None:
    rewrite(table, lambda rows: rows.rename(columns={"label": name}))
    expected = f"tasks.{name}: the name '{name}' is taken by raymask; rename the column."
    assert sentence(lambda: read(table, [name])) == expected


def test_labels_that_are_numbers_are_classes_in_their_order(table: Path) -> None:
    rewrite(table, lambda rows: rows.assign(label=["10", "9", "1", "10", "9", "1"]))
    assert read(table, ["label"]).space["label"].classes == ("1", "9", "10")
    rewrite(table, lambda rows: rows.assign(label=["10.0", "9.0", "0.5", "10.0", "9.0", "0.5"]))
    source = read(table, ["label"])
    assert source.space["label"].classes == ("0.5", "9.0", "10.0")
    assert source.images["label_label"].tolist() == [2, 1, 0, 2, 1, 0]


def test_quotes_commas_and_letters_of_any_language_are_read(table: Path) -> None:
    names = ['a, "b".jpg', "사람 1.jpg", "naïve.jpg"]
    for name in names:
        write(table.parent / name, image())
    write_table(table, [("image", "label"), *zip(names, ["마스크, 예", 'no "mask"', "마스크, 예"], strict=True)])
    source = read(table, ["label"])
    assert source.images["image_id"].tolist() == sorted(names)
    assert source.space["label"].classes == ('no "mask"', "마스크, 예")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_and_any_line_ends_are_read(table: Path, end: str) -> None:
    lines = table.read_text().splitlines()
    table.write_bytes(("\ufeff" + end.join([*lines, "", ""])).encode())
    assert len(read(table, ["label"], max_rejected=0).images) == 6


def test_values_are_kept_as_they_are_written(table: Path) -> None:
    write_table(table, [("a", "b"), ("007", "1.50"), ("NA", ""), ("null", "1e3")])
    assert read_csv(str(table)).values.tolist() == [["007", "1.50"], ["NA", ""], ["null", "1e3"]]


def test_rows_with_faults_are_set_aside_with_their_reason(table: Path) -> None:
    write(table.parent / "4.jpg", b"")
    rows = [("image", "label"), *((f"{n}.jpg", "xy"[n % 2]) for n in range(5))]
    write_table(table, [*rows, ("5.jpg", "z"), ("gone.jpg", "x"), ("", "x"), ("0.jpg", "y"), ("1.jpg", "")])
    table.write_text(table.read_text() + "2.jpg\n")  # a row that was cut
    source = read(table, {"label": {"classes": ["x", "y"]}}, max_rejected=1)
    assert source.images["image_id"].tolist() == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert source.images["label_label"].tolist() == [0, 1, 0, 1]
    assert aside(source) == {
        "5.jpg": "label is 'z', none of x, y",
        "1.jpg": "label is empty",
        "2.jpg": "label is empty",
        "gone.jpg": "the file is missing",
        "": "the file is missing",
        "4.jpg": "the file is empty",
        "0.jpg": "the image_id is there twice; the first row counts",
    }


def test_a_number_without_range_only_has_to_be_a_number(table: Path) -> None:
    rewrite(table, lambda rows: rows.assign(label=["-5", "1e4", "x", "", "nan", "3"]))
    source = read(table, {"label": {"edges": [0, 3]}}, max_rejected=1)
    assert source.images["label_label"].tolist() == [0, 2, 2]
    assert sorted(aside(source).values()) == ["label is 'nan', no number", "label is 'x', no number", "label is empty"]


@pytest.mark.parametrize(
    ("tasks", "data", "expected"),
    [
        ([], {}, "tasks is empty; name the label columns of '{table}', such as --set tasks=[colour]."),
        (["lable"], {}, "tasks.lable: there is no column 'lable'; it may be 'label' (the nearest) or 'image'."),
        (["label"], {"image_column": "images"}, "'{table}' has no column 'images'; it has 'image' (the nearest) or 'label'."),
        (["label"], {"id_column": "key"}, "'{table}' has no column 'key'; it has 'image' or 'label'."),
        (["label"], {"group_column": "lab"}, "'{table}' has no column 'lab'; it has 'label' (the nearest) or 'image'."),
        ({"label": None}, {}, "tasks: every task is null; at least one must be left."),
        ({"label": {"train_edges": [1]}}, {}, "tasks.label: train_edges needs edges with as many numbers."),
    ],
)
def test_what_a_table_does_not_have_is_refused_with_what_it_has(
    table: Path, tasks: Any, data: dict[str, Any], expected: str
) -> None:
    assert sentence(lambda: read(table, tasks, **data)) == expected.format(table=table)


def test_a_table_of_paths_alone_has_no_column_for_a_task(table: Path) -> None:
    rewrite(table, lambda rows: rows[["image"]].rename(columns={"image": "path"}))
    text = sentence(lambda: read(table, ["label"], image_column="path"))
    assert text == "tasks.label: there is no column 'label'; it may be nothing."


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "No columns to parse from file"),
        (b"\xff\xfei\x00m\x00", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b'image,label\n"0.jpg,x\n', "EOF inside string starting at row"),
        (b"image,label\n0.jpg,x\n1.jpg,y,z,z\n", "Expected 2 fields in line 3, saw 4"),
        (b"image,label\n0.jpg,x,1\n1.jpg,y,2\n", "its rows have more values than its header."),
    ],
)
def test_a_file_that_is_no_table_is_refused(table: Path, content: bytes, problem: str) -> None:
    table.write_bytes(content)
    text = sentence(lambda: read(table, ["label"]))
    assert text.startswith(f"'{table}' cannot be read as a CSV file: ")
    assert problem in text


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    text = sentence(lambda: read(tmp_path / "gone.csv", ["label"], kind="csv"))
    assert text == f"there is no file '{tmp_path / 'gone.csv'}'."


def test_a_table_of_one_class_is_refused(table: Path) -> None:
    rewrite(table, lambda rows: rows.assign(label="x"))
    text = sentence(lambda: read(table, ["label"]))
    assert text == "task 'label' has only the value 'x' in its column; a task needs at least two classes."


def test_a_table_with_no_right_label_is_refused_with_the_reasons(table: Path) -> None:
    text = sentence(lambda: read(table, {"label": {"classes": ["p", "q"]}}, max_rejected=1))
    assert text == (
        f"data.path: '{table}' holds no usable image (3× label is 'x', none of p, q, such as '0.jpg'; "
        "3× label is 'y', none of p, q, such as '1.jpg')."
    )


# --- folders of classes


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    for name in ("cat/1.jpg", "cat/deep/2.PNG", "dog/1.jpg", "dog/._1.jpg", "dog/notes.txt", ".git/x.jpg", "loose.jpg"):
        write(tmp_path / "classes" / name, image())
    return tmp_path / "classes"


def test_folders_are_the_classes_of_their_images(classes: Path) -> None:
    source = read(classes)
    assert source.images["image_id"].tolist() == ["cat/1.jpg", "cat/deep/2.PNG", "dog/1.jpg"]
    assert source.images["label_label"].tolist() == [0, 0, 1]
    assert source.images["label_joint"].tolist() == [0, 0, 1]
    assert source.space["label"].classes == ("cat", "dog")
    assert source.rejected.empty


def test_an_empty_image_in_a_folder_is_set_aside(classes: Path) -> None:
    write(classes / "dog" / "2.jpg", b"")
    assert aside(read(classes, max_rejected=0.3)) == {"dog/2.jpg": "the file is empty"}


def test_folders_can_be_classes_in_a_given_order_and_of_another_name(classes: Path) -> None:
    source = read(classes, {"label": None, "animal": {"column": "label", "classes": ["dog", "cat"]}})
    assert source.space == LabelSpace((Task("animal", "label", ("dog", "cat")),))
    assert source.images["label_animal"].tolist() == [1, 1, 0]


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "loose.jpg", image())
    text = sentence(lambda: read(tmp_path))
    assert text == f"data.path: '{tmp_path}' has no image in a folder of its class, such as '{tmp_path}/cat/1.jpg'."
    text = sentence(lambda: read(tmp_path / "gone", kind="folders"))
    assert text == f"data.path: there is no folder '{tmp_path}/gone'."


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", True),
        ("a.JPEG", True),
        ("d/e/a.tiff", True),
        ("a.b.png", True),
        (".jpg", False),
        ("._a.jpg", False),
        (".d/a.jpg", False),
        ("a.txt", False),
        ("jpg", False),
        ("a.jpg.part", False),
    ],
)
def test_images_are_told_by_their_names(name: str, expected: bool) -> None:
    assert is_image(name) == expected


# --- URLs


@pytest.fixture
def upload() -> Iterator[Callable[[Path], str]]:
    """Copies a folder into fsspec's memory and gives its URL."""
    system = fsspec.filesystem("memory")

    def copy(root: Path) -> str:
        for path in root.rglob("*"):
            if path.is_file():
                system.pipe(f"/test_sources/{path.relative_to(root)}", path.read_bytes())
        return "memory://test_sources"

    yield copy
    if system.exists("/test_sources"):
        system.rm("/test_sources", recursive=True)


LOCAL = ["path", "stamp"]  # what differs between a folder and its copy behind a URL


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_people_behind_a_url_are_read_as_if_they_lay_here(root: Path, upload: Callable[[Path], str], scheme: str) -> None:
    write(photos(root) / "normal.jpg", b"")
    url = upload(root) if scheme == "memory" else f"file://{root}"
    here, there = read(root, max_rejected=0.1), read(url, max_rejected=0.1)
    pd.testing.assert_frame_equal(there.images.drop(columns=LOCAL), here.images.drop(columns=LOCAL))
    pd.testing.assert_frame_equal(there.rejected, here.rejected)
    assert there.images["path"].str.startswith(f"{url}/train/images/").all()
    assert decode_file(there.images["path"].iloc[0], [InputSpec(4, 4, 1.0)])[0] == ""


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_a_table_behind_a_url_is_read_as_if_it_lay_here(table: Path, upload: Callable[[Path], str], scheme: str) -> None:
    url = upload(table.parent) if scheme == "memory" else f"file://{table.parent}"
    here, there = read(table, ["label"]), read(f"{url}/all.csv", ["label"])
    pd.testing.assert_frame_equal(there.images.drop(columns=LOCAL), here.images.drop(columns=LOCAL))
    assert there.images["path"].iloc[0] == f"{url}/0.jpg"


def test_folders_of_classes_behind_a_url_are_read_as_if_they_lay_here(classes: Path, upload: Callable[[Path], str]) -> None:
    here, there = read(classes), read(upload(classes))
    pd.testing.assert_frame_equal(there.images.drop(columns=LOCAL), here.images.drop(columns=LOCAL))


def test_a_table_here_may_name_images_behind_urls(table: Path, upload: Callable[[Path], str]) -> None:
    url = upload(table.parent)
    rewrite(table, lambda rows: rows.assign(image=[f"{url}/{name}" for name in rows["image"]]))
    (table.parent / "0.jpg").unlink()
    assert len(read(table, ["label"], max_rejected=0).images) == 6


def test_nothing_behind_a_url_is_refused() -> None:
    assert sentence(lambda: read("memory://nothing/here")) == "data.path: there is nothing at 'memory://nothing/here'."
    assert sentence(lambda: read("nonsense://bucket")).startswith("'nonsense://bucket' cannot be opened: ")


# --- test sets


def open_test(data: dict[str, Any]) -> sources.TestSet:
    found = read_test(DataConfig(**data), SPACE)
    assert found is not None
    return found


@pytest.fixture
def info(root: Path) -> Path:
    names = ["c.jpg", "a.jpg", "b.jpg"]
    for shade, name in enumerate(names):
        write(root / "eval" / "images" / name, image(shade))
    return write_table(root / "eval" / "info.csv", [("ImageID", "ans"), *((name, "0") for name in names)])


def competition(root: Path, **data: Any) -> dict[str, Any]:
    return {"kind": "competition", "path": str(root), **data}


def test_test_images_are_in_the_order_of_their_file(root: Path, info: Path) -> None:
    found = open_test(competition(root))
    assert found.images["image_id"].tolist() == ["c.jpg", "a.jpg", "b.jpg"]
    assert found.images["path"].tolist() == [str(root / "eval" / "images" / name) for name in ("c.jpg", "a.jpg", "b.jpg")]
    assert found.joint_column == "ans"
    assert found.template is not None
    assert found.template.to_dict("list") == {"ImageID": ["c.jpg", "a.jpg", "b.jpg"], "ans": ["0", "0", "0"]}
    assert (found.images["size"] > 0).all()


@pytest.mark.parametrize("place", ["test", "."])
def test_the_test_file_is_found_in_other_places_too(root: Path, info: Path, place: str) -> None:
    (root / "eval").rename(root / "moved")
    for part in ("info.csv", "images"):
        (root / place).mkdir(exist_ok=True)
        (root / "moved" / part).rename(root / place / part)
    assert len(open_test(competition(root)).images) == 3


def test_another_test_file_can_be_named(root: Path, info: Path, tmp_path: Path) -> None:
    info.parent.rename(tmp_path / "other")
    assert read_test(DataConfig(**competition(root)), SPACE) is None
    assert len(open_test(competition(root, test=str(tmp_path / "other" / "info.csv"))).images) == 3


def test_images_that_are_missing_are_kept_without_a_size(root: Path, info: Path) -> None:
    (root / "eval" / "images" / "a.jpg").unlink()
    write(root / "eval" / "images" / "b.jpg", b"")
    found = open_test(competition(root)).images
    assert found["image_id"].tolist() == ["c.jpg", "a.jpg", "b.jpg"]
    assert found["size"].tolist()[1:] == [files.MISSING, 0]


def test_an_image_that_is_named_twice_is_refused(root: Path, info: Path) -> None:
    write_table(info, [("ImageID", "ans"), *((name, "0") for name in "abcab")])
    text = sentence(lambda: open_test(competition(root)))
    assert text == "the test set names an image twice: a, b; each must be there once."


@pytest.mark.parametrize("column", ["ImageID", "ans"])
def test_a_test_file_without_a_column_is_refused(root: Path, info: Path, column: str) -> None:
    rewrite(info, lambda rows: rows.drop(columns=column))
    assert sentence(lambda: open_test(competition(root))).startswith(f"'{info}' has no column '{column}'; it has '")


def test_a_test_file_without_rows_is_refused(root: Path, info: Path) -> None:
    write_table(info, [("ImageID", "ans")])
    assert sentence(lambda: open_test(competition(root))) == f"data.test: '{root}' names no image."


@pytest.mark.parametrize("kind", ["csv", "folders", "competition"])
def test_a_folder_can_be_the_test_set_of_any_layout(root: Path, classes: Path, kind: str) -> None:
    found = open_test({"kind": kind, "path": str(root), "test": str(classes)})
    assert found.images["image_id"].tolist() == ["cat/1.jpg", "cat/deep/2.PNG", "dog/1.jpg", "loose.jpg"]
    assert found.images["path"].iloc[0] == str(classes / "cat/1.jpg")
    assert found.template is None
    assert found.joint_column is None


def test_a_folder_without_images_is_no_open_test(tmp_path: Path) -> None:
    write(tmp_path / "notes.txt", b"no image")
    assert sentence(lambda: open_test({"kind": "csv", "test": str(tmp_path)})) == f"data.test: '{tmp_path}' names no image."


def test_a_table_can_be_the_open_test(table: Path) -> None:
    rewrite(table, lambda rows: rows[::-1].assign(key=list("fedcba")))
    found = open_test({"kind": "csv", "path": "unread.csv", "test": str(table), "id_column": "key"})
    assert found.images["image_id"].tolist() == list("fedcba")
    assert found.images["path"].iloc[0] == str(table.parent / "5.jpg")
    assert found.joint_column is None
    assert found.template is not None
    assert list(found.template) == ["image", "label", "key"]


def test_a_test_table_without_its_columns_is_refused(table: Path, tmp_path: Path) -> None:
    text = sentence(lambda: open_test({"kind": "csv", "test": str(table), "image_column": "picture"}))
    assert text == f"'{table}' has no column 'picture'; it has 'image' or 'label'."
    text = sentence(lambda: open_test({"kind": "csv", "test": str(tmp_path / "gone.csv")}))
    assert text == f"there is no file '{tmp_path / 'gone.csv'}'."


def test_without_test_data_there_is_no_open_test(root: Path) -> None:
    assert read_test(DataConfig(**competition(root)), SPACE) is None
    assert read_test(DataConfig(kind="csv", path="unread.csv"), SPACE) is None


def test_test_sets_behind_urls_are_read_as_if_they_lay_here(root: Path, info: Path, upload: Callable[[Path], str]) -> None:
    url = upload(root)
    here = open_test(competition(root)).images
    for there in (
        open_test({"kind": "competition", "path": url}).images,
        open_test(competition(root, test=f"{url}/eval/info.csv")).images,
    ):
        pd.testing.assert_frame_equal(there.drop(columns=LOCAL), here.drop(columns=LOCAL))
        assert there["path"].tolist() == [f"{url}/eval/images/{name}" for name in here["image_id"]]
    folder = open_test({"kind": "csv", "test": f"{url}/eval/images"}).images
    assert folder["image_id"].tolist() == ["a.jpg", "b.jpg", "c.jpg"]
    assert decode_file(folder["path"].iloc[0], [InputSpec(4, 4, 1.0)])[0] == ""


# --- label spaces


def test_the_label_space_of_the_competition_is_that_of_its_tasks(root: Path) -> None:
    source = read(root)
    assert label_space(source.task_configs) == source.space
    assert source.space.joint_classes[17] == "none female >=60"
    labels = {name: source.images[f"label_{name}"] for name in source.space.names}
    np.testing.assert_array_equal(source.space.join(labels), source.images["label_joint"])


def test_rows_without_a_group_are_groups_of_their_own(tmp_path: Path) -> None:
    rows = ["image,person,label"]
    for number, person in enumerate(["ann", "ann", "", ""]):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{person},{number % 2}")
    (tmp_path / "photos.csv").write_text("\n".join(rows))
    over = {"data": {"kind": "csv", "path": str(tmp_path / "photos.csv"), "group_column": "person"}, "tasks": ["label"]}
    groups = sources.read_source(validate(over)).images["group"].tolist()
    assert groups == ["ann", "ann", "2.png", "3.png"]
