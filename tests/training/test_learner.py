"""Tests of training a pack: what a replica becomes, what it must not depend on, and what it reports."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, log_loss

from raymask.config.merging import deep_merge
from raymask.config.recipe import Recipe
from raymask.core.errors import InputError
from raymask.core.tasks import JOINT, LabelSpace, Task, heads_of
from raymask.data.cache import PreparedImages
from raymask.data.features import FeatureBank
from raymask.data.folds import TRAIN_ONLY
from raymask.data.sampling import Batch, BatchSampler, make_batch
from raymask.data.specs import InputSpec, StreamSpec
from raymask.metrics.scores import cross_entropy
from raymask.models.classifier import build_classifier, to_pixels
from raymask.models.precision import mixed_precision
from raymask.training.inputs import FeatureFeed, Feed, Inputs, PixelFeed
from raymask.training.keeping import MeanOfLastEpochs
from raymask.training.learner import EpochMetrics, Learner, LearnerSpec
from raymask.training.loop import EpochReport, train_pack
from raymask.training.mixers import Examples
from raymask.training.range_test import range_test
from raymask.training.targets import LabelTable
from raymask.transforms.augment import Augmenter

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SPACE = LabelSpace((Task("colour", "colour", ("red", "green", "blue")), Task("half", "half", ("top", "bottom"))))
SIDE, IMAGES, FOLDS, BATCH = 32, 40, 3, 12
SPEC = StreamSpec(InputSpec(SIDE, SIDE, 1.0), "[]", BATCH, 3, seed=5)
STEPS = SPEC.steps(IMAGES)
PLAIN = Augmenter([])
SPACE_SIZES = {"colour": 3, "half": 2, JOINT: 6}
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class World:
    prepared: PreparedImages
    labels: LabelTable


def make_world(images: int = IMAGES, noise: int = 40) -> World:
    """Images whose brightest channel is their colour, and whose bright half is their half."""
    rng = np.random.default_rng(0)
    colour, half = rng.integers(0, 3, images), rng.integers(0, 2, images)
    pixels = rng.integers(0, noise, (images, SIDE, SIDE, 3))
    for row in range(images):
        start = half[row] * SIDE // 2
        pixels[row, start : start + SIDE // 2, :, colour[row]] += 200
    truth = {"colour": colour.astype(np.int64), "half": half.astype(np.int64)}
    truth[JOINT] = SPACE.join(truth)
    fold = np.arange(images, dtype=np.int64) % FOLDS
    prepared = PreparedImages((pixels.astype(np.uint8),), np.zeros(images, np.int64), np.arange(images))
    return World(prepared, LabelTable(SPACE, fold, truth, truth))


WORLD = make_world()


def recipe_of(**values: Any) -> Recipe:
    given = {
        "backbone": "test_resnet",
        "pretrained": False,
        "image_size": SIDE,
        "schedule": {"epochs": 3},
        "batch_size": BATCH,
        "optim": {"lr": 0.003},
    }
    given["amp"] = "off"
    return Recipe.model_validate(deep_merge(given, values))


def learner_of(
    recipe: Recipe, fold: int = 0, task: str = "multi", seed: int = 0, world: World = WORLD, steps: int = STEPS, name: str = ""
) -> Learner:
    torch.manual_seed(seed)
    model = build_classifier(recipe, heads_of(task, SPACE))
    spec = LearnerSpec(name or f"{task}-{seed}/fold-{fold}", fold, recipe, world.labels, steps, seed)
    return Learner(spec, model, CPU)


def batches_of(
    spec: StreamSpec = SPEC, world: World = WORLD, augmenter: Augmenter = PLAIN, first: int = 0, passes: int | None = None
) -> Iterator[Batch]:
    """The stream, with the order of its epoch and the pixels of pass `epoch % passes`."""
    sampler = BatchSampler(spec, world.labels.fold)
    for epoch in range(first, spec.epochs):
        for step in range(sampler.steps):
            batch = make_batch(world.prepared, PLAIN, sampler, epoch, step)
            pixels = augmenter(batch.images, spec.seed, epoch % (passes or spec.epochs), batch.rows)
            yield replace(batch, images=pixels)


def pixel_feed(world: World = WORLD, **kwargs: Any) -> PixelFeed:
    return PixelFeed(batches_of(world=world, **kwargs), world.prepared, CPU)


def trained(learners: Sequence[Learner], feed: Feed) -> list[EpochReport]:
    reports: list[EpochReport] = []
    train_pack(learners, feed, reports.append)
    return reports


def weights(learner: Learner) -> State:
    both = {"model": learner.model, "best": learner.best_model}
    return {f"{which}.{name}": value.clone() for which, model in both.items() for name, value in model.state_dict().items()}


def differing(one: State, other: State) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name, value in one.items() if not torch.equal(value, other[name])]


def kept_apart(state: dict[str, Any]) -> dict[str, Any]:
    """A state as a checkpoint file gives it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return dict(torch.load(file, weights_only=True))


RECIPES = {
    "batch norm, dropout, ema": recipe_of(head={"name": "mlp", "hidden": 8, "dropout": 0.5}, optim={"ema": 0.9}),
    "vit, dropout, accumulation, clipping": recipe_of(
        backbone="test_vit", head={"dropout": 0.3}, optim={"accumulate": 2, "clip_grad": 0.5}, schedule={"warmup": 0.3}
    ),
    "class weights, smoothing, norm": recipe_of(
        backbone="test_byobnet", loss={"class_weight_power": 1.0, "label_smoothing": 0.1}, head={"norm": True, "dropout": 0.2}
    ),
    "a loss that weights classes from the second epoch on": recipe_of(loss={"name": "ldam_drw", "drw_from": 0.4}),
    "mixup, dropout": recipe_of(mix={"name": "mixup", "alpha": 0.4, "until": 2}, head={"dropout": 0.2}),
    "cutmix, class weights": recipe_of(mix={"name": "cutmix", "probability": 0.7}, loss={"class_weight_power": 1.0}),
    "half_cutmix, rare": recipe_of(mix={"name": "half_cutmix", "rare": {"colour": ["blue"], JOINT: ["red top"]}}),
    "early stopping, plateau, ema": recipe_of(
        stop={"patience": 1, "share": 0.3}, optim={"ema": 0.8, "lr": 0.02}, schedule={"name": "plateau", "patience": 1}
    ),
    "mean of last epochs, steps, muon, layer decay": recipe_of(
        backbone="test_vit",
        schedule={"name": "step", "average_last": 2},
        optim={"name": "muon", "layer_decay": 0.8, "arguments": {"momentum": 0.8}},
    ),
    "stages frozen at first, stochastic depth, one cycle": recipe_of(
        pretrained=True, freeze={"stages": 2, "unfreeze_at": 1}, drop_path=0.2, schedule={"name": "one_cycle"}
    ),
    "heads alone at first": recipe_of(pretrained=True, freeze={"part": "backbone", "unfreeze_at": 2}, optim={"accumulate": 3}),
}


@cache
def alone(name: str) -> tuple[Learner, list[EpochReport]]:
    """The learner of fold 1 and seed 3 of one of the recipes, trained alone without a break, and what it reported."""
    learner = learner_of(RECIPES[name], fold=1, seed=3)
    return learner, trained([learner], pixel_feed())


