"""Tests of the contact sheet and the page of a batch."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from raymask.report.contact_sheet import SIDE, FedBatch, FedImage, _cut, _font, _wrapped, draw_sheet, write_page, write_sheet


def colour(red: int, green: int, blue: int, height: int = 20, width: int = 30) -> np.ndarray:
    return np.full((height, width, 3), (red, green, blue), dtype=np.uint8)


ONE = FedImage("a.jpg", colour(250, 0, 0), colour(0, 0, 250), "worn", "")


def has(sheet: Image.Image, shade: tuple[int, int, int]) -> int:
    """How many pixels are of a colour."""
    return int((np.asarray(sheet) == shade).all(axis=-1).sum())


def test_every_image_is_there_as_prepared_and_as_fed() -> None:
    images = [replace(ONE, prepared=colour(n, 200, 3), fed=colour(n, 5, 200)) for n in range(7)]
    sheet = draw_sheet(FedBatch("title", images))
    grown = SIDE // 30
    for n in range(7):
        for shade in ((n, 200, 3), (n, 5, 200)):
            assert has(sheet, shade) == 20 * grown * 30 * grown


def test_what_is_larger_than_its_place_shrinks_with_its_shape() -> None:
    wide = replace(ONE, prepared=colour(1, 2, 3, 300, 600), fed=colour(4, 5, 6, 288, 144))
    sheet = draw_sheet(FedBatch("title", [wide]))
    assert has(sheet, (1, 2, 3)) == SIDE * SIDE // 2
    assert has(sheet, (4, 5, 6)) == SIDE * SIDE // 2


def test_what_is_not_learned_from_is_faded() -> None:
    sheet = draw_sheet(FedBatch("title", [replace(ONE, left_out="not learned from by mask/fold-0")]))
    assert has(sheet, (250, 0, 0)) > 0
    assert has(sheet, (0, 0, 250)) == 0


@pytest.mark.parametrize("count", [1, 2, 5, 64, 200])
def test_sheets_are_neither_bands_nor_towers(count: int) -> None:
    width, height = draw_sheet(FedBatch("title", [ONE] * count)).size
    assert count < 5 or 0.5 < width / height < 2.5


@settings(deadline=None)
@example(text="<\x1f", width=20)
@given(text=st.text(max_size=80), width=st.integers(20, 300))
def test_texts_fit(text: str, width: int) -> None:
    assert _font().getlength(_cut(text, width)) <= width
    assert all(" " not in line or _font().getlength(line) <= width for line in _wrapped(text, width))


def test_a_long_text_keeps_its_ends() -> None:
    assert re.fullmatch(r"0001_a+…a+_mask\.jpg", _cut(f"0001_{'a' * 90}_mask.jpg", 200))
    assert _cut("short", 200) == "short"


def test_the_sheet_is_a_png_and_the_page_needs_nothing_beside_it(tmp_path: Path) -> None:
    image = replace(ONE, image_id="<b>&amp;.jpg", labels="age <30", target="0.5 <30 + 0.5 >=60")
    batch = FedBatch("first", [image, replace(image, left_out="not learned from")])
    write_sheet(batch, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.format == "PNG"
    write_page("a <run>", {"Mix": '{"name": "mixup"}'}, [batch], tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    for text in ("a &lt;run&gt;", "&lt;b&gt;&amp;amp;.jpg", "0.5 &lt;30 + 0.5 &gt;=60", "first", "mixup", "fed, 20×30"):
        assert text in page
    assert "<b>" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    pictures = [base64.b64decode(part) for part in re.findall(r"base64,([^\"]+)", page)]
    assert [Image.open(io.BytesIO(picture)).size for picture in pictures] == [(30, 20)] * 4
    assert page.count('class="out"') == 1
