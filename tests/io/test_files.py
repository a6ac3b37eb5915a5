"""Tests of local paths and URLs by one set of functions."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import fsspec
import pytest

from raymask.core.errors import InputError
from raymask.data.decode import decode_file
from raymask.data.specs import InputSpec
from raymask.io import files

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
        system.pipe(f"/test_files/top/{name}", content)
    yield "memory://test_files/top"
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


def why_not(path: str) -> str:
    """Why a file cannot be read."""
    try:
        content = files.read_bytes(path)
    except (OSError, InputError) as error:
        return files.why_unreadable(error)
    raise AssertionError(f"{len(content)} bytes were read")


# --- any place


def test_every_file_below_a_folder_is_listed_by_its_relative_path_and_size(root: str) -> None:
    assert {name: state.size for name, state in files.list_files(root).items()} == {
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
    assert [state.size for state in files.stat_files([gone, files.absolute(files.join(root, "a.txt"))])] == [files.MISSING, 3]
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
    assert {name: state.size for name, state in listed.items()} == {
        "file.txt": 3,
        **{f"folder/{name}": len(content) for name, content in CONTENT.items()},
    }
    assert listed["file.txt"] == files.list_files(local)["a.txt"]


def test_a_link_to_nothing_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to("/no/such/file")
    assert files.list_files(str(tmp_path)) == {"a.txt": files.ABSENT}


def test_a_name_that_is_no_utf8_is_escaped_and_missing(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"mask\xff.jpg")).write_bytes(b"abc")
    (tmp_path / "마스크.jpg").write_bytes(b"abc")
    listed = files.list_files(str(tmp_path))
    assert {name: state.size for name, state in listed.items()} == {"마스크.jpg": 3, "mask\\udcff.jpg": files.MISSING}
    assert "".join(listed).encode()  # such as tables can hold


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "the file cannot be read (Is a directory)"),
        ("deep", "the file cannot be read (Is a directory)"),
        ("a.txt/below_a_file", "the file is missing"),
        ("null\0byte", "its path holds a character that no file's name can have"),
        ("half a character \ud800", "its path holds a character that no file's name can have"),
        ("a caption, in place of a path. " * 20, "the file cannot be read (File name too long)"),
        ("circle", "the file cannot be read (Too many levels of symbolic links)"),
        ("pipe", "it is no regular file, but a pipe, a socket or a device"),
        ("socket", "it is no regular file, but a pipe, a socket or a device"),
        ("zero", "it is no regular file, but a pipe, a socket or a device"),
    ],
)
def test_what_is_no_file_says_why_and_is_not_read(local: str, name: str, why: str) -> None:
    os.mkfifo(f"{local}/pipe")
    Path(f"{local}/zero").symlink_to("/dev/zero")
    Path(f"{local}/circle").symlink_to(f"{local}/circle")
    with socket.socket(socket.AF_UNIX) as opened, contextlib.chdir(local):
        opened.bind("socket")
        for path in (f"{local}/{name}", f"file://{local}/{name}"):
            assert files.stat_files([path]) == [files.State(files.MISSING, "", why)]
            assert why_not(path) == why


def test_an_empty_path_is_no_file() -> None:
    assert files.stat_files([""]) == [files.State(files.MISSING, "", "its path is empty")]


def test_a_file_that_says_to_be_larger_than_asked_for_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "hole.jpg").open("wb") as file:
        file.truncate(2**42)
    with pytest.raises(OSError, match="larger than 1 MiB"):
        files.read_bytes(str(tmp_path / "hole.jpg"), 2**20)
    assert decode_file(str(tmp_path / "hole.jpg"), [InputSpec(4, 4, 1.0)])[0] == "the file is larger than 2048 MiB"


def test_links_in_a_circle_come_to_an_end(tmp_path: Path) -> None:
    for name in "abcdef":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"x")
        for other in "abcdef":
            (tmp_path / name / f"to_{other}").symlink_to(tmp_path / other)
    (tmp_path / "up").symlink_to(tmp_path)
    assert sorted(files.list_files(str(tmp_path))) == [f"{name}/1.jpg" for name in "abcdef"]


def as_nobody(call: str) -> str:
    """What a call says in a process that has no more rights than others."""
    tried = f"try:\n    print({call})\nexcept Exception as error:\n    print(error)"
    code = f"import os; from raymask.io import files; os.setuid(65534)\n{tried}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout.strip()


@pytest.fixture
def closed() -> Iterator[str]:
    """A folder whose `shut` and `.cache` nobody may list, and whose `shut.txt` nobody may read."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        root = Path(name)
        root.chmod(0o755)
        for folder in ("open", "shut", ".cache"):
            (root / folder).mkdir()
            (root / folder / "1.txt").write_text("abc")
        (root / "shut.txt").write_text("abc")
        for path in ("shut", ".cache", "shut.txt"):
            (root / path).chmod(0)
        yield name