class TestIndependence:
    @pytest.mark.parametrize("name", RECIPES)
    def test_replica_trained_alone_equals_bit_by_bit_the_one_trained_in_a_pack(self, name: str) -> None:
        in_pack = learner_of(RECIPES[name], fold=1, seed=3)
        mates = [
            learner_of(recipe_of(head={"dropout": 0.4}), fold=0, task="colour", seed=8),
            learner_of(recipe_of(backbone="test_vit", head={"dropout": 0.1}), fold=2, task=JOINT, seed=9),
        ]
        trained([mates[0], in_pack, mates[1]], pixel_feed())
        assert differing(weights(alone(name)[0]), weights(in_pack)) == []

    def test_training_changes_weights_and_the_seed_decides_dropout(self) -> None:
        recipe = recipe_of(head={"dropout": 0.5}, schedule={"epochs": 1})
        spec = replace(SPEC, epochs=1)
        one, same, other = (learner_of(recipe, seed=3) for _ in range(3))
        before = weights(one)
        other.seed = 4
        for learner in (one, same, other):
            trained([learner], pixel_feed(spec=spec))
        assert differing(weights(one), weights(same)) == []
        assert len(differing(weights(one), before)) > 10
        assert differing(weights(one), weights(other)) != []

    @pytest.mark.parametrize("name", RECIPES)
    def test_pixels_and_labels_of_the_own_fold_change_no_weight(self, name: str) -> None:
        own = WORLD.labels.fold == 1
        pixels = WORLD.prepared.shards[0].copy()
        pixels[own] = 255 - pixels[own]
        changed = {target: np.where(own, 0, labels) for target, labels in WORLD.labels.truth.items()}
        prepared = replace(WORLD.prepared, shards=(pixels,))
        other_world = World(prepared, replace(WORLD.labels, truth=changed, train=changed))
        (one, reports), other = alone(name), learner_of(RECIPES[name], fold=1, seed=3, world=other_world)
        others = trained([other], pixel_feed(other_world))
        assert differing(weights(one), weights(other)) == []
        assert reports[-1].metrics[one.name].loss != others[-1].metrics[other.name].loss

    def test_a_foreign_fold_does_change_weights(self) -> None:
        """So that the test above can fail."""
        pixels = WORLD.prepared.shards[0].copy()
        pixels[WORLD.labels.fold == 0] //= 2
        other_world = replace(WORLD, prepared=replace(WORLD.prepared, shards=(pixels,)))
        one, other = learner_of(recipe_of(), fold=1), learner_of(recipe_of(), fold=1, world=other_world)
        trained([one], pixel_feed())
        trained([other], pixel_feed(other_world))
        assert differing(weights(one), weights(other)) != []

    def test_predictions_do_not_depend_on_the_evaluation_batch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        feed, rows = pixel_feed(), np.array([3, 39, 0, 7, 11, 20, 21])
        learner = learner_of(recipe_of())
        whole = learner.predict(rows, "hflip", feed)
        monkeypatch.setattr("raymask.training.learner.EVALUATION_BATCH", 3)
        parts = learner.predict(rows, "hflip", feed)
        for head, of_head in whole.items():
            assert of_head.shape == (7, SPACE.shape[SPACE.names.index(head)])
            np.testing.assert_allclose(parts[head], of_head, atol=1e-5)
            np.testing.assert_allclose(of_head.sum(axis=1), 1, atol=1e-5)

    def test_predicting_between_epochs_changes_nothing_of_the_training(self) -> None:
        one, other = learner_of(recipe_of()), learner_of(recipe_of())
        trained([one], pixel_feed())
        feed = pixel_feed()
        train_pack([other], feed, lambda report: other.predict(np.arange(IMAGES), "hflip", feed) and None)
        assert differing(weights(one), weights(other)) == []


class TestResume:
    @pytest.mark.parametrize("name", RECIPES)
    def test_a_learner_taken_up_again_ends_with_the_weights_of_an_uninterrupted_one(self, name: str) -> None:
        (whole, in_one), first = alone(name), learner_of(RECIPES[name], fold=1, seed=3)
        states: list[dict[str, Any]] = []
        train_pack([first], pixel_feed(spec=replace(SPEC, epochs=2)), lambda report: states.append(kept_apart(first.state())))
        for after, state in enumerate(states, start=1):
            again = learner_of(RECIPES[name], fold=1, seed=3)
            again.load_state(state)
            assert again.epoch == after
            reports = trained([again], pixel_feed(first=after))
            assert [report.epoch for report in reports] == list(range(after, len(in_one)))
            for report, expected in zip(reports, in_one[after:], strict=True):
                np.testing.assert_equal(asdict(report.metrics[again.name]), asdict(expected.metrics[whole.name]))
            assert differing(weights(whole), weights(again)) == []

    def test_a_learner_with_epochs_behind_it_passes_batches_over_while_its_mates_learn(self) -> None:
        recipe = RECIPES["batch norm, dropout, ema"]
        whole, ahead, mate = learner_of(recipe), learner_of(recipe), learner_of(recipe, fold=2, seed=1)
        trained([whole], pixel_feed())
        trained([ahead], pixel_feed(spec=replace(SPEC, epochs=2)))
        before = weights(ahead)
        seen: list[State] = []
        reports: list[EpochReport] = []

        def on_epoch(report: EpochReport) -> None:
            reports.append(report)
            seen.append(weights(ahead))

        train_pack([mate, ahead], pixel_feed(), on_epoch)
        assert [set(report.metrics) for report in reports] == [{mate.name}, {mate.name}, {mate.name, ahead.name}]
        assert differing(seen[1], before) == []
        assert differing(weights(whole), weights(ahead)) == []


class TestEpochsOfLosses:
    @staticmethod
    def noted(learner: Learner) -> list[tuple[int, int, bool]]:
        """Epochs that the learner's losses are told of, and whether batches of it were learned from before."""
        told: list[tuple[int, int, bool]] = []
        losses = learner._losses
        learner.loss["half"].begin_epoch = lambda epoch, epochs: told.append((epoch, epochs, len(losses._batches) > 0))
        return told

    def test_losses_are_told_of_each_epoch_before_its_first_batch(self) -> None:
        learner = learner_of(recipe_of())
        told = self.noted(learner)
        trained([learner], pixel_feed())
        assert told == [(0, 3, False), (1, 3, False), (2, 3, False)]

    def test_a_learner_taken_up_again_in_a_pack_tells_its_losses_of_the_epochs_that_it_has_ahead(self) -> None:
        whole, mate, again = learner_of(recipe_of()), learner_of(recipe_of(), fold=1), learner_of(recipe_of())
        trained([whole], pixel_feed(spec=replace(SPEC, epochs=2)))
        again.load_state(kept_apart(whole.state()))
        told, told_mate = self.noted(again), self.noted(mate)
        trained([mate, again], pixel_feed())
        assert told == [(2, 3, False)]
        assert [epoch for epoch, *_ in told_mate] == [0, 1, 2]


class TestFeatureFeed:
    PASSES, EPOCHS = 2, 5
    FLIPS = Augmenter([{"HorizontalFlip": {"p": 0.5}}, {"RandomBrightnessContrast": {"p": 0.5}}])
    RECIPE = recipe_of(
        backbone="test_byobnet",
        pretrained=True,
        freeze={"part": "backbone"},
        schedule={"epochs": EPOCHS},
        head={"norm": True, "dropout": 0.2},
    )
    STREAM = replace(SPEC, epochs=PASSES)

    def bank(self, learner: Learner) -> FeatureBank:
        """Features of each pass and view, image by image."""
        model = learner.model.backbone.eval() and learner.model
        rows = np.arange(IMAGES)
        images = WORLD.prepared.read(rows)

        def features(pixels: npt.NDArray[np.uint8], view: Callable[[torch.Tensor], torch.Tensor]) -> npt.NDArray[np.float32]:
            with torch.inference_mode():
                return model.features(view(to_pixels(pixels, CPU))).numpy()

        passes = [features(self.FLIPS(images, SPEC.seed, number, rows), lambda x: x) for number in range(self.PASSES)]
        return FeatureBank(
            tuple(passes), {"original": features(images, lambda x: x), "hflip": features(images, lambda x: x.flip(3))}
        )

    def test_heads_learn_from_features_what_they_learn_through_the_frozen_model(self) -> None:
        in_loop, on_bank = (learner_of(self.RECIPE, fold=2, seed=4) for _ in range(2))
        backbone = {name: value.clone() for name, value in in_loop.model.backbone.state_dict().items()}
        start = in_loop.model.heads["colour-head"][-1].weight.clone()
        pixels = pixel_feed(spec=replace(SPEC, epochs=self.EPOCHS), augmenter=self.FLIPS, passes=self.PASSES)
        features = FeatureFeed(self.bank(on_bank), BatchSampler(self.STREAM, WORLD.labels.fold), self.EPOCHS, CPU)
        through = [report.metrics[in_loop.name] for report in trained([in_loop], pixels)]
        banked = [report.metrics[on_bank.name] for report in trained([on_bank], features)]
        for name, value in in_loop.model.heads.state_dict().items():
            np.testing.assert_allclose(on_bank.model.heads.state_dict()[name], value, atol=1e-4, err_msg=name)
        assert not torch.allclose(start, in_loop.model.heads["colour-head"][-1].weight, atol=1e-2)
        for learner in (in_loop, on_bank):
            assert differing(learner.model.backbone.state_dict(), backbone) == []
        np.testing.assert_allclose([m.loss for m in banked], [m.loss for m in through], rtol=1e-3)
        for view in ("original", "hflip"):
            of_pixels, of_bank = in_loop.predict(np.arange(9), view, pixels), on_bank.predict(np.arange(9), view, features)
            np.testing.assert_allclose(of_bank["half"], of_pixels["half"], atol=1e-4)

    def test_epochs_take_the_passes_in_turn_in_the_order_of_a_stream_of_all_epochs(self) -> None:
        passes = tuple(np.full((IMAGES, 1), number, np.float32) + np.arange(IMAGES)[:, None] / 100 for number in range(2))
        feed = FeatureFeed(
            FeatureBank(tuple(p.astype(np.float32) for p in passes), {}), BatchSampler(self.STREAM, WORLD.labels.fold), 5, CPU
        )
        given = list(feed.training())
        assert [(inputs.epoch, inputs.step) for inputs in given] == [(e, s) for e in range(5) for s in range(STEPS)]
        for inputs in given:
            in_order = BatchSampler(SPEC, WORLD.labels.fold).rows(inputs.epoch, inputs.step)
            np.testing.assert_array_equal(inputs.rows, in_order)
            np.testing.assert_allclose(inputs.tensor[:, 0], inputs.epoch % 2 + in_order / 100, rtol=1e-6)

    def test_a_row_that_comes_again_in_an_epoch_is_taken_from_the_next_pass(self, tmp_path: Path) -> None:
        passes = []
        for number in range(3):
            np.save(tmp_path / f"{number}.npy", 10 * number + np.arange(4, dtype=np.float32)[:, None])
            passes.append(np.load(tmp_path / f"{number}.npy", mmap_mode="r"))
        stream = replace(SPEC, epochs=3, batch_size=3, sampler='{"by": "colour", "factors": [4.0, 1.0], "name": "repeat"}')
        sampler = BatchSampler(stream, np.zeros(4, np.int64), np.array([1, 0, 1, 1]))
        given = list(FeatureFeed(FeatureBank(tuple(passes), {}), sampler, 4, CPU).training())
        for epoch in range(4):
            rows = np.concatenate([inputs.rows for inputs in given if inputs.epoch == epoch])
            features = torch.cat([inputs.tensor[:, 0] for inputs in given if inputs.epoch == epoch]).numpy()
            assert features[rows == 1].tolist() == [10 * ((epoch + time) % 3) + 1 for time in range(4)]
            np.testing.assert_array_equal(features[rows != 1], 10 * (epoch % 3) + rows[rows != 1])
        np.testing.assert_array_equal(passes[0][:, 0], np.arange(4))

    def test_replicas_on_one_shared_backbone_equal_those_on_their_own(self) -> None:
        alone = learner_of(self.RECIPE, fold=0, seed=4)
        bank = self.bank(alone)
        trained([alone], FeatureFeed(bank, BatchSampler(self.STREAM, WORLD.labels.fold), self.EPOCHS, CPU))
        pack = [learner_of(self.RECIPE, fold=fold, seed=4) for fold in range(FOLDS)]
        for learner in pack[1:]:
            learner.model.backbone = pack[0].model.backbone
        trained(pack, FeatureFeed(bank, BatchSampler(self.STREAM, WORLD.labels.fold), self.EPOCHS, CPU))
        assert differing(weights(alone), weights(pack[0])) == []
        assert differing(weights(pack[0]), weights(pack[1])) != []

    def test_a_frozen_backbone_is_given_to_no_optimizer(self) -> None:
        learner = learner_of(self.RECIPE)
        optimised = {id(p) for group in learner.stepper.optimizer.param_groups for p in group["params"]}
        assert optimised == {id(p) for p in learner.model.heads.parameters()}


