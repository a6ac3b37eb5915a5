"""Tests of `raymask show`: what it draws is what the stream and the learner make of the images. No test starts Ray."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import ray
import torch
from rich.console import Console

from raymask.config.loading import load_config
from raymask.config.schema import RunConfig
from raymask.core.console import Display
from raymask.core.errors import InputError
from raymask.core.tasks import heads_of
from raymask.data.cache import PreparedImages, find_cache, index_path
from raymask.data.decode import decode_file
from raymask.data.folds import assign_folds
from raymask.data.prepare import _write_shards
from raymask.data.sampling import BatchSampler
from raymask.data.specs import input_spec, stream_spec
from raymask.io.atomic import write_table
from raymask.models.classifier import build_classifier, to_pixels
from raymask.report.contact_sheet import FedBatch
from raymask.runs.directory import cache_root
from raymask.training.inputs import Inputs, PixelFeed
from raymask.training.learner import Learner, LearnerSpec
from raymask.training.mixers import Examples
from raymask.training.targets import label_table
from raymask.training.trial import derive_seed
from raymask.transforms.augment import Augmenter, resolve_augment
from raymask.workflows import show as showing
from raymask.workflows.setup import read_labelled, resolve
from raymask.workflows.show import show

RECIPE = {"backbone": "test_resnet", "pretrained": False, "image_size": 48, "batch_size": 12}


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", refuse)


def config_of(runs: Path, data: Path, recipe: dict[str, Any] | None = None, **over: Any) -> RunConfig:
    limits = {"path": str(data), "max_rejected": over.pop("max_rejected", 0.01)}
    values = {"recipe": {**RECIPE, **(recipe or {})}, "folds": {"k": 4}, **over, "runs": runs, "data": limits}
    return load_config("demo", overrides=values)


def shown(config: RunConfig, folder: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> tuple[list[FedBatch], str]:
    """The batches that are drawn, and what is said."""
    drawn: list[FedBatch] = []
    monkeypatch.setattr(showing, "write_sheet", lambda batch, file: drawn.append(batch))
    said = io.StringIO()
    show(config, folder / "out", display=Display(Console(file=said)), **more)
    return drawn, " ".join(said.getvalue().split())


def test_a_batch_is_the_streams(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the images in the order of the sampler, decoded and augmented; those of the model's own fold last."""
    config = resolve(config_of(tmp_path, photos / "train"))
    batches, _ = shown(config, tmp_path, monkeypatch, batches=11)
    labelled = read_labelled(config, Display(Console(file=io.StringIO())))
    images = labelled.source.images.reset_index(drop=True)
    fold = assign_folds(images, config.folds, config.seed)
    spec = stream_spec(labelled.members[0].recipe, config.seed, "mask", labelled.source.space)
    sampler, augmenter = BatchSampler(spec, fold), Augmenter(resolve_augment("light"))
    assert sampler.steps == 10
    assert [batch.title.partition(", ")[0] for batch in batches[8:]] == [
        "mask/fold-0: batch 8 of epoch 0", "mask/fold-0: batch 9 of epoch 0", "mask/fold-0: batch 0 of epoch 1"
    ]  # fmt: skip
    for number, batch in ((0, batches[0]), (9, batches[9]), (10, batches[10])):
        epoch, step = divmod(number, 10)
        rows = sampler.rows(epoch, step)
        own = fold[rows] == 0
        ordered = np.concatenate([rows[~own], rows[own]])
        assert [image.image_id for image in batch.images] == images["image_id"].iloc[ordered].tolist()
        assert [bool(image.left_out) for image in batch.images] == sorted(own.tolist())
        pixels = np.stack([decode_file(path, [spec.input])[1][0] for path in images["path"].iloc[ordered]])
        np.testing.assert_array_equal(np.stack([image.prepared for image in batch.images]), pixels)
        np.testing.assert_array_equal(
            np.stack([image.fed for image in batch.images]), augmenter(pixels, config.seed, epoch, ordered)
        )


