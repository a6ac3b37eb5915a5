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
from hostile import tiff, tiff_and_fli
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raymask.data.decode import (
    FORMATS,
    MAX_SCANS,
    SUFFIXES,
    BrokenImageError,
    crop_centre,
    decode,
    decode_file,
    decode_image,
    pixels_of,
    resize,
)
from raymask.data.specs import InputSpec

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


# --- a crop in pixels of the file, and what a model sees of a prepared image


@given(
    height=st.integers(8, 400),
    width=st.integers(8, 400),
    to=st.tuples(st.integers(8, 64), st.integers(8, 64)),
    side=st.integers(8, 500),
)
def test_a_crop_above_1_is_the_shorter_side_in_pixels(height: int, width: int, to: tuple[int, int], side: int) -> None:
    places = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1)
    box = crop_centre(places, InputSpec(*to, float(side)))  # type: ignore[arg-type]
    if side <= min(height / to[0], width / to[1]) * min(to):
        assert min(box.shape[:2]) == side
        assert abs(max(box.shape[:2]) - side * max(to) / min(to)) <= 0.5
    else:  # more than there is: all of it
        assert box.shape == crop_centre(places, InputSpec(*to, 1.0)).shape  # type: ignore[arg-type]
    for axis, whole in enumerate((height, width)):
        assert abs(box[0, 0, axis] - (whole - 1 - box[-1, -1, axis])) <= 1


def test_a_crop_in_pixels_is_the_middle_of_any_image() -> None:
    for height, width in ((100, 200), (60, 60), (90, 50)):
        image = np.zeros((height, width, 3), dtype=np.uint8)
        image[height // 2 - 25 : height // 2 + 25, width // 2 - 25 : width // 2 + 25] = 255
        assert (decode(encoded(image), InputSpec(20, 20, 50.0)) == 255).all()


@pytest.mark.parametrize("side", [1200, 700, 300, 130, 40])
@pytest.mark.parametrize("turned", [False, True])
def test_a_jpeg_whose_crop_is_in_pixels_is_decoded_at_enough_of_them(side: int, turned: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    content = encoded(textured(960, 1280), "JPEG", quality=95, exif=exif)
    spec = InputSpec(32, 40, float(side))
    full = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    full = np.rot90(full, -1) if turned else full
    box = crop_centre(full, spec)
    assert min(box.shape[:2]) == min(side, min(full.shape[0] / 32, full.shape[1] / 40) * 32)
    assert difference(decode(content, spec), resize(box, spec)) < 10  # a box is rounded to pixels of the smaller scale


def test_a_crop_in_pixels_keeps_stripes_that_are_as_fine_as_the_target() -> None:
    stripes = np.zeros((512, 512, 3), dtype=np.uint8)
    stripes[:, (np.arange(512) // 4) % 2 == 1] = 255
    assert decode(encoded(stripes, "JPEG", quality=95), InputSpec(64, 64, 256.0)).std() > 110


@given(size=st.tuples(st.integers(1, 24), st.integers(1, 32)))
def test_a_window_is_the_centre_of_the_prepared_image_by_every_door(size: tuple[int, int]) -> None:
    spec = InputSpec(24, 32, 1.0, size)
    content = encoded(picture(), "JPEG")
    whole, top, left = decode(content, SPEC), (24 - size[0]) // 2, (32 - size[1]) // 2
    centre = whole[top : top + size[0], left : left + size[1]]
    np.testing.assert_array_equal(decode(content, spec), centre)
    assert decode(content, spec).flags.c_contiguous
    array = picture()
    [seen, prepared] = decode_image(array, [spec, SPEC])
    np.testing.assert_array_equal(seen, prepared[top : top + size[0], left : left + size[1]])


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
    assert why_broken(bomb) == "the image has far too many pixels; at most 179 megapixels are read"


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


# --- every door is the same one


def numbers(kind: str, bits: int) -> np.ndarray:
    """(H, W) gray numbers of a type that use a range of so many bits."""
    gray = picture()[..., 0].astype(np.float64)
    scaled = gray / 255 if bits == 1 else np.floor(gray * (2**bits - 1) / 255)
    return scaled.astype(kind)


def looks_like_the_picture(pixels: np.ndarray) -> None:
    assert difference(pixels, decode(encoded(picture()[..., 0]), SPEC)) < 1.5


@pytest.mark.parametrize(
    ("kind", "bits"),
    [
        *(("uint16", 8), ("uint16", 12), ("uint16", 16), ("int32", 8), ("int32", 12), ("int32", 16), ("int64", 16)),
        *(("float32", 1), ("float32", 8), ("float32", 12), ("float32", 16), ("float64", 1), ("uint32", 12)),
    ],
)
def test_numbers_of_any_type_are_scaled_by_the_range_that_they_use(kind: str, bits: int) -> None:
    values = numbers(kind, bits)
    [pixels] = decode_image(values, [SPEC])
    looks_like_the_picture(pixels)
    if kind in ("uint16", "int32", "float32"):
        image = Image.fromarray(values)
        np.testing.assert_array_equal(decode_image(image, [SPEC])[0], pixels)
        np.testing.assert_array_equal(decode(encoded(image, "TIFF"), SPEC), pixels)
    if kind == "uint16":
        content = encoded(image, "PNG")
        np.testing.assert_array_equal(decode(content, SPEC), pixels)
        np.testing.assert_array_equal(decode_image(Image.open(io.BytesIO(content)), [SPEC])[0], pixels)


@given(
    kind=st.sampled_from(["uint16", "int16", "int32", "float32"]),
    least=st.floats(-1e6, 1e6, width=32),
    span=st.floats(0, 1e6, width=32),
)
@settings(max_examples=200, deadline=None)
def test_no_numbers_become_black_or_white_without_a_word(kind: str, least: float, span: float) -> None:
    """A ramp of any two numbers has pixels whose range is more than a few grays, or a reason; or it is dark as its range says."""
    info = np.iinfo(kind) if kind != "float32" else np.finfo(kind)
    ends = np.clip([least, least + span], float(info.min), float(info.max))
    ramp = np.tile(np.linspace(*ends, 64), (48, 1)).astype(kind)
    try:
        [pixels] = decode_image(ramp, [SPEC])
    except BrokenImageError:
        return
    assert pixels.max() >= 15 or ramp.max() == 0
    assert (pixels[:, 1:].astype(int) >= pixels[:, :-1]).all()
    assert (pixels == 255).mean() < 0.2 or ramp.min() > 0.7 * ramp.max()


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.array([[-1000, 400]], np.int32), "from -1000 to 400, which is none of 8, 12 or 16 bits"),
        (np.array([[0, 70000]], np.int32), "from 0 to 70000"),
        (np.array([[-2.1, 2.6]], np.float32), "from -2.1 to 2.6"),
        (np.array([[0, 3.5]], np.float32), "from 0 to 3.5, which is nearly black in 0 to 1, or of 8, 12 or 16 bits"),
        (np.array([[0, 0.01]], np.float32), "from 0 to 0.01, which is nearly black"),
        (np.array([[0, 9]], np.int32), "from 0 to 9, which is nearly black"),
        (np.array([[0, np.nan]], np.float32), "not all numbers"),
        (np.array([[0, np.inf]], np.float32), "not all numbers"),
    ],
)
def test_numbers_without_a_range_are_set_aside(values: np.ndarray, why: str) -> None:
    for broken in (values, Image.fromarray(values)):
        with pytest.raises(BrokenImageError, match=why):
            decode_image(broken, [SPEC])
    assert why in why_broken(encoded(Image.fromarray(values), "TIFF"))


def test_floats_that_resampling_put_a_little_beyond_their_range_are_clipped() -> None:
    values = numbers("float32", 1)
    values[:8, :8], values[-8:, -8:] = -0.03, 1.04
    [pixels] = decode_image(values, [SPEC])
    assert pixels[0, 0, 0] == 0
    assert pixels[-1, -1, 0] == 255
    looks_like_the_picture(pixels)


@pytest.mark.parametrize("top", [255, 4095])
def test_a_tiff_of_12_bits_is_scaled_by_what_it_says(top: int) -> None:
    gray = picture(24, 32)[..., 0].astype(int) * top // 255
    pairs = gray.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1)
    tags = {256: (4, 32), 257: (4, 24), 258: (3, 12), 259: (3, 1), 262: (3, 1), 277: (3, 1), 278: (4, 24)}
    pixels = decode(tiff(tags, packed.astype(np.uint8).tobytes()), InputSpec(24, 32, 1.0))
    assert difference(pixels[..., 0], gray * 255 / 4095) < 1


