"""Prepared images on disk: uint8 arrays that every process of a machine reads from its one page cache.

A cache is a folder named by its content: `shard-00000.npy` ... of (n, H, W, 3) uint8 each, and `index.parquet` with one row an
image (image_id, shard, offset, problem), written last. Rows of broken images have a `problem` and no pixels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from raymask.core.types import Pixels
from raymask.data.specs import InputSpec
from raymask.io.checked import DamagedFileError, read_table

VERSION = 2
SHARD_BYTES = 64 * 2**20


def cache_key(images: pd.DataFrame, spec: InputSpec) -> str:
    """Name of the cache of these files' contents under these preparing steps, whatever window they are seen through."""
    digest = hashlib.sha256(repr((VERSION, spec.height, spec.width, spec.crop)).encode())
    for column in ("image_id", "digest"):
        values = images[column].astype(str).tolist()
        digest.update("".join(f"{value}\0" for value in values).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def find_cache(images: pd.DataFrame, spec: InputSpec, root: Path) -> tuple[Path, bool]:
    """The folder for these images under these steps, and whether the cache in it is whole."""
    folder = root / f"{cache_key(images, spec)}-{spec.height}x{spec.width}"
    return folder, index_path(folder).exists() and is_whole(folder, spec)


def is_whole(folder: Path, spec: InputSpec) -> bool:
    """Whether the index can be read and each shard has as many images as it says."""
    try:
        index = read_index(folder)
        whole = index[index["problem"] == ""].groupby("shard").size()
        shards = [ShardFile(shard_path(folder, shard)) for shard in whole.index]
    except (DamagedFileError, OSError, ValueError, EOFError):
        return False
    images = dict(zip(whole.index, shards, strict=True))
    return all(images[shard].shape == (count, spec.height, spec.width, 3) for shard, count in whole.items())


def read_index(folder: Path) -> pd.DataFrame:
    """Where each image of a cache lies: image_id, shard, offset, and its problem.

    Raises:
        DamagedFileError: it cannot be read.
    """
    return read_table(index_path(folder), {"image_id": "text", "shard": "whole", "offset": "whole", "problem": "text"})


def problems(folder: Path) -> pd.DataFrame:
    """Broken images of a cache: image_id, reason."""
    index = read_index(folder)
    broken = index[index["problem"] != ""]
    return broken[["image_id", "problem"]].rename(columns={"problem": "reason"}).reset_index(drop=True)


def shard_rows(spec: InputSpec) -> int:
    """Images to a shard: about 64 MB, at most 512, so that preparing spreads over CPUs."""
    return int(np.clip(SHARD_BYTES // (spec.height * spec.width * 3), 16, 512))


def shard_path(folder: Path, shard: int) -> Path:
    """File of a shard."""
    return folder / f"shard-{shard:05d}.npy"


def index_path(folder: Path) -> Path:
    """File whose existence means that the cache is whole."""
    return folder / "index.parquet"


class Shard(Protocol):
    """Images of one size by number."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, H, W, 3)."""
        ...

    def __getitem__(self, number: int) -> Pixels:
        """(H, W, 3) uint8."""
        ...


class ShardFile:
    """A shard that is read image by image, not mapped: mapped pages would count as memory of the processes that read them."""

    def __init__(self, file: Path) -> None:
        header = np.load(file, mmap_mode="r")
        self.file, self.shape, self.start = file, header.shape, int(header.offset)

    def __getitem__(self, number: int) -> Pixels:
        """(H, W, 3) uint8."""
        values = int(np.prod(self.shape[1:]))
        return np.fromfile(self.file, np.uint8, values, offset=self.start + int(number) * values).reshape(self.shape[1:])


@dataclass(frozen=True)
class PreparedImages:
    """Random access to prepared images; the pixels stay on disk and in the page cache."""

    shards: tuple[Shard, ...]
    shard_of: npt.NDArray[np.int64]
    offset_of: npt.NDArray[np.int64]
    through: InputSpec | None = None
    """Whose window the images are seen through; None for the whole of them."""

    def read(self, rows: npt.ArrayLike) -> Pixels:
        """(B, H, W, 3) uint8 copies of the images at these rows of the manifest."""
        wanted = np.asarray(rows, dtype=np.int64)
        shape = self.through.size if self.through else self.shards[0].shape[1:3]
        batch = np.empty((len(wanted), *shape, 3), dtype=np.uint8)
        for index, row in enumerate(wanted):
            image = self.shards[self.shard_of[row]][self.offset_of[row]]
            batch[index] = self.through.seen(image) if self.through else image
        return batch

    def seen_by(self, spec: InputSpec) -> PreparedImages:
        """The same images as a model of this spec sees them, without augmentation."""
        return replace(self, through=spec)


def open_cache(folder: Path, image_ids: pd.Series) -> PreparedImages:
    """The prepared images of these ids, in their order.

    Raises:
        KeyError: an id has no pixels in the cache.
    """
    index = read_index(folder).set_index("image_id")
    places = index.loc[image_ids.to_numpy()]
    assert (places["problem"] == "").all(), "broken images are set aside before a cache is opened"
    count = int(index["shard"].max()) + 1
    shards = tuple(ShardFile(shard_path(folder, shard)) for shard in range(count))
    return PreparedImages(shards, places["shard"].to_numpy(np.int64), places["offset"].to_numpy(np.int64))
