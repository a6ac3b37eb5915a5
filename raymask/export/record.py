"""An export while it is made: what was written, and the images that it is checked on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raymask.data.decode import decode_file
from raymask.data.specs import InputSpec
from raymask.inference.definition import Models
from raymask.io.checked import read_table
from raymask.runs.directory import Run

TOLERANCE = 1e-4
"""Greatest difference of a probability between a graph and raymask."""
RANDOM_IMAGES, REAL_IMAGES = 3, 5

Floats = npt.NDArray[np.float32]


@dataclass(eq=False)
class Bundle:
    """What is written, while it is."""

    root: Path
    formats: tuple[str, ...]
    opset: int
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    """Paths of the graphs by `MEMBER/PART`, or `ensemble`, and format."""
    timm: dict[str, dict[str, Any]] = field(default_factory=dict)
    """How timm makes the model of each of its checkpoints."""
    left_out: list[str] = field(default_factory=list)
    """Sentences on what could not be exported."""
    differences: dict[str, float] = field(default_factory=dict)
    """Greatest difference of a probability from raymask's by file."""


@dataclass(frozen=True, eq=False)
class Images:
    """What graphs are checked on."""

    pixels: list[Floats]
    """(n, H, W, 3) from 0 to 255 for each spec."""
    real: int
    """How many of them are photos of the run; the others are random."""

    def tensors(self) -> list[Tensor]:
        """(n, 3, H, W) float32 for each spec."""
        return [torch.from_numpy(of_spec).permute(0, 3, 1, 2).contiguous() for of_spec in self.pixels]


def read_check_images(run: Run, models: Models, specs: Sequence[InputSpec]) -> Images:
    """A few random images, and some of the run's own where they can still be read."""
    rng = np.random.default_rng(0)
    read = [[rng.integers(0, 256, (*spec.size, 3), dtype=np.uint8) for spec in specs] for _ in range(RANDOM_IMAGES)]
    homes = [run, *(Run(folder.parents[2]) for folder in models.values())]
    manifest = next((home.manifest for home in homes if home.manifest.is_file()), None)
    if manifest:
        paths = read_table(manifest, {"path": "text"}, only=True)["path"].tolist()
        some = [paths[index] for index in np.linspace(0, len(paths) - 1, REAL_IMAGES).astype(int)] if paths else []
        found = [decode_file(path, specs) for path in dict.fromkeys(some) if Path(path).is_file()]
        read += [pixels for problem, pixels in found if not problem]
    stacked = [np.stack([pixels[index] for pixels in read]).astype(np.float32) for index in range(len(specs))]
    return Images(stacked, len(read) - RANDOM_IMAGES)