def test_gray_of_which_zero_is_white_is_turned_round() -> None:
    gray = numbers("uint16", 16)
    tags = {256: (4, 128), 257: (4, 96), 258: (3, 16), 259: (3, 1), 277: (3, 1), 278: (4, 96)}
    for photometric, stored in ((1, gray), (0, 65535 - gray)):
        looks_like_the_picture(decode(tiff({**tags, 262: (3, photometric)}, stored.astype("<u2").tobytes()), SPEC))


@pytest.mark.parametrize("kind", [".png", ".tiff"])
def test_colours_of_12_bits_in_16_are_set_aside(kind: str) -> None:
    content = cv2.imencode(kind, picture()[..., ::-1].astype(np.uint16) * 16)[1].tobytes()
    assert "nearly black in 8" in why_broken(content)
    with pytest.raises(BrokenImageError, match="nearly black"):
        decode_image(Image.open(io.BytesIO(content)), [SPEC])
    assert outcome(cv2.imencode(kind, np.zeros((9, 9, 3), np.uint16))[1].tobytes()) == "pixels"


def test_lab_is_turned_into_rgb() -> None:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    image = ImageCms.applyTransform(Image.fromarray(picture()), ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))
    for pixels in (decode(encoded(image, "TIFF"), SPEC), decode_image(image, [SPEC])[0]):
        assert difference(pixels, decode(encoded(picture()), SPEC)) < 3


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "RGBa", "La"])
def test_what_is_transparent_is_white(mode: str) -> None:
    image = Image.new("RGBA", (64, 48), (0, 0, 0, 0))
    image.paste((90, 90, 90, 255), (32, 0, 64, 48))
    if mode in ("P", "PA"):
        image = image.convert("RGB").quantize(4).convert("PA") if mode == "PA" else image.quantize(4)
        if mode == "PA":
            image.putalpha(Image.fromarray(np.repeat([[0] * 32 + [255] * 32], 48, axis=0).astype(np.uint8)))
    else:
        image = image.convert("LA").convert("La") if mode == "La" else image.convert(mode)
    [pixels] = decode_image(image, [SPEC])
    assert (pixels[:, :15] == 255).all()
    assert np.abs(pixels[:, 17:].astype(int) - 90).max() <= 1
    if mode in ("RGBA", "LA", "P"):
        np.testing.assert_array_equal(decode(encoded(image), SPEC), pixels)


