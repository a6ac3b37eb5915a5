"""Tests of files that are written whole or not at all, and read with the belief that they may be anything."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from typing_extensions import TypedDict

from raymask.core.errors import InputError
from raymask.io.atomic import replacing, write_json, write_table, write_text
from raymask.io.checked import DamagedFileError, check_archive, read_json, read_table, within


def below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# --- whole or not at all


def test_a_file_appears_under_its_name_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "a.txt"
    with replacing(file) as draft:
        draft.write_text("half")
        assert not file.exists()
        assert draft.parent == file.parent  # a rename within one file system
        assert draft.name.startswith(".")
        draft.write_text("whole")
    assert file.read_text() == "whole"
    assert below(tmp_path) == ["new", "new/folder", "new/folder/a.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with pytest.raises(RuntimeError, match="the disk is full"), replacing(file) as draft:  # noqa: PT012
        draft.write_text("half")
        raise RuntimeError("the disk is full")
    assert file.read_text() == "old"
    assert below(tmp_path) == ["a.txt"]


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    with replacing(tmp_path / "folder") as draft:
        draft.mkdir()
        (draft / "a.txt").write_text("a")
        assert not (tmp_path / "folder").exists()
    assert below(tmp_path) == ["folder", "folder/a.txt"]


def test_a_failure_leaves_no_half_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), replacing(tmp_path / "folder") as draft:  # noqa: PT012
        draft.mkdir()
        (draft / "a.txt").write_text("a")
        raise RuntimeError
    assert below(tmp_path) == []


def test_two_writers_at_once_do_not_share_a_draft(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    with replacing(file) as first:
        with replacing(file) as second:
            first.write_text("first")
            second.write_text("second")
        assert file.read_text() == "second"
    assert file.read_text() == "first"
    assert below(tmp_path) == ["a.txt"]


# --- formats


def test_json_keeps_values_and_letters(tmp_path: Path) -> None:
    values = {"name": "마스크", "scores": [0.5, 1, None], "nested": {"a": True}}
    write_json(tmp_path / "a.json", values)
    assert read_json(tmp_path / "a.json") == values
    assert "마스크" in (tmp_path / "a.json").read_text()


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"what": object()})
    assert read_json(tmp_path / "a.json") == {"a": 1}
    assert below(tmp_path) == ["a.json"]


TABLE = pd.DataFrame({"image_id": ["b,1", 'a"2'], "label": [1, 0], "p": [0.25, 1.0]}, index=[7, 3])


def test_tables_keep_their_rows_in_both_formats(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", TABLE)
    write_table(tmp_path / "a.csv", TABLE)
    for read in (pd.read_parquet(tmp_path / "a.parquet"), pd.read_csv(tmp_path / "a.csv")):
        pd.testing.assert_frame_equal(read, TABLE.reset_index(drop=True), check_dtype=False)


def test_a_table_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", TABLE)
    with pytest.raises(Exception, match="object"):
        write_table(tmp_path / "a.parquet", pd.DataFrame({"what": [object()]}))
    assert len(pd.read_parquet(tmp_path / "a.parquet")) == 2
    assert below(tmp_path) == ["a.parquet"]


def test_a_draft_that_was_never_finished_is_not_taken_for_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    dead = replacing(file)  # as in a process that is killed inside of the block
    dead.__enter__().write_text("half")
    assert not file.exists()
    write_text(file, "whole")
    assert file.read_text() == "whole"


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_have_the_rights_that_new_files_have_here(tmp_path: Path, umask: int) -> None:
    """safetensors writes by way of a temporary file, which is its owner's alone."""
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "a.safetensors") as draft:
            save_file({"a": torch.zeros(1)}, draft)
        with replacing(tmp_path / "folder") as draft:
            draft.mkdir()
            save_file({"a": torch.zeros(1)}, draft / "b.safetensors")
        write_text(tmp_path / "a.txt", "a")
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}
    assert len(files) == 3


# --- names and paths


NAMES = st.text(st.sampled_from("ab./\\:~ \0\n\u202e%"), min_size=0, max_size=8)


@settings(deadline=None, max_examples=200)
@given(st.lists(NAMES, min_size=1, max_size=3))
@example([".."])
@example(["a", "..", "..", "..", "etc"])
@example(["/etc/passwd"])
@example(["C:\\Windows"])
@example(["a\0b"])
def test_no_name_leads_out_of_a_folder(names: list[str]) -> None:
    root = Path("/nowhere/root")
    try:
        path = within(root, *names)
    except InputError:
        return
    assert os.path.normpath(path) == str(path)
    assert path.relative_to(root).parts == tuple(names)


def test_ordinary_names_are_left_alone(tmp_path: Path) -> None:
    for name in ("mask-s1", "age.v2", "마스크", "my run", "a..b", "..."[:1] + "hidden"):
        assert within(tmp_path, name, "meta.json") == tmp_path / name / "meta.json"


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_not(tmp_path: Path) -> None:
    root = tmp_path / "run"
    (root / "real").mkdir(parents=True)
    (root / "near").symlink_to(root / "real")
    (root / "far").symlink_to(tmp_path)
    (root / "file").symlink_to("/etc/hostname")
    link = tmp_path / "link"
    link.symlink_to(root)
    assert within(link, "near", "a").parent.resolve() == (root / "real").resolve()
    for names in (("far",), ("far", "run", "..."[:0] + "x", "y"), ("file",)):
        if names[-1] != "y":
            with pytest.raises(InputError, match="is a link that leads out of"):
                within(root, *names)


# --- files that are damaged or a stranger's


class Asked(TypedDict):
    number: float
    names: list[str]


GOOD = {"number": 1, "names": ["a"]}


