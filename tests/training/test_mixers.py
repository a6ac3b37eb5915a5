"""Tests of mixing: what becomes of inputs, targets and weights, who is mixed with whom, and when."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raymask.config.components import MixConfig
from raymask.training.mixers import MIXERS, Examples, build_mixer, draw_partners, mix_targets

CLASSES = {"mask": 3, "age": 2}
NONE_RARE = torch.zeros(6, dtype=torch.bool)
MIXING = [name for name in MIXERS.names if name != "none"]


def examples_of(rows: int = 6, height: int = 8, width: int = 7, weights: dict[str, Tensor] | None = None) -> Examples:
    """Images of one colour, which is their row's number plus one; labels by that number too."""
    images = torch.arange(1, rows + 1).float()[:, None, None, None].expand(rows, 3, height, width).contiguous()
    labels = {"mask": torch.arange(rows) % 3, "age": torch.arange(rows) % 2}
    return Examples(images, labels, weights or {})


def mixed_of(examples: Examples, seed: int = 0, rare: Tensor | None = None, epoch: int = 0, **config: Any) -> Examples:
    torch.manual_seed(seed)
    mixer = build_mixer(MixConfig.model_validate(config), CLASSES)
    return mixer(examples, torch.zeros(len(examples.inputs), dtype=torch.bool) if rare is None else rare, epoch)


def shares_of(mixed: Examples, rows: int = 6) -> npt.NDArray[np.float64]:
    """(B, R) share of each row's image in each mixed one, counted by its pixels."""
    pixels = mixed.inputs[:, 0].flatten(1).round().long().numpy()
    return np.stack([(pixels == row + 1).mean(axis=1) for row in range(rows)], axis=1)


