"""Tests of tables as files."""

from __future__ import annotations

import bz2
import datetime
import decimal
import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layouts import aside, image, read, sentence, write, write_table

from raymask.config.data import DataConfig
from raymask.config.loading import validate
from raymask.core.errors import InputError
from raymask.data.decode import decode_file
from raymask.data.rejected import check_rejected, is_image
from raymask.data.specs import InputSpec
from raymask.data.tables import need_columns, read_table
from raymask.data.test_sets import ImageList, read_images, read_test
from raymask.io import embedded, files


def test_values_are_kept_as_they_are_written(table: Path) -> None:
    write_table(table, [("a", "b"), ("007", "1.50"), ("NA", ""), ("null", "1e3")])
    assert read_table(str(table), DataConfig()).values.to_numpy().tolist() == [["007", "1.50"], ["NA", ""], ["null", "1e3"]]


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


# --- encodings, separators and packed files

ROWS = "image,label\n0.jpg,마스크\n1.jpg,안경을\n2.jpg,모자도\n"
WANTED = [["0.jpg", "마스크"], ["1.jpg", "안경을"], ["2.jpg", "모자도"]]


def rows_of(path: Path, **data: Any) -> list[list[str]]:
    table = read_table(str(path), DataConfig(**data)).values
    assert list(table) == ["image", "label"]
    return table.to_numpy().tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "pack", [gzip.compress, bz2.compress, lzma.compress, lambda content: gzip.compress(gzip.compress(content), mtime=0)]
)
def test_packed_tables_are_read_whatever_they_are_called(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    for name in ("table.csv.gz", "table.csv"):
        assert rows_of(write(tmp_path / name, pack(ROWS.encode()))) == WANTED
    assert rows_of(write(tmp_path / "table.tsv.gz", pack(ROWS.replace(",", "\t").encode()))) == WANTED


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp949", "euc_kr", "utf-16", "utf-16-le", "utf-32", "johab"])
def test_tables_of_other_encodings_are_read_when_they_are_named(tmp_path: Path, encoding: str) -> None:
    assert rows_of(write(tmp_path / "table.csv", ROWS.encode(encoding)), encoding=encoding) == WANTED


@pytest.mark.parametrize(("separator", "given"), [(";", ";"), ("\t", "tab"), ("\t", "\\t"), ("|", "|"), (" ", " ")])
def test_tables_of_other_separators_are_read_when_they_are_named(tmp_path: Path, separator: str, given: str) -> None:
    assert rows_of(write(tmp_path / "table.csv", ROWS.replace(",", separator)), separator=given) == WANTED


@pytest.mark.parametrize(
    ("content", "data", "said"),
    [
        (ROWS.encode("utf-16"), {}, "is written in UTF-16; say so by --set data.encoding=utf-16."),
        (ROWS.encode("utf-32"), {}, "is written in UTF-32; say so by --set data.encoding=utf-32."),
        (
            ROWS.encode("cp949"),
            {},
            "is not written in UTF-8 (see line 2); name its encoding by --set data.encoding=…",
        ),
        ("image,label\na.jpg,é\n".encode("cp1252"), {}, "is not written in UTF-8 (see line 2); name its encoding"),
        ("image,label\na.jpg,x\n".encode("utf-16-le"), {}, "holds NUL characters, as no CSV file does; if it is UTF-16"),
        (
            ROWS.encode(),
            {"encoding": "cp949"},
            "is not written in CP949 (see line 2); data.encoding is 'cp949'",
        ),
        (ROWS.encode(), {"encoding": "latin-1"}, "is written in UTF-8, but data.encoding is 'latin-1'; leave that out."),
        ("image,label\na.jpg,é\n".encode(), {"encoding": "cp1252"}, "is written in UTF-8, but data.encoding is 'cp1252'"),
        (ROWS.replace(",", ";").encode(), {}, "are separated by ';', not by ','; say so by --set \"data.separator=';'\"."),
        (ROWS.replace(",", "\t").encode(), {}, "are separated by '\\t', not by ','; say so by --set \"data.separator=tab\"."),
        (ROWS.encode(), {"separator": ";"}, "are separated by ',', not by ';'; say so by --set \"data.separator=','\"."),
        (b"PK\x03\x04" + bytes(100), {}, "is an Excel or a ZIP file; save the table as CSV in UTF-8, or unpack it."),
        (image(), {}, "is an image and no table of images; give the folder that it lies in."),
        (gzip.compress(image(kind="PNG"), mtime=0), {}, "is an image and no table of images; give the folder that it lies in."),
        (gzip.compress(ROWS.encode(), mtime=0)[:-12], {}, "cannot be read: the file cannot be read (Compressed file ended"),
        (b"PAR1" + bytes(100), {}, "cannot be read as a Parquet file: "),
        (b"", {}, "cannot be read as a CSV file: No columns to parse from file."),
        (bytes(100), {}, "holds NUL characters, as no CSV file does"),
    ],
)
def test_what_cannot_be_read_is_said_with_what_to_do(tmp_path: Path, content: bytes, data: dict[str, Any], said: str) -> None:
    path = write(tmp_path / "table.csv", content)
    text = sentence(lambda: read_table(str(path), DataConfig(**data)))
    assert f"'{path}' {said}" in text


@pytest.mark.parametrize("letters", ["가나다라마바사아자차카타파하", "あいうえお", "äöüß", "жзий", "中文字符"])
@pytest.mark.parametrize("encoding", ["cp949", "shift_jis", "gb18030", "big5", "cp1252", "koi8_r", "latin-1"])
def test_no_pair_of_encodings_gives_other_letters_than_were_written_without_a_word(
    letters: str, encoding: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "table.csv", f"image,label\na.jpg,{letters}\n".encode())
    try:
        read = read_table(str(path), DataConfig(encoding=encoding)).values["label"].tolist()
    except InputError:
        return
    assert read == [letters]


@pytest.mark.parametrize("key", ["encoding", "separator"])
@pytest.mark.parametrize("value", ["hex", "klingon", "", ";;", '"'])
def test_encodings_and_separators_that_are_none_are_refused(key: str, value: str) -> None:
    with pytest.raises(InputError, match=f"data.{key}"):
        validate({"data": {key: value}})


def test_pipes_and_devices_are_no_tables(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (str(tmp_path / "pipe.csv"), "/dev/zero"):
        with pytest.raises(InputError, match="cannot be read: it is no regular file"):
            read_table(path, DataConfig())


def test_headers_are_kept_as_they_are_written(tmp_path: Path) -> None:
    table = read_table(str(write(tmp_path / "table.csv", "image,,label,label, x \na.jpg,1,2,3,4\nb.jpg\n")), DataConfig())
    assert list(table.values) == ["image", "", "label", "label", " x "]
    assert table.values.to_numpy().tolist() == [["a.jpg", "1", "2", "3", "4"], ["b.jpg", "", "", "", ""]]
    need_columns(table, ["image"], "table.csv")
    assert (
        sentence(lambda: need_columns(table, ["label"], "table.csv"))
        == "'table.csv' has 2 columns 'label'; give the one that is meant a name of its own."
    )


# --- Parquet


def parquet(path: Path, groups: int = 2, **columns: Any) -> Path:
    table = pa.table(columns)
    pq.write_table(table, path, row_group_size=max(1, len(table) // groups))
    return path


@pytest.mark.parametrize(
    ("values", "kind", "texts"),
    [
        (["a", None, "None", "nan", ""], pa.string(), ["a", "", "None", "nan", ""]),
        ([1, None, -3], pa.int64(), ["1", "", "-3"]),
        ([1.0, None, 0.5, float("nan"), 1e300, 2.0**60], pa.float64(), ["1", "", "0.5", "", "1e+300", "1.152921504606847e+18"]),
        ([0.1, None, 7.0], pa.float32(), ["0.1", "", "7"]),
        ([0.1, 3.0], pa.float16(), ["0.1", "3"]),
        ([True, None, False], pa.bool_(), ["True", "", "False"]),
        ([datetime.date(2024, 1, 31), None], pa.date32(), ["2024-01-31", ""]),
        ([datetime.datetime(2024, 1, 31, 12), None], pa.timestamp("us"), ["2024-01-31 12:00:00", ""]),
        ([decimal.Decimal("1.50"), None], pa.decimal128(5, 2), ["1.50", ""]),
        ([b"text", None, "글".encode()], pa.binary(), ["text", "", "글"]),
        ([["a", "b"], None], pa.list_(pa.string()), ['["a", "b"]', ""]),
        ([None, None], pa.null(), ["", ""]),
    ],
)
def test_every_type_of_parquet_becomes_a_text_and_a_null_nothing(
    tmp_path: Path, values: list[Any], kind: pa.DataType, texts: list[str]
) -> None:
    path = parquet(tmp_path / "table.parquet", column=pa.array(values, kind))
    assert read_table(str(path), DataConfig()).values["column"].tolist() == texts


def test_categories_and_rows_of_pandas_are_read(tmp_path: Path) -> None:
    table = pd.DataFrame({"image": ["b.jpg", "a.jpg"], "label": pd.Categorical(["x", None])}).iloc[::-1]
    table.to_parquet(tmp_path / "table.parquet")
    values = read_table(str(tmp_path / "table.parquet"), DataConfig()).values
    assert values.to_dict("list") == {"image": ["a.jpg", "b.jpg"], "label": ["", "x"]}


def test_lists_are_no_labels_ids_groups_or_paths(tmp_path: Path) -> None:
    path = parquet(tmp_path / "table.parquet", image=["a", "b"], tags=[["x"], ["y"]])
    for data in ({"id_column": "tags"}, {"group_column": "tags"}, {"image_column": "tags"}):
        assert sentence(lambda data=data: read(path, {"image": {}}, **data)) == (  # type: ignore[misc]
            f"column 'tags' of '{path}' holds lists or structures; it must hold one value a row."
        )


def test_nulls_are_those_rows_problem(tmp_path: Path) -> None:
    for name in "abcdefgh":
        write(tmp_path / f"{name}.jpg", image())
    path = parquet(
        tmp_path / "table.parquet",
        image=[f"{name}.jpg" for name in "abcdefg"] + [None],
        key=[1, 2, 3, 4, 5, 6, None, 8],
        person=[1.0, 1.0, None, float("nan"), 2.0, 2.0, 3.0, 3.0],
        label=["x", "y", "x", "y", "x", None, "x", "y"],
    )
    source = read(path, ["label"], id_column="key", group_column="person", max_rejected=1)
    assert aside(source) == {"row 7": "its id is empty", "8": "its path is empty", "6": "label is empty"}
    groups = dict(zip(source.images["image_id"], source.images["group"], strict=True))
    assert groups["1"] == groups["2"]
    assert len({groups[name] for name in "12345"}) == 4


# --- images in Parquet itself


@pytest.fixture
def shades(tmp_path: Path) -> Path:
    """Six images in Hugging Face's form, in three row groups: the fourth by path alone, the fifth neither, the sixth empty."""
    write(tmp_path / "beside.jpg", image(3, "PNG"))
    images = [{"bytes": image(shade, "PNG"), "path": f"{9 - shade}.png"} for shade in range(3)]
    others = [{"bytes": None, "path": "beside.jpg"}, None, {"bytes": b"", "path": "empty.png"}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    labels = ["x", "y"] * 3
    return parquet(
        tmp_path / "train.parquet", groups=3, image=pa.array([*images, *others], kind), label=labels, key=list("abcdef")
    )


def test_images_in_parquet_are_read_by_the_paths_that_a_table_gives_them(shades: Path) -> None:
    source = read(shades, ["label"], id_column="key", max_rejected=1)
    assert aside(source) == {"e": "its path is empty", "f": "the file is empty"}
    paths = source.images["path"].tolist()
    assert [files.read_bytes(path) for path in paths] == [image(shade, "PNG") for shade in range(4)]
    assert [files.read_bytes(path) for path in reversed(paths)] == [image(shade, "PNG") for shade in reversed(range(4))]
    assert paths[3] == str(shades.parent / "beside.jpg")
    assert paths[:3] == sorted(paths[:3])
    assert source.images["size"].tolist() == [len(image(shade, "PNG")) for shade in range(4)]
    assert all(decode_file(path, [InputSpec(4, 4, 1.0)])[0] == "" for path in paths)


def test_images_in_parquet_go_by_their_own_names_or_by_their_rows(shades: Path, tmp_path: Path) -> None:
    assert set(read(shades, ["label"], max_rejected=1).images["image_id"]) == {"row 1", "row 2", "row 3", "row 4"}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    named = pa.array([{"bytes": image(shade), "path": f"{shade}.jpg"} for shade in range(4)], kind)
    path = parquet(tmp_path / "named.parquet", image=named, label=["x", "y"] * 2)
    assert read(path, ["label"]).images["image_id"].tolist() == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    bare = parquet(tmp_path / "bare.parquet", photo=[image(shade) for shade in range(4)], label=["x", "y"] * 2)
    assert read(bare, ["label"], image_column="photo").images["image_id"].tolist() == ["row 1", "row 2", "row 3", "row 4"]


def test_the_same_images_in_another_copy_are_the_same(shades: Path) -> None:
    before = read(shades, ["label"], id_column="key", max_rejected=1).images
    os.utime(shades, (0, 0))
    pd.testing.assert_frame_equal(read(shades, ["label"], id_column="key", max_rejected=1).images, before)


def test_a_parquet_file_that_has_changed_is_said(shades: Path) -> None:
    path = read(shades, ["label"], id_column="key", max_rejected=1).images["path"].iloc[0]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    parquet(shades, image=pa.array([{"bytes": image(90, "PNG"), "path": "0.png"}], kind), label=["x"])
    embedded._opened.cache_clear()
    embedded._row_group.cache_clear()
    assert decode_file(path, [InputSpec(4, 4, 1.0)])[0] == "the file cannot be read (the Parquet file has changed)"


def test_images_in_parquet_are_predicted_too(shades: Path) -> None:
    found = read_images(ImageList(str(shades), id_column="key"), DataConfig())
    assert found.images["problem"].tolist() == ["", "", "", "", "its path is empty", "the file is empty"]
    assert found.template is not None
    assert found.template["image"].tolist() == ["9.png", "8.png", "7.png", "beside.jpg", "", "empty.png"]


def test_a_folder_of_parquet_files_is_one_table(tmp_path: Path) -> None:
    for part in range(2):
        photos = [image(10 * part + shade) for shade in range(2)]
        parquet(write(tmp_path / "parts" / f"{part}.parquet", b""), image=photos, label=["x", "y"])
    source = read(tmp_path / "parts", ["label"])
    assert source.images["image_id"].tolist() == ["row 1", "row 2", "row 3", "row 4"]
    assert [files.read_bytes(path) for path in source.images["path"]] == [image(shade) for shade in (0, 1, 10, 11)]
    parquet(tmp_path / "parts" / "2.parquet", image=[image()], colour=["x"])
    assert "has other columns than" in sentence(lambda: read(tmp_path / "parts", ["label"]))


def test_parquet_files_for_tests_are_not_trained_on(tmp_path: Path) -> None:
    names = ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001", "test-00000-of-00001")
    for number, name in enumerate(names):
        path = write(tmp_path / "data" / f"{name}.parquet", b"")
        parquet(path, image=[image(10 * number + shade) for shade in range(2)], label=["x", "y"])
    source = read(tmp_path / "data", ["label"])
    assert len(source.images) == 6
    assert not any("/test-" in path for path in source.images["path"])
    found = read_test(DataConfig(kind="csv", path=str(tmp_path / "data")))
    assert found is not None
    assert [files.read_bytes(path) for path in found.images["path"]] == [image(30), image(31)]
    assert found.template is not None
    assert found.template["image"].tolist() == ["row 1", "row 2"]
    assert "are not trained on" in found.remarks[0]
    assert len(read_images(ImageList(str(tmp_path / "data")), DataConfig()).images) == 8
    parquet(tmp_path / "data" / "extra.parquet", image=[image()], label=["x"])
    assert "has Parquet files for tests beside extra.parquet" in sentence(lambda: read(tmp_path / "data", ["label"]))
