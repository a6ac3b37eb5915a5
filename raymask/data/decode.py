"""An image file, its bytes, an open image or an array -> pixels of the size that a model takes: one way for all of them.

Imported by every worker, so it stays light.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from raymask.core.errors import InputError
from raymask.core.types import Pixels
from raymask.data.colours import BrokenImageError, array_to_rgb, keeps_little, to_rgb
from raymask.data.specs import InputSpec
from raymask.io.files import read_bytes, why_unreadable

T = TypeVar("T")

FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "PPM": (".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
}
"""Pillow's formats that are read, and the suffixes of their files: those whose decoders keep to the size that the header says.

Pillow knows more: EPS, for which it runs Ghostscript; FLI and others whose first bytes may be those of another format; AVIF, of
which 1 kB that says 8 × 8 pixels may hold 16,384 × 16,384.
"""
SUFFIXES = frozenset(chain.from_iterable(FORMATS.values()))
MAX_PIXELS = 178_956_970
"""Of a file, unless fewer are asked for; Pillow's own limit."""
MAX_BYTES = 2**31
"""Of a file; one that says to hold more is no image, but fills the memory."""
MAX_SCANS = 64
"""Of a JPEG. Progressive ones have about 10; each of 64 bytes may go over all pixels again."""
TILE_WIDTH, TILE_LENGTH = 322, 323

cv2.setNumThreads(0)


def decode(content: bytes, spec: InputSpec, most_pixels: int = MAX_PIXELS) -> Pixels:
    """(H, W, 3) uint8 RGB pixels of a file's bytes, upright by its EXIF data, cropped and resized by area.

    Of several pictures it is the first; of any mode and number of bits, see `raymask.data.colours.to_rgb`. JPEGs are decoded at
    the smallest of libjpeg's scales (1/1, 1/2, 1/4, 1/8) that still holds the target's resolution.

    Args:
        content: a file of one of `FORMATS`.
        spec: size and crop.
        most_pixels: what is read of one image.

    Raises:
        BrokenImageError: the bytes are no image, not a whole one, or it is too large or of numbers that have no 8-bit picture.
    """
    whole = decode_whole(content, spec, most_pixels)
    with _explained():
        return fitted(whole, spec)


class Whole(NamedTuple):
    """An image before it is cropped and resized."""

    pixels: Pixels
    """(H, W, 3), upright."""
    height: int
    """That of the file, in pixels, turned upright."""
    width: int
    shrunk: int
    """How many times as long the sides of the file are."""


def decode_whole(content: bytes, spec: InputSpec, most_pixels: int = MAX_PIXELS) -> Whole:
    """What `decode` crops and resizes: a JPEG at the smallest of libjpeg's scales that holds what is wanted of it.

    Raises:
        BrokenImageError: as `decode` does.
    """
    with _explained():
        image = _opened(content, most_pixels)
        width, height = image.size
        image.draft("RGB", _least_size(image, spec))
        pixels = _upright_rgb(image, most_pixels)
        turned = pixels.shape[:2] != (image.height, image.width)
        return Whole(pixels, *((width, height) if turned else (height, width)), shrunk=round(width / image.width))


def _least_size(image: Image.Image, spec: InputSpec) -> tuple[int, int]:
    """Width and height that an image may be decoded at: then what is cut out of it still has the target's resolution."""
    if spec.crop <= 1:
        longest = int(np.ceil(max(spec.height, spec.width) / spec.crop))
        return longest, longest
    whole = min(image.size) / max(spec.height, spec.width)  # whichever side becomes the height, when it is turned upright
    factor = max(1, int(min(whole, spec.crop / min(spec.height, spec.width))))
    return -(-image.width // factor), -(-image.height // factor)


def decode_image(image: Image.Image | npt.NDArray[Any], specs: Sequence[InputSpec]) -> list[Pixels]:
    """The same for each spec of an image that Pillow has opened, or of an array, see `raymask.data.colours.array_to_rgb`.

    Raises:
        BrokenImageError: as `decode` does.
    """
    with _explained():
        pixels = array_to_rgb(image) if isinstance(image, np.ndarray) else _upright_rgb(image, MAX_PIXELS)
    return [_fitted(pixels, spec) for spec in specs]


def pixels_of(content: bytes, most_pixels: int = MAX_PIXELS) -> int:
    """How many pixels a file has, of which the header alone is read.

    Raises:
        BrokenImageError: as `decode` does.
    """
    with _explained():
        image = _opened(content, most_pixels)
        return image.width * image.height


def _opened(content: bytes, most_pixels: int) -> Image.Image:
    """The one door to Pillow for a file's bytes: of known formats, within the limits, its pixels not yet read."""
    if not content:
        raise BrokenImageError("the file is empty")
    image = Image.open(io.BytesIO(content), formats=list(FORMATS))
    tags = getattr(image, "tag_v2", {})
    # A TIFF's decoder takes room for a whole tile, however small the image.
    tile = int(tags.get(TILE_WIDTH, 0)) * int(tags.get(TILE_LENGTH, 0))
    _check_pixels(max(image.width * image.height, tile), most_pixels)
    if content.startswith(b"\xff\xd8") and content.count(b"\xff\xda") > MAX_SCANS:
        raise BrokenImageError(f"the image is a JPEG of more than {MAX_SCANS} scans")
    return image


def _upright_rgb(image: Image.Image, most_pixels: int) -> Pixels:
    deep = not image.mode.startswith("I") and any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))
    _check_pixels(image.width * image.height, most_pixels)
    image.load()
    _check_pixels(image.width * image.height, most_pixels)
    if deep and keeps_little(image):
        raise BrokenImageError("its colours of 16 bits are of 12 or fewer, and nearly black in 8; save it in 8 bits")
    return to_rgb(ImageOps.exif_transpose(image), getattr(image, "tag_v2", None))


