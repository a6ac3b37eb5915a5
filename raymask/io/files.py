"""Local paths and URLs by one set of functions, on fsspec and, where it has no driver, on pyarrow's file systems.

Only regular files are read: a pipe, a socket or a device would wait for ever or never end.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast

import fsspec
import pyarrow as pa
from fsspec.implementations.arrow import ArrowFSWrapper
from fsspec.implementations.local import LocalFileSystem
from pyarrow.fs import FileSystem

from raymask.core import paths
from raymask.core.errors import InputError
from raymask.io import embedded

MISSING = -1
SECONDS_OF_SILENCE = 30
"""After which a server that says nothing is given up."""
TRIES = 3
NOT_FOUND, TOO_MANY_REQUESTS = 404, 429
STAMPS = ("mtime", "ETag", "etag", "LastModified", "last_modified", "Last-Modified", "Content-MD5")
"""What drivers of fsspec call the version of a file, or what tells it from another."""


class UnreadableError(OSError):
    """A file that cannot be read; the message is the whole reason."""


class State(NamedTuple):
    """What is known of a file before it is read."""

    size: int
    """Bytes; `MISSING` where there are none to read, 0 too where a server does not say how many."""
    stamp: str
    """Version of the file."""
    problem: str = ""
    """Why it cannot be read, or "" where it seems that it can."""


ABSENT = State(MISSING, "", "the file is missing")


def is_url(path: str) -> bool:
    """Whether a path names a scheme, such as `s3://bucket/key`."""
    return "://" in path


def filesystem(path: str) -> tuple[Any, str]:
    """The fsspec file system of a path and the path inside it.

    Raises:
        InputError: neither fsspec nor pyarrow can open the URL's scheme.
    """
    if not is_url(path):
        return fsspec.filesystem("file"), absolute(path)
    if path.startswith(("zip://", "tar://")) and "::" not in path:
        raise InputError(f"'{path}' names no archive; write '{path}::ARCHIVE', or unpack it.")
    try:
        system, inside = fsspec.core.url_to_fs(path, **_patience(path))
    except Exception as no_driver:  # drivers raise what they like: TypeError, ValueError, their own
        return _arrow_filesystem(path, no_driver)
    return system, inside


def _patience(url: str) -> dict[str, Any]:
    """Options of fsspec's driver for HTTP, which would wait five minutes for a server that says nothing."""
    if not url.startswith(("http://", "https://")):
        return {}
    from aiohttp import ClientTimeout  # takes half a second to import, and HTTP alone needs it

    timeout = ClientTimeout(total=None, sock_connect=SECONDS_OF_SILENCE, sock_read=SECONDS_OF_SILENCE)
    given = fsspec.config.conf.get(url.partition(":")[0], {}).get("client_kwargs", {})
    return {"client_kwargs": {"timeout": timeout, **given}}


def _arrow_filesystem(url: str, no_driver: Exception) -> tuple[Any, str]:
    try:
        system, inside = FileSystem.from_uri(url)
    except (pa.ArrowException, OSError, ValueError):
        raise InputError(f"'{url}' cannot be opened: {_said(no_driver)}") from None
    return ArrowFSWrapper(system), inside


def _place(path: str) -> tuple[Any | None, str]:
    """The file system of a URL and the path inside it; None and the path for what is local, such as `file:///a.jpg` too."""
    if not is_url(path):
        return None, os.path.expanduser(path)
    system, inside = filesystem(path)
    return (None if isinstance(system, LocalFileSystem) else system), inside


def join(root: str, name: str) -> str:
    """`name` below `root`, unless it is absolute or a URL itself."""
    if is_url(name) or os.path.isabs(name) or not root:
        return name
    return f"{root.rstrip('/')}/{name}"


def absolute(path: str) -> str:
    """A path that holds in any working directory."""
    return path if is_url(path) else os.path.abspath(paths.absolute(path))


