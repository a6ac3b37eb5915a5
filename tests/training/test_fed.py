"""Tests of what models are fed: images that are prepared larger than they are seen, and what they are normalised by."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from made import make_run

from raymask.config.members import Member
from raymask.config.recipe import Recipe
from raymask.config.schema import resolve_members
from raymask.config.tasks import label_space
from raymask.core.tasks import LabelSpace, Task, heads_of
from raymask.core.types import Pixels
from raymask.data.cache import find_cache, index_path
from raymask.data.decode import decode_file
from raymask.data.features import open_bank
from raymask.data.images import read_image
from raymask.data.prepare import _write_shards
from raymask.data.specs import InputSpec, bank_spec, input_spec, stream_spec
from raymask.data.stream import _batches, open_batch_sampler, prepared_images
from raymask.export.record import read_check_images
from raymask.inference.actors import decoded_block
from raymask.inference.predictor import Predictor, specs_of
from raymask.io.atomic import write_table
from raymask.io.checked import DamagedFileError
from raymask.models.classifier import Classifier, build_classifier, load_classifier
from raymask.runs.configs import load_run_config
from raymask.runs.directory import WHOLE, ReplicaId, Run
from raymask.runs.models import read_model
from raymask.runs.tables import read_manifest
from raymask.training.embedding import Embedder, EmbedJob, _make_batches, _write_parts
from raymask.training.inputs import FeatureFeed, PixelFeed
from raymask.training.packs import Job, Pack
from raymask.training.targets import label_table
from raymask.training.trial import build_learner, learner_spec, statistics_of, write_model
from raymask.transforms.tta import even
from raymask.workflows.soup import souped_members

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
CROP = [{"RandomCrop": {"height": 32, "width": 40}}, {"HorizontalFlip": {"p": 0.5}}]
FED: dict[str, Any] = {
    "backbone": "test_resnet",
    "pretrained": False,
    "amp": "off",
    "image_size": [32, 40],
    "prepare_size": [44, 50],
    "crop": 80,
    "augment": CROP,
    "batch_size": 8,
    "schedule": {"epochs": 2},
}
GIVEN = {"mean": [0.2, 0.3, 0.4], "std": [0.5, 0.25, 0.125]}
MASK = LabelSpace((Task("mask", "mask", ("worn", "none")),))
SEEN = InputSpec(44, 50, 80.0, (32, 40))


def recipe_of(**over: Any) -> Recipe:
    return Recipe.model_validate({**FED, **over})


def prepared_run(root: Path, photos: Path, **over: Any) -> tuple[Run, Job]:
    """A made run of one member, and its images as they are prepared."""
    run = make_run(root / "run", photos, members=[{"task": "joint"}], recipe={**FED, **over})
    config = load_run_config(run)
    space, members = label_space(config.tasks), {member.name: member for member in resolve_members(config)}
    manifest, spec = read_manifest(run, space), input_spec(members["joint"].recipe)
    folder, _ = find_cache(manifest, spec, root)
    folder.mkdir(exist_ok=True)
    shard = pd.DataFrame({"shard": [0], "image_id": [manifest["image_id"].tolist()], "path": [manifest["path"].tolist()]})
    [index] = _write_shards(shard, folder, spec.prepared)
    write_table(index_path(folder), pd.DataFrame(index))
    return run, Job(run, space, members, config.views, {spec.prepared: folder}, {}, {}, 1)


@pytest.fixture(scope="module")
def made(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Job]:
    return prepared_run(tmp_path_factory.mktemp("fed"), photos, normalize="dataset")


class Seeing(torch.nn.Module):
    """Keeps the pixels that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels: npt.NDArray[np.float32] = np.empty(0, np.float32)

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        self.pixels = pixels.permute(0, 2, 3, 1).numpy()
        return {}


