"""Tests of local paths and URLs by one set of functions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from raymask.data import files
from raymask.errors import InputError

CONTENT = {"a.txt": b"abc", "deep/er/b.txt": b"", "deep/.hidden": b"12345"}


@pytest.fixture
def local(tmp_path: Path) -> str:
    for name, content in CONTENT.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_bytes(content)
    return str(tmp_path / "root")


@pytest.fixture
def memory() -> Iterator[str]:
    system = fsspec.filesystem("memory")
    for name, content in CONTENT.items():
        system.pipe(f"/test_files/root/{name}", content)
    yield "memory://test_files/root"
    system.rm("/test_files", recursive=True)


@pytest.fixture(params=["local", "file URL", "memory URL", "with a slash", "home"])
def root(request: pytest.FixtureRequest, local: str, memory: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HOME", os.path.dirname(local))
    return {
        "local": local,
        "file URL": f"file://{local}",
        "memory URL": memory,
        "with a slash": f"{local}/",
        "home": "~/root",
    }[request.param]


# --- any place


def test_every_file_below_a_folder_is_listed_by_its_relative_path_and_size(root: str) -> None:
    assert {name: size for name, (size, _) in files.list_files(root).items()} == {
        name: len(content) for name, content in CONTENT.items()
    }


def test_files_and_folders_are_told_apart(root: str) -> None:
    assert files.exists(root)
    assert files.is_folder(root)
    assert files.exists(files.join(root, "a.txt"))
    assert not files.is_folder(files.join(root, "a.txt"))
    assert not files.exists(files.join(root, "gone.txt"))


def test_files_below_a_folder_are_read_and_stated_by_their_joined_paths(root: str) -> None:
    listed = files.list_files(root)
    paths = [files.absolute(files.join(root, name)) for name in listed]
    assert [files.read_bytes(path) for path in paths] == [CONTENT[name] for name in listed]
    assert files.stat_files(paths) == list(listed.values())


def test_a_missing_file_has_no_size_and_cannot_be_read(root: str) -> None:
    gone = files.absolute(files.join(root, "gone.txt"))
    assert [size for size, _ in files.stat_files([gone, files.absolute(files.join(root, "a.txt"))])] == [files.MISSING, 3]
    with pytest.raises(FileNotFoundError):
        files.read_bytes(gone)


def test_a_missing_folder_has_no_files(root: str) -> None:
    assert files.list_files(files.join(root, "gone")) == {}


# --- paths


@pytest.mark.parametrize(
    ("root", "name", "joined"),
    [
        ("/data", "a/b.jpg", "/data/a/b.jpg"),
        ("/data/", "a.jpg", "/data/a.jpg"),
        ("s3://bucket/", "a.jpg", "s3://bucket/a.jpg"),
        ("/data", "/else/a.jpg", "/else/a.jpg"),
        ("/data", "s3://bucket/a.jpg", "s3://bucket/a.jpg"),
        ("s3://bucket", "/else/a.jpg", "/else/a.jpg"),
        ("", "a.jpg", "a.jpg"),
        ("/", "a.jpg", "/a.jpg"),
    ],
)
def test_a_name_is_joined_to_its_root_unless_it_needs_none(root: str, name: str, joined: str) -> None:
    assert files.join(root, name) == joined


def test_absolute_paths_hold_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert files.absolute("a/../b.csv") == str(tmp_path / "b.csv")
    assert files.absolute("~/b.csv") == "/home/me/b.csv"
    assert files.absolute("s3://bucket/b.csv") == "s3://bucket/b.csv"
    assert files.absolute("/b.csv") == "/b.csv"


def test_urls_are_known_by_their_scheme() -> None:
    assert files.is_url("s3://bucket/a.jpg")
    assert not files.is_url("/data/a:b.jpg")


# --- links, and what is no file


def test_links_to_folders_and_files_are_followed(local: str, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "folder").symlink_to(local)
    (linked / "file.txt").symlink_to(f"{local}/a.txt")
    listed = files.list_files(str(linked))
    assert {name: size for name, (size, _) in listed.items()} == {
        "file.txt": 3,
        **{f"folder/{name}": len(content) for name, content in CONTENT.items()},
    }
    assert listed["file.txt"] == files.list_files(local)["a.txt"]


def test_a_link_to_nothing_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to("/no/such/file")
    assert files.list_files(str(tmp_path)) == {"a.txt": (files.MISSING, "")}


def test_a_name_that_is_no_utf8_is_escaped_and_missing(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"mask\xff.jpg")).write_bytes(b"abc")
    (tmp_path / "마스크.jpg").write_bytes(b"abc")
    listed = files.list_files(str(tmp_path))
    assert {name: size for name, (size, _) in listed.items()} == {"마스크.jpg": 3, "mask\\udcff.jpg": files.MISSING}
    assert "".join(listed).encode()  # such as tables can hold


@pytest.mark.parametrize("name", ["", "deep", "a.txt/below_a_file", "null\0byte"])
def test_what_is_no_file_is_missing(local: str, name: str) -> None:
    assert files.stat_files([f"{local}/{name}"]) == [(files.MISSING, "")]


def test_local_files_and_urls_may_be_stated_together(local: str, memory: str) -> None:
    paths = [f"{local}/a.txt", f"{memory}/deep/.hidden", f"{memory}/gone", f"file://{local}/a.txt"]
    assert [size for size, _ in files.stat_files(paths)] == [3, 5, files.MISSING, 3]


def test_the_stamp_tells_versions_of_one_size_apart(local: str) -> None:
    path = f"{local}/a.txt"
    os.utime(path, ns=(10**18, 10**18))
    [before] = files.stat_files([path])
    assert [before] == files.stat_files([path])
    Path(path).write_bytes(b"xyz")
    [after] = files.stat_files([path])
    assert before[0] == after[0]
    assert before[1] != after[1]


# --- schemes


def test_a_scheme_that_nothing_opens_is_refused_in_a_sentence() -> None:
    for call in (files.exists, files.is_folder, files.list_files, files.read_bytes):
        with pytest.raises(InputError) as caught:
            call("nonsense://bucket/a.jpg")
        assert str(caught.value).startswith("'nonsense://bucket/a.jpg' cannot be opened: ")
        assert "\n" not in str(caught.value)


def test_a_scheme_without_fsspec_driver_is_opened_by_pyarrow() -> None:
    system, inside = files.filesystem("mock:///bucket/a")  # a scheme of pyarrow's own, for tests
    assert inside == "bucket/a"
    assert not system.exists(inside)