def inputs_of(rows: Sequence[int], step: int = 0, epoch: int = 0) -> Inputs:
    kept = np.asarray(rows)
    return Inputs(to_pixels(WORLD.prepared.read(kept), CPU), kept, epoch, step)


class TestPixelFeed:
    @pytest.mark.parametrize("amp", ["off", "bf16"])
    def test_logits_are_those_of_the_model_on_the_batch_to_the_bit(self, amp: str) -> None:
        recipe = recipe_of(amp=amp)
        learner, other = learner_of(recipe=recipe), learner_of(recipe=recipe_of(amp="off"))
        feed, inputs, indices = pixel_feed(), next(pixel_feed().training()), torch.tensor([4, 0, 2, 1])
        autocast, _ = mixed_precision(recipe, CPU)
        with torch.no_grad(), autocast():
            expected = learner.model.classify(learner.model.backbone(learner.model.normalise(inputs.tensor)[indices]))
            given = feed.outputs(learner.model, feed.select(learner.model, inputs, indices))
        for head in expected:
            assert torch.equal(given[head], expected[head])
        with torch.no_grad():  # a mate of another precision takes the same batch
            wanted = other.model.classify(other.model.backbone(other.model.normalise(inputs.tensor)[indices]))
            given = feed.outputs(other.model, feed.select(other.model, inputs, indices))
            assert all(torch.equal(given[head], of_head) for head, of_head in wanted.items())