def parent(path: str) -> str:
    """The folder that a file lies in."""
    return path.rsplit("/", 1)[0] or "/" if "/" in path else "."


def is_hidden(name: str) -> bool:
    """Whether a file or a folder of a relative path is none that users made (`._mask1.jpg`, `.git/x`, `lost+found/x`)."""
    return any(part.startswith(".") or part == "lost+found" for part in PurePosixPath(name).parts)


def exists(path: str) -> bool:
    """Whether a file or folder is there.

    Raises:
        InputError: that cannot be found out, for want of rights or of an answer.
    """
    return _found(path, "exists")


def is_folder(path: str) -> bool:
    """Whether a folder is there; raises as `exists` does."""
    return _found(path, "isdir")


def _found(path: str, question: str) -> bool:
    system, inside = _place(path)
    try:
        if system:
            return bool(getattr(system, question)(inside))
        mode = os.stat(inside).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except Exception as error:
        raise InputError(f"'{path}' cannot be reached: {_said(error)}.") from None
    return question == "exists" or stat.S_ISDIR(mode)


def open_file(path: str) -> BinaryIO:
    """A file opened for reading.

    Raises:
        InputError: nothing opens the URL's scheme.
        OSError: the file is missing, or none that can be read.
    """
    _check_path(path)
    system, inside = _place(path)
    if system:
        return cast("BinaryIO", system.open(inside, "rb"))
    _check_regular(os.stat(inside))
    return Path(inside).open("rb")


def read_bytes(path: str, most: int | None = None) -> bytes:
    """Content of a file, which is refused where it has more than `most` bytes; raises as `open_file` does."""
    _check_path(path)
    if path.startswith(embedded.SCHEME):
        return embedded.read(path, open_file)
    system, inside = _place(path)
    if system:
        return _fetched(system, inside)
    with open_file(path) as file:
        if most is not None and os.fstat(file.fileno()).st_size > most:
            raise UnreadableError(f"the file is larger than {most >> 20} MiB")
        return file.read()


def _fetched(system: Any, inside: str) -> bytes:
    """Content of a file behind a URL; what may pass, such as a busy server, is tried again."""
    for attempt in range(1, TRIES + 1):
        try:
            return bytes(system.cat_file(inside))
        except Exception as error:
            status = getattr(error, "status", None)
            lasting = isinstance(error, FileNotFoundError | PermissionError | ValueError) or (status and status < 500)
            if (lasting and status != TOO_MANY_REQUESTS) or attempt == TRIES:
                raise error if isinstance(error, FileNotFoundError) else UnreadableError(why_unreadable(error)) from error
            time.sleep(attempt / 2)
    raise AssertionError("the last attempt ends the loop")


def why_unreadable(error: Exception) -> str:
    """The reason for which an image is set aside, of what opening or reading its file raised."""
    answer = error.__cause__ if getattr(error.__cause__, "status", None) else error  # fsspec calls any answer of HTTP "not found"
    status = getattr(answer, "status", None)
    if isinstance(status, int) and status != NOT_FOUND:
        return f"the server answers {status} {getattr(answer, 'message', '')}".rstrip()
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        silent = isinstance(error.__cause__, OSError | TimeoutError) and not isinstance(error.__cause__, FileNotFoundError)
        return f"the server cannot be reached ({_said(error.__cause__)})" if silent and error.__cause__ else "the file is missing"
    if isinstance(error, PermissionError):
        return "the file may not be read"
    if isinstance(error, UnreadableError | InputError):
        return str(error).rstrip(".")
    return f"the file cannot be read ({_said(error)})"


def list_files(folder: str) -> dict[str, State]:
    """Every file below a folder, by its path relative to the folder.

    Raises:
        InputError: a folder cannot be listed; those that are hidden are passed over.
    """
    system, inside = _place(folder)
    if not system:
        return _list_local(absolute(inside))
    root = inside.rstrip("/") + "/"
    try:
        found = system.find(inside, detail=True)
    except Exception as error:
        raise InputError(f"the folder '{folder}' cannot be listed: {_said(error)}.") from None
    return {name.removeprefix(root): _state_of(info) for name, info in found.items()}


