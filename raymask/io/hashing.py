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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import fsspec
import pandas as pd

from raymask.core.types import Progress
from raymask.io import embedded, files

DIGEST_BYTES = 16
YOUNG_SECONDS = 2.0
"""A file may change again without another stamp for so long, as the clocks of some file systems tick."""
THREADS, FILES_AT_A_TIME = 16, 8


Algorithm = Literal["blake2b", "sha256"]

new_digest = partial(hashlib.blake2b, digest_size=DIGEST_BYTES)
"""What contents are told apart by, but where a file format says SHA-256."""


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
    return new_digest("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def file_digest(path: str | Path, algorithm: Algorithm = "blake2b") -> str:
    """The digest of a local file's bytes.

    Args:
        path: the file.
        algorithm: `blake2b` (16 bytes, the faster one) to tell files apart, `sha256` where a file format asks for it.

    Raises:
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, new_digest if algorithm == "blake2b" else algorithm).hexdigest()


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
        return _version_of_url(path, listed)
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


def _version_of_url(url: str, listed: tuple[int, str] | None) -> Version:
    size, state = listed or files.stat_files([url])[0][:2]
    if size == files.MISSING:
        return UNKNOWN
    if url.startswith(embedded.SCHEME):
        return Version(state, state)  # of the bytes themselves, which any copy of the Parquet file has
    if not state:
        try:
            return Version("", new_digest(files.read_bytes(url)).hexdigest())
        except OSError:
            return UNKNOWN
    return Version(f"{size} {state}", text_digest(url, str(size), state))


def _local_path(path: str) -> str | None:
    if not files.is_url(path):
        return path
    return str(fsspec.core.strip_protocol(path)) if path.startswith(("file://", "local://")) else None


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}"
