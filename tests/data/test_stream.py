"""The stream of a trial: the same batches, whoever makes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raymask.data.cache import index_path, open_cache, shard_path
from raymask.data.sampling import Batch, BatchSampler, make_batch
from raymask.data.specs import InputSpec, StreamSpec
from raymask.data.stream import stream
from raymask.transforms.augment import Augmenter

pytestmark = pytest.mark.usefixtures("ray_session")

IMAGES = 30
SPEC = StreamSpec(InputSpec(8, 8, 1.0), '[{"HorizontalFlip": {"p": 0.5}}]', batch_size=4, epochs=3, seed=0)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A cache of random pixels, and a manifest of five folds."""
    folder = tmp_path_factory.mktemp("cache")
    ids = [f"image-{number:02d}" for number in range(IMAGES)]
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 8, 8, 3)).astype(np.uint8)
    np.save(shard_path(folder, 0), pixels)
    index = pd.DataFrame({"image_id": ids, "shard": 0, "offset": range(IMAGES), "problem": ""})
    index.to_parquet(index_path(folder))
    manifest = folder / "manifest.parquet"
    pd.DataFrame({"image_id": ids, "fold": np.arange(IMAGES) % 5}).to_parquet(manifest)
    return folder, manifest


def streamed(prepared: tuple[Path, Path], first_epoch: int = 0, spec: StreamSpec = SPEC) -> list[Batch]:
    batches = stream(spec, *prepared, first_epoch=first_epoch, memory=2**24, cpus_per_task=0.5, tasks=1)
    return [replace(batch, images=batch.images.copy()) for batch in batches]


def expected(prepared: tuple[Path, Path], first_epoch: int = 0) -> list[Batch]:
    cache = open_cache(prepared[0], pd.read_parquet(prepared[1])["image_id"])
    sampler = BatchSampler(SPEC, np.arange(IMAGES) % 5)
    pairs = [(epoch, step) for epoch in range(first_epoch, SPEC.epochs) for step in range(sampler.steps)]
    return [make_batch(cache, Augmenter([{"HorizontalFlip": {"p": 0.5}}]), sampler, *pair) for pair in pairs]


@pytest.mark.parametrize("made_here", [1, 30, 10_000])
@pytest.mark.parametrize("first_epoch", [0, 2])
def test_batches_are_the_same_wherever_they_are_made(
    prepared: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, made_here: int, first_epoch: int
) -> None:
    monkeypatch.setattr("raymask.data.stream.IMAGES_MADE_HERE", made_here)
    monkeypatch.setattr("raymask.data.stream.IMAGES_PER_TASK", 12)
    given, wanted = streamed(prepared, first_epoch), expected(prepared, first_epoch)
    assert [(batch.epoch, batch.step) for batch in given] == [(batch.epoch, batch.step) for batch in wanted]
    for one, other in zip(given, wanted, strict=True):
        np.testing.assert_array_equal(one.rows, other.rows)
        np.testing.assert_array_equal(one.images, other.images)


def test_nothing_is_streamed_after_the_last_epoch(prepared: tuple[Path, Path]) -> None:
    assert streamed(prepared, first_epoch=SPEC.epochs) == []


def test_a_stream_that_is_left_early_ends(prepared: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raymask.data.stream.IMAGES_MADE_HERE", 8)
    batches = stream(SPEC, *prepared, first_epoch=0, memory=2**24, cpus_per_task=0.5)
    assert [next(batches).step, next(batches).step] == [0, 1]
    batches.close()  # type: ignore[attr-defined]
    assert len(streamed(prepared)) == len(expected(prepared))
