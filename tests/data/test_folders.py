"""Tests of folders of classes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from layouts import aside, image, read, sentence, write

from raymask.config.data import DataConfig
from raymask.core.tasks import LabelSpace, Task
from raymask.data.decode import decode_file
from raymask.data.specs import InputSpec
from raymask.data.test_sets import read_test


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


# --- parts of a split


def draw(root: Path, *names: str) -> Path:
    for name in names:
        write(root / name, image())
    return root


SPLIT = ("train/cat/1.jpg", "train/dog/1.jpg", "val/cat/2.jpg", "val/dog/2.jpg", "test/cat/3.jpg", "test/dog/3.jpg")


def renamed(names: Iterable[str], words: dict[str, str]) -> list[str]:
    return [name.replace(old, new) for name in names for old, new in words.items() if name.startswith(f"{old}/")]


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Training", "Validation", "Testing"),
        ("seg_train", "dev", "seg_test"),
        ("train2017", "valid", "eval"),
    ],
)
def test_parts_of_a_split_are_no_classes(tmp_path: Path, train: str, val: str, test: str) -> None:
    draw(tmp_path, *renamed(SPLIT, {"train": train, "val": val, "test": test}))
    source = read(tmp_path)
    assert source.space["label"].classes == ("cat", "dog")
    assert source.images["image_id"].tolist() == sorted(
        [f"{train}/cat/1.jpg", f"{train}/dog/1.jpg", f"{val}/cat/2.jpg", f"{val}/dog/2.jpg"]
    )
    [said] = source.remarks
    assert said == (
        f"the images below {' and '.join(sorted((train, val)))} are for training (raymask divides them into folds itself); those "
        f"below {test} are not: they are the test images, unless data.test names others"
    )
    found = read_test(DataConfig(kind="folders", path=str(tmp_path)))
    assert found is not None
    assert found.images["image_id"].tolist() == [f"{test}/cat/3.jpg", f"{test}/dog/3.jpg"]
    assert decode_file(found.images["path"].iloc[0], [InputSpec(4, 4, 1.0)])[0] == ""


def test_test_images_of_a_split_need_no_classes(tmp_path: Path) -> None:
    draw(tmp_path, *SPLIT[:2], "test/3.jpg", "test/4.jpg")
    found = read_test(DataConfig(kind="folders", path=str(tmp_path)))
    assert found is not None
    assert found.images["image_id"].tolist() == ["test/3.jpg", "test/4.jpg"]


def test_another_test_set_takes_the_place_of_that_of_a_split(tmp_path: Path) -> None:
    draw(tmp_path / "split", *SPLIT)
    draw(tmp_path / "other", "9.jpg")
    found = read_test(DataConfig(kind="folders", path=str(tmp_path / "split"), test=str(tmp_path / "other")))
    assert found is not None
    assert found.images["image_id"].tolist() == ["9.jpg"]


def test_a_split_may_lie_in_the_folders_of_the_classes(tmp_path: Path) -> None:
    draw(tmp_path, "cat/train/1.jpg", "cat/test/2.jpg", "dog/train/1.jpg", "dog/test/2.jpg")
    source = read(tmp_path)
    assert source.space["label"].classes == ("cat", "dog")
    assert source.images["image_id"].tolist() == ["cat/train/1.jpg", "dog/train/1.jpg"]
    found = read_test(DataConfig(kind="folders", path=str(tmp_path)))
    assert found is not None
    assert found.images["image_id"].tolist() == ["cat/test/2.jpg", "dog/test/2.jpg"]


def test_without_a_part_for_tests_there_is_no_test_set(tmp_path: Path) -> None:
    draw(tmp_path, *SPLIT[:4])
    assert read_test(DataConfig(kind="folders", path=str(tmp_path))) is None
    assert read_test(DataConfig(kind="folders", path=str(tmp_path / "gone"))) is None


@pytest.mark.parametrize(
    "names", [("train/1.jpg", "bus/1.jpg"), ("train station/1.jpg", "bus/1.jpg"), ("cat/1.jpg", "dog/train/1.jpg")]
)
def test_one_folder_that_is_called_like_a_part_of_a_split_is_a_class(tmp_path: Path, names: tuple[str, ...]) -> None:
    draw(tmp_path, *names)
    source = read(tmp_path)
    assert source.space["label"].classes == tuple(sorted({name.split("/")[0] for name in names}))
    assert source.remarks == ()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            (*SPLIT, "extra/1.jpg"),
            "data.path: '{root}' has parts of a split (test, train, val) beside other folders (extra); give the training images "
            "alone by --data '{root}/train' and the test images by --test, or move the other folders away.",
        ),
        (
            SPLIT[2:],
            "data.path: the folders of '{root}' (test, val) are parts of a split, but none is for training; give the folder that "
            "holds a folder for each class.",
        ),
        (
            ("train/1.jpg", "test/2.jpg"),
            "data.path: '{root}' has no image in a folder of its class, such as '{root}/train/cat/1.jpg'.",
        ),
    ],
)
def test_a_split_that_is_not_clear_is_refused(tmp_path: Path, names: tuple[str, ...], expected: str) -> None:
    draw(tmp_path, *names)
    assert sentence(lambda: read(tmp_path)) == expected.format(root=tmp_path)


# --- what is left out is said


def test_what_is_left_out_is_said(classes: Path) -> None:
    for name in ("cat/3.heic", "dog/4.HEIC", "dog/README", "bird/notes.txt"):
        write(classes / name, b"?")
    (classes / "fish").mkdir()
    assert read(classes).remarks == (
        "5 files are left out, whose names are not those of images: 2× .txt, 2× .heic, 1× no suffix",
        "1 images lie in no class's folder and are left out",
        "these folders hold no image and are no classes: bird, fish",
    )


def test_a_class_without_images_in_a_split_is_said(tmp_path: Path) -> None:
    draw(tmp_path, *SPLIT)
    (tmp_path / "train" / "fish").mkdir()
    assert read(tmp_path).remarks[-1] == "these folders hold no image and are no classes: train/fish"


def test_pipes_sockets_and_devices_are_set_aside(classes: Path) -> None:
    os.mkfifo(classes / "cat" / "pipe.jpg")
    (classes / "dog" / "zero.png").symlink_to("/dev/zero")
    why = "it is no regular file, but a pipe, a socket or a device"
    assert aside(read(classes, max_rejected=0.5)) == {"cat/pipe.jpg": why, "dog/zero.png": why}
    os.mkfifo(classes / "pipe.csv")
    assert sentence(lambda: read(classes / "pipe.csv", ["label"])).endswith(f"cannot be read: {why}.")
