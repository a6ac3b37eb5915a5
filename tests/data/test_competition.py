"""Tests of the competition's layout: what becomes the table of images, and what is set aside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from layouts import PEOPLE, aside, folder_of, image, photos, read, sentence, write, write_people, write_table

from raymask.config.data import DataConfig
from raymask.config.loading import dump_config, load_config, validate
from raymask.config.schema import resolve_members
from raymask.config.tasks import label_space
from raymask.data.competition import COMPETITION_TASKS, PHOTOS
from raymask.data.kinds import resolve_kind
from raymask.data.sources import read_source

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
    assert sorted(table.columns) == sorted(["image_id", "path", "group", *labels, "value_age", "size", "stamp"])
    assert {str(table[name].dtype) for name in [*labels, "size"]} == {"int64"}
    assert str(table["value_age"].dtype) == "float64"


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
    assert sentence(lambda: read(root)) == f"'{table}' cannot be read as a CSV file: No columns to parse from file."
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
