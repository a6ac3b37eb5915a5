"""What is set aside or left out of the data, and how that is said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import pandas as pd

from raymask.core.errors import InputError, shortened
from raymask.data.decode import SUFFIXES
from raymask.io import files


@dataclass(frozen=True)
class Rejected:
    """Images set aside, with the reason."""

    image_id: list[str] = field(default_factory=list)
    reason: list[str] = field(default_factory=list)

    def add(self, image_ids: pd.Series | list[str], reason: str) -> None:
        """Sets several images aside for one reason."""
        self.image_id.extend(image_ids)
        self.reason.extend([reason] * len(image_ids))

    def table(self) -> pd.DataFrame:
        """One row an image: image_id, reason."""
        return pd.DataFrame({"image_id": self.image_id, "reason": self.reason}, dtype=str)


def check_rejected(rejected: pd.DataFrame, found: int, most: float) -> None:
    """Refuses to go on when more than a share of the images was set aside.

    Raises:
        InputError: with the three most frequent reasons.
    """
    if len(rejected) > most * max(found, 1):
        raise InputError(
            f"{len(rejected)} of {found} images would be set aside{reasons(rejected)}; mend them, or raise "
            f"data.max_rejected (now {most:g})."
        )


def is_image(name: str) -> bool:
    """Whether a file name is that of an image and not hidden (`._mask1.jpg`, `.DS_Store`)."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES and not files.is_hidden(name)


def left_out(names: Iterable[str]) -> str:
    """What is to be said of the files that are no images by their names: how many of which suffix; "" where there are none."""
    others = [name for name in names if not is_image(name) and not files.is_hidden(name)]
    if not others:
        return ""
    counts = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in others)
    listed = [f"{count}× {suffix}" for suffix, count in counts.most_common()]
    return f"{len(others)} files are left out, whose names are not those of images: {shortened(listed)}"


def reasons(rejected: pd.DataFrame) -> str:
    """` (3× REASON, such as 'ID'; ...)` of the three most frequent reasons; "" where nothing is set aside."""
    counts = rejected["reason"].value_counts().head(3)
    listed = "; ".join(
        f"{count}× {reason}, such as '{rejected.loc[rejected['reason'] == reason, 'image_id'].iloc[0]}'"
        for reason, count in counts.items()
    )
    return f" ({listed})" if listed else ""
