"""Tests of folders of classes."""

from __future__ import annotations

from pathlib import Path

from layouts import aside, image, read, sentence, write

from raymask.tasks import LabelSpace, Task


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