class TestWhen:
    def test_none_gives_back_what_it_is_given_and_draws_nothing(self) -> None:
        examples = examples_of()
        torch.manual_seed(3)
        before = torch.get_rng_state()
        assert build_mixer(MixConfig(), CLASSES)(examples, NONE_RARE, 0) is examples
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("name", MIXING)
    def test_a_batch_is_mixed_with_its_probability(self, name: str) -> None:
        examples = examples_of()
        torch.manual_seed(0)
        for probability, low, high in ((0.0, 0, 0), (0.25, 25, 75), (1.0, 200, 200)):
            mixer = build_mixer(MixConfig.model_validate({"name": name, "probability": probability}), CLASSES)
            unmixed = [mixer(examples, NONE_RARE, 0) is examples for _ in range(200)]
            assert low <= unmixed.count(False) <= high

    @pytest.mark.parametrize("name", MIXING)
    def test_epochs_from_until_on_are_as_without_mixing(self, name: str) -> None:
        examples = examples_of()
        given = [mixed_of(examples, epoch=epoch, name=name, until=2) is examples for epoch in range(4)]
        assert given == [False, False, True, True]
        torch.manual_seed(3)
        before = torch.get_rng_state()
        build_mixer(MixConfig.model_validate({"name": name, "until": 2}), CLASSES)(examples, NONE_RARE, 2)
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("name", MIXING)
    def test_the_seed_decides_what_is_mixed(self, name: str) -> None:
        examples = examples_of()
        one, same, other = (mixed_of(examples, seed, name=name).inputs for seed in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    @pytest.mark.parametrize("name", MIXING)
    def test_shared_inputs_stay_as_they_are(self, name: str) -> None:
        examples = examples_of()
        before = examples.inputs.clone()
        mixed = mixed_of(examples, name=name)
        assert torch.equal(examples.inputs, before)
        assert mixed.inputs.data_ptr() != examples.inputs.data_ptr()

    @pytest.mark.parametrize("name", MIXING)
    def test_a_single_row_is_mixed_with_itself(self, name: str) -> None:
        examples = examples_of(rows=1)
        mixed = mixed_of(examples, name=name)
        torch.testing.assert_close(mixed.inputs, examples.inputs)
        torch.testing.assert_close(mixed.targets["mask"], torch.tensor([[1.0, 0.0, 0.0]]))


class TestInputs:
    @given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.sampled_from(["cutmix", "half_cutmix"]))
    @settings(max_examples=150, deadline=None)
    def test_targets_have_the_shares_of_the_pixels(self, seed: int, height: int, width: int, name: str) -> None:
        mixed = mixed_of(examples_of(height=height, width=width), seed, name=name)
        shares = shares_of(mixed)
        np.testing.assert_allclose(shares.sum(axis=1), 1)
        for head, classes in CLASSES.items():
            by_class = np.stack([shares[:, np.arange(6) % classes == label].sum(axis=1) for label in range(classes)], axis=1)
            np.testing.assert_allclose(mixed.targets[head], by_class, atol=1e-6)

    @given(st.integers(0, 10**6), st.floats(0.1, 5))
    @settings(max_examples=60, deadline=None)
    def test_mixup_is_a_mean_of_two_with_the_weights_of_their_targets(self, seed: int, alpha: float) -> None:
        torch.manual_seed(0)
        features, rows = torch.randn(6, 5), torch.eye(6)
        mixed = mixed_of(Examples(features, {"row": rows}), seed, name="mixup", alpha=alpha)
        weights = mixed.targets["row"]
        torch.testing.assert_close(mixed.inputs, weights @ features)
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(6))
        torch.testing.assert_close(weights.sum(dim=0), torch.ones(6))  # a permutation: each row is a partner once
        assert (weights > 0).sum(dim=1).max() <= 2

    def test_mixups_shares_are_of_the_beta_distribution(self) -> None:
        torch.manual_seed(0)
        examples = Examples(torch.zeros(2, 1), {"row": torch.eye(2)})
        for alpha in (0.001, 0.4, 4.0):
            mixer = build_mixer(MixConfig(name="mixup", alpha=alpha), {})
            given = [mixer(examples, NONE_RARE[:2], 0).targets["row"] for _ in range(1000)]
            shares = np.array([float(rows[0, 0]) for rows in given if rows[0, 1] > 0 and rows[1, 0] > 0])
            if alpha >= 0.4:  # the mean of Beta(a, a) is 1/2, the variance 1 / (4 (2 a + 1))
                assert shares.mean() == pytest.approx(0.5, abs=0.05)
                assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.2)
            else:
                assert np.mean((shares > 0.1) & (shares < 0.9)) < 0.02

    def test_cutmix_cuts_one_box_of_the_images_aspect_for_the_whole_batch(self) -> None:
        sides: list[tuple[int, int]] = []
        for seed in range(100):
            mixed = mixed_of(examples_of(height=20, width=10), seed, name="cutmix")
            own = torch.arange(1, 7).float()[:, None, None]
            cut = mixed.inputs[:, 0] != own
            moved = cut.flatten(1).any(dim=1)
            box = cut.any(dim=0)
            assert torch.equal(cut[moved], box.expand(int(moved.sum()), 20, 10))
            rows, columns = box.any(dim=1), box.any(dim=0)
            assert torch.equal(box, rows[:, None] & columns[None, :]), "a rectangle"
            for part in (rows, columns):
                places = part.nonzero().flatten()
                assert len(places) == 0 or len(places) == places[-1] - places[0] + 1, "without gaps"
            touches = rows[0] or rows[-1] or columns[0] or columns[-1]
            if moved.any() and not touches:
                sides.append((int(rows.sum()), int(columns.sum())))
        assert len(sides) > 10
        assert all(abs(tall - 2 * wide) <= 1 for tall, wide in sides)

    def test_a_box_that_lies_within_the_image_has_the_drawn_share(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("raymask.training.mixers._draw_share", lambda alpha: 0.75)
        areas = []
        for seed in range(60):
            mixed = mixed_of(examples_of(height=20, width=10), seed, name="cutmix")
            areas.append(1 - float(np.diag(shares_of(mixed)).min()))
        assert max(areas) == pytest.approx(0.25)
        assert areas.count(max(areas)) > 10
        assert min(areas) < 0.2, "some lie across the edge"

    @pytest.mark.parametrize("width", [8, 7])
    def test_a_half_is_one_image_and_the_other_half_another(self, width: int) -> None:
        torch.manual_seed(0)
        images = torch.randn(6, 3, 5, width)
        half, seen = width // 2, set()
        for seed in range(40):
            mixed = mixed_of(Examples(images, {"row": torch.eye(6)}), seed, name="half_cutmix")
            for row, (image, target) in enumerate(zip(mixed.inputs, mixed.targets["row"], strict=True)):
                [partner] = [other for other in target.nonzero().flatten().tolist() if other != row] or [row]
                left = torch.cat([images[partner][..., :half], images[row][..., half:]], dim=-1)
                right = torch.cat([images[row][..., : width - half], images[partner][..., width - half :]], dim=-1)
                assert torch.equal(image, left) or torch.equal(image, right)
                if partner != row:
                    seen.add("left" if torch.equal(image, left) else "right")
                    assert float(target[partner]) == pytest.approx(half / width)
                    assert float(target[row]) == pytest.approx(1 - half / width)
        assert seen == {"left", "right"}


class TestPartners:
    @given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(0, 99))
    @settings(deadline=None)
    def test_partners_are_rare_where_there_are_rare_rows_and_else_a_permutation(self, rare: list[bool], seed: int) -> None:
        torch.manual_seed(seed)
        partners = draw_partners(torch.tensor(rare)).tolist()
        assert len(partners) == len(rare)
        allowed = [row for row, one in enumerate(rare) if one] or list(range(len(rare)))
        counts = [partners.count(row) for row in range(len(rare))]
        assert {row for row in range(len(rare)) if counts[row]} <= set(allowed)
        of_allowed = [counts[row] for row in allowed]
        assert max(of_allowed) - min(of_allowed) <= 1, "each as often as the others"

    @pytest.mark.parametrize("name", ["cutmix", "half_cutmix"])
    def test_one_part_of_every_image_is_of_a_rare_class(self, name: str) -> None:
        rare = torch.tensor([False, True, False, False, True, False])
        for seed in range(50):
            shares = shares_of(mixed_of(examples_of(), seed, rare, name=name))
            for row in range(6):
                others = set(np.flatnonzero(shares[row]).tolist()) - {row}
                assert others <= {1, 4}
                assert name == "cutmix" or rare[row] or others, "a half is cut out of every image"


