"""Tests of what heads learn: targets of ordered heads, their losses and the weights of rows, each against its definition."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from torch import Tensor

from raymask.config.components import OrdinalConfig
from raymask.config.recipe import Recipe
from raymask.core.tasks import JOINT, LabelSpace, Scale, Task, heads_of
from raymask.models.classifier import Classifier, build_classifier
from raymask.training.encoding import build_head_targets, build_ordinal_loss, build_targets, row_weights
from raymask.training.targets import LabelTable

SPACE = LabelSpace(
    (
        Task("gender", "gender", ("male", "female")),
        Task("age", "age", ("<30", "30-60", ">=60"), edges=(30.0, 60.0), leave_out=(58.0, 59.0)),
    )
)
AGES = np.array([18, 29, 30, 45, 58, 59, 60, 78, 33, 25], dtype=np.float64)
LABELS = np.digitize(AGES, [30, 60]).astype(np.int64)
GENDER = np.arange(10, dtype=np.int64) % 2
TRUTH = {"gender": GENDER, "age": LABELS, JOINT: SPACE.join({"gender": GENDER, "age": LABELS})}
TABLE = LabelTable(SPACE, np.arange(10) % 2, TRUTH, TRUTH, numbers={"age": AGES})
SCALE = Scale((30.0, 60.0), 18.0, 78.0)
ALL = torch.arange(10)
ORDERED = [OrdinalConfig(name=name) for name in ("bins", "corn", "regression")]


def targets(ordinal: OrdinalConfig, table: LabelTable = TABLE) -> Tensor:
    encoded: Tensor = build_targets(table, "age", 0, ordinal, SCALE, 3)(ALL)
    return encoded


def outputs_of(ordinal: OrdinalConfig, rows: int = 10, seed: int = 0) -> Tensor:
    width = {"bins": 61, "corn": 2, "regression": 2}[ordinal.name]
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


class TestTargets:
    def test_the_scale_is_that_of_the_numbers(self) -> None:
        assert TABLE.scales(["gender", "age"]) == {"age": SCALE}
        assert TABLE.scales(["gender"]) == {}

    def test_bins_hold_a_normal_distribution_and_the_number(self) -> None:
        encoded = targets(OrdinalConfig(name="bins", sigma=3.0)).numpy()
        density = norm.pdf(np.arange(18, 79), loc=AGES[:, None], scale=3.0)
        np.testing.assert_allclose(encoded[:, :-1], density / density.sum(axis=1, keepdims=True), atol=1e-6)
        np.testing.assert_array_equal(encoded[:, -1], AGES)

    def test_bins_without_deviation_hold_one(self) -> None:
        encoded = targets(OrdinalConfig(name="bins", sigma=0))
        assert encoded[:, :-1].argmax(dim=1).tolist() == (AGES - 18).astype(int).tolist()
        assert (encoded[:, :-1].sum(dim=1) == 1).all()

    def test_regression_holds_the_number_and_its_square(self) -> None:
        scaled = (AGES - 48) / 15
        np.testing.assert_allclose(targets(OrdinalConfig(name="regression")), np.stack([scaled, scaled**2], axis=1), rtol=1e-6)

    def test_corn_and_heads_without_order_hold_labels(self) -> None:
        assert targets(OrdinalConfig(name="corn")).tolist() == LABELS.tolist()
        assert targets(OrdinalConfig()).tolist() == LABELS.tolist()

    @pytest.mark.parametrize("ordinal", ORDERED[::2], ids=str)
    def test_what_a_teacher_says_stands_for_the_number(self, ordinal: OrdinalConfig) -> None:
        """A class counts as the mean of what its images are, those of the model's own fold aside."""
        probabilities = np.eye(3, dtype=np.float32)[LABELS]
        probabilities[4] = (0.25, 0.75, 0.0)
        taught = replace(TABLE, train={**TRUTH, "age": probabilities}, taught=np.arange(10) == 4)
        plain, encoded = targets(ordinal), targets(ordinal, taught)
        others = np.arange(10) != 4
        torch.testing.assert_close(encoded[others], plain[others])
        learned = others & (np.arange(10) % 2 != 0)
        of_class = [plain[learned & (label == LABELS)].mean(dim=0) for label in range(3)]
        torch.testing.assert_close(encoded[4], 0.25 * of_class[0] + 0.75 * of_class[1], rtol=1e-4, atol=1e-4)