def test_without_rights_a_file_says_so_and_a_folder_is_refused(closed: str) -> None:
    why = "the file may not be read"
    paths = [f"{closed}/shut.txt", f"{closed}/shut/1.txt", f"{closed}/open/1.txt"]
    assert as_nobody(f"[state.problem for state in files.stat_files({paths})]") == str([why, why, ""])
    refused = f"the folder '{closed}/shut' cannot be listed (Permission denied); give yourself the right to, or move it away."
    assert as_nobody(f"files.list_files('{closed}')") == refused
    assert as_nobody(f"files.exists('{closed}/shut/1.txt')") == f"'{closed}/shut/1.txt' cannot be reached: Permission denied."
    shutil.rmtree(f"{closed}/shut")
    assert as_nobody(f"sorted(files.list_files('{closed}'))") == "['open/1.txt', 'shut.txt']"


def test_local_files_and_urls_may_be_stated_together(local: str, memory: str) -> None:
    paths = [f"{local}/a.txt", f"{memory}/deep/.hidden", f"{memory}/gone", f"file://{local}/a.txt"]
    assert [state.size for state in files.stat_files(paths)] == [3, 5, files.MISSING, 3]


def test_the_stamp_tells_versions_of_one_size_apart(local: str) -> None:
    path = f"{local}/a.txt"
    os.utime(path, ns=(10**18, 10**18))
    [before] = files.stat_files([path])
    assert [before] == files.stat_files([path])
    Path(path).write_bytes(b"xyz")
    [after] = files.stat_files([path])
    assert before[0] == after[0]
    assert before[1] != after[1]


# --- servers


class Answers(BaseHTTPRequestHandler):
    """Answers `/STATUS` with that status, `/busy` with 503 but for every third time, and `/silent` never."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/silent":
            time.sleep(3)
        busy = self.path == "/busy" and self.asked.count("/busy") % 3
        status = 503 if busy else int(self.path[1:]) if self.path[1:].isdecimal() else 200
        self.send_response(status)
        if self.path != "/unsized":
            self.send_header("Content-Length", "3")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b"abc")

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(files, "SECONDS_OF_SILENCE", 0.5)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as listening:
        Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/403", "the server answers 403 Forbidden"),
        ("/404", "the file is missing"),
        ("/410", "the server answers 410 Gone"),
        ("/500", "the server answers 500 Internal Server Error"),
    ],
)
def test_what_a_server_refuses_is_said(server: str, path: str, why: str) -> None:
    assert files.stat_files([server + path, f"{server}/200"]) == [files.State(files.MISSING, "", why), files.State(3, "")]
    assert why_not(server + path) == why


def test_what_cannot_be_opened_is_that_images_problem_and_nothing_more(server: str, local: str) -> None:
    paths = [f"{server}/403", f"{server}/410", "foo://a/b.jpg", "zip://a.jpg", f"{local}/a\0b", "", f"{local}/gone.jpg"]
    assert [decode_file(path, [InputSpec(4, 4, 1.0)])[0] for path in paths] == [
        "the server answers 403 Forbidden",
        "the server answers 410 Gone",
        "'foo://a/b.jpg' cannot be opened: Protocol not known: foo",
        "'zip://a.jpg' names no archive; write 'zip://a.jpg::ARCHIVE', or unpack it",
        "its path holds a character that no file's name can have",
        "its path is empty",
        "the file is missing",
    ]


def test_a_busy_server_is_asked_again(server: str) -> None:
    assert files.read_bytes(f"{server}/busy") == b"abc"


def test_a_server_that_says_nothing_is_given_up(server: str) -> None:
    [state] = files.stat_files([f"{server}/silent"])
    assert state.problem.startswith("the server cannot be reached (")


def test_where_no_server_is_the_file_says_so() -> None:
    [state] = files.stat_files(["http://127.0.0.1:1/a.jpg"])
    assert state.problem.startswith("the server cannot be reached (Connect call failed")
    assert "Connect call failed" in why_not("http://127.0.0.1:1/a.jpg")


def test_a_file_of_which_a_server_does_not_say_the_size_is_not_empty(server: str) -> None:
    assert files.stat_files([f"{server}/unsized"]) == [files.State(0, "")]
    assert files.read_bytes(f"{server}/unsized") == b"abc"


# --- schemes


@pytest.mark.parametrize("url", ["foo://a/b.jpg", "zip://a.jpg", "github://a.jpg", "http://[broken/a.jpg"])
def test_one_url_that_cannot_be_opened_is_that_files_problem(local: str, url: str) -> None:
    broken, whole = files.stat_files([url, f"{local}/a.txt"])
    assert (broken.size, whole.problem) == (files.MISSING, "")
    assert broken.problem
    assert why_not(url)


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
