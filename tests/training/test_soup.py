"""Tests of model soups: what is averaged, which statistics it needs, who is chosen, and on whom that is scored."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from raymask.config.recipe import Recipe
from raymask.core.errors import InputError
from raymask.core.tasks import JOINT, LabelSpace, Task, heads_of
from raymask.data.cache import PreparedImages
from raymask.metrics.scores import score_heads
from raymask.models.classifier import Classifier, build_classifier, save_classifier, to_pixels
from raymask.training import soup as soups
from raymask.training.soup import (
    ByHead,
    Images,
    Ingredient,
    Reserved,
    Soup,
    SoupSpec,
    average_weights,
    cross_fitted,
    greedy_soup,
    halves_of,
    predict_images,
    recalibrate_batch_norms,
    soup_of_member,
    uniform_soup,
)
from raymask.transforms.tta import VIEWS, ViewPlan, even

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
BOTH = even(["original", "hflip"])
SPACE = LabelSpace((Task("colour", "colour", ("red", "green", "blue")), Task("half", "half", ("top", "bottom"))))
HEADS = heads_of("multi", SPACE)
SIDE, IMAGES, PEOPLE = 32, 40, 10


def recipe_of(**values: Any) -> Recipe:
    given = {"backbone": "test_resnet", "pretrained": False, "image_size": SIDE, "amp": "off", "head": {"norm": True}}
    return Recipe.model_validate({**given, **values})


RECIPE = recipe_of()
FROZEN = recipe_of(freeze={"part": "backbone"}, pretrained=True)


def model_of(seed: int, recipe: Recipe = RECIPE) -> Classifier:
    torch.manual_seed(seed)
    return build_classifier(recipe, HEADS).eval()


def make_images(count: int = IMAGES, seed: int = 0) -> Images:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3)).astype(np.uint8)
    prepared = PreparedImages((pixels,), np.zeros(count, np.int64), np.arange(count))
    return Images(prepared, np.arange(count))


def make_reserved(seed: int = 0) -> Reserved:
    rng = np.random.default_rng(seed)
    truth = {"colour": rng.integers(0, 3, IMAGES), "half": rng.integers(0, 2, IMAGES)}
    truth[JOINT] = SPACE.join(truth)
    return Reserved(make_images(seed=seed + 1), truth, np.array([f"person {row % PEOPLE}" for row in range(IMAGES)]))


def norms_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if "running" in name}


class TestAverage:
    def test_of_identical_models_is_the_model_to_the_bit(self) -> None:
        state = model_of(0).state_dict()
        average = average_weights([state] * 3)
        assert average.keys() == state.keys()
        for name, tensor in state.items():
            assert torch.equal(average[name], tensor)
            assert average[name].dtype == tensor.dtype

    def test_of_two_by_hand(self) -> None:
        one = {"w": torch.tensor([1.0, -2.0]), "num_batches_tracked": torch.tensor(7)}
        other = {"w": torch.tensor([2.0, 4.0]), "num_batches_tracked": torch.tensor(9)}
        average = average_weights([one, other])
        torch.testing.assert_close(average["w"], torch.tensor([1.5, 1.0]), rtol=0, atol=0)
        assert average["num_batches_tracked"].item() == 7

    def test_is_summed_in_float64(self) -> None:
        values = [2.0**24, 1.0, 1.0, 1.0]  # float32 would lose the ones
        average = average_weights([{"w": torch.tensor([value])} for value in values])
        assert average["w"].dtype == torch.float32
        assert average["w"].item() == np.float32(sum(values) / 4)

    def test_shares_no_memory_with_the_models(self) -> None:
        one = {"w": torch.ones(2), "n": torch.tensor(1)}
        average = average_weights([one])
        average["w"] += 1
        average["n"] += 1
        assert one["w"].tolist() == [1, 1]
        assert one["n"].item() == 1

    @pytest.mark.parametrize("other", [{"v": torch.ones(2)}, {"w": torch.ones(3)}, {"w": torch.ones(2), "v": torch.ones(1)}])
    def test_of_different_models_is_refused(self, other: dict[str, torch.Tensor]) -> None:
        with pytest.raises(InputError, match=r"cannot be averaged.* (v|w)"):
            average_weights([{"w": torch.ones(2)}, other])

    def test_of_nothing_is_refused(self) -> None:
        with pytest.raises(InputError, match="no models"):
            average_weights([])


class TestBatchNorms:
    def test_statistics_are_the_means_of_the_batches(self) -> None:
        model = model_of(0).double()
        first = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
        seen: list[torch.Tensor] = []
        first.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
        model.normalise = lambda pixels: pixels.double() / 255  # type: ignore[method-assign, assignment]
        recalibrate_batch_norms(model, list(make_images(200).batches(CPU)))
        assert len(seen) == 2
        torch.testing.assert_close(first.running_mean, torch.stack([batch.mean(dim=(0, 2, 3)) for batch in seen]).mean(dim=0))
        torch.testing.assert_close(first.running_var, torch.stack([batch.var(dim=(0, 2, 3)) for batch in seen]).mean(dim=0))

    def test_what_was_there_before_does_not_matter(self) -> None:
        one, other = model_of(0), model_of(0)
        for module in other.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.fill_(5)
                module.running_var.fill_(0.1)
        for model in (one, other):
            recalibrate_batch_norms(model, make_images().batches(CPU))
        for name, value in norms_of(one).items():
            assert torch.equal(value, norms_of(other)[name]), name

    def test_every_norm_is_set_anew_and_nothing_else(self) -> None:
        model = model_of(0)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        recalibrate_batch_norms(model, make_images().batches(CPU))
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert changed == {name for name in before if "running" in name or "num_batches" in name}
        assert any("heads" in name for name in changed)
        assert not any(module.training for module in model.modules())
        assert all(parameter.grad is None for parameter in model.parameters())

    def test_a_frozen_backbone_keeps_its_statistics_and_the_heads_see_what_it_gives(self) -> None:
        model, images = model_of(0), make_images(60)
        before = norms_of(model)
        recalibrate_batch_norms(model, images.batches(CPU), frozen=True)
        for name, value in norms_of(model).items():
            assert torch.equal(value, before[name]) == name.startswith("backbone"), name
        with torch.no_grad():
            features = model.features(to_pixels(images.prepared.read(images.rows), CPU))
        for head in model.heads.values():
            torch.testing.assert_close(head[0].running_mean, features.mean(dim=0), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(head[0].running_var, features.var(dim=0), rtol=1e-4, atol=1e-5)
        assert not any(module.training for module in model.modules())

    def test_a_model_without_norms_is_left_alone(self) -> None:
        model = model_of(0, recipe_of(head={}))
        before = {name: value.clone() for name, value in model.state_dict().items()}
        recalibrate_batch_norms(model, iter(()), frozen=True)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    @pytest.mark.parametrize("frozen", [False, True])
    def test_no_images_are_refused(self, frozen: bool) -> None:
        with pytest.raises(InputError, match="training images"):
            recalibrate_batch_norms(model_of(0), (), frozen)


class TestPrediction:
    def test_is_the_mean_over_the_views_and_leaves_the_model_as_it_is(self) -> None:
        model, images = model_of(0), make_images(150)
        recalibrate_batch_norms(model, images.batches(CPU))
        names = list(model.state_dict())
        said = predict_images(model, RECIPE, images, BOTH, CPU)
        pixels = to_pixels(images.prepared.read(images.rows), CPU)
        with torch.no_grad():
            views = [model(VIEWS[view](pixels)) for view in ("original", "hflip")]
        for head, classes in HEADS.items():
            expected = sum(logits[head].softmax(dim=1) for logits in views) / 2
            assert said[head].shape == (150, classes)
            assert said[head].dtype == np.float32
            np.testing.assert_allclose(said[head], expected, rtol=1e-3, atol=1e-4)
        assert list(model.state_dict()) == names

    def test_views_count_as_the_plan_says(self) -> None:
        model, images = model_of(0), make_images(10)
        apart = [predict_images(model, RECIPE, images, even([view]), CPU) for view in BOTH.names]
        weighted = predict_images(model, RECIPE, images, ViewPlan(BOTH.names, (3.0, 1.0), "mean"), CPU)
        for head in HEADS:
            np.testing.assert_allclose(weighted[head], (3 * apart[0][head] + apart[1][head]) / 4, rtol=1e-5)

    def test_batches_hold_each_row_once_and_never_a_single_one(self) -> None:
        images = make_images(129)
        assert [len(batch) for batch in images.batches(CPU)] == [65, 64]
        assert list(Images(images.prepared, np.arange(0)).batches(CPU)) == []


class TestUniform:
    def test_of_equal_models_predicts_what_they_do(self) -> None:
        model = model_of(0)
        views = even(["original"])
        alone = predict_images(model, RECIPE, make_images(), views, CPU)
        together = predict_images(uniform_soup([model, copy.deepcopy(model), model]), RECIPE, make_images(), views, CPU)
        for head in HEADS:
            np.testing.assert_array_equal(together[head], alone[head])

    def test_is_a_model_of_its_own_with_the_mean_of_the_weights(self) -> None:
        models = [model_of(seed) for seed in (0, 1)]
        before = copy.deepcopy(models[0].state_dict())
        soup = uniform_soup(models)
        for name, value in soup.named_parameters():
            both = [dict(model.named_parameters())[name] for model in models]
            torch.testing.assert_close(value, (both[0] + both[1]) / 2)
        assert all(torch.equal(value, before[name]) for name, value in models[0].state_dict().items())
        assert not soup.training


def tuple_of(numbers: Sequence[int]) -> tuple[int, ...]:
    return tuple(numbers)


class TestGreedy:
    def test_begins_with_the_best_and_leaves_out_what_hurts(self) -> None:
        worth = {(2,): 0.5, (2, 0): 0.6, (2, 0, 1): 0.55, (2, 0, 3): 0.7}
        made, chosen = greedy_soup([2, 0, 1, 3], tuple_of, worth.__getitem__)
        assert made == chosen == (2, 0, 3)

    def test_what_neither_helps_nor_hurts_is_kept(self) -> None:
        assert greedy_soup([1, 0, 2], tuple_of, lambda _: 0.5)[1] == (1, 0, 2)

    def test_may_be_the_best_alone(self) -> None:
        assert greedy_soup([1, 0, 2], tuple_of, lambda mixed: -len(mixed))[1] == (1,)

    def test_each_ingredient_is_tried_once_in_order(self) -> None:
        tried: list[tuple[int, ...]] = []

        def mix(numbers: Sequence[int]) -> tuple[int, ...]:
            tried.append(tuple(numbers))
            return tuple(numbers)

        greedy_soup([3, 1, 2, 0], mix, lambda mixed: -float(1 in mixed))
        assert tried == [(3,), (3, 1), (3, 2), (3, 2, 0)]

    @pytest.mark.parametrize("seed", range(5))
    def test_is_the_best_of_all_where_ingredients_add_up(self, seed: int) -> None:
        """An additive score is one for which trying each once is enough, provided that the first one helps."""
        gains = np.random.default_rng(seed).integers(-8, 9, 6)
        gains[0] = 9
        order = sorted(range(6), key=lambda number: -int(gains[number]))

        def worth(mixed: Sequence[int]) -> float:
            return float(gains[list(mixed)].sum())

        subsets = chain.from_iterable(combinations(range(6), size) for size in range(1, 7))
        assert worth(greedy_soup(order, tuple_of, worth)[0]) == max(map(worth, subsets))

    @pytest.mark.parametrize("seed", range(5))
    def test_is_never_worse_than_the_first(self, seed: int) -> None:
        worth = dict(_random_worths(seed))
        made, _ = greedy_soup([0, 1, 2, 3], tuple_of, lambda mixed: worth[tuple(sorted(mixed))])
        assert worth[tuple(sorted(made))] >= worth[(0,)]


def _random_worths(seed: int) -> list[tuple[tuple[int, ...], float]]:
    subsets = list(chain.from_iterable(combinations(range(4), size) for size in range(1, 5)))
    return list(zip(subsets, np.random.default_rng(seed).random(len(subsets)).tolist(), strict=True))


def predictions_of(chosen: tuple[int, ...], count: int = 12) -> ByHead:
    """Predictions that are different for each choice."""
    seed = sum(2**number for number in chosen)
    return {"colour": np.random.default_rng(seed).random((count, 3)).astype(np.float32)}


class TestCrossFitting:
    HALVES = np.array([0, 1] * 6)

    def accuracy(self, truth: npt.NDArray[np.int64]) -> Callable[[ByHead, npt.NDArray[np.int64]], float]:
        return lambda said, at: float((said["colour"][at].argmax(axis=1) == truth[at]).mean())

    def test_each_half_is_predicted_by_the_soup_of_the_other(self) -> None:
        """Ingredient 1 helps on half 0 alone, so that it is in the soup that predicts half 1 alone."""

        def score(said: ByHead, at: npt.NDArray[np.int64]) -> float:
            with_one = np.array_equal(said["colour"], predictions_of((0, 1))["colour"])
            return float(with_one) if set(at) <= {0, 2, 4, 6, 8, 10} else -float(with_one)

        said, chosen = cross_fitted(self.HALVES, [0, 1], predictions_of, score)
        assert chosen == ((0,), (0, 1))
        for half, soup in enumerate(chosen):
            at = half == self.HALVES
            np.testing.assert_array_equal(said["colour"][at], predictions_of(soup)["colour"][at])
        assert said["colour"].dtype == np.float32

    @pytest.mark.parametrize("half", [0, 1])
    def test_the_labels_of_a_half_do_not_decide_who_predicts_it(self, half: int) -> None:
        rng = np.random.default_rng(0)
        truth = rng.integers(0, 3, 12)
        at, order = half == self.HALVES, [0, 1, 2, 3]
        before, soups_before = cross_fitted(self.HALVES, order, predictions_of, self.accuracy(truth))
        others_changed = False
        for _ in range(20):
            perturbed = np.where(at, rng.integers(0, 3, 12), truth)
            after, soups_after = cross_fitted(self.HALVES, order, predictions_of, self.accuracy(perturbed))
            assert soups_after[half] == soups_before[half]
            np.testing.assert_array_equal(after["colour"][at], before["colour"][at])
            others_changed |= soups_after[1 - half] != soups_before[1 - half]
        assert others_changed, "these labels do decide who predicts the other half"

    def test_halves_part_no_person_and_are_about_equal(self) -> None:
        reserved = make_reserved()
        halves = halves_of(reserved, seed=3)
        assert set(halves) == {0, 1}
        assert all(len(set(halves[reserved.groups == person])) == 1 for person in np.unique(reserved.groups))
        assert abs(np.bincount(halves)[0] - IMAGES // 2) <= IMAGES // PEOPLE
        np.testing.assert_array_equal(halves, halves_of(reserved, seed=3))

    def test_too_few_people_are_refused(self) -> None:
        reserved = make_reserved()
        with pytest.raises(InputError, match="reserve more"):
            halves_of(Reserved(reserved.images, reserved.truth, np.zeros(IMAGES)), 0)
        nobody = {target: labels[:0] for target, labels in reserved.truth.items()}
        with pytest.raises(InputError, match="reserve more"):
            halves_of(Reserved(make_images(0), nobody, np.zeros(0)), 0)


class TestMember:
    """Three replicas near one start, the third of them broken."""

    @pytest.fixture
    def ingredients(self, tmp_path: Path) -> list[Ingredient]:
        return self.written(tmp_path)

    def written(self, folder: Path) -> list[Ingredient]:
        start, ingredients = model_of(0), []
        for fold, noise in enumerate((0.02, 0.01, 1.0)):
            model = copy.deepcopy(start)
            torch.manual_seed(fold + 1)
            with torch.no_grad():
                for parameter in model.parameters() if noise == 1 else model.heads.parameters():
                    parameter.add_(noise * torch.randn_like(parameter))
            file = folder / f"{fold}.safetensors"
            save_classifier(model, file)
            ingredients.append(Ingredient(f"multi/fold-{fold}", file, (0.6, 0.7, 0.5)[fold]))
        return ingredients

    def cooked(self, ingredients: Sequence[Ingredient], reserved: Reserved, recipe: Recipe = RECIPE) -> tuple[Soup, Soup]:
        return soup_of_member(SoupSpec(recipe, HEADS, SPACE, BOTH, 0), ingredients, make_images(60), reserved, CPU)

    def told_by(self, model: Classifier, reserved: Reserved) -> Reserved:
        """The reserved people with the labels that a model gives them."""
        said = predict_images(model, RECIPE, reserved.images, BOTH, CPU)
        truth = {head: of_head.argmax(axis=1) for head, of_head in said.items()}
        return Reserved(reserved.images, {**truth, JOINT: SPACE.join(truth)}, reserved.groups)

    def test_both_soups_are_what_their_ingredients_make(self, ingredients: list[Ingredient]) -> None:
        reserved = make_reserved()
        uniform, greedy = self.cooked(ingredients, reserved)
        assert uniform.ingredients == ("multi/fold-1", "multi/fold-0", "multi/fold-2")
        assert greedy.ingredients[0] == "multi/fold-1"
        for soup in (uniform, greedy):
            assert not soup.model.training
            assert {head: of_head.shape for head, of_head in soup.predictions.items()} == {"colour": (40, 3), "half": (40, 2)}
            assert soup.scores == score_heads(SPACE, soup.predictions, reserved.truth)
            assert set(soup.scores) == {"colour", "half", JOINT}
        again = predict_images(uniform.model, RECIPE, reserved.images, BOTH, CPU)
        for head in HEADS:
            np.testing.assert_array_equal(again[head], uniform.predictions[head])

    def test_the_greedy_soup_leaves_a_broken_ingredient_out(self, ingredients: list[Ingredient]) -> None:
        best_two, _ = self.cooked(ingredients[:2], make_reserved())
        reserved = self.told_by(best_two.model, make_reserved())
        uniform, greedy = self.cooked(ingredients, reserved)
        assert greedy.ingredients == ("multi/fold-1", "multi/fold-0")
        assert greedy.scores[JOINT]["f1"] > uniform.scores[JOINT]["f1"]
        for name, value in greedy.model.state_dict().items():
            assert torch.equal(value, best_two.model.state_dict()[name]), name

    def test_the_greedy_prediction_of_a_half_knows_nothing_of_its_labels(
        self, ingredients: list[Ingredient], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reserved = make_reserved()
        halves = halves_of(reserved, 0)
        monkeypatch.setattr(soups, "halves_of", lambda *_: halves)  # which are stratified by the labels
        before = self.cooked(ingredients, reserved)[1].predictions
        truth = {
            name: np.where(halves == 0, np.roll(labels, 1), labels) for name, labels in reserved.truth.items() if name != JOINT
        }
        perturbed = Reserved(reserved.images, {**truth, JOINT: SPACE.join(truth)}, reserved.groups)
        after = self.cooked(ingredients, perturbed)[1].predictions
        for head in HEADS:
            np.testing.assert_array_equal(after[head][halves == 0], before[head][halves == 0])

    def test_a_frozen_backbone_stays_the_same(self, ingredients: list[Ingredient]) -> None:
        backbone = model_of(0).backbone.state_dict()
        for soup in self.cooked(ingredients[:2], make_reserved(), FROZEN):
            for name, value in soup.model.backbone.state_dict().items():
                assert torch.equal(value, backbone[name]), name
            assert all(head[0].running_mean.abs().sum() > 0 for head in soup.model.heads.values())

    def test_equal_ingredients_make_equal_soups(self, ingredients: list[Ingredient]) -> None:
        alone = self.cooked(ingredients[:1], make_reserved())
        together = self.cooked(ingredients[:1] * 3, make_reserved())
        for one, three in zip(alone, together, strict=True):
            assert len(three.ingredients) == 3
            for head in HEADS:
                np.testing.assert_array_equal(three.predictions[head], one.predictions[head])

    def test_mixed_precision_is_the_recipes(self, ingredients: list[Ingredient]) -> None:
        for recipe in (recipe_of(amp="bf16"), recipe_of(amp="bf16", freeze={"part": "backbone"}, pretrained=True)):
            uniform, _ = self.cooked(ingredients[:2], make_reserved(), recipe)
            assert all(np.isfinite(of_head).all() for of_head in uniform.predictions.values())
            assert all(value.dtype == torch.float32 for value in uniform.model.parameters())

    def test_training_images_are_few_and_drawn_by_the_seed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(soups, "CALIBRATION_IMAGES", 8)
        drawn = [soups._drawn(make_images(), seed).rows for seed in (0, 0, 1)]
        assert len(set(drawn[0].tolist())) == 8
        np.testing.assert_array_equal(drawn[0], drawn[1])
        assert drawn[0].tolist() != drawn[2].tolist()