class TestJson:
    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b"", "it is empty"),
            (b'{"number": 1, "names": [', "no whole JSON"),
            (b'{"number": 1, "names": ["a"]} x', "no whole JSON"),
            (b"\xff\xfe{}", "utf-8"),
            (b"[" * 100_000, "no whole JSON"),
            (b"[]", "valid dictionary"),
            (b"{}", "`number`: Field required"),
            (b'{"number": "1", "names": []}', "`number`: Input should be a valid number"),
            (b'{"number": 1, "names": {"a": 1}}', "`names`: Input should be a valid list"),
            (b'{"number": 1, "names": [null]}', "`names.0`: Input should be a valid string"),
        ],
    )
    def test_says_what_is_wrong_with_which_file(self, tmp_path: Path, content: bytes, why: str) -> None:
        file = tmp_path / "a.json"
        file.write_bytes(content)
        with pytest.raises(DamagedFileError) as caught:
            read_json(file, Asked)
        assert str(caught.value).startswith(f"'{file}' is damaged (")
        assert why in str(caught.value)
        assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args

    def test_what_is_missing_or_no_file(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo.json")
        for name, why in (("none.json", "it is missing"), ("fifo.json", "no regular file"), ("", "no regular file")):
            with pytest.raises(DamagedFileError, match=why):
                read_json(tmp_path / name, Asked)

    @settings(deadline=None, max_examples=150)
    @given(st.data())
    def test_no_change_of_a_byte_ends_otherwise(self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
        file = tmp_path_factory.getbasetemp() / "flipped.json"
        content = bytearray(json.dumps(GOOD).encode())
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        file.write_bytes(content)
        try:
            read = read_json(file, Asked)
        except DamagedFileError:
            return
        assert isinstance(read["number"], float)
        assert all(isinstance(name, str) for name in read["names"])


class Runs:
    ran = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _run, ()


def _run() -> str:
    Runs.ran += 1
    return "ran"


KINDS: Any = {"image_id": "text", "label": "whole", "p": "finite"}


class TestTable:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        write_table(tmp_path / "a.parquet", pd.concat([TABLE] * 50))
        return tmp_path / "a.parquet"

    def test_a_whole_one(self, file: Path) -> None:
        pd.testing.assert_frame_equal(read_table(file, KINDS), pd.read_parquet(file))
        assert list(read_table(file, {"p": "number"}, only=True)) == ["p"]

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
    def test_a_cut_one(self, file: Path, share: float) -> None:
        file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
        with pytest.raises(DamagedFileError, match=r"a\.parquet' is damaged \("):
            read_table(file, KINDS)

    def test_a_byte_that_flipped_anywhere_is_seen_or_changes_nothing(self, file: Path) -> None:
        content, whole = file.read_bytes(), read_table(file, KINDS)
        for place in range(0, len(content), 7):
            file.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
            try:
                read = read_table(file, KINDS)
            except DamagedFileError:
                continue
            pd.testing.assert_frame_equal(read, whole)

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"label": None}, "no column 'label'"),
            ({"label": ["1", "0"]}, "'label' holds other values than whole numbers"),
            ({"label": [0.5, 1]}, "'label' holds other values than whole numbers"),
            ({"p": [np.nan, 1]}, "'p' holds other values than finite numbers"),
            ({"p": [[1.0], [2.0]]}, "'p' is of the type list"),
            ({"image_id": [1, 2]}, "'image_id' holds other values than texts"),
            ({"image_id": ["a", None]}, "'image_id' holds other values than texts"),
        ],
    )
    def test_other_columns_or_values(self, tmp_path: Path, change: dict[str, Any], why: str) -> None:
        table = TABLE.assign(**{name: values for name, values in change.items() if values})
        table.drop(columns=[name for name, values in change.items() if not values]).to_parquet(tmp_path / "b.parquet")
        with pytest.raises(DamagedFileError, match=why):
            read_table(tmp_path / "b.parquet", KINDS)

    def test_csv(self, tmp_path: Path) -> None:
        write_table(tmp_path / "a.csv", TABLE)
        pd.testing.assert_frame_equal(read_table(tmp_path / "a.csv", KINDS), TABLE.reset_index(drop=True), check_dtype=False)
        for content in (b"", b"image_id,label,p\na,b,c\n", b"\xff\xff\n", b'image_id,label,p\n"a,1', b"a\n1,2,3\n1\n4,4,4,4,4\n"):
            (tmp_path / "b.csv").write_bytes(content)
            with pytest.raises(DamagedFileError, match=r"b\.csv' is damaged \("):
                read_table(tmp_path / "b.csv", KINDS)

    def test_pickles_of_ray_in_a_column_are_not_opened(self, tmp_path: Path) -> None:
        from ray.data._internal.object_extensions.arrow import ArrowPythonObjectArray

        table = pa.Table.from_pandas(TABLE, preserve_index=False)
        pq.write_table(table.append_column("more", ArrowPythonObjectArray.from_objects([Runs(), Runs()])), tmp_path / "b.parquet")
        for only in (True, False):
            with pytest.raises(DamagedFileError, match="'more' is of the type"):
                read_table(tmp_path / "b.parquet", KINDS, only)
        assert Runs.ran == 0
        pd.read_parquet(tmp_path / "b.parquet")
        assert Runs.ran == 2, "this is what it would have come to"


def test_an_archive_of_torch_whose_bytes_changed(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    torch.save({"a": torch.arange(1000.0)}, file)
    check_archive(file)
    content = file.read_bytes()
    flipped = content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]
    for damage in (b"", content[: len(content) // 2], content[:-1], flipped):
        file.write_bytes(damage)
        with pytest.raises(DamagedFileError, match=r"checkpoint\.pt' is damaged \("):
            check_archive(file)
