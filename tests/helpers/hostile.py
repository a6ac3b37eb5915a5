"""Files that are not what they say, and ones that no library writes."""

from __future__ import annotations

import struct


def tiff(entries: dict[int, tuple[int, int]], content: bytes) -> bytes:
    """A TIFF of one picture: its tags, each of one number (type 3 or 4), and its data, whose place and size are added."""
    start = 8 + 2 + 12 * (len(entries) + 2) + 4
    place, size = (324, 325) if 322 in entries else (273, 279)
    tags = {**entries, place: (4, start), size: (4, len(content))}
    packed = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + packed + struct.pack("<I", 0) + content


def tiff_and_fli(side: int) -> bytes:
    """An 8 × 8 TIFF that is also an animation of Autodesk's with a picture of `side` × `side`; Pillow knows it as either.

    Its bytes 4 to 8 are the animation's magic number and its one frame, and where the TIFF's tags are: at 0x1AF11.
    """
    place = 0x1AF11
    whole = bytearray(place)
    whole[:8] = b"II*\0" + struct.pack("<I", place)
    struct.pack_into("<HHHH", whole, 8, side, side, 8, 3)
    tags = {256: (4, 8), 257: (4, 8), 258: (3, 8), 259: (3, 1), 262: (3, 1), 277: (3, 1), 278: (4, 8)}
    struct.pack_into("<IH", whole, 128, 16, 0xF1FA)
    return bytes(whole) + _tags_at(tiff(tags, bytes([90] * 64)), place)


def _tags_at(body: bytes, place: int) -> bytes:
    """The tags and data of a TIFF, moved so that they begin at another place."""
    moved = bytearray(body[8:])
    for entry in range(struct.unpack_from("<H", moved)[0]):
        tag, _, _, value = struct.unpack_from("<HHII", moved, 2 + 12 * entry)
        if tag == 273:
            struct.pack_into("<I", moved, 2 + 12 * entry + 8, value - 8 + place)
    return bytes(moved)
