"""Tests of samplers: how often each row is drawn, that epochs are of one length, and that folds stay apart."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymask.config.recipe import Recipe
from raymask.core.tasks import JOINT, MULTI, LabelSpace, Task
from raymask.core.types import Labels
from raymask.data.samplers import SAMPLERS, SamplerSpec, draw, expected_draws, occurrences, read_sampler, rows_by_fold
from raymask.data.sampling import BatchSampler
from raymask.data.specs import InputSpec, StreamSpec, stream_spec
from raymask.data.stream import open_batch_sampler

SPACE = LabelSpace((Task("mask", "mask", ("worn", "none")), Task("age", "age", ("<30", "30-60", ">=60"))))
POWERS = [0.0, 0.25, 0.5, 1.0]
FACTORS = [[1.0, 2.0, 3.0], [1.0, 0.5, 2.5], [0.3, 1.7, 1.0]]
EPOCHS = 4
NAMES = st.sampled_from(SAMPLERS.names)
FOLDS_AND_LABELS = st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 2)), min_size=1, max_size=80)
"""Fold and label, or group, of each row; -1 for one without a label."""


def of_name(name: str, power: float = 1.0, factors: Sequence[float] = (1.0, 2.0, 3.0)) -> str:
    arguments: dict[str, dict[str, Any]] = {
        "balanced": {"by": "age", "power": power},
        "dynamic": {"by": "age", "power": power, "epochs": EPOCHS},
        "repeat": {"by": "age", "factors": list(factors)},
    }
    return json.dumps({"name": name, **arguments[name]}) if name in arguments else name


def sampler_of(text: str, rows: Sequence[tuple[int, int]], batch_size: int = 7, seed: int = 0) -> BatchSampler:
    fold, stratum = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    spec = StreamSpec(InputSpec(4, 4, 1.0), "[]", batch_size, EPOCHS, seed, text)
    column = read_sampler(text).column
    if column == "group":  # a row without a label is a group of its own
        stratum = np.where(stratum < 0, 3 + np.arange(len(rows)), stratum)
    return BatchSampler(spec, fold, None if column is None else stratum)


def expected_by_hand(
    name: str, power: float, factors: Sequence[float], epoch: int, rows: Sequence[tuple[int, int]]
) -> list[float]:
    """Draws that each row may expect, row by row."""
    of_fold = {fold: [label for one, label in rows if one == fold and label >= 0] for fold, _ in rows}
    expected: list[float] = []
    for fold, label in rows:
        alike = of_fold[fold].count(label)
        if label < 0 or name == "shuffle":
            expected.append(1)
        elif name == "one_per_group":
            expected.append(1 / alike)
        elif name == "repeat":
            expected.append(factors[label])
        else:
            strength = power * (epoch / (EPOCHS - 1) if name == "dynamic" else 1)
            shares = {one: count ** (1 - strength) for one, count in Counter(of_fold[fold]).items()}
            expected.append(len(of_fold[fold]) * shares[label] / sum(shares.values()) / alike)
    return expected


def down_and_up(value: float) -> set[int]:
    """A number rounded down and up; what is but a rounding error from a whole number is that."""
    near = round(value)
    return {near} if abs(value - near) < 1e-6 else {int(np.floor(value)), int(np.ceil(value))}


@given(NAMES, FOLDS_AND_LABELS, st.sampled_from(POWERS), st.sampled_from(FACTORS), st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_each_row_is_drawn_as_often_as_it_may_expect_rounded_down_or_up(
    name: str, rows: list[tuple[int, int]], power: float, factors: list[float], seed: int
) -> None:
    sampler = sampler_of(of_name(name, power, factors), rows, seed=seed)
    for epoch in range(EPOCHS):
        drawn = np.bincount(sampler.order(epoch), minlength=len(rows))
        for count, expected in zip(drawn.tolist(), expected_by_hand(name, power, factors, epoch, rows), strict=True):
            assert count in down_and_up(expected)


@given(NAMES, FOLDS_AND_LABELS, st.sampled_from(POWERS), st.sampled_from(FACTORS), st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_classes_and_groups_are_drawn_as_often_as_they_may_expect_rounded_down_or_up(
    name: str, rows: list[tuple[int, int]], power: float, factors: list[float], seed: int
) -> None:
    sampler = sampler_of(of_name(name, power, factors), rows, seed=seed)
    for epoch in range(EPOCHS):
        expected: dict[tuple[int, int], float] = defaultdict(float)
        for row, of_row in zip(rows, expected_by_hand(name, power, factors, epoch, rows), strict=True):
            expected[row] += of_row
        drawn = Counter(rows[row] for row in sampler.order(epoch).tolist())
        for stratum, of_stratum in expected.items():
            assert name == "shuffle" or drawn[stratum] in down_and_up(of_stratum)


@given(NAMES, FOLDS_AND_LABELS, st.sampled_from(POWERS), st.sampled_from(FACTORS))
@settings(max_examples=100, deadline=None)
def test_each_fold_has_the_same_number_of_draws_in_every_epoch(
    name: str, rows: list[tuple[int, int]], power: float, factors: list[float]
) -> None:
    sampler = sampler_of(of_name(name, power, factors), rows)
    of_epochs = [Counter(sampler.fold[sampler.order(epoch)].tolist()) for epoch in range(EPOCHS + 2)]
    assert of_epochs == [of_epochs[0]] * len(of_epochs)
    assert sum(of_epochs[0].values()) == sampler.images
    expected: dict[int, float] = defaultdict(float)
    for (fold, _), of_row in zip(rows, expected_by_hand(name, power, factors, 0, rows), strict=True):
        expected[fold] += of_row
    for fold, of_fold in expected.items():
        assert abs(of_epochs[0][fold] - of_fold) <= 0.5 + 1e-6
        if name in ("shuffle", "balanced", "dynamic"):
            assert of_epochs[0][fold] == sum(one == fold for one, _ in rows)


@given(NAMES, FOLDS_AND_LABELS, st.sampled_from(FACTORS), st.integers(1, 90), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_every_batch_holds_its_share_of_each_fold(
    name: str, rows: list[tuple[int, int]], factors: list[float], batch_size: int, epoch: int
) -> None:
    sampler = sampler_of(of_name(name, factors=factors), rows, batch_size)
    batches = [sampler.rows(epoch, step) for step in range(sampler.steps)]
    order = sampler.order(epoch)
    assert np.concatenate([np.empty(0, np.int64), *batches]).tolist() == order.tolist()
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    folds = set(sampler.fold.tolist())
    for batch in batches:
        for fold in folds:
            share = np.mean(sampler.fold[order] == fold) * len(batch)
            assert abs(np.sum(sampler.fold[batch] == fold) - share) <= len(folds)


@pytest.mark.parametrize("name", SAMPLERS.names)
def test_orders_are_decided_by_the_seed_and_the_epoch(name: str) -> None:
    rows = [(row % 3, row % 7 % 3) for row in range(60)]
    orders = [
        tuple(sampler_of(of_name(name), rows, seed=seed).order(epoch).tolist()) for seed in range(3) for epoch in range(EPOCHS)
    ]
    again = [
        tuple(sampler_of(of_name(name), rows, seed=seed).order(epoch).tolist())
        for seed in range(3)
        for epoch in reversed(range(EPOCHS))
    ]
    assert sorted(orders) == sorted(again)
    assert len(set(orders)) == 3 * EPOCHS


def shuffle_of_old(fold: Labels, rng: np.random.Generator) -> Labels:
    """The order of an epoch as it was when there was no other sampler."""
    shuffled = rng.permutation(len(fold))
    number, size = np.unique(fold[shuffled], return_inverse=True, return_counts=True)[1:]
    by_fold = np.argsort(number, kind="stable")
    rank = np.empty(len(number))
    rank[by_fold] = np.arange(len(number)) - np.repeat(np.cumsum(size) - size, size)
    return np.asarray(shuffled[np.argsort((rank + rng.random(len(size))[number]) / size[number], kind="stable")])


@given(FOLDS_AND_LABELS, st.integers(0, 2**31 - 1), st.integers(0, 1000))
@settings(deadline=None)
def test_shuffle_is_the_order_of_old(rows: list[tuple[int, int]], seed: int, epoch: int) -> None:
    sampler = sampler_of("shuffle", rows, seed=seed)
    expected = shuffle_of_old(sampler.fold, np.random.default_rng([seed, epoch]))
    np.testing.assert_array_equal(sampler.order(epoch), expected)


@given(st.sampled_from(["balanced", "dynamic"]), FOLDS_AND_LABELS, st.data())
@settings(max_examples=100, deadline=None)
def test_labels_of_a_fold_change_nothing_about_the_others(name: str, rows: list[tuple[int, int]], data: st.DataObject) -> None:
    """So that a fold model does not depend on labels of the fold that it is validated on."""
    own = rows[0][0]
    others = [(fold, data.draw(st.integers(0, 2)) if fold == own else label) for fold, label in rows]
    one, other = sampler_of(of_name(name), rows), sampler_of(of_name(name), others)
    for epoch in range(EPOCHS):
        learned = [np.where(s.fold[s.order(epoch)] == own, -1, s.order(epoch)).tolist() for s in (one, other)]
        assert learned[0] == learned[1]


def test_balanced_draws_all_classes_of_a_fold_alike() -> None:
    label = np.repeat([0, 1, 2], [70, 25, 5])
    sampler = sampler_of(of_name("balanced"), [(row % 2, one) for row, one in enumerate(label.tolist())])
    for epoch in range(EPOCHS):
        order = sampler.order(epoch)
        for fold in (0, 1):
            drawn = np.bincount(label[order][sampler.fold[order] == fold], minlength=3)
            assert drawn.sum() == 50
            assert drawn.max() - drawn.min() <= 1


def test_all_rows_of_a_class_have_their_turn() -> None:
    """70 of 100 rows share 33 or 34 draws an epoch: over many epochs each is drawn about as often."""
    sampler = sampler_of(of_name("balanced"), [(0, one) for one in np.repeat([0, 1, 2], [70, 25, 5]).tolist()])
    drawn = np.bincount(np.concatenate([sampler.order(epoch) for epoch in range(300)]), minlength=100) / 300
    np.testing.assert_allclose(drawn[:70], 100 / 3 / 70, atol=0.13)
    np.testing.assert_allclose(drawn[70:95], 100 / 3 / 25, atol=0.13)
    np.testing.assert_allclose(drawn[95:], 100 / 3 / 5, atol=0.13)


def test_any_two_rows_of_a_class_may_be_in_one_epoch() -> None:
    """Four rows share two draws: were they not shuffled, the first two would never come together."""
    sampler = sampler_of('{"by": "age", "factors": [0.5, 1.0], "name": "repeat"}', [(0, one) for one in [0, 0, 0, 0, 1, -1]])
    together = {tuple(sorted(set(sampler.order(epoch).tolist()) & {0, 1, 2, 3})) for epoch in range(100)}
    assert together == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}


class FixedTooth:
    """A generator that shuffles nothing and whose comb begins where the test says."""

    def __init__(self, last: bool) -> None:
        self.last = last

    def permutation(self, count: int) -> Labels:
        return np.arange(count)

    def integers(self, low: int, high: int) -> int:
        return high - 1 if self.last else low


@pytest.mark.parametrize("last", [False, True])
def test_thirds_of_a_draw_are_one_draw_wherever_the_comb_begins(last: bool) -> None:
    """As sums of rounded thirds are not: a group of three would be passed over, and the next one drawn twice."""
    group = np.repeat(np.arange(50), 3)
    [part] = rows_by_fold(np.zeros(150, np.int64), group)
    expected = expected_draws(SamplerSpec("one_per_group"), part, 0)
    drawn = draw(part, expected, FixedTooth(last))  # type: ignore[arg-type]
    assert group[drawn].tolist() == list(range(50))


def test_dynamic_begins_with_every_row_once_and_ends_balanced() -> None:
    rows = [(0, one) for one in np.repeat([0, 1, 2], [70, 25, 5]).tolist()]
    sampler, label = sampler_of(of_name("dynamic"), rows), np.array([label for _, label in rows])
    by_class = [np.bincount(label[sampler.order(epoch)], minlength=3) for epoch in range(EPOCHS)]
    assert sorted(sampler.order(0).tolist()) == list(range(100))
    assert by_class[-1].max() - by_class[-1].min() <= 1
    assert [counts[0] for counts in by_class] == sorted((counts[0] for counts in by_class), reverse=True)
    assert [counts[2] for counts in by_class] == sorted(counts[2] for counts in by_class)
    one_epoch = sampler_of('{"by": "age", "epochs": 1, "name": "dynamic", "power": 1.0}', rows)
    assert sorted(one_epoch.order(0).tolist()) == list(range(100))


def test_repeat_draws_whole_factors_exactly() -> None:
    rows = [(row % 2, row % 3) for row in range(30)]
    drawn = np.bincount(sampler_of(of_name("repeat"), rows).order(1), minlength=30)
    np.testing.assert_array_equal(drawn, np.arange(30) % 3 + 1)


@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 9)), min_size=1, max_size=60), st.integers(0, 99))
@settings(deadline=None)
def test_one_per_group_draws_one_image_of_each_group(rows: list[tuple[int, int]], seed: int) -> None:
    rows = [(group % 4 - 1, group) for _, group in rows]  # a group lies in one fold
    sampler = sampler_of("one_per_group", rows, seed=seed)
    for epoch in range(EPOCHS):
        assert sorted(rows[row][1] for row in sampler.order(epoch)) == sorted({group for _, group in rows})


def test_one_per_group_draws_other_images_in_other_epochs() -> None:
    sampler = sampler_of("one_per_group", [(0, row // 6) for row in range(24)])
    drawn = np.concatenate([sampler.order(epoch) for epoch in range(200)])
    assert np.bincount(drawn, minlength=24).min() > 15


@given(st.lists(st.integers(0, 9), max_size=60))
@settings(deadline=None)
def test_occurrences_are_counted_one_by_one(order: list[int]) -> None:
    expected = [order[:place].count(row) for place, row in enumerate(order)]
    assert occurrences(np.array(order, np.int64)).tolist() == expected


# --- as a recipe says it


def stream_of(task: str = "age", **recipe: Any) -> StreamSpec:
    return stream_spec(Recipe.model_validate({"pretrained": False, **recipe}), 0, task, SPACE)


def test_a_sampler_counts_the_classes_of_the_members_own_task() -> None:
    balanced = {"name": "balanced", "power": 0.5}
    assert read_sampler(stream_of("mask", sampler=balanced).sampler) == SamplerSpec("balanced", "mask", 0.5)
    assert [read_sampler(stream_of(task, sampler=balanced).sampler).by for task in (MULTI, JOINT)] == [JOINT, JOINT]
    of_age = [stream_of(task, sampler={**balanced, "by": "age"}) for task in ("mask", MULTI, "age")]
    assert set(of_age) == {stream_of("age", sampler=balanced)}


def test_what_changes_the_order_changes_the_stream_and_nothing_else_does() -> None:
    samplers: list[dict[str, Any]] = [
        {"name": "shuffle"},
        {"name": "balanced"},
        {"name": "balanced", "power": 0.5},
        {"name": "balanced", "by": "mask"},
        {"name": "dynamic"},
        {"name": "repeat", "factors": {">=60": 3}},
        {"name": "repeat", "factors": {">=60": 4}},
        {"name": "one_per_group"},
    ]
    streams = [stream_of(sampler=sampler) for sampler in samplers]
    assert len(set(streams)) == len(samplers)
    assert streams[0] == stream_of("mask")
    assert streams[0].sampler == "shuffle"
    assert stream_of("mask", sampler={"name": "one_per_group"}) == streams[-1]
    same: dict[str, Any] = {"name": "repeat", "factors": {">=60": 3.0, "<30": 1}, "by": "age"}
    assert stream_of("mask", sampler=same) == streams[5]
    assert read_sampler(streams[5].sampler).factors == (1.0, 1.0, 3.0)
    assert repr(streams[1]) == repr(streams[0]), "a bank of features is the same in any order"


def test_dynamic_knows_the_epochs_of_heads_on_a_frozen_backbone() -> None:
    frozen: dict[str, Any] = {
        "pretrained": True,
        "freeze": {"part": "backbone"},
        "schedule": {"epochs": 30},
        "sampler": {"name": "dynamic"},
    }
    stream = stream_of(**frozen)
    assert (stream.epochs, read_sampler(stream.sampler).epochs) == (4, 30)
    assert stream != stream_of(**{**frozen, "schedule": {"epochs": 31}})


def test_a_stream_reads_what_its_sampler_counts_from_the_manifest(tmp_path: Any) -> None:
    count = 30
    table = pd.DataFrame(
        {
            "image_id": [str(row) for row in range(count)],
            "fold": np.arange(count) % 3,
            "group": [f"person {row // 2}" for row in range(count)],
            "train_label_age": np.arange(count) % 7 % 3,
            "train_label_joint": np.arange(count) % 6,
        }
    )
    file = tmp_path / "manifest.parquet"
    table.to_parquet(file)
    assert open_batch_sampler(stream_of(), file).stratum is None
    by_label = open_batch_sampler(stream_of(sampler={"name": "balanced"}), file)
    np.testing.assert_array_equal(by_label.stratum, table["train_label_age"])
    by_joint = open_batch_sampler(stream_of(MULTI, sampler={"name": "balanced"}), file)
    np.testing.assert_array_equal(by_joint.stratum, table["train_label_joint"])
    by_group = open_batch_sampler(stream_of(sampler={"name": "one_per_group"}, batch_size=4), file)
    assert by_group.stratum is not None
    assert len(set(zip(by_group.stratum.tolist(), table["group"], strict=True))) == len(set(by_group.stratum.tolist())) == 15
    # person 1 lies in two folds here, as others do: each of them draws one of its images
    assert by_group.images == len(set(zip(table["fold"], table["group"], strict=True)))
    assert by_group.steps == -(-by_group.images // 4)
    np.testing.assert_array_equal(by_label.fold, table["fold"])
    assert replace(by_label.spec, sampler="shuffle") == stream_of()
