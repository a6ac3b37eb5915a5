"""Tests of what is measured of images, against Pillow and numpy on the whole files."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raymask.data.careful import CHUNK, in_children
from raymask.data.decode import decode_file
from raymask.data.near_duplicates import WORDS
from raymask.data.specs import InputSpec
from raymask.data.survey import THUMBNAIL, measure_file, small_picture, survey

SPEC = InputSpec(24, 32, 1.0)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """A JPEG, one that lies on its side by its EXIF data, a PNG, and one that is broken."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)).resize((160, 120))
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth.save(tmp_path / "a.jpg", quality=95)
    smooth.save(tmp_path / "b.jpg", quality=95, exif=exif)
    smooth.crop((0, 0, 50, 40)).save(tmp_path / "c.png")
    (tmp_path / "d.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:300])
    return [str(tmp_path / name) for name in ("c.png", "a.jpg", "d.jpg", "b.jpg")]


def test_images_are_measured_in_their_own_order(files: list[str]) -> None:
    told: list[tuple[int, int]] = []
    found = survey(files, SPEC, 1, lambda done, in_all: told.append((done, in_all)))
    assert told[-1] == (4, 4)
    assert [bool(problem) for problem in found.problems] == [False, False, True, False]
    assert "broken" in found.problems[2]
    assert list(zip(found.widths.tolist(), found.heights.tolist(), strict=True)) == [(50, 40), (160, 120), (0, 0), (120, 160)]
    whole = found.problems == ""
    for path, brightness, contrast in zip(files, found.brightness, found.contrast, strict=True):
        if "d.jpg" not in path:
            grey = np.asarray(Image.open(path).convert("L"), float)
            assert brightness == pytest.approx(grey.mean(), abs=1)
            assert contrast == pytest.approx(grey.std(), rel=0.05)
    assert np.isnan(found.brightness[2])
    prepared = np.stack([decode_file(path, [SPEC])[1][0] for path in np.array(files)[whole]]).reshape(-1, 3) / 255
    expected = [*prepared.mean(axis=0), *prepared.std(axis=0)]
    assert found.of(whole).channels.statistics(np.arange(3)) == pytest.approx(expected)
    assert found.thumbnails.shape == (4, THUMBNAIL, THUMBNAIL)
    assert found.hashes.shape == (4, WORDS)


def test_no_images_are_measured_too() -> None:
    found = survey([], SPEC, 2, lambda done, in_all: None)
    assert (found.hashes.shape, found.thumbnails.shape) == ((0, WORDS), (0, THUMBNAIL, THUMBNAIL))


def test_a_small_picture_is_a_jpeg_of_the_whole_image(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "small.jpg").write_bytes(small_picture(files[3], 32, 80))
    with Image.open(tmp_path / "small.jpg") as picture:
        assert picture.size == (24, 32)
    assert small_picture(files[2], 32, 80) == b""


def die_of_some(path: str) -> str:
    if path.endswith("deadly"):
        os.kill(os.getpid(), signal.SIGKILL)
    return path.upper()


def test_what_kills_its_process_is_named_and_the_others_are_done() -> None:
    paths = [f"p{place}{'deadly' if place in (3, CHUNK + 1) else ''}" for place in range(3 * CHUNK)]
    found = in_children(die_of_some, paths, "dead", 2, lambda done, in_all: None)
    assert found == ["dead" if path.endswith("deadly") else path.upper() for path in paths]


def test_an_unreadable_file_is_a_problem_in_words(tmp_path: Path) -> None:
    problem, _ = measure_file(str(tmp_path / "missing.jpg"), SPEC)
    assert problem == "the file is missing"
