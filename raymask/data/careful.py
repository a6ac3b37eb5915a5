"""Decoding of files of which one may kill the process that decodes it, by a fault of a decoder or for want of memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from raymask.core.types import Pixels
from raymask.data.decode import decode_file
from raymask.data.specs import InputSpec

Decoded = tuple[str, list[Pixels]]

DEADLY = "the image kills the process that decodes it"


def decode_files(paths: Sequence[str], specs: Sequence[InputSpec], marker: Path) -> list[Decoded]:
    """What `decode_file` gives of each file; one that kills its decoder gets a problem.

    Files are decoded in this process. Where that has died of them before, which the marker tells who decodes them next, each is
    decoded in a child of it.

    Args:
        paths: the files.
        specs: see `decode_file`.
        marker: a file that is there while these are decoded, in a folder that all machines see.
    """
    if marker.exists():
        decoded = list(_in_a_child(paths, specs))
    else:
        marker.touch()
        decoded = [decode_file(path, specs) for path in paths]
    marker.unlink(missing_ok=True)
    return decoded


def _in_a_child(paths: Sequence[str], specs: Sequence[InputSpec]) -> Iterator[Decoded]:
    rest = list(paths)
    while rest:
        with ProcessPoolExecutor(1, get_context("spawn")) as child:
            while rest:
                try:
                    yield child.submit(decode_file, rest[0], specs).result()
                except BrokenProcessPool:
                    yield DEADLY, []
                    del rest[0]
                    break
                del rest[0]
