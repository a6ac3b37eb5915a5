"""What comes in a request: read within limits, checked, decoded, or refused in a sentence. Nothing is trusted."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from PIL import PngImagePlugin
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, QueryParams, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Message, Receive

from raymask.core.types import Pixels
from raymask.data.colours import BrokenImageError
from raymask.data.decode import pixels_of
from raymask.data.images import read_content
from raymask.data.specs import InputSpec

MAX_IMAGES = 64
MAX_NAME = 200
"""Letters of a file's name or type that are said back."""
CLOSE = {"Connection": "close"}
STANDARD = str.maketrans("-_", "+/")
MAX_TEXT = 2**22
"""Bytes of text in a PNG, which are packed into a thousandth, and unpacked even if the header alone is wanted."""

PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT


class Refusal(Exception):  # noqa: N818
    """A request that gets no prediction; the message says why, in one sentence."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, dict(headers or {})


@dataclass(frozen=True)
class Limits:
    """What a request may be, and how long it may take."""

    max_mb: float = 10.0
    max_megapixels: float = 25.0
    max_request_megapixels: float = 100.0
    """Of all images of a request together."""
    timeout_s: float = 30.0
    """From a request's last byte to its answer."""
    upload_s: float = 60.0
    """From a request's first byte to its last."""
    idle_s: float = 10.0
    """Between two pieces of a body."""
    waiting: int = 256
    """Requests at a time that have come in whole; others are sent away."""
    uploads: int = 256
    """Requests at a time that are still coming in."""
    most_held: int = 2**30
    """Bytes of the bodies of all that have come in."""

    @property
    def most_bytes(self) -> int:
        """Bytes of a request's body."""
        return int(self.max_mb * 1e6)

    @property
    def most_pixels(self) -> int:
        """Pixels of an image."""
        return int(self.max_megapixels * 1e6)


def is_one_group(parameters: QueryParams) -> bool:
    """Whether a request says that its images are all of one group.

    Raises:
        Refusal: it says neither so nor otherwise.
    """
    said = parameters.getlist("one_group") or ["false"]
    known = {"true": True, "1": True, "false": False, "0": False}
    if len(said) > 1 or said[0].lower() not in known:
        raise Refusal(400, f"The parameter one_group is '{', '.join(said)[:MAX_NAME]}'; it may be true or false.")
    return known[said[0].lower()]


async def read_images(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    """Names and contents of a request's images.

    Raises:
        Refusal: it has none, it is too large or too slow, or it is neither a form nor JSON.
        ClientDisconnect: the client went while it sent.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    bounded = Request(request.scope, _bounded(request, limits))
    try:
        async with asyncio.timeout(limits.upload_s):
            if kind == "application/json":
                return _from_json(await bounded.body())
            if kind == "multipart/form-data":
                return await _from_form(bounded)
    except TimeoutError:
        raise Refusal(408, f"The request took longer than {limits.upload_s:g} s to come in.", CLOSE) from None
    what = kind[:MAX_NAME] or "of no type"
    raise Refusal(415, f"The request is {what}; send a form (multipart/form-data) or JSON (application/json).")


def _bounded(request: Request, limits: Limits) -> Receive:
    """Reads the body, until it is too large, by what its header says or by what has come, or until nothing comes any more."""
    too_large = Refusal(413, f"The request is larger than {limits.max_mb:g} MB.", CLOSE)
    announced, come = request.headers.get("content-length", ""), 0
    if announced.isascii() and announced.isdigit() and (len(announced) > 15 or int(announced) > limits.most_bytes):
        raise too_large

    async def receive() -> Message:
        nonlocal come
        try:
            async with asyncio.timeout(limits.idle_s):
                message = await request.receive()
        except TimeoutError:
            raise Refusal(408, f"Nothing more of the request came for {limits.idle_s:g} s.", CLOSE) from None
        come += len(message.get("body", b""))
        if come > limits.most_bytes:
            raise too_large
        return message

    return receive


def _from_json(body: bytes) -> list[tuple[str, bytes]]:
    try:
        parsed = json.loads(body, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError):
        raise Refusal(400, "The request's body is no JSON.") from None
    images = parsed.get("image") if isinstance(parsed, dict) else None
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not images or not all(isinstance(image, str) for image in images):
        raise Refusal(400, 'The JSON has no image; send {"image": "BASE64"}, or a list of them.')
    _check_number(len(images))
    return [("", _from_base64(image)) for image in images]


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        raise Refusal(400, "The JSON has a key twice; send several images as a list of one key 'image'.")
    return keys


def _from_base64(text: str) -> bytes:
    """Base64 of either alphabet, with line breaks or without, padded or not, or as a data URL."""
    head, comma, data = text.partition(",")
    if text[:5].lower() == "data:" and comma:
        if not head.lower().endswith(";base64"):
            raise Refusal(400, "An image is a data URL without base64.")
        text = data
    letters = "".join(text.split()).translate(STANDARD).rstrip("=")
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(400, "An image is no valid base64.") from None


async def _from_form(request: Request) -> list[tuple[str, bytes]]:
    """The files of a form's fields `image`. Of its type's parameters the boundary alone is used, and no charset that it names."""
    boundary = parse_options_header(request.headers["content-type"])[1].get(b"boundary", b"").decode("latin-1")
    headers = Headers({"content-type": f'multipart/form-data; boundary="{boundary}"'} if boundary else {"content-type": ""})
    parser = MultiPartParser(headers, request.stream(), max_files=2 * MAX_IMAGES, max_fields=2 * MAX_IMAGES)
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError, ValueError) as error:
        why = str(getattr(error, "message", error)).rstrip(".")
        raise Refusal(400, f"The form cannot be read ({why}).") from None
    try:
        files = [file for file in form.getlist("image") if isinstance(file, UploadFile)]
        _check_number(len(files))
        images = [((file.filename or "")[:MAX_NAME], await file.read()) for file in files]
    finally:
        await form.close()
    if not images:
        missing = "The form's field 'image' is no file." if form.getlist("image") else "The form has no file in a field 'image'."
        raise Refusal(400, missing)
    return images


def _check_number(images: int) -> None:
    if images > MAX_IMAGES:
        raise Refusal(413, f"The request has {images} images; send at most {MAX_IMAGES} at a time.")


def check_sizes(images: Sequence[tuple[str, bytes]], limits: Limits) -> None:
    """Reads the headers of a request's images, before any is decoded.

    Raises:
        Refusal: one is none, or too large, or all are together.
    """
    together = 0
    for name, content in images:
        try:
            together += pixels_of(content, limits.most_pixels)
        except BrokenImageError as error:
            raise Refusal(422, _sentence(name, str(error))) from None
    if together > limits.max_request_megapixels * 1e6:
        raise Refusal(
            413,
            f"The request's {len(images)} images have {together / 1e6:.4g} megapixels; send at most "
            f"{limits.max_request_megapixels:g} at a time.",
        )


def decode_checked(name: str, content: bytes, specs: Sequence[InputSpec], limits: Limits) -> list[Pixels]:
    """Pixels of an image for each spec.

    Raises:
        Refusal: it is broken or too large.
    """
    problem, pixels = read_content(content, specs, limits.most_pixels)
    if problem:
        raise Refusal(422, _sentence(name, problem))
    return pixels


def _sentence(name: str, problem: str) -> str:
    message = f"'{name}': {problem}." if name else f"{problem}."
    return message[0].upper() + message[1:]