class TestLosses:
    def test_corn_is_the_papers(self) -> None:
        ordinal = OrdinalConfig(name="corn")
        logits = outputs_of(ordinal).double()
        total, count = 0.0, 0
        for condition in range(2):
            for row, label in enumerate(LABELS):
                if label >= condition:
                    above = 1 / (1 + math.exp(-logits[row, condition].item()))
                    total -= math.log(above if label > condition else 1 - above)
                    count += 1
        assert build_ordinal_loss(ordinal, SCALE)(logits, targets(ordinal)).item() == pytest.approx(total / count)

    def test_bins_are_cross_entropy_and_the_error_of_the_expected_number(self) -> None:
        ordinal = OrdinalConfig(name="bins", expectation=0.7)
        logits = outputs_of(ordinal)
        log_probs = logits.double().log_softmax(dim=1).numpy()
        encoded = targets(ordinal).double().numpy()
        error = np.abs(np.exp(log_probs) @ np.arange(18, 79) - AGES) / 15
        expected = (-(encoded[:, :-1] * log_probs).sum(axis=1) + 0.7 * error).mean()
        assert build_ordinal_loss(ordinal, SCALE)(logits, targets(ordinal)).item() == pytest.approx(expected, rel=1e-5)

    def test_regression_is_the_normal_likelihood(self) -> None:
        ordinal = OrdinalConfig(name="regression")
        outputs = outputs_of(ordinal)
        deviation = np.exp(0.5 * outputs[:, 1].numpy())
        expected = -norm.logpdf((AGES - 48) / 15, outputs[:, 0].numpy(), deviation).mean()
        assert build_ordinal_loss(ordinal, SCALE)(outputs, targets(ordinal)).item() == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("ordinal", [OrdinalConfig(name="bins", expectation=0), *ORDERED[1:]], ids=str)
    @settings(max_examples=25, deadline=None)
    @given(share=st.floats(0, 1), one=st.integers(0, 9), other=st.integers(0, 9))
    def test_a_mixed_target_has_the_mix_of_the_losses(self, ordinal: OrdinalConfig, share: float, one: int, other: int) -> None:
        loss, encoded = build_ordinal_loss(ordinal, SCALE), targets(ordinal)
        if ordinal.name == "corn":
            encoded = torch.nn.functional.one_hot(encoded, 3).float()
        outputs = outputs_of(ordinal)[:1]
        parts = [loss(outputs, encoded[row : row + 1]) for row in (one, other)]
        sizes = [1.0, 1.0]
        if ordinal.name == "corn":  # whose mean is over conditions: one for the lowest band, else two
            sizes = [1.0 if LABELS[row] == 0 else 2.0 for row in (one, other)]
        mixed = loss(outputs, share * encoded[one : one + 1] + (1 - share) * encoded[other : other + 1])
        weights = share * sizes[0], (1 - share) * sizes[1]
        expected = (weights[0] * parts[0] + weights[1] * parts[1]) / sum(weights)
        torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("ordinal", ORDERED, ids=str)
    @settings(max_examples=25, deadline=None)
    @given(kept=st.lists(st.booleans(), min_size=10, max_size=10))
    def test_a_row_of_weight_zero_is_as_if_it_were_not_there(self, ordinal: OrdinalConfig, kept: list[bool]) -> None:
        loss, encoded, here = build_ordinal_loss(ordinal, SCALE), targets(ordinal), torch.tensor(kept)
        outputs = outputs_of(ordinal).requires_grad_()
        weighted = loss(outputs, encoded, here.float())
        weighted.backward()
        assert outputs.grad is not None
        assert torch.isfinite(outputs.grad).all()
        assert (outputs.grad[~here] == 0).all()
        expected = loss(outputs[here], encoded[here]) if any(kept) else torch.zeros(())
        torch.testing.assert_close(weighted, expected)


class TestRowWeights:
    def test_numbers_that_are_left_out_weigh_nothing_in_their_task_and_in_the_joint_label(self) -> None:
        near_the_edge = np.isin(AGES, [58, 59])
        for head in ("age", JOINT):
            weights = row_weights(TABLE, head, None)
            assert weights is not None
            assert (weights.numpy() == ~near_the_edge).all()
        assert row_weights(TABLE, "gender", None) is None

    def test_they_do_not_count_for_the_frequencies_of_classes(self) -> None:
        def counted(fold: int) -> npt.NDArray[np.float64]:
            learned = (np.arange(10) % 2 != fold) & ~np.isin(AGES, [58, 59])
            return np.bincount(LABELS[learned], minlength=3).astype(np.float64)

        for fold in (0, 1):
            np.testing.assert_array_equal(TABLE.counts("age", 3, fold), counted(fold))

    def test_classes_of_ordered_heads_are_weighted_by_row(self) -> None:
        weights = row_weights(TABLE, "age", torch.tensor([1.0, 2.0, 4.0]))
        assert weights is not None
        expected = np.array([1.0, 2.0, 4.0])[LABELS] * ~np.isin(AGES, [58, 59])
        np.testing.assert_array_equal(weights, expected)


def classifier(recipe: Recipe) -> Classifier:
    heads = heads_of("multi", SPACE)
    return build_classifier(recipe, heads, TABLE.scales(heads))


@pytest.mark.parametrize("name", ["bins", "corn", "regression"])
def test_the_head_of_a_task_with_edges_alone_is_ordered(name: str) -> None:
    recipe = Recipe.model_validate(
        {
            "backbone": "test_resnet",
            "pretrained": False,
            "image_size": 32,
            "ordinal": {"name": name},
            "loss": {"class_weight_power": 1},
        }
    )
    model = classifier(recipe).eval()
    built = build_head_targets(recipe, TABLE, 0, model)
    features = model.features(torch.zeros(10, 3, 32, 32))
    outputs = model.outputs(features)
    assert list(model.scales) == ["age"]
    assert outputs["gender"].shape == (10, 2)
    assert built["gender"].weights is None
    for head, of_head in built.items():
        loss = of_head.loss(outputs[head], of_head.targets(ALL), of_head.weights)
        assert torch.isfinite(loss)
    logits = model.classify(features)
    assert {head: of_head.shape[1] for head, of_head in logits.items()} == {"gender": 2, "age": 3}
    torch.testing.assert_close(logits["gender"], outputs["gender"])