def list_names(folder: str, folders: bool = False) -> list[str]:
    """Names of the files that lie in a folder itself, or of the folders, sorted; raises as `list_files` does."""
    system, inside = _place(folder)
    try:
        if not system:
            return sorted(_legible(entry.name) for entry in os.scandir(inside) if _is_folder(entry) == folders)
        listed = system.ls(inside, detail=True)
    except Exception as error:
        raise InputError(f"the folder '{folder}' cannot be listed: {_said(error)}.") from None
    return sorted(PurePosixPath(info["name"]).name for info in listed if (info["type"] == "directory") == folders)


def _list_local(root: str) -> dict[str, State]:
    """`list_files` of a local folder. Links are followed, and a folder is listed once, under its own name if it lies there."""
    found: dict[str, State] = {}
    seen: set[tuple[int, int]] = set()
    own, linked = deque([root]), deque[str]()
    while own or linked:
        folder = own.popleft() if own else linked.popleft()
        try:
            status = os.stat(folder)
            entries = [] if (status.st_dev, status.st_ino) in seen else sorted(os.scandir(folder), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            if not is_hidden(os.path.relpath(folder, root)) or folder == root:
                raise InputError(
                    f"the folder '{_legible(folder)}' cannot be listed ({_said(error)}); give yourself the right to, or move "
                    "it away."
                ) from None
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            if _is_folder(entry):
                (linked if entry.is_symlink() else own).append(entry.path)
            else:
                name = os.path.relpath(entry.path, root)
                legible = _legible(name)
                found[legible] = _stat(entry.path) if legible == name else State(MISSING, "", "the file's name is no UTF-8")
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _legible(path: str) -> str:
    """A path with what is no UTF-8 escaped, so that tables and terminals can hold it."""
    return path.encode("utf-8", "backslashreplace").decode()


def stat_files(paths: list[str]) -> list[State]:
    """What is known of each file."""
    if not any(is_url(path) for path in paths):
        return [_stat(path) for path in paths]
    with ThreadPoolExecutor(32) as pool:
        return list(pool.map(_stat, paths))


def state_columns(states: Iterable[State]) -> dict[str, list[Any]]:
    """The columns size, stamp and problem of files' states."""
    listed = list(states)
    return {name: [getattr(state, name) for state in listed] for name in State._fields}


def _stat(path: str) -> State:
    try:
        _check_path(path)
        if path.startswith(embedded.SCHEME):
            place = embedded.place_of(path)
            return State(place.size, place.digest, "" if place.size else "the file is empty")
        system, inside = _place(path)
        if system:
            return _state_of(system.info(inside))
        status = os.stat(inside)
        _check_regular(status)
        if not os.access(inside, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except Exception as error:
        return State(MISSING, "", why_unreadable(error))
    return State(status.st_size, str(status.st_mtime), "" if status.st_size else "the file is empty")


def _check_path(path: str) -> None:
    if not path:
        raise UnreadableError("its path is empty")
    try:
        possible = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise UnreadableError("its path holds a character that no file's name can have")


def _check_regular(status: os.stat_result) -> None:
    """Refuses what would wait for ever or never end when it is read."""
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableError("it is no regular file, but a pipe, a socket or a device")


def _state_of(info: dict[str, Any]) -> State:
    """The state of a file behind a URL; a server need not say how large it is."""
    stamp = next((info[key] for key in STAMPS if info.get(key)), "")
    return State(int(info.get("size") or 0), str(stamp), "the file is empty" if info.get("size") == 0 else "")


def _said(error: BaseException) -> str:
    """What an exception says, in one line."""
    message = (getattr(error, "strerror", None) or str(error)).strip() or type(error).__name__
    return message.splitlines()[0].rstrip(".")
