"""Tests of whether a run's images are those that it began with."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from raymask.config.schema import RunConfig
from raymask.core.errors import InputError
from raymask.core.tasks import LabelSpace, Task
from raymask.io.atomic import write_table
from raymask.runs.digests import with_digests
from raymask.runs.directory import Run
from raymask.runs.identity import changes, check_source, check_unchanged, keep_source, relocate

SPACE = LabelSpace((Task("mask", "mask", ("worn", "none")), Task("age", "age", ("<30", ">=30"))))
IMAGES = pd.DataFrame(
    {
        "image_id": ["a", "b", "c"],
        "path": ["/old/a.jpg", "/old/b.jpg", "/old/c.jpg"],
        "group": ["p", "p", "q"],
        "label_mask": [0, 1, 0],
        "train_label_mask": [0, 1, 0],
        "label_age": [0, 1, 1],
        "train_label_age": [0, 1, 0],
        "label_joint": [0, 3, 1],
        "train_label_joint": [0, 3, 0],
        "size": [1, 2, 3],
        "stamp": ["1", "2", "3"],
        "digest": ["aa", "bb", "cc"],
    }
)
MOVED = IMAGES.assign(path=["/new/a", "/new/b", "/new/c"], size=[1, 2, 4], stamp="9")


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (MOVED, []),
        (IMAGES[:2], ["1 of 3 images are gone or set aside, such as 'c'"]),
        (IMAGES.assign(digest=["aa", "xx", "yy"]), ["2 images have another content, such as 'b'"]),
        (IMAGES.assign(group=["p", "r", "q"]), ["1 images have another group, such as 'b', which was 'p' and is 'r'"]),
        (IMAGES.assign(label_mask=[1, 1, 0]), ["1 images have another mask, such as 'a', which was 'worn' and is 'none'"]),
        (
            IMAGES.assign(image_id=["a", "b", "d"]),
            ["1 of 3 images are gone or set aside, such as 'c'", "1 images were added, such as 'd'"],
        ),
        (IMAGES.assign(train_label_age=[0, 0, 0]), ["1 images have another age to learn, such as 'b', which was '1' and is '0'"]),
    ],
)
def test_what_changed_is_said(now: pd.DataFrame, told: list[str]) -> None:
    assert list(changes(IMAGES, now, SPACE)) == told


def test_a_run_keeps_to_the_images_that_it_began_with(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    check_source(run, IMAGES, SPACE)
    keep_source(run, IMAGES)
    check_source(run, MOVED, SPACE)
    with pytest.raises(InputError, match=r"since it began, 1 images have another mask, .* \(and 1 more kinds of changes\); put"):
        check_source(run, IMAGES.assign(label_mask=[1, 1, 0], label_joint=[2, 3, 1]), SPACE)
    keep_source(run, IMAGES[:1])
    check_source(run, IMAGES, SPACE)


def test_a_manifest_of_images_that_lie_elsewhere_now_is_written_anew(tmp_path: Path) -> None:
    file = tmp_path / "manifest.parquet"
    write_table(file, IMAGES.assign(fold=[0, 1, 0]))
    before = file.stat().st_mtime_ns
    pd.testing.assert_frame_equal(relocate(file, IMAGES[::-1]), IMAGES.assign(fold=[0, 1, 0]))
    assert file.stat().st_mtime_ns == before
    expected = MOVED.assign(fold=[0, 1, 0])
    expected.loc[2, ["path", "size", "stamp"]] = IMAGES.loc[2, ["path", "size", "stamp"]]
    pd.testing.assert_frame_equal(relocate(file, MOVED[:2]), expected)
    pd.testing.assert_frame_equal(pd.read_parquet(file), expected)


def test_a_manifest_without_digests_gets_them(tmp_path: Path) -> None:
    file = tmp_path / "manifest.parquet"
    write_table(file, IMAGES.drop(columns="digest"))
    assert relocate(file, IMAGES)["digest"].tolist() == ["aa", "bb", "cc"]


def test_files_that_change_while_they_are_used_are_refused(tmp_path: Path) -> None:
    config, file = RunConfig(cache=tmp_path / "cache"), tmp_path / "a.jpg"
    file.write_bytes(b"one")
    images = with_digests(pd.DataFrame({"image_id": ["a"], "path": [str(file)]}), config)
    check_unchanged(images, config, "test images")
    file.write_bytes(b"two")
    with pytest.raises(InputError, match=r"^1 test images have changed since they were read, such as 'a'; start the same"):
        check_unchanged(images, config, "test images")
    file.write_bytes(b"one")
    check_unchanged(images, config, "test images")
