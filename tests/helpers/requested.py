"""Images as clients send them, and answers as models would give them."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from raymask.core.types import Pixels
from raymask.serving.app import PredictionResult
from raymask.serving.schemas import ClassProbability, LabelProbability, Prediction


def image_bytes(kind: str = "JPEG", size: tuple[int, int] = (40, 30), value: int = 90) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), value, dtype=np.uint8)).save(file, kind)
    return file.getvalue()


def told_of(pixels: Sequence[Pixels]) -> PredictionResult:
    label = f"grey {pixels[0].mean():.0f}"
    top = ClassProbability(label=label, probability=0.75, number=3)
    votes = {"mask": {"mask": LabelProbability(label=label, probability=0.5)}}
    said = Prediction(
        labels={"mask": label}, joint=top, probabilities={"mask": {label: 1.0}}, top=[top], agreement=1.0, members=votes
    )
    return PredictionResult(said, 1)