def _check_pixels(pixels: int, most: int) -> None:
    if pixels > most:
        raise BrokenImageError(f"the image has {pixels / 1e6:.4g} megapixels; at most {most / 1e6:.4g} are read")


@contextmanager
def _explained() -> Iterator[None]:
    """Whatever Pillow raises as a `BrokenImageError`, and nothing that it warns of."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except BrokenImageError:
        raise
    except Exception as error:  # Pillow's plugins raise anything: struct.error for wrong EXIF data, EOFError, TypeError, ...
        raise BrokenImageError(_why(error)) from None


def decode_file(path: str, specs: Sequence[InputSpec]) -> tuple[str, list[Pixels]]:
    """Pixels of a file for each spec, or why it has none: ("", pixels) or (problem, [])."""
    problem, pixels = read_file(path, lambda content: [decode(content, spec) for spec in specs])
    return problem, pixels or []


def read_file(path: str, decoded: Callable[[bytes], T]) -> tuple[str, T | None]:
    """What is made of a file's bytes, or why it cannot be: ("", it) or (problem, None)."""
    try:
        return "", decoded(read_bytes(path, MAX_BYTES))
    except BrokenImageError as error:
        return str(error), None
    except (OSError, InputError) as error:
        return why_unreadable(error), None


def fitted(whole: Whole, spec: InputSpec) -> Pixels:
    """(H, W, 3) what a model sees of a whole image that was decoded for this spec."""
    return _fitted(whole.pixels, spec, whole.shrunk)


def _fitted(pixels: Pixels, spec: InputSpec, shrunk: int = 1) -> Pixels:
    prepared = resize(crop_centre(pixels, spec, shrunk), spec)
    return np.ascontiguousarray(spec.seen(prepared)) if spec.window else prepared


def crop_centre(pixels: Pixels, spec: InputSpec, shrunk: int = 1) -> Pixels:
    """The centred box of the target's aspect: `crop` of the largest such box, or of so many pixels on its shorter side.

    Args:
        pixels: (H, W, 3).
        spec: the target.
        shrunk: how many times as long the sides of the image were before it was decoded at a smaller scale.
    """
    height, width = pixels.shape[:2]
    largest = min(height / spec.height, width / spec.width)
    scale = largest * spec.crop if spec.crop <= 1 else min(largest, spec.crop / min(spec.height, spec.width) / shrunk)
    box_height, box_width = max(1, round(spec.height * scale)), max(1, round(spec.width * scale))
    top, left = (height - box_height) // 2, (width - box_width) // 2
    return pixels[top : top + box_height, left : left + box_width]


def resize(pixels: Pixels, spec: InputSpec) -> Pixels:
    """Pixels at the target's size: by area when they shrink, linear when they grow."""
    shrinks = pixels.shape[0] > spec.height
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (spec.width, spec.height), interpolation=how), dtype=np.uint8)


def _why(error: Exception) -> str:
    if "cannot identify" in str(error):
        return "the file is no image that can be read"
    if isinstance(error, Image.DecompressionBombError):
        return f"the image has far too many pixels; at most {MAX_PIXELS / 1e6:.4g} megapixels are read"
    message = str(error).strip() or type(error).__name__
    return f"the image is broken ({message.splitlines()[0]})"