class TestSteps:
    @pytest.mark.parametrize("first", [8, 13])
    @pytest.mark.parametrize("backbone", ["test_efficientnet_gn", "test_vit"])
    def test_two_accumulated_batches_step_like_one_of_all_their_rows(self, first: int, backbone: str) -> None:
        rows = np.flatnonzero(WORLD.labels.fold != 0)[:16]
        settings = {
            "backbone": backbone,
            "optim": {"name": "sgd", "lr": 0.1, "weight_decay": 0.0},
            "schedule": {"warmup": 0.0},
        }
        whole = learner_of(recipe_of(**settings), steps=1)
        parts = learner_of(recipe_of(**deep_merge(settings, {"optim": {"accumulate": 2}})), steps=2)
        start = weights(whole)
        feed = pixel_feed()
        assert whole.learn(inputs_of(rows), feed) == 16
        assert parts.learn(inputs_of(rows[:first]), feed) == first
        assert differing(weights(parts), start) == []
        assert parts.learn(inputs_of(rows[first:], step=1), feed) == 16 - first
        assert len(differing(weights(whole), start)) > 10
        for name, value in weights(whole).items():
            np.testing.assert_allclose(weights(parts)[name], value, atol=1e-5, err_msg=name)

    def test_what_is_accumulated_is_stepped_at_the_end_of_an_epoch(self) -> None:
        learner = learner_of(recipe_of(optim={"accumulate": 3}, schedule={"epochs": 2}), steps=4)
        feed = pixel_feed()
        rows = np.flatnonzero(WORLD.labels.fold != 0)[:6]
        steps = []
        for step in range(4):
            learner.learn(inputs_of(rows, step=step), feed)
            steps.append(learner.stepper.step)
        assert steps == [0, 0, 1, 2]
        assert learner.stepper.steps == 4

    @pytest.mark.parametrize("amp", ["off", "fp16"])
    @pytest.mark.parametrize("kept", [0, 1])
    def test_a_single_row_to_learn_from_waits_for_the_next_batch(self, kept: int, amp: str) -> None:
        learner = learner_of(recipe_of(amp=amp, optim={"clip_grad": 1.0}))
        feed = pixel_feed()
        own, others = np.flatnonzero(WORLD.labels.fold == 0), np.flatnonzero(WORLD.labels.fold != 0)
        assert learner.learn(inputs_of(others[:6]), feed) == 6
        before = weights(learner)
        assert learner.learn(inputs_of([*own[:3], *others[6 : 6 + kept]], step=1), feed) == 0
        assert differing(weights(learner), before) == []
        assert learner.learn(inputs_of(others[6 + kept : 12], step=2), feed) == 6
        assert differing(weights(learner), before) != []
        assert learner.stepper.step == 3

    def test_rows_that_waited_are_learned_as_if_they_had_come_together(self) -> None:
        rows = np.flatnonzero(WORLD.labels.fold != 0)[:5]
        whole, parts = learner_of(recipe_of(), steps=2), learner_of(recipe_of(), steps=2)
        feed = pixel_feed()
        assert whole.learn(inputs_of(np.flatnonzero(WORLD.labels.fold == 0)[:3]), feed) == 0
        assert whole.learn(inputs_of(rows, step=1), feed) == 5
        assert parts.learn(inputs_of(rows[:1]), feed) == 0
        assert parts.learn(inputs_of(rows[1:], step=1), feed) == 5
        for name, value in weights(whole).items():
            if not name.endswith("num_batches_tracked"):
                np.testing.assert_allclose(weights(parts)[name], value, atol=1e-4, err_msg=name)

    def test_the_learning_rate_follows_the_schedule(self) -> None:
        learner = learner_of(
            recipe_of(optim={"lr": 0.1, "backbone_lr_scale": 0.5}, schedule={"warmup": 0.25, "epochs": 2}), steps=4
        )
        feed, rows, rates = pixel_feed(), np.flatnonzero(WORLD.labels.fold != 0)[:4], []
        for number in range(8):
            learner.learn(inputs_of(rows, step=number % 4, epoch=number // 4), feed)
            rates.append([group["lr"] for group in learner.stepper.optimizer.param_groups])
        heads = [of_step[-1] for of_step in rates]
        np.testing.assert_allclose(heads[:3], [0.1 / 3, 0.2 / 3, 0.1])
        assert heads[2:] == sorted(heads[2:], reverse=True)
        assert heads[-1] < 0.01
        np.testing.assert_allclose([of_step[0] for of_step in rates], np.array(heads) / 2)

    def test_clipping_bounds_the_step(self) -> None:
        settings = {
            "backbone": "test_efficientnet_gn",
            "optim": {"name": "sgd", "lr": 1.0, "weight_decay": 0.0},
            "schedule": {"warmup": 0.0},
        }
        rows = np.flatnonzero(WORLD.labels.fold != 0)[:8]
        moved = {}
        for clip in (0.0, 1e-3):
            learner = learner_of(recipe_of(**deep_merge(settings, {"optim": {"clip_grad": clip}})), steps=100)
            before = weights(learner)
            learner.learn(inputs_of(rows), pixel_feed())
            moved[clip] = sum(float((value - before[name]).square().sum()) for name, value in weights(learner).items()) ** 0.5
        assert moved[1e-3] < 0.01 < moved[0.0]

    def test_averaged_weights_predict_and_lag_behind(self) -> None:
        learner = learner_of(recipe_of(optim={"ema": 0.99}))
        trained([learner], pixel_feed())
        assert learner.best_model is not learner.model
        assert not torch.equal(learner.best_model.heads["colour-head"][0].weight, learner.model.heads["colour-head"][0].weight)
        plain = learner_of(recipe_of())
        trained([plain], pixel_feed())
        assert plain.best_model is plain.model
        same = differing(
            {name: value for name, value in weights(plain).items() if name.startswith("model.")},
            {name: value for name, value in weights(learner).items() if name.startswith("model.")},
        )
        assert same == []


class TestMixing:
    def test_a_mixer_is_given_only_rows_that_are_learned_from(self) -> None:
        learner, seen = learner_of(recipe_of()), []
        learner.rare = torch.arange(IMAGES) % 4 == 1
        learner.mixer = lambda examples, rare, epoch: seen.append((examples, rare, epoch)) or examples
        rows = np.arange(12)
        learner.learn(inputs_of(rows, epoch=2), pixel_feed())
        kept = rows[WORLD.labels.fold[rows] != 0]
        [(examples, rare, epoch)] = seen
        torch.testing.assert_close(examples.inputs, learner.model.normalise(inputs_of(kept).tensor))
        assert {head: labels.tolist() for head, labels in examples.targets.items()} == {
            head: WORLD.labels.truth[head][kept].tolist() for head in ("colour", "half")
        }
        assert rare.tolist() == (kept % 4 == 1).tolist()
        assert epoch == 2

    def test_mixed_inputs_and_targets_are_what_is_learned(self) -> None:
        rows = np.flatnonzero(WORLD.labels.fold != 0)[:8]
        reverse, plain = learner_of(recipe_of()), learner_of(recipe_of())
        reverse.mixer = lambda examples, rare, epoch: Examples(
            examples.inputs.flip(0), {head: labels.flip(0) for head, labels in examples.targets.items()}
        )
        reverse.learn(inputs_of(rows), pixel_feed())
        plain.learn(inputs_of(rows[::-1].copy()), pixel_feed())
        assert differing(weights(reverse), weights(plain)) == []

    def test_the_loss_is_given_mixed_targets_and_the_weights_of_their_rows(self) -> None:
        learner, seen = learner_of(recipe_of(), task="half"), []
        targets, row_weights = {"half": torch.rand(8, 2)}, {"half": torch.rand(8)}
        learner.mixer = lambda examples, rare, epoch: Examples(examples.inputs, targets, row_weights)
        learner.loss["half"].forward = lambda logits, target, weight: seen.append((target, weight)) or logits.sum()
        learner.learn(inputs_of(np.flatnonzero(WORLD.labels.fold != 0)[:8]), pixel_feed())
        assert seen[0][0] is targets["half"]
        assert seen[0][1] is row_weights["half"]

    @pytest.mark.parametrize("name", ["mixup", "cutmix", "half_cutmix"])
    @given(data=st.data(), batch_size=st.integers(2, 12), seed=st.integers(0, 99), rare=st.booleans())
    @settings(max_examples=6, deadline=None)
    def test_no_pixel_of_the_own_fold_is_ever_learned_from(
        self, name: str, data: st.DataObject, batch_size: int, seed: int, rare: bool
    ) -> None:
        fold = np.array(data.draw(st.lists(st.integers(0, 2), min_size=12, max_size=24)), np.int64)
        world = make_world(len(fold))
        own = data.draw(st.integers(0, 2))
        if np.sum(fold != own) < 2 or not np.any(fold == own):
            return
        pixels = world.prepared.shards[0].copy()
        pixels[..., 0], pixels[fold == own, ..., 0] = 0, 255  # the own fold is red through and through
        world = World(replace(world.prepared, shards=(pixels,)), replace(world.labels, fold=fold))
        recipe = recipe_of(
            backbone="test_byobnet",
            batch_size=batch_size,
            schedule={"epochs": 1},
            mix={"name": name, "rare": {"colour": ["red"]} if rare else {}},
        )
        feed = NotedPixels(batches_of(replace(SPEC, batch_size=batch_size, epochs=1, seed=seed), world), world.prepared, CPU)
        steps = -(-len(fold) // batch_size)
        learner = learner_of(recipe, fold=own, task="colour", world=world, steps=steps, seed=seed)
        trained([learner], feed)
        black = float(learner.model.normalise(torch.zeros(1, 3, 1, 1, dtype=torch.uint8))[0, 0])
        assert sum(map(len, feed.learned)) == np.sum(fold != own)
        for learned in feed.learned:
            torch.testing.assert_close(learned[:, 0], torch.full_like(learned[:, 0], black))
            assert len(learned) < 2 or learned[:, 1:].std() > 0


class NotedPixels(PixelFeed):
    """Notes what models are given while they learn."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.learned: list[torch.Tensor] = []

    def outputs(self, model: Any, selected: torch.Tensor) -> Any:
        self.learned.append(selected.detach())
        return super().outputs(model, selected)


@dataclass
class Noted:
    """A feed of features that are the rows' numbers, which notes the batches that are learned."""

    sampler: BatchSampler
    epochs: int
    learned: list[list[int]]

    def training(self) -> Iterator[Inputs]:
        for epoch in range(self.epochs):
            for step in range(self.sampler.steps):
                rows = self.sampler.rows(epoch, step)
                yield Inputs(torch.from_numpy(rows)[:, None].float().expand(-1, WIDTH), rows, epoch, step)

    def select(self, model: Any, inputs: Inputs, indices: torch.Tensor) -> torch.Tensor:
        self.learned.append(inputs.tensor[indices, 0].int().tolist())
        return inputs.tensor[indices]

    def outputs(self, model: Any, selected: torch.Tensor) -> Any:
        return model.classify(selected)

    def clean_logits(self, model: Any, rows: npt.NDArray[np.int64], view: str) -> Any:
        return model.classify(torch.from_numpy(rows)[:, None].float().expand(-1, WIDTH))


HEADS_ALONE = recipe_of(
    backbone="test_byobnet",
    pretrained=True,
    freeze={"part": "backbone"},
    schedule={"epochs": 2},
    head={"norm": True},
    optim={"lr": 0.0001},
)
with torch.random.fork_rng():
    MODEL_OF_HEADS = build_classifier(HEADS_ALONE, heads_of("colour", SPACE))
WIDTH = MODEL_OF_HEADS.heads["colour-head"][-1].in_features


ALL = -2
"""A fold that no row has."""
SAMPLED = {
    "balanced": '{"by": "colour", "name": "balanced", "power": 1.0}',
    "dynamic": '{"by": "colour", "epochs": 2, "name": "dynamic", "power": 0.5}',
    "repeat": '{"by": "colour", "factors": [0.5, 1.0, 3.0], "name": "repeat"}',
    "one_per_group": "one_per_group",
}


class TestNoImageIsLost:
    @given(
        data=st.data(),
        batch_size=st.integers(2, 9),
        folds=st.integers(1, 5),
        accumulate=st.integers(1, 3),
        drawn_by=st.sampled_from(["shuffle", "shuffle", *SAMPLED]),
    )
    @settings(max_examples=50, deadline=None)
    def test_each_epoch_learns_from_every_row_as_often_as_it_is_drawn(
        self, data: st.DataObject, batch_size: int, folds: int, accumulate: int, drawn_by: str
    ) -> None:
        # TRAIN_ONLY rows have a fold of their own; some rows of any fold may not be learned from.
        fold = np.array(data.draw(st.lists(st.sampled_from([TRAIN_ONLY, *range(folds)]), min_size=2, max_size=40)), np.int64)
        trains = np.array(data.draw(st.lists(st.booleans(), min_size=len(fold), max_size=len(fold)))) | (fold != TRAIN_ONLY)
        labels = {target: np.arange(len(fold)) % SPACE_SIZES[target] for target in SPACE_SIZES}
        table = LabelTable(SPACE, fold, labels, labels, trains)
        recipe = Recipe.model_validate(
            deep_merge(HEADS_ALONE.model_dump(), {"batch_size": batch_size, "optim": {"accumulate": accumulate}})
        )
        stream = StreamSpec(SPEC.input, "[]", batch_size, 1, data.draw(st.integers(0, 99)), SAMPLED.get(drawn_by, drawn_by))
        sampler = BatchSampler(stream, fold, np.where(trains, np.arange(len(fold)) % 3, -1) if drawn_by in SAMPLED else None)
        for own in (*range(folds), ALL):
            learned = table.learned(own)
            wanted = [[row for row in sampler.order(epoch).tolist() if learned[row]] for epoch in range(2)]

            def begun(own: int = own) -> Learner:
                order = None if drawn_by == "shuffle" and accumulate == 1 else sampler.order
                spec = LearnerSpec(f"fold-{own}", own, recipe, table, sampler.steps, 0, order)
                return Learner(spec, deepcopy(MODEL_OF_HEADS), CPU)

            if len(wanted[0]) < 2:
                with pytest.raises(InputError, match=rf"^fold-{own} has {len(wanted[0])} image\(s\) to learn from, and needs 2"):
                    begun()
                continue
            feed = Noted(sampler, 2, [])
            reports = trained([begun()], feed)
            assert [metrics.images for report in reports for metrics in report.metrics.values()] == list(map(len, wanted))
            assert min(map(len, feed.learned)) >= 2
            assert sorted(row for batch in feed.learned for row in batch) == sorted([*wanted[0], *wanted[1]])

    def test_batches_of_two_teach_two_folds(self) -> None:
        spec = replace(SPEC, batch_size=2, epochs=1)
        world = World(WORLD.prepared, replace(WORLD.labels, fold=np.arange(IMAGES, dtype=np.int64) % 2))
        learners = [
            learner_of(recipe_of(batch_size=2, schedule={"epochs": 1}), fold, world=world, steps=IMAGES // 2) for fold in (0, 1)
        ]
        alone = learner_of(recipe_of(batch_size=2, schedule={"epochs": 1}), 1, world=world, steps=IMAGES // 2)
        before = weights(alone)
        trained(learners, pixel_feed(world, spec=spec))
        trained([alone], pixel_feed(world, spec=spec))
        assert differing(before, weights(alone)) != []
        assert differing(weights(alone), weights(learners[1])) == [], "whoever else holds rows back"


def break_weights(learner: Learner, epoch: int = 0, step: int = STEPS - 1, value: float = math.nan) -> Callable[[int, int], None]:
    """What breaks a learner's weights right after a step, as one that is far too long does."""

    def broken(at_epoch: int, at_step: int) -> None:
        if (at_epoch, at_step) == (epoch, step):
            with torch.no_grad():
                learner.model.heads["half-head"][-1].bias.fill_(value)

    return broken


def learned_in(learner: Learner, epoch: int, step: int) -> list[int]:
    rows = BatchSampler(SPEC, WORLD.labels.fold).rows(epoch, step)
    return rows[learner.learned[rows]].tolist()


class TestFailures:
    def test_a_learner_fails_at_the_first_batch_whose_loss_is_not_finite_and_learns_no_more(self) -> None:
        learner = learner_of(recipe_of())
        learner.loss["half"].forward = lambda outputs, labels, weight: outputs.sum() * 0 + float("inf")
        before = deepcopy(dict(learner.model.named_parameters()))
        assert trained([learner], pixel_feed()) == []
        assert learner.failure is not None
        assert learner.ended
        assert (learner.failure.epoch, learner.failure.step, learner.failure.found) == (1, 1, "its loss is not finite")
        assert learner.failure.rows.tolist() == learned_in(learner, 0, 0)
        assert differing(dict(learner.model.named_parameters()), before) == []

    @pytest.mark.parametrize(("epoch", "step"), [(0, 1), (1, 0), (2, 2)])
    def test_weights_that_a_step_breaks_are_found_at_the_next_batch(self, epoch: int, step: int) -> None:
        learner = learner_of(recipe_of())
        reports: list[EpochReport] = []
        train_pack([learner], pixel_feed(), reports.append, break_weights(learner, epoch, step))
        assert learner.failure is not None
        assert (learner.failure.epoch, learner.failure.step) == (epoch + 1, step + 2)
        assert learner.failure.rows.tolist() == learned_in(learner, epoch, step + 1)
        assert [report.metrics.keys() for report in reports if report.metrics] == [{learner.name}] * epoch

    def test_a_device_that_is_read_once_an_epoch_tells_of_the_same_batch(self) -> None:
        """As on a GPU, where the batches after it are learned still."""
        late, at_once = learner_of(recipe_of()), learner_of(recipe_of())
        late._losses.at_once = False
        for learner in (late, at_once):
            train_pack([learner], pixel_feed(), lambda report: None, break_weights(learner, step=0, value=math.inf))
        assert late.failure is not None
        assert at_once.failure is not None
        assert replace(late.failure, rows=None) == replace(at_once.failure, rows=None)  # type: ignore[arg-type]
        np.testing.assert_array_equal(late.failure.rows, at_once.failure.rows)
        assert late.stepper.step == STEPS
        assert at_once.stepper.step == 1

    @pytest.mark.parametrize(
        ("fold", "found"), [(0, "its predictions are not finite after it"), (-2, "its weights are not finite after it")]
    )
    def test_weights_that_the_last_step_of_an_epoch_breaks_are_found_at_its_end(self, fold: int, found: str) -> None:
        learner = learner_of(recipe_of(schedule={"epochs": 1}), fold=fold)
        reports: list[EpochReport] = []
        train_pack([learner], pixel_feed(spec=replace(SPEC, epochs=1)), reports.append, break_weights(learner))
        assert learner.failure is not None
        assert (learner.failure.epoch, learner.failure.step, learner.failure.found) == (1, STEPS, found)
        assert learner.failure.rows.tolist() == learned_in(learner, 0, STEPS - 1)
        assert [report.metrics for report in reports] == [{}]

    def test_the_others_of_a_pack_go_on_as_if_they_were_alone(self) -> None:
        recipe = RECIPES["batch norm, dropout, ema"]
        alone = [learner_of(recipe, fold=fold, seed=3) for fold in (0, 2)]
        for learner in alone:
            trained([learner], pixel_feed())
        pack = [learner_of(recipe, fold=fold, seed=3) for fold in range(FOLDS)]
        reports: list[EpochReport] = []
        train_pack(pack, pixel_feed(), reports.append, break_weights(pack[1], 1, 0))
        assert [learner.failure is None for learner in pack] == [True, False, True]
        assert [len(report.metrics) for report in reports] == [3, 2, 2]
        assert differing(weights(pack[0]), weights(alone[0])) == []
        assert differing(weights(pack[2]), weights(alone[1])) == []

    def test_a_pack_whose_learners_have_all_failed_asks_for_no_more_batches(self) -> None:
        pack = [learner_of(recipe_of(optim={"lr": 1e30, "name": "sgd"}, schedule={"warmup": 0.0}), fold=fold) for fold in (0, 1)]
        seen: list[tuple[int, int]] = []
        train_pack(pack, pixel_feed(), lambda report: None, lambda *at: seen.append(at))
        assert all(learner.failure for learner in pack)
        assert len(seen) < 3 * STEPS


class TestEarlyStopping:
    EPOCHS = 6

    def recipe(self, **more: Any) -> Recipe:
        given = {"stop": {"patience": 2, "share": 0.25}, "optim": {"lr": 0.02}, "schedule": {"epochs": self.EPOCHS}}
        return recipe_of(**deep_merge(given, more))

    def feed(self, **kwargs: Any) -> PixelFeed:
        return pixel_feed(spec=replace(SPEC, epochs=self.EPOCHS), **kwargs)

    def by_hand(self, judged: npt.NDArray[np.int64], more: dict[str, Any]) -> tuple[list[State], list[float]]:
        """Weights and loss on the judged rows after each epoch, of a learner that is not told to learn from these."""
        labels = replace(WORLD.labels, trains=~np.isin(np.arange(IMAGES), judged))
        recipe = recipe_of(**deep_merge({"optim": {"lr": 0.02}, "schedule": {"epochs": self.EPOCHS}}, more))
        learner, feed = learner_of(recipe, world=replace(WORLD, labels=labels)), self.feed()
        states: list[State] = []
        losses: list[float] = []

        def on_epoch(report: EpochReport) -> None:
            states.append(weights(learner))
            said = learner.predict(judged, "original", feed)
            losses.append(
                float(np.mean([log_loss(WORLD.labels.truth[h][judged], p, labels=range(p.shape[1])) for h, p in said.items()]))
            )

        train_pack([learner], feed, on_epoch)
        return states, losses

    @pytest.mark.parametrize(
        "more", [{}, {"optim": {"ema": 0.7}}, {"optim": {"lr": 0.003}}], ids=["last weights", "averaged weights", "a small rate"]
    )
    def test_it_ends_after_the_patience_with_the_weights_of_the_best_epoch(self, more: dict[str, Any]) -> None:
        learner = learner_of(self.recipe(**more))
        reports = trained([learner], self.feed())
        states, losses = self.by_hand(learner.judged_rows, more)
        np.testing.assert_allclose([r.metrics[learner.name].judged_loss for r in reports], losses[: len(reports)], rtol=1e-4)
        best = int(np.argmin(losses[: len(reports)]))
        assert learner.kept_epoch == best + 1
        assert len(reports) == min(self.EPOCHS, best + 1 + 2)
        kept = {name: value for name, value in weights(learner).items() if name.startswith("best.")}
        assert differing(kept, {name: value for name, value in states[best].items() if name.startswith("best.")}) == []

    def test_a_rate_at_which_the_loss_jumps_ends_early_and_a_small_one_does_not(self) -> None:
        """So that the test above sees both."""
        learners = [learner_of(self.recipe(optim={"lr": lr})) for lr in (0.02, 0.003)]
        trained(learners, self.feed())
        assert [learner.ended for learner in learners] == [True, False]
        assert [learner.kept_epoch for learner in learners] == [2, self.EPOCHS]

    def test_one_that_has_ended_learns_no_more_while_its_mates_go_on(self) -> None:
        learner, mate = learner_of(self.recipe()), learner_of(recipe_of(schedule={"epochs": self.EPOCHS}), fold=1, seed=4)
        assert learner.stopping is not None
        learner.stopping.best_loss = -1.0  # never lower
        learner.stopping.weights = {name: value.clone() for name, value in learner.model.state_dict().items()}
        start = weights(learner)
        reports = trained([learner, mate], self.feed())
        assert [set(report.metrics) for report in reports] == [{learner.name, mate.name}] * 2 + [{mate.name}] * 4
        assert learner.ended
        assert differing(weights(learner), start) == []
        again = learner_of(self.recipe())
        again.load_state(kept_apart(learner.state()))
        assert again.ended
        assert trained([again], self.feed()) == []
        assert differing(weights(again), start) == []

    def test_what_it_is_judged_on_changes_no_weight_of_an_epoch(self) -> None:
        one = learner_of(self.recipe(stop={"patience": 99}))
        pixels = WORLD.prepared.shards[0].copy()
        pixels[one.judged_rows] //= 2
        world = replace(WORLD, prepared=replace(WORLD.prepared, shards=(pixels,)))
        other = learner_of(self.recipe(stop={"patience": 99}), world=world)
        for learner, feed in ((one, pixel_feed()), (other, pixel_feed(world))):  # 3 of 6 epochs, so that none is gone back to
            trained([learner], feed)
        assert differing(weights(one), weights(other)) == []
        assert one.stopping is not None
        assert other.stopping is not None
        assert one.stopping.best_loss != other.stopping.best_loss

    def test_a_model_without_a_fold_of_its_own_is_judged_too(self) -> None:
        learner = learner_of(self.recipe(), fold=ALL)
        [metrics] = [report.metrics[learner.name] for report in trained([learner], self.feed())][:1]
        assert metrics.images == IMAGES - len(learner.judged_rows) == 30
        assert np.isfinite(metrics.judged_loss)
        assert np.isnan(metrics.loss)


@pytest.mark.parametrize("stop", [{}, {"patience": 9, "share": 0.25}], ids=["on training", "on those judged by"])
def test_a_plateau_is_seen_by_the_loss_on_training_or_on_those_whom_early_stopping_judges_by(stop: dict[str, Any]) -> None:
    learner = learner_of(recipe_of(schedule={"name": "plateau"}, stop=stop))
    told: list[float] = []
    learner.stepper.schedule.end_epoch = told.append  # type: ignore[method-assign]
    metrics = [report.metrics[learner.name] for report in trained([learner], pixel_feed())]
    assert told == [each.judged_loss if stop else each.train_loss for each in metrics]


class TestMeanOfLastEpochs:
    @pytest.mark.parametrize("last", [2, 3])
    def test_the_model_is_the_mean_of_the_weights_at_the_ends_of_the_last_epochs(self, last: int) -> None:
        plain, averaged = learner_of(recipe_of()), learner_of(recipe_of(schedule={"average_last": last}))
        ends: list[State] = []
        train_pack([plain], pixel_feed(), lambda report: ends.append(weights(plain)))
        feed = pixel_feed()
        reports = trained([averaged], feed)
        assert len(ends) == 3
        for name, value in weights(averaged).items():
            if value.is_floating_point():
                mean = np.mean([end[name].double().numpy() for end in ends[-last:]], axis=0)
                np.testing.assert_allclose(value, mean, rtol=1e-5, atol=1e-7, err_msg=name)
        said = averaged.predict(averaged.own_rows, "original", feed)
        losses = [cross_entropy(p, WORLD.labels.truth[head][averaged.own_rows]) for head, p in said.items()]
        assert reports[-1].metrics[averaged.name].loss == pytest.approx(np.mean(losses))
        assert differing(ends[-1], weights(averaged)) != []

    def test_until_then_the_epochs_are_those_of_a_training_without_it(self) -> None:
        plain, averaged = learner_of(recipe_of()), learner_of(recipe_of(schedule={"average_last": 3}))
        of_plain, of_averaged = trained([plain], pixel_feed()), trained([averaged], pixel_feed())
        for one, other in zip(of_plain[:2], of_averaged[:2], strict=True):
            np.testing.assert_equal(asdict(one.metrics[plain.name]), asdict(other.metrics[averaged.name]))
        assert of_plain[2].metrics[plain.name].loss != of_averaged[2].metrics[averaged.name].loss

    def test_heads_on_a_shared_backbone_leave_it_alone(self) -> None:
        recipe = recipe_of(pretrained=True, freeze={"part": "backbone"}, schedule={"average_last": 2})
        learner = learner_of(recipe)
        trained([learner], pixel_feed())
        assert isinstance(learner.keeper, MeanOfLastEpochs)
        assert {name.partition(".")[0] for name in learner.keeper.mean} == {"colour-head", "half-head"}


FROZEN = {
    "stages of a network with batch norms": ({"stages": 2}, "test_resnet", ("conv1.", "bn1.", "layer1.", "layer2.")),
    "blocks of a transformer": (
        {"stages": 3},
        "test_vit",
        ("cls_token", "pos_embed", "patch_embed.", *(f"blocks.{n}." for n in "012")),
    ),
    "the backbone": ({"part": "backbone"}, "test_resnet", ("",)),
}


@pytest.mark.parametrize(("freeze", "backbone", "held"), FROZEN.values(), ids=FROZEN)
class TestFreezing:
    def ends(self, recipe: Recipe, fold: int = 0) -> tuple[Learner, list[State]]:
        learner = learner_of(recipe, fold=fold)
        ends = [weights(learner)]
        train_pack([learner], pixel_feed(), lambda report: ends.append(weights(learner)))
        return learner, ends

    def recipe(self, freeze: dict[str, Any], backbone: str, **more: Any) -> Recipe:
        optim = {"name": "sgdw", "lr": 0.05, "weight_decay": 0.5, "arguments": {"momentum": 0.9}}
        given = {"backbone": backbone, "pretrained": True, "freeze": freeze, "optim": optim, "schedule": {"warmup": 0.0}}
        return recipe_of(**deep_merge(given, more))

    def test_what_is_frozen_keeps_weights_and_statistics_and_the_rest_is_trained(
        self, freeze: dict[str, Any], backbone: str, held: tuple[str, ...]
    ) -> None:
        learner, ends = self.ends(self.recipe(freeze, backbone))
        frozen = {name for name in ends[0] if name.startswith(tuple(f"model.backbone.{start}" for start in held))}
        changed = {name for name in differing(ends[0], ends[-1]) if name.startswith("model.")}
        assert changed & frozen == set()
        trained_ = {f"model.{name}" for name, _ in learner.model.named_parameters()} - frozen
        assert trained_ <= changed
        assert frozen
        in_groups = {id(p) for group in learner.stepper.optimizer.param_groups for p in group["params"]}
        assert in_groups == {id(p) for name, p in learner.model.named_parameters() if f"model.{name}" not in frozen}

    @pytest.mark.parametrize("fold", [0, -2])
    def test_what_is_frozen_for_some_epochs_is_trained_from_then_on(
        self, freeze: dict[str, Any], backbone: str, held: tuple[str, ...], fold: int
    ) -> None:
        learner, ends = self.ends(self.recipe({**freeze, "unfreeze_at": 2}, backbone), fold)
        frozen = {name for name in ends[0] if name.startswith(tuple(f"model.backbone.{start}" for start in held))}
        assert set(differing(ends[0], ends[2])) & frozen == set()
        of_weights = {f"model.{name}" for name, _ in learner.model.named_parameters()}
        assert set(differing(ends[2], ends[3])) >= of_weights
        plain = learner_of(self.recipe({}, backbone)).stepper.optimizer.param_groups
        groups = learner.stepper.optimizer.param_groups
        assert [(len(g["params"]), g["base_lr"], g["weight_decay"]) for g in groups] == [
            (len(g["params"]), g["base_lr"], g["weight_decay"]) for g in plain
        ]

    def test_averaged_weights_of_what_is_frozen_are_its_own(
        self, freeze: dict[str, Any], backbone: str, held: tuple[str, ...]
    ) -> None:
        learner, ends = self.ends(self.recipe({**freeze, "unfreeze_at": 2}, backbone, optim={"ema": 0.6}))
        frozen = {name for name in ends[0] if name.startswith(tuple(f"best.backbone.{start}" for start in held))}
        assert frozen
        assert set(differing(ends[0], ends[2])) & frozen == set()
        of_weights = {f"best.backbone.{name}" for name, _ in learner.model.backbone.named_parameters()}
        assert set(differing(ends[2], ends[3])) >= frozen & of_weights


class TestAllRows:
    def test_a_replica_of_no_fold_learns_from_every_row_and_is_scored_on_none(self) -> None:
        learner = learner_of(recipe_of(), fold=ALL)
        reports = trained([learner], pixel_feed())
        assert learner.own_rows.size == 0
        assert learner.learned.all()
        for epoch, report in enumerate(reports, start=1):
            metrics = report.metrics[learner.name]
            assert metrics.epoch == epoch
            assert np.isfinite(metrics.train_loss)
            assert np.isnan([metrics.loss, metrics.f1, metrics.accuracy]).all()
            assert metrics.scores == {}

    def test_every_row_of_a_batch_is_learned_from(self) -> None:
        assert learner_of(recipe_of(), fold=ALL).learn(inputs_of(range(12)), pixel_feed()) == 12

    def test_it_is_the_same_in_a_pack_and_taken_up_again(self) -> None:
        recipe = RECIPES["batch norm, dropout, ema"]
        whole, first, mate = learner_of(recipe, fold=ALL), learner_of(recipe, fold=ALL), learner_of(recipe, fold=1, seed=2)
        trained([mate, whole], pixel_feed())
        trained([first], pixel_feed(spec=replace(SPEC, epochs=2)))
        again = learner_of(recipe, fold=ALL)
        again.load_state(kept_apart(first.state()))
        trained([again], pixel_feed(first=2))
        assert differing(weights(whole), weights(again)) == []


def one_hot(labels: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.float32]:
    return np.equal(labels[:, None], np.arange(classes)).astype(np.float32)


class TestLabelsOfTraining:
    SOFT = replace(
        WORLD,
        labels=replace(
            WORLD.labels, train={head: one_hot(WORLD.labels.truth[head], c) for head, c in heads_of("multi", SPACE).items()}
        ),
    )

    @pytest.mark.parametrize("given", [{}, {"loss": {"class_weight_power": 1.0, "label_smoothing": 0.1}}])
    def test_a_step_by_probabilities_of_1_is_the_step_by_labels(self, given: dict[str, Any]) -> None:
        recipe = recipe_of(**given, optim={"name": "sgd", "lr": 0.1}, schedule={"warmup": 0.0})
        hard, soft = learner_of(recipe), learner_of(recipe, world=self.SOFT)
        before, rows = weights(hard), np.flatnonzero(WORLD.labels.fold != 0)[:12]
        for learner in (hard, soft):
            assert learner.learn(inputs_of(rows), pixel_feed()) == 12
        assert len(differing(weights(hard), before)) > 10
        for name, value in weights(hard).items():
            np.testing.assert_allclose(weights(soft)[name], value, atol=1e-5, err_msg=name)

    def test_classes_are_counted_on_the_rows_that_are_learned_from(self) -> None:
        labels = replace(WORLD.labels, trains=np.arange(IMAGES) % 4 != 0)
        learned = (WORLD.labels.fold != 1) & labels.trains
        by_hand = [np.sum(WORLD.labels.truth["colour"][learned] == colour) for colour in range(3)]
        np.testing.assert_array_equal(labels.learned(1), learned)
        np.testing.assert_array_equal(labels.counts("colour", 3, fold=1), by_hand)
        soft = replace(labels, train=self.SOFT.labels.train)
        np.testing.assert_allclose(soft.counts("colour", 3, fold=1), by_hand)
        halves = replace(labels, train={"half": np.full((IMAGES, 2), 0.5, np.float32)})
        np.testing.assert_allclose(halves.counts("half", 2, fold=1), [learned.sum() / 2] * 2)

    def test_soft_labels_are_what_is_learned(self) -> None:
        """Where the teacher is unsure, so becomes the model; scores are made of the truth still."""
        unsure = {"half": np.full((IMAGES, 2), (0.25, 0.75), np.float32)}
        world = replace(WORLD, labels=replace(WORLD.labels, train=unsure))
        learner = learner_of(recipe_of(schedule={"epochs": 16}), task="half", world=world)
        last = trained([learner], pixel_feed(world, spec=replace(SPEC, epochs=16)))[-1].metrics[learner.name]
        said = learner.predict(np.arange(IMAGES), "original", pixel_feed())["half"]
        assert said[:, 1].mean() == pytest.approx(0.75, abs=0.06)
        truth = WORLD.labels.truth["half"][learner.own_rows]
        assert last.accuracy == pytest.approx(np.mean(truth == said[learner.own_rows].argmax(axis=1)))

    def test_rows_that_are_not_to_be_learned_from_change_no_weight(self) -> None:
        idle = (np.arange(IMAGES) % 5 == 0) & (WORLD.labels.fold != 1)
        assert idle.any()
        pixels = WORLD.prepared.shards[0].copy()
        pixels[idle] = 255 - pixels[idle]
        unlabelled = {target: np.where(idle, -1, labels) for target, labels in WORLD.labels.truth.items()}
        labels = replace(WORLD.labels, truth=unlabelled, train=unlabelled, trains=~idle)
        world = World(WORLD.prepared, labels)
        changed = World(replace(WORLD.prepared, shards=(pixels,)), replace(labels, train=WORLD.labels.train))
        one, other = (learner_of(recipe_of(loss={"class_weight_power": 1.0}), fold=1, world=w) for w in (world, changed))
        trained([one], pixel_feed(world))
        trained([other], pixel_feed(changed))
        assert differing(weights(one), weights(other)) == []
        assert one.learn(inputs_of(np.flatnonzero(idle), epoch=3), pixel_feed()) == 0

    def test_unlabelled_rows_cannot_be_validated_on(self) -> None:
        unlabelled = {target: np.where(WORLD.labels.fold == 1, -1, labels) for target, labels in WORLD.labels.truth.items()}
        world = replace(WORLD, labels=replace(WORLD.labels, truth=unlabelled))
        with pytest.raises(AssertionError):
            learner_of(recipe_of(), fold=1, world=world)


class TestMetrics:
    def metrics(self, task: str, labels: LabelTable = WORLD.labels) -> tuple[Learner, EpochMetrics, dict[str, Any]]:
        world = replace(WORLD, labels=labels)
        learner = learner_of(
            recipe_of(schedule={"epochs": 1}, loss={"label_smoothing": 0.2, "class_weight_power": 1.0}), task=task, world=world
        )
        feed = pixel_feed(world, spec=replace(SPEC, epochs=1))
        report = trained([learner], feed)[0]
        return learner, report.metrics[learner.name], learner.predict(learner.own_rows, "original", feed)

    def test_a_specialist_is_scored_on_its_own_fold_by_its_task(self) -> None:
        learner, metrics, predicted = self.metrics("colour")
        own = np.flatnonzero(WORLD.labels.fold == 0)
        np.testing.assert_array_equal(learner.own_rows, own)
        truth, labels = WORLD.labels.truth["colour"][own], predicted["colour"].argmax(axis=1)
        assert metrics.f1 == pytest.approx(f1_score(truth, labels, average="macro"))
        assert metrics.accuracy == pytest.approx(accuracy_score(truth, labels))
        assert metrics.loss == pytest.approx(log_loss(truth, predicted["colour"], labels=[0, 1, 2]), rel=1e-5)
        assert metrics.scores.keys() == {"colour"}
        assert metrics.epoch == 1

    def test_a_multi_member_is_scored_by_the_joint_label_of_its_heads_and_the_mean_of_their_losses(self) -> None:
        learner, metrics, predicted = self.metrics("multi")
        truth = {target: labels[learner.own_rows] for target, labels in WORLD.labels.truth.items()}
        joint = predicted["colour"].argmax(axis=1) * 2 + predicted["half"].argmax(axis=1)
        assert metrics.scores.keys() == {"colour", "half", JOINT}
        assert metrics.f1 == metrics.scores[JOINT]["f1"] == pytest.approx(f1_score(truth[JOINT], joint, average="macro"))
        assert metrics.accuracy == pytest.approx(accuracy_score(truth[JOINT], joint))
        for head in ("colour", "half"):
            assert metrics.scores[head]["f1"] == pytest.approx(
                f1_score(truth[head], predicted[head].argmax(axis=1), average="macro")
            )
        losses = [log_loss(truth[head], predicted[head], labels=list(range(c))) for head, c in (("colour", 3), ("half", 2))]
        assert metrics.loss == pytest.approx(np.mean(losses), rel=1e-5)

    def test_a_joint_member_is_scored_for_each_task_too(self) -> None:
        learner, metrics, predicted = self.metrics(JOINT)
        truth = {target: labels[learner.own_rows] for target, labels in WORLD.labels.truth.items()}
        labels = predicted[JOINT].argmax(axis=1)
        assert predicted[JOINT].shape == (len(learner.own_rows), 6)
        assert metrics.scores.keys() == {"colour", "half", JOINT}
        assert metrics.f1 == pytest.approx(f1_score(truth[JOINT], labels, average="macro"))
        assert metrics.scores["colour"]["accuracy"] == pytest.approx(accuracy_score(truth["colour"], labels // 2))
        assert metrics.scores["half"]["accuracy"] == pytest.approx(accuracy_score(truth["half"], labels % 2))

    def test_the_loss_is_made_of_training_labels_and_the_scores_of_true_ones(self) -> None:
        turned = {target: (labels + 1) % SPACE.shape[0] for target, labels in WORLD.labels.truth.items() if target == "colour"}
        labels = replace(WORLD.labels, train={**WORLD.labels.truth, **turned})
        world = replace(WORLD, labels=labels)
        learner = learner_of(recipe_of(schedule={"epochs": 8}), task="colour", world=world)
        metrics = trained([learner], pixel_feed(world, spec=replace(SPEC, epochs=8)))[-1].metrics[learner.name]
        assert metrics.train_loss < 0.3
        assert metrics.loss > 2
        assert metrics.accuracy < 0.2

    def test_the_training_loss_is_the_mean_over_batches_and_heads(self) -> None:
        recipe = recipe_of(
            backbone="test_efficientnet_gn", optim={"name": "sgd", "lr": 1e-12}, schedule={"epochs": 1}, batch_size=13
        )
        learner = learner_of(recipe, steps=4)
        feed = pixel_feed(spec=replace(SPEC, epochs=1, batch_size=13))
        metrics = trained([learner], feed)[0].metrics[learner.name]
        means = []
        for step in range(4):
            rows = BatchSampler(replace(SPEC, batch_size=13), WORLD.labels.fold).rows(0, step)
            rows = rows[WORLD.labels.fold[rows] != 0]
            if len(rows) > 1:
                said = learner.predict(rows, "original", feed)
                means.append(np.mean([cross_entropy(said[head], WORLD.labels.truth[head][rows]) for head in said]))
        assert metrics.train_loss == pytest.approx(np.mean(means), rel=1e-4)

    def test_cross_entropy_of_a_certain_mistake_is_finite(self) -> None:
        assert cross_entropy([[1.0, 0.0], [0.5, 0.5]], [1, 0]) == pytest.approx((27.631 + 0.6931) / 2, rel=1e-3)

    def test_reports_say_how_fast_and_how_long_it_waited(self) -> None:
        seen: list[tuple[int, int]] = []
        reports: list[EpochReport] = []
        learners = [learner_of(recipe_of(schedule={"epochs": 2}), fold=fold) for fold in (0, 1)]
        train_pack(learners, pixel_feed(spec=replace(SPEC, epochs=2)), reports.append, lambda e, s: seen.append((e, s)))
        assert seen == [(epoch, step) for epoch in range(2) for step in range(STEPS)]
        for report in reports:
            assert report.images_per_second > 0
            assert 0 <= report.waiting <= 1


def test_a_separable_toy_problem_is_learned_in_a_few_epochs() -> None:
    world = make_world(images=96)
    spec = replace(SPEC, epochs=6, batch_size=16)
    recipe = recipe_of(schedule={"epochs": 6}, batch_size=16, optim={"lr": 0.005}, amp="off")
    learner = learner_of(recipe, task="multi", world=world, steps=spec.steps(96))
    last = trained([learner], pixel_feed(world, spec=spec))[-1].metrics[learner.name]
    assert last.f1 > 0.95
    assert last.scores["colour"]["f1"] > 0.95
    assert last.loss < 0.4


class TestMixedPrecision:
    @pytest.mark.parametrize(("amp", "native", "on"), [("auto", False, False), ("off", True, False), ("auto", True, True)])
    def test_auto_is_bf16_on_a_cpu_that_has_it(self, monkeypatch: pytest.MonkeyPatch, amp: str, native: bool, on: bool) -> None:
        monkeypatch.setattr("raymask.models.precision.bf16_is_native", lambda device: native)
        context, scaler = mixed_precision(recipe_of(amp=amp), CPU)
        assert not scaler.is_enabled()
        with context():
            assert torch.is_autocast_enabled("cpu") is on
            if on:
                assert torch.get_autocast_dtype("cpu") is torch.bfloat16

    @pytest.mark.parametrize(("amp", "dtype", "scaled"), [("bf16", torch.bfloat16, False), ("fp16", torch.float16, True)])
    def test_low_precision_autocasts_and_scales_only_fp16(self, amp: str, dtype: torch.dtype, scaled: bool) -> None:
        context, scaler = mixed_precision(recipe_of(amp=amp), CPU)
        assert scaler.is_enabled() is scaled
        with context():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is dtype
        assert not isinstance(context(), nullcontext)

    @pytest.mark.parametrize("backbone", ["test_resnet", "mobilenetv3_small_050"])
    def test_bf16_learns_what_float32_learns(self, backbone: str) -> None:
        metrics = []
        for amp in ("off", "bf16"):
            learner = learner_of(recipe_of(amp=amp, backbone=backbone, schedule={"epochs": 3}, optim={"lr": 0.002}))
            metrics.append([report.metrics[learner.name] for report in trained([learner], pixel_feed())])
        for exact, rounded in zip(*metrics, strict=True):
            assert rounded.train_loss == pytest.approx(exact.train_loss, rel=0.1)

    def test_bf16_trains_float32_weights(self) -> None:
        learner = learner_of(recipe_of(amp="bf16", schedule={"epochs": 1}))
        before = weights(learner)
        trained([learner], pixel_feed(spec=replace(SPEC, epochs=1)))
        assert {value.dtype for value in learner.model.parameters()} == {torch.float32}
        assert differing(weights(learner), before) != []


class TestRangeTest:
    def test_the_rate_rises_until_the_loss_diverges(self) -> None:
        spec = replace(SPEC, epochs=20)
        learner = learner_of(recipe_of(schedule={"epochs": 20}), world=WORLD)
        noted: list[int] = []
        found = range_test(learner, pixel_feed(spec=spec), 1e-5, 1e4, 60, noted.append)
        assert noted == list(range(1, len(noted) + 1))
        assert len(found.lr) < 60, "at such rates it diverges"
        assert np.allclose(np.diff(np.log(found.lr)), np.log(1e9) / 59), "a rate a step"
        assert found.lr[0] == pytest.approx(1e-5)
        assert 1e-4 < found.suggested <= found.lowest < 1

    def test_the_backbones_rate_is_in_proportion(self) -> None:
        learner = learner_of(recipe_of(optim={"backbone_lr_scale": 0.1, "lr": 0.02}))
        range_test(learner, pixel_feed(), 1e-4, 1e-3, 5)
        rates = {round(float(group["lr"]), 9) for group in learner.stepper.optimizer.param_groups}
        assert rates == {1e-3, 1e-4}
