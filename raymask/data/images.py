"""Images as a caller gives them, paths, bytes, PIL images or arrays: checked, named, and read by the one decoder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Sized
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from raymask.core.errors import InputError
from raymask.core.types import Pixels
from raymask.data.colours import BrokenImageError
from raymask.data.decode import MAX_PIXELS, decode, decode_file, decode_image
from raymask.data.specs import InputSpec


def read_image(image: Any, specs: Sequence[InputSpec]) -> tuple[str, list[Pixels]]:
    """Pixels of one image for each spec, or why it has none: ("", pixels) or (problem, []).

    Raises:
        InputError: it is none of the things that `Ensemble.predict` takes.
    """
    if isinstance(image, (str, os.PathLike)):
        return decode_file(os.fspath(image), specs)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return read_content(bytes(image), specs)
    if isinstance(image, Image.Image) or (isinstance(image, np.ndarray) and _is_picture(image)):
        try:
            return "", decode_image(image, specs)
        except BrokenImageError as error:
            return str(error), []
    what = f"an array of {image.dtype} {image.shape}" if isinstance(image, np.ndarray) else f"a {type(image).__name__}"
    raise InputError(f"{what} is no image: give a path, the bytes of a file, a PIL image, or an (H, W) or (H, W, 3) array.")


def _is_picture(array: npt.NDArray[Any]) -> bool:
    """Whether an array is an (H, W) or (H, W, 1 to 4) picture of booleans, whole numbers or floats."""
    channels = array.shape[2] if array.ndim == 3 else 1
    return array.ndim in (2, 3) and 1 <= channels <= 4 and array.size > 0 and array.dtype.kind in "buif"


def check_several(images: Any) -> None:
    """Refuses what is a single image, and what holds no images in an order.

    Raises:
        InputError: it is one of these.
    """
    dimensions = getattr(images, "ndim", 1)
    whole = isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike)) or hasattr(images, "read")
    if whole or isinstance(images, Image.Image) or (dimensions in (0, 2, 3) and not isinstance(images, pd.DataFrame)):
        raise InputError("predict takes a list of images; put a single one in [brackets].")
    batch = isinstance(images, np.ndarray) or dimensions == 1
    if isinstance(images, (Mapping, set, frozenset)) or not isinstance(images, Iterable) or not batch:
        raise InputError(f"predict takes a list of images, or an (N, H, W, C) numpy array, and not a {type(images).__name__}.")


def at_least_one(batch_size: Any) -> int:
    """How many images are read at a time.

    Raises:
        InputError: it is no such number.
    """
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise InputError(f"batch_size is {batch_size!r}; it is the number of images in memory at a time, at least 1.")
    return int(batch_size)


def check_ids(image_ids: Any) -> list[str] | None:
    """The rows' names as text.

    Raises:
        InputError: it is one text, and not a list.
    """
    if isinstance(image_ids, (str, bytes)):
        raise InputError("image_ids is a list of names, one for each image.")
    return None if image_ids is None else [str(name) for name in image_ids]


def check_groups(groups: Any, images: Any) -> list[Any] | None:
    """The group of each image.

    Raises:
        InputError: it is one text, and not a list, or there are more or fewer than images, where their number is known.
    """
    if isinstance(groups, (str, bytes)):
        raise InputError("groups is a list of groups, one for each image.")
    listed = None if groups is None else list(groups)
    if listed is not None and isinstance(images, Sized) and len(listed) != len(images):
        raise InputError(f"there are {len(listed)} groups for {len(images)} images.")
    return listed


def read_content(content: bytes, specs: Sequence[InputSpec], most_pixels: int = MAX_PIXELS) -> tuple[str, list[Pixels]]:
    """Pixels of a file's bytes for each spec, or why it has none."""
    try:
        return "", [decode(content, spec, most_pixels) for spec in specs]
    except BrokenImageError as error:
        return str(error), []


def name_of(image: Any, number: int) -> str:
    """What an image is called in a table: its path, else its number."""
    return os.fspath(image) if isinstance(image, (str, os.PathLike)) else str(number)
