"""Data sets of every layout that several files of tests read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from layouts import image, write, write_people, write_table


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_people(tmp_path / "data")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Six images beside their table, of labels x and y."""
    for number in range(6):
        write(tmp_path / "csv" / f"{number}.jpg", image(number))
    return write_table(tmp_path / "csv" / "all.csv", [("image", "label"), *((f"{n}.jpg", "xy"[n % 2]) for n in range(6))])


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    for name in ("cat/1.jpg", "cat/deep/2.PNG", "dog/1.jpg", "dog/._1.jpg", "dog/notes.txt", ".git/x.jpg", "loose.jpg"):
        write(tmp_path / "classes" / name, image())
    return tmp_path / "classes"


@pytest.fixture
def upload() -> Iterator[Callable[[Path], str]]:
    """Copies a folder into fsspec's memory and gives its URL."""
    system = fsspec.filesystem("memory")

    def copy(root: Path) -> str:
        for path in root.rglob("*"):
            if path.is_file():
                system.pipe(f"/test_sources/{path.relative_to(root)}", path.read_bytes())
        return "memory://test_sources"

    yield copy
    if system.exists("/test_sources"):
        system.rm("/test_sources", recursive=True)
