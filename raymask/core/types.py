"""Types that several packages speak in: arrays by what they hold, and plain records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
"""(H, W, 3), or (B, H, W, 3) of a batch: RGB from 0 to 255."""

Labels = npt.NDArray[np.int64]
"""(N,): a class index each; -1 where an image has no label."""

Probabilities = npt.NDArray[np.float64]
"""(N, C): one distribution over a head's classes each."""

ByHead = Mapping[str, npt.NDArray[np.floating]]
"""The probabilities (N, C) of each head of a model, by the name of its task."""

Ballots = Probabilities
"""(V, N, C): the probabilities that each voter gives each image."""

Weights = npt.NDArray[np.float64]
"""(V,): what each voter counts."""

Progress = Callable[[int, int], None]
"""Told how many are done, and of how many."""


@dataclass(frozen=True)
class ActorPool:
    """The actors that predict."""

    size: int
    cpus: float
    gpus: float
    threads: int
    decode_cpus: float