class TestWindow:
    def test_what_evaluates_is_what_predicts_by_any_door(self, made: tuple[Run, Job], tmp_path: Path) -> None:
        run, job = made
        paths = read_manifest(run, job.space)["path"].tolist()[:20]
        prepared = prepared_images(job.caches[SEEN.prepared], run.manifest)
        rows = np.arange(len(paths))
        whole = prepared.read(rows)
        assert whole.shape == (20, 44, 50, 3)
        centre = whole[:, 6:38, 5:45]
        by_file = np.stack([decode_file(path, [SEEN])[1][0] for path in paths])
        np.testing.assert_array_equal(by_file, centre)
        np.testing.assert_array_equal(decoded_block(paths, [SEEN], tmp_path)["pixels0"], centre)
        by_bytes = np.stack([read_image(Path(path).read_bytes(), [SEEN])[1][0] for path in paths])
        np.testing.assert_array_equal(by_bytes, centre)
        model: Any = Seeing()
        PixelFeed([], prepared.seen_by(SEEN), CPU).clean_logits(model, rows, "original")
        np.testing.assert_array_equal(model.pixels, centre)

    def test_training_sees_parts_of_the_prepared_images(self, made: tuple[Run, Job]) -> None:
        run, job = made
        cache = job.caches[SEEN.prepared]
        spec = stream_spec(job.members["joint"].recipe, 0, "joint", job.space)
        assert spec.input == SEEN
        [first, *_] = _batches([0, 1], spec, cache, run.manifest)
        assert first.images.shape == (8, 32, 40, 3)
        for image, whole in zip(first.images, prepared_images(cache, run.manifest).read(first.rows), strict=True):
            parts = [whole[y : y + 32, x : x + 40] for y in range(13) for x in range(11)]
            assert any((image == part).all() or (image == part[:, ::-1]).all() for part in parts)

    def test_features_are_of_what_the_heads_are_to_see(self, made: tuple[Run, Job], tmp_path: Path) -> None:
        """Passes are augmented to the image's size, and views are of the centre."""
        run, job = made
        recipe = recipe_of(freeze={"part": "backbone"}, pretrained=True, normalize=GIVEN)
        spec = bank_spec(recipe, stream_spec(recipe, 0, "mask", job.space), ("original", "hflip"))
        model = build_classifier(recipe_of(normalize=GIVEN), {"mask": 3}).eval()
        embedded = EmbedJob(spec, spec.parts, tmp_path, recipe, tmp_path, job.caches[SEEN.prepared], run.manifest)
        images = len(read_manifest(run, job.space))
        blocks = len(spec.parts) * spec.stream.steps(images)
        batches = _make_batches({"item": np.arange(blocks)}, embedded, images)
        embedder = Embedder.__new__(Embedder)
        embedder.parts, embedder.extractor = spec.parts, Extracting(model)  # type: ignore[assignment]
        _write_parts(map(embedder, batches), spec.parts, tmp_path, images, lambda done, of: None)
        bank = open_bank(tmp_path, spec)
        sampler, rows = open_batch_sampler(spec.stream, run.manifest), np.arange(10)
        feed = FeatureFeed(bank, sampler, 2, CPU)
        inputs = next(feed.training())
        [batch] = _batches([0], spec.stream, job.caches[SEEN.prepared], run.manifest)
        np.testing.assert_array_equal(inputs.rows, batch.rows)
        np.testing.assert_allclose(inputs.tensor.numpy(), Extracting(model)(batch.images, "original"), atol=1e-4)
        pixels = PixelFeed([], prepared_images(job.caches[SEEN.prepared], run.manifest).seen_by(SEEN), CPU)
        for view in ("original", "hflip"):
            with torch.inference_mode():
                by_pixels, by_features = (each.clean_logits(model, rows, view)["mask"] for each in (pixels, feed))
            np.testing.assert_allclose(by_features.numpy(), by_pixels.numpy(), atol=1e-4)

    def test_a_pack_costs_what_its_models_see(self) -> None:
        costs = []
        for over in ({}, {"prepare_size": None, "augment": "light"}):
            recipe = recipe_of(**over)
            costs.append(Pack("", (ReplicaId("mask", 0),), stream_spec(recipe, 0, "mask", MASK), recipe.schedule.epochs).cost)
        assert costs == [2 * 32 * 40, 2 * 32 * 40]

    def test_an_export_is_checked_on_what_models_see(self, made: tuple[Run, Job]) -> None:
        run, _ = made
        folder = {"joint/fold-0": run.replica(ReplicaId("joint", 0))}
        images = read_check_images(run, folder, specs_of(folder))
        assert specs_of(folder) == [SEEN]
        assert images.pixels[0].shape == (3 + images.real, 32, 40, 3)
        assert images.real == 5


