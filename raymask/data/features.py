"""Features of a frozen backbone on disk: computed once for all heads, epochs and runs that want the same ones.

A bank is a folder named by its content: `pass-0.npy` ... hold the features of the stream's augmented passes, `view-NAME.npy`
those of the images as they are under one view; each is (N, F) float32, in the order of the manifest.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from raymask.data.specs import BankSpec

Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FeatureBank:
    """Features of every row of the manifest, mapped into memory."""

    passes: tuple[Features, ...]
    """What heads learn from; without augmented passes, those of the images as they are."""
    views: dict[str, Features]


def bank_folder(root: Path, spec: BankSpec, cache: Path, backbone: str, weights: str, image_ids: pd.Series) -> Path:
    """Folder of the features of these prepared images by a backbone.

    Args:
        root: folder of all banks.
        spec: the bank.
        cache: the prepared images, whose folder is named by their content.
        backbone: name of the backbone.
        weights: digest of its weights.
        image_ids: the images, in the order of the manifest.
    """
    given = [spec.statistics] if spec.statistics else []
    digest = hashlib.sha256(repr((3, spec.stream, spec.amp, cache.name, backbone, weights, *given)).encode())
    digest.update("\0".join(image_ids).encode("utf-8", "surrogateescape"))
    return root / f"{file_stem(backbone)}-{digest.hexdigest()[:12]}"


def file_stem(backbone: str) -> str:
    """A backbone's name as part of a file's."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", backbone)


def part_path(folder: Path, part: str) -> Path:
    """File of a pass or a view; it exists when it is whole."""
    return folder / f"{part}.npy"


def missing_parts(folder: Path, spec: BankSpec) -> list[str]:
    """Parts that are not computed yet."""
    return [part for part in spec.parts if not _is_whole(part_path(folder, part))]


def _is_whole(file: Path) -> bool:
    """Whether a part is there with all its features; a file that was cut is computed again."""
    try:
        return bool(np.load(file, mmap_mode="r").ndim == 2)
    except (OSError, ValueError, EOFError):
        return False


def open_bank(folder: Path, spec: BankSpec) -> FeatureBank:
    """The bank whose parts are all there."""
    parts = {part: np.load(part_path(folder, part), mmap_mode="r") for part in spec.parts}
    passes = tuple(parts[f"pass-{number}"] for number in range(spec.stream.epochs))
    return FeatureBank(passes or (parts["view-original"],), {view: parts[f"view-{view}"] for view in spec.views})
