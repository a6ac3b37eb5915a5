"""Digests of many files, remembered so that a file that is the same still need not be read again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from raymask.config.schema import RunConfig
from raymask.core.types import Progress
from raymask.io.atomic import write_table
from raymask.io.checked import DamagedFileError, read_table
from raymask.io.hashing import UNKNOWN, Version, text_digest, versions_of
from raymask.runs.directory import cache_root


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
        table = read_table(memory, {"path": "text", "stamp": "text", "digest": "text"}, only=True)
    except DamagedFileError:  # none yet, or one that is damaged: what it knew is read again
        return {}
    return {path: Version(stamp, digest) for path, stamp, digest in _rows(table)}


def _rows(table: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    return zip(table["path"].tolist(), table["stamp"].tolist(), table["digest"].tolist(), strict=True)


def _remember(memory: Path, known: Mapping[str, Version]) -> None:
    rows = [(path, version.stamp, version.digest) for path, version in known.items()]
    write_table(memory, pd.DataFrame(rows, columns=["path", "stamp", "digest"], dtype=str))