def test_labels_are_those_of_the_member_in_words(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [{"task": "multi"}, {"task": "joint", "name": "all"}]
    for name, between in (("multi", " · "), ("all", " ")):
        [batch], _ = shown(config_of(tmp_path, photos / "train", members=members), tmp_path, monkeypatch, member=name)
        for image in batch.images:
            _, gender, _, age_and_photo = image.image_id.split("_", 3)
            age, photo = int(age_and_photo.partition("/")[0]), age_and_photo.partition("/")[2]
            mask = {"normal.jpg": "none", "incorrect_mask.jpg": "incorrect"}.get(photo, "worn")
            band = "<30" if age < 30 else "30-60" if age < 60 else ">=60"
            assert image.labels == between.join([mask, gender, band])
            assert image.target == ""


MIXES: list[dict[str, Any]] = [
    {"name": "mixup", "alpha": 2.0},
    {"name": "cutmix"},
    {"name": "half_cutmix", "rare": {"gender": ["male"]}},
]


@pytest.mark.parametrize("mix", MIXES, ids=[mix["name"] for mix in MIXES])
def test_what_is_shown_is_what_the_learner_mixes(
    mix: dict[str, Any], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve(config_of(tmp_path, photos / "train", {"mix": mix, "amp": "off"}, members=[{"task": "multi"}]))
    batches, _ = shown(config, tmp_path, monkeypatch, batches=3)
    labelled = read_labelled(config, Display(Console(file=io.StringIO())))
    [member], images, space = labelled.members, labelled.source.images.reset_index(drop=True), labelled.source.space
    manifest = images.assign(fold=assign_folds(images, config.folds, config.seed))
    spec = stream_spec(member.recipe, config.seed, member.task, space)
    sampler = BatchSampler(spec, manifest["fold"].to_numpy())
    augmenter = Augmenter(resolve_augment("light"))
    heads, labels = heads_of("multi", space), label_table(manifest, space)
    model = build_classifier(member.recipe, heads)
    seed = derive_seed(member.seed, "multi/fold-0")
    learner = Learner(LearnerSpec("multi/fold-0", 0, member.recipe, labels, sampler.steps, seed), model, torch.device("cpu"))
    kept: list[Examples] = []
    mixer = learner.mixer

    def keep(*given: Any) -> Examples:
        kept.append(mixer(*given))
        return kept[-1]

    monkeypatch.setattr(learner, "mixer", keep)
    feed = PixelFeed([], PreparedImages((), np.zeros(0, np.int64), np.zeros(0, np.int64)), torch.device("cpu"))
    for step in range(3):
        rows = sampler.rows(0, step)
        prepared = np.stack([decode_file(path, [spec.input])[1][0] for path in images["path"].iloc[rows]])
        pixels = to_pixels(augmenter(prepared, config.seed, 0, rows), torch.device("cpu"))
        learner.learn(Inputs(pixels, rows, 0, step), feed)
    for batch, mixed in zip(batches, kept, strict=True):
        learned = [image for image in batch.images if not image.left_out]
        fed = np.stack([image.fed for image in learned]).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(fed, (mixed.inputs * model.std + model.mean).numpy(), atol=0.51)
        for image, *of_heads in zip(learned, *(mixed.targets[head].tolist() for head in heads), strict=True):
            said = (image.target or image.labels).split(" · ")
            for words, target, head in zip(said, of_heads, heads, strict=True):
                shares = {name: share for name, share in zip(space.classes(head), target, strict=True) if share > 0.005}
                parts = [part.split(" ", 1) if " + " in words else ["1", part] for part in words.split(" + ")]
                assert {name: float(share) for share, name in parts} == pytest.approx(shares, abs=0.006)
    assert any(image.target for batch in batches for image in batch.images)


def test_a_frozen_backbone_is_fed_what_is_not_mixed(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = {"freeze": {"part": "backbone"}, "pretrained": True}
    plain, _ = shown(config_of(tmp_path, photos / "train", frozen), tmp_path, monkeypatch)

    def dark(mix: Any, classes: Any) -> Any:
        return lambda given, rare, epoch: Examples(given.inputs * 0, {"mask": torch.full((len(given.inputs), 3), 1 / 3)})

    monkeypatch.setattr(showing, "build_mixer", dark)
    mixed, _ = shown(config_of(tmp_path, photos / "train", frozen), tmp_path, monkeypatch)
    np.testing.assert_array_equal(plain[0].images[0].fed, mixed[0].images[0].fed)
    assert mixed[0].images[0].target.startswith("0.33 ")


def test_images_that_are_prepared_larger_are_shown_so(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = {"prepare_size": 60, "augment": [{"RandomCrop": {"height": 48, "width": 48}}]}
    [batch], _ = shown(config_of(tmp_path, photos / "train", recipe), tmp_path, monkeypatch)
    assert {image.prepared.shape for image in batch.images} == {(60, 60, 3)}
    assert {image.fed.shape for image in batch.images} == {(48, 48, 3)}


def test_what_was_prepared_already_is_read(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve(config_of(tmp_path / "runs", photos / "train"))
    decoded, _ = shown(config, tmp_path, monkeypatch)
    images = read_labelled(config, Display(Console(file=io.StringIO()))).source.images
    spec = input_spec(config.recipe)
    folder, _ = find_cache(images, spec, cache_root(config) / "prepared")
    folder.mkdir(parents=True)
    shard = pd.DataFrame({"shard": [0], "image_id": [images["image_id"].tolist()], "path": [images["path"].tolist()]})
    [index] = _write_shards(shard, folder, spec)
    write_table(index_path(folder), pd.DataFrame(index))
    monkeypatch.setattr(showing, "decode_files", None)
    read, _ = shown(config, tmp_path, monkeypatch)
    for one, other in zip(decoded[0].images, read[0].images, strict=True):
        assert one.image_id == other.image_id
        np.testing.assert_array_equal(one.fed, other.fed)


def test_broken_images_are_set_aside_as_in_training(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = shutil.copytree(photos / "train", tmp_path / "data")
    config = config_of(tmp_path, data)
    [whole], _ = shown(config, tmp_path, monkeypatch)
    broken = [whole.images[place].image_id for place in (0, -1)]
    for image_id in broken:
        file = data / "images" / image_id
        file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(InputError, match=r"2 of 112 images would be set aside .* raise data\.max_rejected"):
        shown(config, tmp_path, monkeypatch)
    [batch], said = shown(config_of(tmp_path, data, max_rejected=0.1), tmp_path, monkeypatch)
    assert "2 images are broken, such as" in said
    assert len(batch.images) == 12
    assert not {image.image_id for image in batch.images} & {*broken}


class TestCommand:
    def test_a_page_and_sheets_are_written_and_written_anew(self, photos: Path, tmp_path: Path) -> None:
        config, quiet = config_of(tmp_path / "runs", photos / "train"), Display(Console(file=io.StringIO()))
        page = show(config, tmp_path / "out", batches=2, display=quiet)
        assert page == tmp_path / "out" / "show.html"
        assert sorted(file.name for file in page.parent.iterdir()) == ["batch-0.png", "batch-1.png", "show.html"]
        assert "batch 1 of epoch 0" in page.read_text()
        show(config, tmp_path / "out", display=quiet)
        assert sorted(file.name for file in page.parent.iterdir()) == ["batch-0.png", "show.html"]
        assert [path.name for path in (tmp_path / "runs").iterdir()] == [".cache"], "no run is touched"

    @pytest.mark.parametrize(
        ("over", "more", "sentence"),
        [
            ({}, {"member": "maks"}, r"--member: the recipe has no member 'maks'; it may be 'mask' \(the nearest\)"),
            ({"recipe": {"augment": [{"Blurr": None}]}}, {}, r"no transform 'Blurr'; the nearest is 'Blur'\."),
            (
                {"recipe": {"prepare_size": 60}},
                {},
                r"makes 60×60 of images .* ends with \{RandomCrop: \{height: 48, width: 48\}\}",
            ),
            ({"folds": {"k": 40}}, {}, r"folds\.k is 40, but there are only 16 groups"),
        ],
    )
    def test_what_cannot_be_shown_is_refused_in_a_sentence(
        self, over: dict[str, Any], more: dict[str, Any], sentence: str, photos: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match=sentence):
            show(config_of(tmp_path / "runs", photos / "train", **over), tmp_path / "out", **more)
        assert not (tmp_path / "out").exists()

    def test_a_folder_of_others_is_left_alone(self, photos: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "batch-0.png").touch()
        with pytest.raises(InputError, match=r"--out .* holds other files, such as 'batch-0\.png'"):
            show(config_of(tmp_path / "runs", photos / "train"), tmp_path / "out")