class TestTargets:
    def test_float_targets_of_any_kind_are_mixed_as_they_are(self) -> None:
        encoded = torch.tensor([[3.0, -2.0, 0.5, 7.0], [1.0, 2.0, 1.5, 1.0]])
        mixed = mix_targets(Examples(torch.zeros(2, 1), {"age": encoded}), torch.zeros(2, 1), torch.tensor([1, 0]), 0.25, {})
        torch.testing.assert_close(mixed.targets["age"][0], torch.tensor([1.5, 1.0, 1.25, 2.5]))
        torch.testing.assert_close(mixed.targets["age"][1], torch.tensor([2.5, -1.0, 0.75, 5.5]))

    def test_heads_without_weights_stay_without(self) -> None:
        given = examples_of(weights={"age": torch.ones(6)})
        mixed = mixed_of(given, name="mixup")
        assert mixed.weights.keys() == {"age"}
        torch.testing.assert_close(mixed.weights["age"], torch.ones(6))
        torch.testing.assert_close(mixed.targets["age"], mixed_of(examples_of(), name="mixup").targets["age"])
        assert {target.dtype for target in mixed.targets.values()} == {torch.float32}

    @given(
        st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.0, 0.0, 0.3, 1.0, 2.5])), min_size=1, max_size=9),
        st.integers(0, 100).map(lambda percent: percent / 100),
        st.randoms(use_true_random=False),
    )
    @settings(deadline=None)
    def test_a_row_counts_by_its_weight(self, rows: list[tuple[int, float]], share: float, rng: Any) -> None:
        labels = torch.tensor([label if weight else -1 for label, weight in rows])
        weights = torch.tensor([weight for _, weight in rows])
        partners = rng.sample(range(len(rows)), len(rows))
        given = Examples(torch.zeros(len(rows), 1), {"mask": labels}, {"mask": weights})
        mixed = mix_targets(given, given.inputs, torch.tensor(partners), share, {"mask": 3})
        for row, partner in enumerate(partners):
            own, other = share * rows[row][1], (1 - share) * rows[partner][1]
            wanted = np.zeros(3)
            if own + other > 0:
                wanted[rows[row][0]] += own / (own + other)
                wanted[rows[partner][0]] += other / (own + other)
            np.testing.assert_allclose(mixed.targets["mask"][row], wanted, atol=1e-5)
            assert float(mixed.weights["mask"][row]) == pytest.approx(own + other, abs=1e-6)

    def test_what_a_row_that_is_left_out_holds_is_never_seen(self) -> None:
        """Such as a number that is not known."""
        target = torch.tensor([[0.2, 0.8], [float("nan"), float("inf")]])
        given = Examples(torch.zeros(2, 1), {"age": target}, {"age": torch.tensor([1.0, 0.0])})
        mixed = mix_targets(given, given.inputs, torch.tensor([1, 0]), 0.75, {})
        torch.testing.assert_close(mixed.targets["age"], torch.tensor([[0.2, 0.8], [0.2, 0.8]]))
        torch.testing.assert_close(mixed.weights["age"], torch.tensor([0.75, 0.25]))

    def test_the_loss_of_a_mixed_label_is_the_mixed_loss_of_two(self) -> None:
        """As the papers write it: share * loss(a) + (1 - share) * loss(b)."""
        torch.manual_seed(0)
        logits, labels, partners, share = torch.randn(5, 3), torch.tensor([0, 1, 2, 2, 1]), torch.tensor([1, 2, 3, 4, 0]), 0.3
        given = Examples(torch.zeros(5, 1), {"mask": labels})
        mixed = mix_targets(given, given.inputs, partners, share, {"mask": 3}).targets["mask"]
        cross_entropy = torch.nn.functional.cross_entropy
        of_two = share * cross_entropy(logits, labels) + (1 - share) * cross_entropy(logits, labels[partners])
        torch.testing.assert_close(cross_entropy(logits, mixed), of_two)
