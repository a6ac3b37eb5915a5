"""Tests of the way from data to the table of images, of a generic CSV first of all; and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from layouts import LOCAL, aside, image, photos, read, rewrite, sentence, write, write_table
from PIL import Image

from raymask.config.loading import validate
from raymask.config.tasks import label_space
from raymask.data import sources
from raymask.data.decode import decode_file
from raymask.data.specs import InputSpec

# --- a generic CSV


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


OURS = ["group", "size", "path", "stamp", "image_id", "problem", "label_label", "train_label_label", "label_joint", "fold"]


@pytest.mark.parametrize("name", OURS)
def test_columns_that_have_our_names_are_read_as_any_other(table: Path, name: str) -> None:
    rewrite(table, lambda rows: rows.assign(person=list("aabbcc")))
    before = read(table, ["label"], group_column="person").images
    rows = pd.read_csv(table, dtype=str)
    rows.assign(**{name: "noise"}).to_csv(table, index=False)
    pd.testing.assert_frame_equal(read(table, ["label"], group_column="person").images, before)
    rows.rename(columns={"label": name}).to_csv(table, index=False)
    pd.testing.assert_frame_equal(read(table, {"label": {"column": name}}, group_column="person").images, before)
    rows.rename(columns={"person": name}).to_csv(table, index=False)
    pd.testing.assert_frame_equal(read(table, ["label"], group_column=name).images, before)
    rows.rename(columns={"image": name}).to_csv(table, index=False)
    pd.testing.assert_frame_equal(read(table, ["label"], group_column="person", image_column=name).images, before)
    rows.rename(columns={"person": name}).to_csv(table, index=False)
    rewrite(table, lambda rows: rows.assign(**{name: list("fedcba")}))
    assert read(table, ["label"], id_column=name).images["image_id"].tolist() == list("abcdef")


def test_a_column_named_like_a_tasks_own_labels_changes_no_label(table: Path) -> None:
    rewrite(table, lambda rows: rows.assign(mask=rows["label"], label_mask=["y", "x"] * 3, train_label_mask="0"))
    source = read(table, ["mask"])
    assert source.images["label_mask"].tolist() == source.images["train_label_mask"].tolist() == [0, 1] * 3


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


def test_rows_with_faults_are_set_aside_with_their_reason(table: Path) -> None:
    write(table.parent / "4.jpg", b"")
    rows = [("image", "label"), *((f"{n}.jpg", "xy"[n % 2]) for n in range(5))]
    write_table(table, [*rows, ("5.jpg", "z"), ("gone.jpg", "x"), ("", "x"), ("0.jpg", "y"), ("1.jpg", "")])
    table.write_text(table.read_text() + "2.jpg\n")  # a row that was cut
    source = read(table, {"label": {"classes": ["x", "y"]}}, max_rejected=1)
    assert source.images["image_id"].tolist() == ["1.jpg", "2.jpg", "3.jpg"]
    assert source.images["label_label"].tolist() == [1, 0, 1]
    assert aside(source) == {
        "5.jpg": "label is 'z', none of x, y",
        "1.jpg": "label is empty",
        "2.jpg": "label is empty",
        "gone.jpg": "the file is missing",
        "row 08": "its path is empty",
        "4.jpg": "the file is empty",
        "0.jpg": "the file is there more than once, with different labels",
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
        (["lable"], {}, "tasks.lable: there is no column 'lable'; it may be 'label' (the nearest)."),
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
        (b'image,label\n"0.jpg,x\n', "EOF inside string starting at row"),
        (b"image,label\n0.jpg,x\n1.jpg,y,z,z\n", "its line 3 has 4 values, and its header 2."),
        (b"image,label\n0.jpg,x,1\n1.jpg,y,2\n", "its line 2 has 3 values, and its header 2."),
    ],
)
def test_a_file_that_is_no_table_is_refused(table: Path, content: bytes, problem: str) -> None:
    table.write_bytes(content)
    text = sentence(lambda: read(table, ["label"]))
    assert text.startswith(f"'{table}' cannot be read as a CSV file: ")
    assert problem in text


def test_a_column_of_captions_is_refused_with_the_one_that_holds_paths(table: Path) -> None:
    rewrite(table, lambda rows: rows.rename(columns={"image": "file"}).assign(image=["a dog runs. " * 30] * 6))
    text = sentence(lambda: read(table, ["label"]))
    assert text == (
        f"column 'image' of '{table}' holds no paths of images, but values such as '{('a dog runs. ' * 30)[:60]}'; the paths "
        "seem to be in column 'file' (data.image_column, or --image-column of predict)."
    )
    rewrite(table, lambda rows: rows.drop(columns="file"))
    assert "; name the column of the images' paths (" in sentence(lambda: read(table, ["label"]))


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


# --- URLs


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
