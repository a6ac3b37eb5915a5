"""Tests of what tells contents apart: bytes alone, however a file is called, written, copied or exchanged."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymask.config.schema import RunConfig
from raymask.io import embedded, files, hashing
from raymask.io.hashing import UNKNOWN, Version, versions_of
from raymask.runs.digests import remembered_digests, with_digests


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    (tmp_path / "cache").mkdir()
    return RunConfig(cache=tmp_path / "cache")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the files whose bytes are read."""
    read: list[str] = []
    original = hashing.file_digest

    def noted(path: str | Path, algorithm: hashing.Algorithm = "blake2b") -> str:
        read.append(Path(path).name)
        return original(path, algorithm)

    monkeypatch.setattr(hashing, "file_digest", noted)
    return read


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets a minute pass, so that files are no longer young."""

    def wait() -> None:
        now = time.time()
        monkeypatch.setattr(hashing.time, "time", lambda: now + 60)

    return wait


def write(folder: Path, **contents: bytes) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [str(folder / name) for name in contents]


def test_equal_bytes_have_one_digest_wherever_and_whenever_they_were_written(tmp_path: Path, config: RunConfig) -> None:
    paths = write(tmp_path / "one", a=b"same", b=b"same", c=b"other", d=b"") + write(tmp_path / "two", a=b"same")
    os.utime(paths[1], (1, 1))
    digests = remembered_digests(paths, config)
    assert digests[0] == digests[1] == digests[4]
    assert len(set(digests)) == 3
    assert remembered_digests(list(reversed(paths)), config) == digests[::-1]


def test_what_is_remembered_is_not_read_again(
    tmp_path: Path, config: RunConfig, reads: list[str], settled: Callable[[], None]
) -> None:
    settled()
    paths = write(tmp_path / "data", a=b"1", b=b"2", c=b"3")
    first = remembered_digests(paths, config)
    assert sorted(reads) == ["a", "b", "c"]
    assert remembered_digests(paths, config) == first
    assert len(reads) == 3
    os.utime(paths[1], (1, 1))
    assert remembered_digests(paths, config) == first
    assert reads[3:] == ["b"]


def test_bytes_exchanged_under_the_same_name_size_and_time_are_seen(
    tmp_path: Path, config: RunConfig, settled: Callable[[], None]
) -> None:
    settled()
    [path, other] = write(tmp_path / "data", a=b"black", b=b"white")
    os.utime(path, (1000, 1000))
    os.utime(other, (1000, 1000))
    black, white = remembered_digests([path, other], config)
    Path(path).write_bytes(b"grey!")
    os.utime(path, (1000, 1000))
    assert remembered_digests([path], config) not in ([black], [white])
    Path(other).replace(path)
    assert remembered_digests([path], config) == [white]


@given(contents=st.lists(st.sampled_from([b"aa", b"bb", b"cc"]), min_size=2, max_size=12))
@settings(max_examples=25, deadline=None)
def test_a_young_file_is_never_believed_to_be_as_it_was(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]) -> None:
    root = tmp_path_factory.mktemp("young")
    (root / "cache").mkdir()
    config, file = RunConfig(cache=root / "cache"), root / "file"
    digests = []
    for content in contents:  # within a tick of the file system's clock, and of one size
        file.write_bytes(content)
        digests += remembered_digests([str(file)], config)
    assert [digests[n] == digests[0] for n in range(len(contents))] == [content == contents[0] for content in contents]


def test_what_is_no_plain_file_is_not_read(tmp_path: Path, config: RunConfig) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    [real] = write(tmp_path, real=b"1")
    (tmp_path / "link").symlink_to(real)
    names = ("fifo", "folder", "dangling", "missing", "null\0byte")
    paths = [*(str(tmp_path / name) for name in names), "/dev/zero"]
    assert remembered_digests(paths, config) == [""] * 6
    one, other = remembered_digests([real, str(tmp_path / "link")], config)
    assert one == other != ""


def test_a_file_that_comes_later_or_can_be_read_later_has_another_digest(tmp_path: Path, config: RunConfig) -> None:
    path = str(tmp_path / "late.jpg")
    assert remembered_digests([path], config) == [""]
    Path(path).write_bytes(b"here")
    assert remembered_digests([path], config) != [""]


def test_a_damaged_memory_costs_only_reading_again(
    tmp_path: Path, config: RunConfig, reads: list[str], settled: Callable[[], None]
) -> None:
    settled()
    paths = write(tmp_path / "data", a=b"1")
    first = remembered_digests(paths, config)
    [memory] = (tmp_path / "cache" / "digests").iterdir()
    for damage in (b"", memory.read_bytes()[:50]):
        memory.write_bytes(damage)
        assert remembered_digests(paths, config) == first
    pd.DataFrame({"other": [1]}).to_parquet(memory)
    assert remembered_digests(paths, config) == first
    assert len(reads) == 4
    assert remembered_digests(paths, config) == first
    assert len(reads) == 4


def test_without_a_place_to_remember_files_are_read(tmp_path: Path, reads: list[str]) -> None:
    (tmp_path / "file").write_bytes(b"")
    for cache in (tmp_path / "file" / "cache", tmp_path / "nowhere"):
        config = RunConfig(cache=cache)
        paths = write(tmp_path / "data", a=b"1")
        assert remembered_digests(paths, config) == remembered_digests(paths, config) != [""]
        assert not cache.exists()


def test_many_files_keep_their_order(tmp_path: Path) -> None:
    paths = write(tmp_path / "many", **{f"{number:03d}": str(number % 7).encode() for number in range(300)})
    versions = versions_of(paths, [UNKNOWN] * 300)
    by_content = {number: versions[number].digest for number in range(7)}
    assert [version.digest for version in versions] == [by_content[number % 7] for number in range(300)]
    assert len(set(by_content.values())) == 7


class TestUrls:
    def test_a_version_told_by_the_server_stands_for_the_content(self) -> None:
        listed = [(3, "etag-1"), (3, "etag-2"), (4, "etag-1")]
        digests = [version.digest for version in versions_of(["s3://b/x"] * 3, [UNKNOWN] * 3, listed)]
        assert len(set(digests)) == 3
        assert versions_of(["s3://b/y"], [UNKNOWN], listed[:1])[0].digest not in digests

    def test_without_one_the_content_is_read(self, config: RunConfig) -> None:
        system = fsspec.filesystem("memory")
        try:
            system.pipe("/hashed/a", b"one")
            first = remembered_digests(["memory://hashed/a"], config)
            system.pipe("/hashed/b", b"one")
            assert remembered_digests(["memory://hashed/b"], config) == first
            system.pipe("/hashed/a", b"two")
            assert remembered_digests(["memory://hashed/a"], config) != first
            assert remembered_digests(["memory://hashed/none"], config) == [""]
        finally:
            system.rm("/hashed", recursive=True)

    def test_a_local_files_url_is_that_file(self, tmp_path: Path, config: RunConfig) -> None:
        [path] = write(tmp_path, a=b"one")
        images = pd.DataFrame({"path": [f"file://{path}", path], "size": [3, 3], "stamp": ["1.0", "2.0"]})
        assert with_digests(images, config)["digest"].nunique() == 1


def test_images_in_a_parquet_file_are_the_same_in_any_copy_of_it(tmp_path: Path, config: RunConfig) -> None:
    contents = [b"one", b"two", b"one"]
    for name, rows in (("a.parquet", contents), ("b.parquet", contents[::-1])):
        pd.DataFrame({"image": rows}).to_parquet(tmp_path / name)
    first = [embedded.path_of(str(tmp_path / "a.parquet"), 0, row, content) for row, content in enumerate(contents)]
    other = [embedded.path_of(str(tmp_path / "b.parquet"), 0, row, content) for row, content in enumerate(contents[::-1])]
    digests = remembered_digests(first, config)
    assert remembered_digests(other, config) == digests[::-1]
    assert len(set(digests)) == 2
    assert [files.read_bytes(path) for path in first] == contents
    (tmp_path / "b.parquet").replace(tmp_path / "a.parquet")
    pd.DataFrame({"image": [b"new"]}).to_parquet(tmp_path / "a.parquet")
    assert files.read_bytes(embedded.path_of(str(tmp_path / "a.parquet"), 0, 0, b"new")) == b"new"


def test_a_known_version_is_given_back(tmp_path: Path) -> None:
    [path] = write(tmp_path, a=b"one")
    known = Version(hashing.file_stamp(path), "remembered")
    assert versions_of([path], [known]) == [known]