def test_half_of_a_colour_and_half_of_white() -> None:
    pixels = decode(encoded(Image.new("RGBA", (64, 48), (0, 100, 200, 128))), SPEC)
    assert difference(pixels, np.broadcast_to((127, 177, 227), (24, 32, 3))) < 1


def test_an_image_that_is_transparent_everywhere_keeps_its_colours() -> None:
    pixels = decode(encoded(Image.new("RGBA", (64, 48), (10, 100, 200, 0))), SPEC)
    assert (pixels == (10, 100, 200)).all()


@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32", "bool"])
def test_arrays_of_any_number_of_channels(channels: int, kind: str) -> None:
    gray = {"uint8": picture()[..., 0], "uint16": numbers("uint16", 16), "float32": numbers("float32", 1)}
    values = gray.get(kind, picture()[..., 0] > 128)
    white = {"uint8": 255, "uint16": 65535}.get(kind, 1)
    whole = values if channels == 0 else np.stack([values] * channels, axis=-1)
    if channels in (2, 4):
        whole[..., -1] = white
    expected = np.where(values, 255, 0).astype(np.uint8) if kind == "bool" else picture()[..., 0]
    assert difference(decode_image(whole, [SPEC])[0], decode(encoded(expected), SPEC)) < 1


def test_a_broken_image_of_pillow_is_set_aside_and_turned_upright_as_a_file_is() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.fromarray(picture()).transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    np.testing.assert_array_equal(decode_image(Image.open(io.BytesIO(content)), [SPEC])[0], decode(content, SPEC))
    with pytest.raises(BrokenImageError, match="broken"):
        decode_image(Image.open(io.BytesIO(content[: len(content) // 2])), [SPEC])


# --- files that are not what their headers say


def test_suffixes_are_those_of_pillow_for_the_formats_that_are_read() -> None:
    known = {suffix: name.replace("MPO", "JPEG") for suffix, name in Image.registered_extensions().items()}
    for name, suffixes in FORMATS.items():
        assert {known[suffix] for suffix in suffixes} == {name}
    assert {suffix for suffix, name in known.items() if name in FORMATS} == SUFFIXES


@pytest.mark.filterwarnings("ignore:Image size")
def test_a_file_that_is_two_formats_is_the_same_one_to_all() -> None:
    content = tiff_and_fli(13_000)
    assert Image.open(io.BytesIO(content), formats=["FLI"]).size == (13_000, 13_000)
    assert Image.open(io.BytesIO(content)).size == (13_000, 13_000)
    assert pixels_of(content) == 64
    assert outcome(content) == "pixels"


def test_a_small_tiff_of_one_enormous_tile_is_refused() -> None:
    """Its decoder would take a gigabyte for the tile, of which the picture is a corner."""
    tags = {256: (4, 8), 257: (4, 8), 258: (3, 8), 259: (3, 8), 262: (3, 1), 277: (3, 1), 322: (4, 30_000), 323: (4, 30_000)}
    assert why_broken(tiff(tags, zlib.compress(bytes(1000)))) == "the image has 900 megapixels; at most 179 are read"


def test_a_jpeg_of_very_many_scans_is_refused() -> None:
    """Each costs 64 bytes, and the time of going over all pixels."""
    content = encoded(Image.new("L", (500, 500), 100), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xc4")
    many = content[:-2] + content[last:-2] * MAX_SCANS + b"\xff\xd9"
    assert outcome(content) == "pixels"
    assert why_broken(many) == f"the image is a JPEG of more than {MAX_SCANS} scans"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "JPEG2000"])
def test_the_most_pixels_hold_for_what_is_decoded(kind: str) -> None:
    content = encoded(picture(100, 120), kind)
    assert decode(content, SPEC, 12_000).shape == (24, 32, 3)
    with pytest.raises(BrokenImageError, match=r"has 0\.012 megapixels; at most 0\.01199 are read"):
        decode(content, SPEC, 11_990)
    assert pixels_of(content) == 12_000


def test_an_image_that_grows_while_it_is_decoded_is_refused() -> None:
    class Growing(Image.Image):
        def load(self) -> object:
            self._size = (100_000, 100_000)
            return None

    image = Growing()
    image._mode, image._size = "L", (8, 8)
    with pytest.raises(BrokenImageError, match=r"has 1e\+04 megapixels"):
        decode_image(image, [SPEC])
