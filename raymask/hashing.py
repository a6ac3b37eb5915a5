"""What tells contents apart: digests of files, and fingerprints of tables.

A file's digest is that of its bytes, however it is called and whenever it was written. It is remembered beside the file's stamp
(size, times and inode), so that a file whose stamp is the same still need not be read again. What lies behind a URL is told apart
by what its server says of its version (ETag, or time and size), and read where the server says nothing.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from raymask.config import RunConfig
from raymask.data import embedded, files
from raymask.run_files import write_table
from raymask.store import cache_root

DIGEST_BYTES = 16
YOUNG_SECONDS = 2.0
"""A file may change again without another stamp for so long, as the clocks of some file systems tick."""
THREADS, FILES_AT_A_TIME = 16, 8

Progress = Callable[[int, int], None]

_blake2b = partial(hashlib.blake2b, digest_size=DIGEST_BYTES)


@dataclass(frozen=True)
class Version:
    """What a file holds at one time."""

    stamp: str = ""
    """Changes whenever the file does; empty where it cannot be relied on."""
    digest: str = ""
    """Of the content; empty for what is no readable file."""


UNKNOWN = Version()


def text_digest(*parts: str) -> str:
    """A digest of texts."""
    return _blake2b("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def file_digest(path: str | Path) -> str:
    """The digest of a local file's bytes.

    Raises:
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, _blake2b).hexdigest()


def file_stamp(path: str | Path) -> str:
    """What changes whenever a local file does, but for changes within a tick of the file system's clock.

    Raises:
        OSError: there is no such file.
    """
    return _stamp(os.stat(path))


def fingerprint(table: pd.DataFrame) -> str:
    """Tells tables apart, by their values in order."""
    hashed = pd.util.hash_pandas_object(table, index=False).to_numpy()
    return hashlib.sha256(hashed.tobytes()).hexdigest()[:16]


def versions_of(
    paths: Sequence[str],
    known: Sequence[Version],
    listed: Sequence[tuple[int, str]] | None = None,
    progress: Progress | None = None,
) -> list[Version]:
    """The version of each file: the known one while its stamp is the same, else read anew, in several threads.

    Args:
        paths: local paths and URLs.
        known: what is known of each; `UNKNOWN` for nothing.
        listed: size and stamp of each URL, where they are asked for already.
        progress: called with (files done, files in all).
    """
    places = range(0, len(paths), FILES_AT_A_TIME)

    def read(start: int) -> list[Version]:
        here = range(start, min(start + FILES_AT_A_TIME, len(paths)))
        return [_version(paths[place], known[place], listed[place] if listed else None) for place in here]

    found: list[Version] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for versions in pool.map(read, places):
            found += versions
            if progress:
                progress(len(found), len(paths))
    return found


def _version(path: str, known: Version, listed: tuple[int, str] | None) -> Version:
    local = _local_path(path)
    if local is None:
        return _version_of_url(path, known, listed)
    try:
        status = os.stat(local)
        if not stat.S_ISREG(status.st_mode):
            return UNKNOWN
        stamp = _stamp(status)
        if stamp == known.stamp:
            return known
        digest = file_digest(local)
        settled = stamp == file_stamp(local) and time.time() - status.st_ctime > YOUNG_SECONDS
    except (OSError, ValueError):  # ValueError: a null byte in the path
        return UNKNOWN
    return Version(stamp if settled else "", digest)


def _version_of_url(url: str, known: Version, listed: tuple[int, str] | None) -> Version:
    size, told = listed or files.stat_files([url])[0][:2]
    if size == files.MISSING:
        return UNKNOWN
    if url.startswith(embedded.SCHEME):
        return Version(told, told)  # of the bytes themselves, which any copy of the Parquet file has
    if not told:
        try:
            return Version("", _blake2b(files.read_bytes(url)).hexdigest())
        except OSError:
            return UNKNOWN
    return Version(f"{size} {told}", text_digest(url, str(size), told))


def _local_path(path: str) -> str | None:
    if not files.is_url(path):
        return path
    return str(LocalFileSystem._strip_protocol(path)) if path.startswith(("file://", "local://")) else None


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}"


def with_digests(images: pd.DataFrame, config: RunConfig, progress: Progress | None = None) -> pd.DataFrame:
    """The table with a column `digest`, of the content of each image's file.

    Args:
        images: path of each, and size and stamp where they are known.
        config: says where digests are remembered, beside the prepared images.
        progress: called with (files done, files in all).
    """
    listed = None
    if {"size", "stamp"} <= set(images.columns):
        listed = list(zip(images["size"].tolist(), images["stamp"].tolist(), strict=True))
    return images.assign(digest=remembered_digests(images["path"].tolist(), config, listed, progress))


def remembered_digests(
    paths: Sequence[str],
    config: RunConfig,
    listed: Sequence[tuple[int, str]] | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """The digest of each file's content, see `versions_of`; what is read is remembered for all runs that share a cache.

    The memory is a file for each folder, replaced as a whole: of two processes that write it at once one is forgotten, which
    costs its reading again.
    """
    folder = os.path.commonprefix(list(paths)).rpartition("/")[0]  # noqa: RUF071
    memory = cache_root(config) / "digests" / f"{text_digest(folder)}.parquet"
    known = _recalled(memory)
    versions = versions_of(paths, [known.get(path, UNKNOWN) for path in paths], listed, progress)
    new = {path: version for path, version in zip(paths, versions, strict=True) if version.stamp and known.get(path) != version}
    if new and cache_root(config).is_dir():
        with suppress(OSError):  # without a place to write to, files are read again the next time
            _remember(memory, {**known, **new})
    return [version.digest for version in versions]


def _recalled(memory: Path) -> dict[str, Version]:
    try:
        table = pd.read_parquet(memory, columns=["path", "stamp", "digest"])
    except (OSError, pa.ArrowException):  # none yet, or one that is damaged: what it knew is read again
        return {}
    return {path: Version(stamp, digest) for path, stamp, digest in _rows(table)}


def _rows(table: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    return zip(table["path"].tolist(), table["stamp"].tolist(), table["digest"].tolist(), strict=True)


def _remember(memory: Path, known: Mapping[str, Version]) -> None:
    rows = [(path, version.stamp, version.digest) for path, version in known.items()]
    write_table(memory, pd.DataFrame(rows, columns=["path", "stamp", "digest"], dtype=str))
