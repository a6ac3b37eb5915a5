"""A batch as a contact sheet and as a page: each image as it is prepared and as it is fed, and what it is learned as."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil, sqrt
from pathlib import Path
from typing import Any

from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from raymask.core.errors import legible
from raymask.core.types import Pixels
from raymask.io.atomic import replacing, write_text
from raymask.report.pages import page_template

SIDE = 144
"""Pixels of an image's longer side on the sheet."""
GAP, LINE, MARGIN = 6, 16, 18
INK, SOFT, PAPER, WARM = "#20242a", "#69717c", "#f6f6f4", "#b4561f"
QUALITY = 90


@dataclass(frozen=True, eq=False)
class FedImage:
    """One image of a batch."""

    image_id: str
    prepared: Pixels
    """(H, W, 3), without augmentation."""
    fed: Pixels
    """(h, w, 3) what the network gets, before it is normalised."""
    labels: str
    """What it is, in words."""
    target: str
    """What it is learned as, where that is something else; else empty."""
    left_out: str = ""
    """Why the model does not learn from it; empty where it does."""


@dataclass(frozen=True)
class FedBatch:
    """A batch that is shown."""

    title: str
    images: Sequence[FedImage]


def write_sheet(batch: FedBatch, file: Path) -> None:
    """Draws a batch as a PNG."""
    with replacing(file) as draft:
        draw_sheet(batch).save(draft, "PNG", optimize=True)


def draw_sheet(batch: FedBatch) -> Image.Image:
    """Draws a batch: cells of two pictures, the image as prepared and as fed, over its id, its labels and its target."""
    pictures = [(_scaled(image.prepared), _scaled(image.fed)) for image in batch.images]
    width = max(left.width + GAP + right.width for left, right in pictures)
    height = max(max(left.height, right.height) for left, right in pictures)
    texts = [_texts(image, width) for image in batch.images]
    lines = max(map(len, texts))
    columns = min(len(pictures), max(1, ceil(sqrt(len(pictures) * (height + lines * LINE) / width))))
    step_x, step_y = width + 3 * GAP, height + lines * LINE + 3 * GAP
    title = _wrapped(f"{batch.title}; left as prepared, right as fed", columns * step_x - 3 * GAP)
    top = MARGIN + LINE * (len(title) + 1)
    rows = ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (2 * MARGIN + columns * step_x - 3 * GAP, top + rows * step_y + MARGIN - 3 * GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(title):
        pen.text((MARGIN, MARGIN + number * LINE), line, INK, _font())
    for number, (image, (left, right), written) in enumerate(zip(batch.images, pictures, texts, strict=True)):
        x, y = MARGIN + number % columns * step_x, top + number // columns * step_y
        sheet.paste(left, (x, y))
        sheet.paste(_faded(right) if image.left_out else right, (x + left.width + GAP, y))
        for place, (text, colour) in enumerate(written):
            pen.text((x, y + height + 2 + place * LINE), text, colour, _font())
    return sheet


def _texts(image: FedImage, width: int) -> list[tuple[str, str]]:
    """Lines under an image that are no wider than so many pixels, with their colours."""
    target = [(_cut(line, width), WARM) for line in _wrapped(image.target, width)]
    why = [(_cut(image.left_out, width), SOFT)] if image.left_out else []
    return [(_cut(image.labels, width), INK), *target, *why, (_cut(image.image_id, width), SOFT)]


def write_page(title: str, facts: Mapping[str, str], batches: Sequence[FedBatch], file: Path) -> None:
    """Writes batches as one page that needs nothing beside it."""
    shown = [
        {
            "title": batch.title,
            "images": [
                {
                    "id": image.image_id,
                    "prepared": _picture(image.prepared),
                    "fed": _picture(image.fed),
                    "labels": image.labels,
                    "target": image.target,
                    "left_out": image.left_out,
                }
                for image in batch.images
            ],
        }
        for batch in batches
    ]
    write_text(file, page_template("show.html.j2").render(title=title, facts=facts, batches=shown))


def _picture(pixels: Pixels) -> dict[str, Any]:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=QUALITY)
    height, width = pixels.shape[:2]
    return {"uri": f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}", "height": height, "width": width}


def _scaled(pixels: Pixels) -> Image.Image:
    """An image whose longer side is about `SIDE`: by whole numbers where it grows, so that its pixels are seen."""
    image, longest = Image.fromarray(pixels), max(pixels.shape[:2])
    if longest > SIDE:
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        return image
    times = SIDE // longest
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def _faded(image: Image.Image) -> Image.Image:
    return Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, PAPER), 0.6)


@cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(findfont("DejaVu Sans"), 11)  # matplotlib's own, which knows more signs than Pillow's


def _cut(text: str, width: int) -> str:
    """A text that is no wider than so many pixels; what does not fit is left out of its middle."""
    text = legible(text)
    kept = len(text)
    shown = text
    while kept > 0 and _font().getlength(shown) > width:
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return shown


def _wrapped(text: str, width: int) -> list[str]:
    """A text as lines that are no wider than so many pixels, cut between words."""
    lines: list[str] = []
    for word in legible(text).split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _font().getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
