"""Local paths and URLs by one set of functions, on fsspec and, where it has no driver, on pyarrow's file systems."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec

from raymask.errors import InputError

MISSING = -1


def is_url(path: str) -> bool:
    """Whether a path names a scheme, such as `s3://bucket/key`."""
    return "://" in path


def filesystem(path: str) -> tuple[Any, str]:
    """The fsspec file system of a path and the path inside it.

    Raises:
        InputError: neither fsspec nor pyarrow can open the URL's scheme.
    """
    if not is_url(path):
        return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(path))
    try:
        system, inside = fsspec.core.url_to_fs(path)
    except (ImportError, ValueError, OSError) as no_driver:
        return _arrow_filesystem(path, no_driver)
    return system, inside


def _arrow_filesystem(url: str, no_driver: Exception) -> tuple[Any, str]:
    import pyarrow as pa
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import FileSystem

    try:
        system, inside = FileSystem.from_uri(url)
    except (pa.ArrowException, OSError, ValueError):
        raise InputError(f"'{url}' cannot be opened: {str(no_driver).strip().splitlines()[0]}") from None
    return ArrowFSWrapper(system), inside


def join(root: str, name: str) -> str:
    """`name` below `root`, unless it is absolute or a URL itself."""
    if is_url(name) or os.path.isabs(name) or not root:
        return name
    return f"{root.rstrip('/')}/{name}"


def absolute(path: str) -> str:
    """A path that holds in any working directory."""
    return path if is_url(path) else os.path.abspath(os.path.expanduser(path))


def parent(path: str) -> str:
    """The folder that a file lies in."""
    return path.rsplit("/", 1)[0] or "/" if "/" in path else "."


def exists(path: str) -> bool:
    """Whether a file or folder is there."""
    system, inside = filesystem(path)
    return bool(system.exists(inside))


def is_folder(path: str) -> bool:
    """Whether a folder is there."""
    system, inside = filesystem(path)
    return bool(system.isdir(inside))


def read_bytes(path: str) -> bytes:
    """Content of a file."""
    if not is_url(path):
        return Path(path).read_bytes()
    system, inside = filesystem(path)
    return bytes(system.cat_file(inside))


def list_files(folder: str) -> dict[str, tuple[int, str]]:
    """Every file below a folder, by its path relative to the folder: its size in bytes and a stamp of its version."""
    if not is_url(folder):
        return _list_local(absolute(folder))
    system, inside = filesystem(folder)
    root = inside.rstrip("/") + "/"
    found = system.find(inside, detail=True)
    return {name.removeprefix(root): _size_and_stamp(info) for name, info in found.items()}


def _list_local(root: str) -> dict[str, tuple[int, str]]:
    """`list_files` of a local folder, through links to other folders too; a name that is no UTF-8 is escaped and so missing."""
    paths = [os.path.join(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names]
    legible = [path.encode("utf-8", "backslashreplace").decode() for path in paths]
    return {os.path.relpath(path, root): _stat(path) for path in legible}


def stat_files(paths: list[str]) -> list[tuple[int, str]]:
    """Size in bytes and a stamp of the version of each file; `MISSING` as the size of one that is not there."""
    if not any(is_url(path) for path in paths):
        return [_stat(path) for path in paths]
    with ThreadPoolExecutor(32) as pool:
        return list(pool.map(_stat, paths))


def _stat(path: str) -> tuple[int, str]:
    try:
        if is_url(path):
            system, inside = filesystem(path)
            return _size_and_stamp(system.info(inside))
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null byte in the path
        return MISSING, ""
    return (MISSING, "") if stat.S_ISDIR(status.st_mode) else (status.st_size, str(status.st_mtime))


def _size_and_stamp(info: dict[str, Any]) -> tuple[int, str]:
    stamp = next((info[key] for key in ("mtime", "ETag", "etag", "LastModified", "last_modified") if info.get(key)), "")
    return int(info.get("size") or 0), str(stamp)
