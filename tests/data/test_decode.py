"""Tests of decoding: every kind of file to pixels of one size, or to a reason why not."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raymask.data.decode import BrokenImageError, InputSpec, crop_centre, decode, decode_file, resize

SPEC = InputSpec(24, 32, 1.0)


def picture(height: int = 96, width: int = 128) -> np.ndarray:
    """(H, W, 3) smooth RGB whose corners all differ, so that every turn and flip shows."""
    y, x = np.mgrid[:height, :width]
    red, green = 40 + 180 * x / width, 30 + 200 * y / height
    return np.stack([red, green, 240 - red / 2 - green / 4], axis=-1).astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def difference(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def why_broken(content: bytes) -> str:
    with pytest.raises(BrokenImageError) as caught:
        decode(content, SPEC)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def outcome(content: bytes) -> str:
    """`pixels`, or why there are none."""
    try:
        pixels = decode(content, SPEC)
    except BrokenImageError as error:
        return str(error)
    assert pixels.shape == (24, 32, 3)
    return "pixels"


# --- geometry


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    to=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    crop=st.floats(0.1, 1),
)
@settings(max_examples=60, deadline=None)
def test_any_image_becomes_exactly_the_size(height: int, width: int, to: tuple[int, int], crop: float) -> None:
    pixels = decode(encoded(picture(height, width), "BMP"), InputSpec(*to, crop))
    assert pixels.shape == (*to, 3)
    assert pixels.dtype == np.uint8


@given(
    height=st.integers(8, 400),
    width=st.integers(8, 400),
    to=st.tuples(st.integers(8, 64), st.integers(8, 64)),
    crop=st.floats(0.2, 1),
)
def test_the_box_is_centred_and_has_its_share_of_the_largest_one(
    height: int, width: int, to: tuple[int, int], crop: float
) -> None:
    places = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1)
    box = crop_centre(places, InputSpec(*to, crop))  # type: ignore[arg-type]
    largest = min(height / to[0], width / to[1])
    for axis, side in enumerate((height, width)):
        first, last = box[0, 0, axis], box[-1, -1, axis]
        assert box.shape[axis] == last - first + 1
        assert abs(box.shape[axis] - max(1, to[axis] * largest * crop)) <= 0.5
        assert abs(first - (side - 1 - last)) <= 1  # as much before as behind


def test_the_whole_image_is_kept_where_the_aspect_fits() -> None:
    image = picture(48, 64)
    np.testing.assert_array_equal(crop_centre(image, InputSpec(24, 32, 1.0)), image)
    np.testing.assert_array_equal(decode(encoded(image), InputSpec(48, 64, 1.0)), image)


def test_a_crop_keeps_the_middle() -> None:
    image = np.zeros((100, 200, 3), dtype=np.uint8)
    image[25:75, 75:125] = 255
    assert (decode(encoded(image), InputSpec(20, 20, 0.5)) == 255).all()
    edges = decode(encoded(image), InputSpec(20, 20, 0.6))
    assert (edges[0] == 0).all()
    assert (edges[5:15, 5:15] == 255).all()


def test_shrinking_averages_areas() -> None:
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    image[::2, ::2] = image[1::2, 1::2] = 200  # a checkerboard, of which sampling would keep one colour
    np.testing.assert_array_equal(resize(image, InputSpec(20, 20, 1.0)), np.full((20, 20, 3), 100))


def test_growing_is_smooth() -> None:
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    image[:, 1] = 200
    row = resize(image, InputSpec(16, 16, 1.0))[8, :, 0].astype(int)
    assert row[0] == 0
    assert row[-1] == 200
    assert (np.diff(row) >= 0).all()
    assert np.diff(row).max() <= 30


# --- EXIF


TURNS = {  # how a camera of this orientation stores what is upright
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_photos_are_turned_upright_by_their_exif_data(orientation: int, kind: str) -> None:
    upright = Image.fromarray(picture(120, 160))
    turn = TURNS[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = decode(encoded(upright), SPEC)
    assert difference(decode(encoded(stored, kind, exif=exif), SPEC), expected) < 2
    if turn is not None:
        assert difference(decode(encoded(stored, kind), SPEC), expected) > 10


# --- colours


def test_colour_is_in_the_order_red_green_blue() -> None:
    image = np.zeros((30, 40, 3), dtype=np.uint8)
    image[...] = (250, 10, 90)
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"):
        assert difference(decode(encoded(image, kind), SPEC), np.broadcast_to((250, 10, 90), (24, 32, 3))) < 4


@pytest.mark.parametrize(
    ("mode", "kind", "tolerance"),
    [
        ("RGBA", "PNG", 0.5),
        ("P", "PNG", 4),
        ("P", "GIF", 4),
        ("CMYK", "JPEG", 4),
        ("CMYK", "TIFF", 1),
        ("YCbCr", "JPEG", 4),
        ("RGBX", "TIFF", 0.5),
    ],
)
def test_colour_images_of_any_mode_become_rgb(mode: str, kind: str, tolerance: float) -> None:
    image = picture()
    pixels = decode(encoded(Image.fromarray(image).convert(mode), kind), SPEC)
    assert pixels.shape == (24, 32, 3)
    assert pixels.dtype == np.uint8
    assert difference(pixels, decode(encoded(image), SPEC)) < tolerance


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("L", "JPEG"), ("LA", "PNG"), ("L", "TIFF"), ("I", "TIFF"), ("F", "TIFF")]
)
def test_gray_images_become_three_equal_channels(mode: str, kind: str) -> None:
    gray = Image.fromarray(picture()).convert("L")
    pixels = decode(encoded(gray.convert(mode), kind), SPEC)
    assert difference(pixels, decode(encoded(gray), SPEC)) < 2
    assert (pixels == pixels[..., :1]).all()


def test_black_and_white_images_stay_so() -> None:
    image = Image.fromarray(np.repeat([[0, 255]], 24, axis=0).astype(np.uint8)).resize((32, 24), Image.Resampling.NEAREST)
    pixels = decode(encoded(image.convert("1")), SPEC)
    assert (pixels[:, :16] == 0).all()
    assert (pixels[:, 16:] == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled_and_not_clipped(kind: str) -> None:
    gray = picture()[..., 0]
    content = encoded(gray.astype(np.uint16) * 257, kind)
    assert Image.open(io.BytesIO(content)).mode.startswith("I;16")
    assert difference(decode(content, SPEC), decode(encoded(gray), SPEC)) < 1


def test_16_bit_colour_is_scaled_and_not_clipped() -> None:
    image = picture()
    content = cv2.imencode(".png", image[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    assert difference(decode(content, SPEC), decode(encoded(image), SPEC)) < 1


# --- decoding at a smaller scale


def textured(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 255, (height // 32, width // 32, 3)).astype(np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("crop", [1.0, 0.5])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("size", "tolerance"), [((64, 64), 1), ((40, 90), 6)])  # the second's box is rounded to pixels
def test_a_jpeg_decoded_at_a_smaller_scale_is_close_to_the_full_one(
    size: tuple[int, int], tolerance: float, turned: bool, crop: float
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    content = encoded(textured(480, 640), "JPEG", quality=95, exif=exif)
    spec = InputSpec(*size, crop)
    full = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    full = np.rot90(full, -1) if turned else full
    assert difference(decode(content, spec), resize(crop_centre(full, spec), spec)) < tolerance


def test_a_jpeg_is_never_decoded_at_less_than_the_size_it_needs() -> None:
    """Stripes as fine as the target go flat as soon as they are decoded at half of it."""
    stripes = np.zeros((512, 512, 3), dtype=np.uint8)
    stripes[:, (np.arange(512) // 4) % 2 == 1] = 255  # 128 stripes
    assert decode(encoded(stripes, "JPEG", quality=95), InputSpec(128, 128, 1.0)).std() > 110
    middle = decode(encoded(stripes, "JPEG", quality=95), InputSpec(64, 64, 0.5))
    assert middle.std() > 110


# --- broken files


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_jpeg_that_was_cut_is_broken(share: float, progressive: bool) -> None:
    content = encoded(textured(96, 128), "JPEG", progressive=progressive)
    decode(content, SPEC)
    assert why_broken(content[: int(len(content) * share)]).startswith(("the image is broken (", "the file is no image that"))


@given(data=st.data(), kind=st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "WEBP"]))
@settings(max_examples=80, deadline=None)
def test_a_file_cut_anywhere_is_broken(data: st.DataObject, kind: str) -> None:
    content = encoded(picture(24, 32), kind)
    end = len(content) - (1 if kind == "JPEG" else 30)  # a decoder may have all pixels before the end of the others
    why_broken(content[: data.draw(st.integers(1, end))])


def test_a_jpeg_without_its_last_bytes_is_broken() -> None:
    content = encoded(textured(96, 128), "JPEG")
    for missing in (1, 2, 3, 10):
        assert why_broken(content[:-missing]).startswith("the image is broken (")


@pytest.mark.parametrize("content", [b"no image at all", b"\0" * 1000, b"\xff\xd8\xff", b"GIF89a", b"<svg></svg>"])
def test_other_files_are_no_images(content: bytes) -> None:
    assert why_broken(content) in ("the file is no image that can be read", "the image is broken (Truncated File Read)")


def test_an_empty_file_is_called_empty() -> None:
    assert why_broken(b"") == "the file is empty"


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def test_a_header_that_promises_too_many_pixels_is_refused_before_they_are_decoded() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    assert why_broken(bomb) == "the image has too many pixels"


def test_exif_data_of_a_wrong_type_are_no_crash() -> None:
    """A photo whose EXIF data hold an orientation and a text of another type than they say."""
    tag = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x011A, 2, 4, 0x00616263)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + tag + struct.pack("<I", 0)
    content = encoded(picture(), "JPEG", exif=exif)
    assert outcome(content).startswith(("pixels", "the image is broken ("))


@given(kind=st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM"]), data=st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_bytes_end_in_pixels_or_in_a_reason(kind: str, data: st.DataObject) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a text"
    content = bytearray(encoded(picture(12, 16), kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {})))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    assert outcome(bytes(content))


# --- files


def test_a_file_has_pixels_for_each_spec(tmp_path: Path) -> None:
    content = encoded(picture(), "JPEG")
    (tmp_path / "a.jpg").write_bytes(content)
    specs = [InputSpec(8, 8, 1.0), InputSpec(16, 12, 0.5)]
    problem, pixels = decode_file(str(tmp_path / "a.jpg"), specs)
    assert problem == ""
    assert [image.shape for image in pixels] == [(8, 8, 3), (16, 12, 3)]
    for image, spec in zip(pixels, specs, strict=True):
        np.testing.assert_array_equal(image, decode(content, spec))


def test_a_file_behind_a_url_is_decoded() -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/test_decode/a.png", encoded(picture()))
    assert decode_file("memory://test_decode/a.png", [SPEC])[0] == ""
    assert decode_file("memory://test_decode/b.png", [SPEC]) == ("the file is missing", [])
    system.rm("/test_decode", recursive=True)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "the file is missing"),
        (b"", "the file is empty"),
        (b"words", "the file is no image that can be read"),
        (encoded(picture(), "JPEG")[:-500], "the image is broken (image file is truncated"),
    ],
)
def test_a_file_without_pixels_says_why(tmp_path: Path, content: bytes | None, problem: str) -> None:
    if content is not None:
        (tmp_path / "a.jpg").write_bytes(content)
    said, pixels = decode_file(str(tmp_path / "a.jpg"), [SPEC, SPEC])
    assert said.startswith(problem)
    assert pixels == []


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert decode_file(str(tmp_path), [SPEC]) == ("the file cannot be read (Is a directory)", [])
