"""Tests of images without labels: test sets, and what someone wants predicted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from layouts import LOCAL, image, rewrite, sentence, write, write_table

from raymask.config.data import DataConfig
from raymask.core.errors import InputError
from raymask.data.decode import decode_file
from raymask.data.specs import InputSpec
from raymask.data.test_sets import ImageList, check_missing, read_images, read_test
from raymask.data.test_sets import TestSet as Given
from raymask.io import files


def open_test(data: dict[str, Any]) -> Given:
    found = read_test(DataConfig(**data))
    assert found is not None
    return found


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
    assert read_test(DataConfig(**competition(root))) is None
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
    assert text == f"data.test: '{info}' names an image twice in column 'ImageID': a, b; each must be there once."


@pytest.mark.parametrize("column", ["ImageID", "ans"])
def test_a_test_file_without_a_column_is_refused(root: Path, info: Path, column: str) -> None:
    rewrite(info, lambda rows: rows.drop(columns=column))
    assert sentence(lambda: open_test(competition(root))).startswith(f"'{info}' has no column '{column}'; it has '")


def test_a_test_file_without_rows_is_refused(root: Path, info: Path) -> None:
    write_table(info, [("ImageID", "ans")])
    assert sentence(lambda: open_test(competition(root))) == f"data.test: '{info}' names no image."


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
    assert read_test(DataConfig(**competition(root))) is None
    assert read_test(DataConfig(kind="csv", path="unread.csv")) is None


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


@pytest.fixture
def info(root: Path) -> Path:
    names = ["c.jpg", "a.jpg", "b.jpg"]
    for shade, name in enumerate(names):
        write(root / "eval" / "images" / name, image(shade))
    return write_table(root / "eval" / "info.csv", [("ImageID", "ans"), *((name, "0") for name in names)])


def test_images_that_all_are_missing_are_refused_with_the_paths_that_were_tried(root: Path, info: Path) -> None:
    found = open_test(competition(root, test_root=str(root / "wrong")))
    assert sentence(lambda: check_missing(found, 0.5, "data.test_root")) == (
        f"3 of 3 test images cannot be read (3× the file is missing, such as '{root}/wrong/c.jpg'); set data.test_root to the "
        "folder that their paths start from, mend them, or raise data.max_missing_test (now 0.5)."
    )
    assert check_missing(found, 1, "data.test_root").startswith("3 of 3 test images cannot be read (3× ")
    assert check_missing(open_test(competition(root)), 0, "data.test_root") == ""


def test_some_missing_images_are_said(root: Path, info: Path) -> None:
    (root / "eval" / "images" / "a.jpg").unlink()
    write(root / "eval" / "images" / "b.jpg", b"")
    found = open_test(competition(root))
    assert check_missing(found, 0.7, "data.test_root") == (
        f"2 of 3 test images cannot be read (1× the file is missing, such as '{root}/eval/images/a.jpg'; 1× the file is empty, "
        f"such as '{root}/eval/images/b.jpg'); they get the classes' frequencies"
    )
    with pytest.raises(InputError, match="2 of 3 test images"):
        check_missing(found, 0.6, "data.test_root")


def test_paths_of_a_test_file_start_from_a_root_of_their_own(table: Path, tmp_path: Path) -> None:
    asked = table.rename(tmp_path / "asked.csv")
    data = {"kind": "csv", "path": "unread.csv", "test": str(asked), "image_root": "/photos/of/training"}
    assert open_test(data).images["path"].iloc[0] == "/photos/of/training/0.jpg"
    found = open_test({**data, "test_root": str(tmp_path / "csv")}).images
    assert (found["problem"] == "").all()


def test_images_to_predict_start_from_a_root_that_is_given(table: Path, tmp_path: Path) -> None:
    asked = table.rename(tmp_path / "asked.csv")
    assert set(read_images(ImageList(str(asked)), DataConfig()).images["problem"]) == {"the file is missing"}
    found = read_images(ImageList(str(asked), root=str(tmp_path / "csv")), DataConfig()).images
    assert (found["problem"] == "").all()


class TestGroups:
    """Test images that come with a column of groups."""

    @pytest.fixture
    def grouped(self, table: Path) -> Path:
        rewrite(table, lambda rows: rows.assign(person=["7", "8", "07", "", "8", " "]))
        return table

    @staticmethod
    def together(found: Given) -> list[list[int]]:
        """Rows of the groups that have several."""
        rows = found.images.groupby("group").indices.values()
        return sorted(list(map(int, of_group)) for of_group in rows if len(of_group) > 1)

    def test_by_a_column_that_is_named(self, grouped: Path) -> None:
        found = open_test({"kind": "csv", "path": "unread.csv", "test": str(grouped), "test_group_column": "person"})
        assert self.together(found) == [[0, 2], [1, 4]]
        assert found.images["group"].nunique() == 4
        assert found.remarks == (
            "groups written in several ways are taken as one: 1, such as '07' and '7'",
            "2 images have no group; each is a group of its own",
        )

    def test_by_that_of_the_training_table_where_it_is_there(self, grouped: Path) -> None:
        data = {"kind": "csv", "path": "unread.csv", "test": str(grouped)}
        assert self.together(open_test({**data, "group_column": "person"})) == [[0, 2], [1, 4]]
        for other in ({}, {"group_column": "patient"}):
            assert "group" not in open_test({**data, **other}).images

    def test_in_the_layout_of_the_competition(self, root: Path, info: Path) -> None:
        rewrite(info, lambda rows: rows.assign(person=["p", "q", "p"]))
        assert self.together(open_test(competition(root, test_group_column="person"))) == [[0, 2]]
        assert "group" not in open_test(competition(root)).images

    def test_a_column_that_is_not_there_is_refused(self, grouped: Path) -> None:
        text = sentence(lambda: open_test({"kind": "csv", "test": str(grouped), "test_group_column": "patient"}))
        assert text == f"'{grouped}' has no column 'patient'; it has 'image', 'label' or 'person'."

    def test_a_column_of_no_file_is_refused(self, root: Path) -> None:
        text = sentence(lambda: read_test(DataConfig(**competition(root, test_group_column="person"))))
        assert text.startswith("data.test_group_column is 'person', but there is no test file that could have such a column; ")

    def test_images_to_predict(self, grouped: Path) -> None:
        def asked(data: DataConfig, **listed: Any) -> Given:
            return read_images(ImageList(str(grouped), **listed), data)

        assert self.together(asked(DataConfig(), group_column="person")) == [[0, 2], [1, 4]]
        assert self.together(asked(DataConfig(group_column="person"))) == [[0, 2], [1, 4]]
        assert self.together(asked(DataConfig(test_group_column="person"))) == [[0, 2], [1, 4]]
        assert "group" not in asked(DataConfig(test_group_column="patient")).images
        assert self.together(asked(DataConfig(group_column="person"), group_column="label")) == [[0, 2, 4], [1, 3, 5]]

    def test_images_of_a_folder_by_the_folder_that_each_lies_in(self, classes: Path) -> None:
        write(classes / "cat" / "3.jpg", image())
        write(classes / "other.jpg", image())
        found = read_images(ImageList(str(classes), by_folder=True), DataConfig())
        assert found.images["image_id"].tolist() == [
            "cat/1.jpg", "cat/3.jpg", "cat/deep/2.PNG", "dog/1.jpg", "loose.jpg", "other.jpg",
        ]  # fmt: skip
        assert self.together(found) == [[0, 1]]
        assert sorted(set(found.images["group"])) == list(range(5))

    def test_a_column_of_a_folder_and_folders_of_a_table_are_refused(self, classes: Path, grouped: Path) -> None:
        text = sentence(lambda: read_images(ImageList(str(classes), group_column="person"), DataConfig()))
        assert text == (
            f"--group-column is 'person', but '{classes}' is a folder of images, which has no columns; give --group-by-folder "
            "where the images of one group lie in one folder, or name images and groups in a table."
        )
        text = sentence(lambda: read_images(ImageList(str(grouped), by_folder=True), DataConfig()))
        assert text == f"--group-by-folder: '{grouped}' is a table; name its column of groups by --group-column."
