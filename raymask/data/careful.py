"""Decoding of files of which one may kill the process that decodes it, by a fault of a decoder or for want of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from raymask.core.types import Pixels, Progress
from raymask.data.decode import decode_file
from raymask.data.specs import InputSpec

Decoded = tuple[str, list[Pixels]]
T = TypeVar("T")

DEADLY = "the image kills the process that decodes it"
CHUNK = 32
"""Files that a process gets at a time."""


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
        unread: Decoded = (DEADLY, [])
        decoded = list(_in_a_child(partial(decode_file, specs=specs), paths, unread))
    else:
        marker.touch()
        decoded = [decode_file(path, specs) for path in paths]
    marker.unlink(missing_ok=True)
    return decoded


def in_children(work: Callable[[str], T], paths: Sequence[str], deadly: T, children: int, progress: Progress) -> list[T]:
    """What a function gives of each file, found by processes of this machine.

    Where one of them dies, the files that it may have died of are gone through one by one, and the others go on together.

    Args:
        work: a function that processes can be sent.
        paths: the files.
        deadly: what stands for a file that kills its process.
        children: number of processes.
        progress: called with (files done, files in all).
    """
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    found: dict[int, list[T]] = {}
    while waiting := [number for number in range(len(chunks)) if number not in found]:
        pool = ProcessPoolExecutor(min(children, len(waiting)), get_context("spawn"))
        try:
            number_of = {pool.submit(_each, work, chunks[number]): number for number in waiting}
            done = sum(map(len, found.values()))
            for future in as_completed(number_of):
                found[number_of[future]] = future.result()
                done += len(future.result())
                progress(done, len(paths))
        except BrokenProcessPool:
            suspects = [number for number in waiting if number not in found][: 2 * children]  # they were handed out in order
            found |= {number: list(_in_a_child(work, chunks[number], deadly)) for number in suspects}
        finally:
            pool.shutdown(cancel_futures=True)
    return [one for number in range(len(chunks)) for one in found[number]]


def _each(work: Callable[[str], T], paths: Sequence[str]) -> list[T]:
    return [work(path) for path in paths]


def _in_a_child(work: Callable[[str], T], paths: Sequence[str], deadly: T) -> Iterator[T]:
    rest = list(paths)
    while rest:
        with ProcessPoolExecutor(1, get_context("spawn")) as child:
            while rest:
                try:
                    yield child.submit(work, rest[0]).result()
                except BrokenProcessPool:
                    yield deadly
                    del rest[0]
                    break
                del rest[0]