class Extracting:
    """What an actor's extractor does."""

    def __init__(self, model: Classifier) -> None:
        self.model = model

    def __call__(self, images: Pixels, view: str) -> npt.NDArray[np.float32]:
        pixels = torch.as_tensor(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
        with torch.inference_mode():
            return self.model.features(pixels.flip(-1) if view == "hflip" else pixels).numpy()


class TestStatistics:
    def test_each_fold_model_normalises_by_the_images_that_it_learns_from(self, made: tuple[Run, Job]) -> None:
        run, job = made
        labels = label_table(read_manifest(run, job.space), job.space)
        replicas = [ReplicaId("joint", fold) for fold in (0, 1, WHOLE)]
        pack = Pack("", tuple(replicas), stream_spec(job.members["joint"].recipe, 0, "joint", job.space), 2)
        specs = {replica: learner_spec(job.members["joint"], replica.fold, labels, 4) for replica in replicas}
        found = statistics_of(job, pack, specs)
        seen = prepared_images(job.caches[SEEN.prepared], run.manifest).seen_by(SEEN).read(np.arange(len(labels.fold)))
        for replica in replicas:
            pixels = seen[labels.fold != replica.fold].reshape(-1, 3) / 255
            np.testing.assert_allclose(found[replica], [*pixels.mean(axis=0), *pixels.std(axis=0)], rtol=1e-12)
        assert len(set(found.values())) == 3
        learner = build_learner(job, replicas[0], specs[replicas[0]], CPU, found[replicas[0]])
        one = torch.from_numpy(seen[:1]).permute(0, 3, 1, 2)
        mean, std = (torch.tensor(found[replicas[0]][half]).view(1, 3, 1, 1) for half in (slice(3), slice(3, 6)))
        torch.testing.assert_close(learner.model.normalise(one), ((one / 255 - mean) / std).float(), atol=1e-4, rtol=1e-4)

    def test_images_that_early_stopping_judges_are_not_among_them(self, made: tuple[Run, Job]) -> None:
        run, job = made
        labels = label_table(read_manifest(run, job.space), job.space)
        recipe = recipe_of(normalize="dataset", stop={"patience": 2, "share": 0.5})
        member = job.members["joint"].model_copy(update={"recipe": recipe})
        stopped = replace(job, members={"joint": member})
        replica = ReplicaId("joint", 0)
        pack = Pack("", (replica,), stream_spec(recipe, 0, "joint", job.space), 2)
        spec = learner_spec(member, 0, labels, 4)
        [found] = statistics_of(stopped, pack, {replica: spec}).values()
        learned = np.flatnonzero(build_learner(stopped, replica, spec, CPU, found).learned)
        assert 0 < len(learned) < (labels.fold != 0).sum()
        pixels = prepared_images(job.caches[SEEN.prepared], run.manifest).seen_by(SEEN).read(learned).reshape(-1, 3) / 255
        np.testing.assert_allclose(found, [*pixels.mean(axis=0), *pixels.std(axis=0)], rtol=1e-12)

    def test_other_recipes_want_none(self, made: tuple[Run, Job]) -> None:
        run, job = made
        member = job.members["joint"].model_copy(update={"recipe": recipe_of()})
        other = Job(run, job.space, {"joint": member}, job.views, {}, {}, {}, 1)
        labels = label_table(read_manifest(run, job.space), job.space)
        pack = Pack("", (ReplicaId("joint", 0),), stream_spec(member.recipe, 0, "joint", job.space), 2)
        assert statistics_of(other, pack, {pack.replicas[0]: learner_spec(member, 0, labels, 4)}) == {}

    def test_they_travel_with_the_model(self, made: tuple[Run, Job], tmp_path: Path) -> None:
        space, run, statistics = made[1].space, Run(tmp_path), (0.1, 0.2, 0.3, 0.4, 0.5, 1 / 3)
        member = Member(name="mask", task="mask", seed=0, recipe=recipe_of(normalize="dataset"))
        model = build_classifier(member.recipe, heads_of("mask", space), None, statistics).eval()
        write_model(run, member, 0, model, space)
        folder = run.replica(ReplicaId("mask", 0))
        told = read_model(folder)
        assert told.statistics == statistics
        loaded = load_classifier(told.recipe, told.heads, told.weights, told.sha256, told.scales, told.statistics)
        pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 40, 3)).astype(np.uint8)
        with torch.inference_mode():
            said = [one(torch.from_numpy(pixels).permute(0, 3, 1, 2))["mask"].softmax(dim=1).numpy() for one in (model, loaded)]
        np.testing.assert_array_equal(said[0], said[1])
        predictor = Predictor({"mask/fold-0": folder}, even(["original"]), [SEEN], exact=True)
        [predicted] = predictor([pixels])
        np.testing.assert_allclose(predicted["mask"], said[0], atol=1e-5)

    def test_a_model_that_lost_them_is_damaged(self, made: tuple[Run, Job], tmp_path: Path) -> None:
        space, run = made[1].space, Run(tmp_path)
        member = Member(name="mask", task="mask", seed=0, recipe=recipe_of(normalize="dataset"))
        write_model(run, member, 0, build_classifier(member.recipe, heads_of("mask", space)), space)
        meta = run.meta(ReplicaId("mask", 0))
        whole = json.loads(meta.read_text())
        assert len(whole["statistics"]) == 6
        for lost in (None, [0.5, 0.5, 0.5, 0.25, 0.0, 0.25]):
            meta.write_text(json.dumps({**whole, "statistics": lost}))
            with pytest.raises(DamagedFileError, match="normalises by its training images, whose mean and deviation it lacks"):
                read_model(run.replica(ReplicaId("mask", 0)))

    def test_a_model_of_other_recipes_keeps_none(self, tmp_path: Path) -> None:
        space, run = MASK, Run(tmp_path)
        for fold, normalize in enumerate(("pretrained", GIVEN)):
            member = Member(name="mask", task="mask", seed=0, recipe=recipe_of(normalize=normalize))
            write_model(run, member, fold, build_classifier(member.recipe, {"mask": 2}), space)
            assert "statistics" not in run.meta(ReplicaId("mask", fold)).read_text()
            told = read_model(run.replica(ReplicaId("mask", fold)))
            loaded = load_classifier(told.recipe, told.heads, told.weights, told.sha256, told.scales, told.statistics)
            assert fold == 0 or loaded.statistics == (0.2, 0.3, 0.4, 0.5, 0.25, 0.125)

    def test_models_that_normalise_differently_have_no_soup(self, photos: Path, tmp_path: Path) -> None:
        run, _ = prepared_run(tmp_path, photos, normalize="dataset")
        config = load_run_config(run)
        prepared: Any = type("Prepared", (), {"members": resolve_members(config), "run": run})
        with pytest.raises(ValueError, match="'joint' is dataset: its models normalise by the images of different folds"):
            souped_members(prepared, ["joint"])
