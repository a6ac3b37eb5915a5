"""What comes in a request: read within limits, checked, decoded, or refused in a sentence. Nothing is trusted."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastapi import Request
from PIL import PngImagePlugin
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from raymask.data.colours import BrokenImageError, Pixels
from raymask.data.decode import InputSpec, pixels_of
from raymask.given import read_content

MOST_IMAGES = 64
MOST_TEXT = 2**22
"""Bytes of text in a PNG, which are packed into a thousandth, and unpacked even if the header alone is wanted."""

PngImagePlugin.MAX_TEXT_MEMORY = MOST_TEXT


class Refusal(Exception):  # noqa: N818
    """A request that gets no prediction; the message says why, in one sentence."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, dict(headers or {})


@dataclass(frozen=True)
class Limits:
    """What a request may be."""

    max_mb: float = 10.0
    max_megapixels: float = 25.0
    max_request_megapixels: float = 100.0
    """Of all images of a request together."""
    timeout_s: float = 30.0
    waiting: int = 256
    """Requests at a time; others are sent away."""

    @property
    def most_bytes(self) -> int:
        """Bytes of a request's body."""
        return int(self.max_mb * 1e6)

    @property
    def most_pixels(self) -> int:
        """Pixels of an image."""
        return int(self.max_megapixels * 1e6)


async def read_images(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    """Names and contents of a request's images.

    Raises:
        Refusal: it has none, it is too large, or it is neither a form nor JSON.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    bounded = Request(request.scope, _bounded(request, limits))
    if kind == "application/json":
        return _from_json(await bounded.body())
    if kind == "multipart/form-data":
        return await _from_form(bounded)
    raise Refusal(415, f"The request is {kind or 'of no type'}; send a form (multipart/form-data) or JSON (application/json).")


def _bounded(request: Request, limits: Limits) -> Receive:
    """Reads the body, until it is too large: by what its header says, or by what has come."""
    too_large = Refusal(413, f"The request is larger than {limits.max_mb:g} MB.", {"Connection": "close"})
    said, come = request.headers.get("content-length", ""), 0
    if said.isdigit() and int(said) > limits.most_bytes:
        raise too_large

    async def receive() -> Message:
        nonlocal come
        message = await request.receive()
        come += len(message.get("body", b""))
        if come > limits.most_bytes:
            raise too_large
        return message

    return receive


def _from_json(body: bytes) -> list[tuple[str, bytes]]:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal(400, "The request's body is no JSON.") from None
    images = told.get("image") if isinstance(told, dict) else None
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not images or not all(isinstance(image, str) for image in images):
        raise Refusal(400, 'The JSON has no image; send {"image": "BASE64"}, or a list of them.')
    _check_number(len(images))
    try:
        return [("", base64.b64decode(image, validate=True)) for image in images]
    except (binascii.Error, ValueError):
        raise Refusal(400, "An image is no valid base64.") from None


async def _from_form(request: Request) -> list[tuple[str, bytes]]:
    try:
        async with request.form(max_files=2 * MOST_IMAGES, max_fields=2 * MOST_IMAGES) as form:
            files = [file for file in form.getlist("image") if isinstance(file, UploadFile)]
            _check_number(len(files))
            images = [(file.filename or "", await file.read()) for file in files]
            if form.getlist("image") and not images:
                raise Refusal(400, "The form's field 'image' is no file.")
    except HTTPException as error:
        raise Refusal(400, f"The form cannot be read ({error.detail.rstrip('.')}).") from None
    if not images:
        raise Refusal(400, "The form has no file in a field 'image'.")
    return images


def _check_number(images: int) -> None:
    if images > MOST_IMAGES:
        raise Refusal(413, f"The request has {images} images; send at most {MOST_IMAGES} at a time.")


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
    said = f"'{name}': {problem}." if name else f"{problem}."
    return said[0].upper() + said[1:]
