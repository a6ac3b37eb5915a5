"""Tests of the assignment of folds."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from growth import calls_of
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from raymask.config.data import FoldsConfig
from raymask.core.errors import InputError
from raymask.data.folds import (
    TRAIN_ONLY,
    assign_folds,
    check_leak,
    rare_classes,
    replica_folds,
    reserve_rows,
    stratified_group_folds,
)

SCHEMES = get_args(FoldsConfig.model_fields["scheme"].annotation)
GROUPED = ("stratified_group", "group", "holdout")


@pytest.fixture(autouse=True)
def _warnings_fail() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def manifest(groups: list[str], joint: list[int]) -> pd.DataFrame:
    ids = [f"{group}/{place:04}" for place, group in enumerate(groups)]
    table = pd.DataFrame({"image_id": ids, "group": groups, "label_joint": joint})
    return table.sort_values("image_id").reset_index(drop=True)


@st.composite
def manifests(draw: st.DrawFn) -> pd.DataFrame:
    """Up to 16 groups of up to 5 images, more groups than 5 folds need; a class has rows enough for 5 folds."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=6, max_size=16))
    groups = [f"g{number:02}" for number, size in enumerate(sizes) for _ in range(size)]
    rare = draw(st.lists(st.integers(0, 4), min_size=len(groups), max_size=len(groups)))
    joint = [0 if place < 5 else label for place, label in enumerate(rare)]
    return manifest(groups, joint)


def folds_of(table: pd.DataFrame, scheme: str, k: int = 5, seed: int = 0) -> np.ndarray:
    return assign_folds(table, FoldsConfig(scheme=scheme, k=k), seed)


def people(count: int, seed: int = 0) -> pd.DataFrame:
    """As the competition: each person has 7 photos of mask classes 0, 0, 0, 0, 0, 1, 2 and one of 6 person classes."""
    of_person = np.random.default_rng(seed).choice(6, count, p=[0.3, 0.3, 0.15, 0.1, 0.1, 0.05])
    groups = [f"p{person:04}" for person in range(count) for _ in range(7)]
    joint = [mask * 6 + of_person[person] for person in range(count) for mask in (0, 0, 0, 0, 0, 1, 2)]
    return manifest(groups, joint)


# --- properties of every scheme


@pytest.mark.parametrize("scheme", SCHEMES)
@given(table=manifests(), k=st.integers(2, 5), seed=st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_every_row_is_in_one_fold_and_no_fold_is_empty(scheme: str, table: pd.DataFrame, k: int, seed: int) -> None:
    folds = folds_of(table, scheme, k, seed)
    assert folds.shape == (len(table),)
    assert folds.dtype == np.int64
    assert set(folds.tolist()) == ({0, TRAIN_ONLY} if scheme == "holdout" else set(range(k)))


@pytest.mark.parametrize("scheme", GROUPED)
@given(table=manifests(), k=st.integers(2, 5), seed=st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_no_group_is_in_two_folds(scheme: str, table: pd.DataFrame, k: int, seed: int) -> None:
    folds = folds_of(table, scheme, k, seed)
    assert (pd.Series(folds).groupby(table["group"]).nunique() == 1).all()


@pytest.mark.parametrize("scheme", SCHEMES)
@given(table=manifests(), seed=st.integers(0, 3), shuffle=st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_the_order_of_the_input_does_not_matter_once_it_is_sorted(
    scheme: str, table: pd.DataFrame, seed: int, shuffle: int
) -> None:
    shuffled = table.sample(frac=1, random_state=shuffle)
    again = shuffled.sort_values("image_id").reset_index(drop=True)
    np.testing.assert_array_equal(folds_of(again, scheme, 3, seed), folds_of(table, scheme, 3, seed))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_seed_decides_the_folds(scheme: str) -> None:
    table = people(30)
    assignments = [folds_of(table, scheme, seed=seed).tolist() for seed in (0, 0, 1, 2)]
    assert assignments[0] == assignments[1]
    assert assignments[0] != assignments[2] or assignments[0] != assignments[3]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_class_of_one_group_does_not_crash_a_scheme(scheme: str) -> None:
    table = people(20)
    table.loc[table["group"] == "p0003", "label_joint"] = 17
    table.loc[0, "label_joint"] = 99
    assert len(folds_of(table, scheme)) == len(table)


# --- stratification


@pytest.mark.parametrize("k", [2, 5])
def test_classes_of_many_groups_have_an_even_share_in_each_fold(k: int) -> None:
    table = people(300)
    folds = folds_of(table, "stratified_group", k)
    shares = pd.crosstab(folds, table["label_joint"], normalize="columns").to_numpy()
    many = table.groupby("label_joint")["group"].nunique().to_numpy() >= 25
    assert many.sum() >= 12
    assert np.abs(shares[:, many] - 1 / k).max() < 0.06


def test_folds_by_group_alone_are_less_even() -> None:
    table = people(300)
    spread = {
        scheme: pd.crosstab(folds_of(table, scheme), table["label_joint"], normalize="columns").to_numpy().std()
        for scheme in ("stratified_group", "group")
    }
    assert spread["stratified_group"] < spread["group"] / 2


def test_without_groups_classes_are_spread_to_within_one_row() -> None:
    table = people(60)
    counts = pd.crosstab(folds_of(table, "stratified"), table["label_joint"]).to_numpy()
    assert (counts.max(axis=0) - counts.min(axis=0)).max() <= 1


def test_plain_folds_are_of_one_size_to_within_one_row() -> None:
    sizes = np.bincount(folds_of(people(33), "kfold"))
    assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("scheme", ["stratified", "kfold"])
def test_schemes_without_groups_do_split_them(scheme: str) -> None:
    table = people(20)
    assert (pd.Series(folds_of(table, scheme)).groupby(table["group"]).nunique() > 1).any()


def test_a_holdout_validates_on_one_part_in_k() -> None:
    table = people(100)
    folds = folds_of(table, "holdout", 4)
    assert 0.22 < (folds == 0).mean() < 0.28
    np.testing.assert_array_equal(folds == 0, folds_of(table, "stratified_group", 4) == 0)


# --- what is held out from everything


def reserved(table: pd.DataFrame, share: float, scheme: str = "stratified_group", seed: int = 0) -> np.ndarray:
    return reserve_rows(table, FoldsConfig(scheme=scheme, reserve=share), seed)


@pytest.mark.parametrize("scheme", GROUPED)
@given(table=manifests(), share=st.sampled_from([0.2, 0.25, 0.33, 0.5]), seed=st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_no_group_is_held_out_in_part(scheme: str, table: pd.DataFrame, share: float, seed: int) -> None:
    held_out = reserved(table, share, scheme, seed)
    assert held_out.dtype == bool
    assert 0 < held_out.sum() < len(table)
    assert (pd.Series(held_out).groupby(table["group"]).nunique() == 1).all()
    np.testing.assert_array_equal(reserved(table, share, scheme, seed), held_out)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.15, 0.2, 0.3, 0.4, 0.45, 0.5])
def test_the_share_that_is_held_out_is_about_the_one_asked_for_in_every_class(scheme: str, share: float) -> None:
    table = people(300)
    held_out = reserved(table, share, scheme)
    assert held_out.mean() == pytest.approx(share, abs=0.02)
    of_class = pd.Series(held_out).groupby(table["label_joint"]).agg(["mean", "size"])
    assert (of_class["mean"][of_class["size"] >= 90] - share).abs().max() < 0.06


def test_nothing_is_held_out_by_default() -> None:
    assert not reserve_rows(people(3), FoldsConfig(), 0).any()


def test_what_is_held_out_is_not_the_first_fold() -> None:
    table = people(60)
    assert (reserved(table, 0.2) != (folds_of(table, "stratified_group") == 0)).any()
    assert (reserved(table, 0.2, seed=0) != reserved(table, 0.2, seed=1)).any()


def test_schemes_without_groups_hold_out_images() -> None:
    table = people(20)
    assert (pd.Series(reserved(table, 0.2, "stratified")).groupby(table["group"]).nunique() > 1).any()


@pytest.mark.parametrize(
    ("table", "scheme", "share", "sentence"),
    [
        (
            people(9),
            "stratified_group",
            0.1,
            "folds.reserve is 0.1 (1/10), but there are only 9 groups; choose another share, or 0.",
        ),
        (people(2), "kfold", 0.05, "folds.reserve is 0.05 (1/20), but there are only 14 images; choose another share, or 0."),
        (
            manifest(list("abcdef"), [0, 0, 1, 1, 2, 2]),
            "group",
            0.2,
            "folds.reserve is 0.2 (1/5), but no class has 5 images; choose ",
        ),
    ],
)
def test_a_share_that_is_too_small_for_the_data_is_refused(table: pd.DataFrame, scheme: str, share: float, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        reserved(table, share, scheme)
    assert str(caught.value).startswith(sentence)


# --- the same folds as scikit-learn's


@given(data=st.data(), groups=st.integers(2, 60), classes=st.integers(1, 20), one_class_a_group=st.booleans())
@settings(deadline=None)
def test_stratified_groups_are_those_of_scikit_learn(
    data: st.DataObject, groups: int, classes: int, one_class_a_group: bool
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    k, seed = data.draw(st.integers(2, min(groups, 12))), data.draw(st.integers(0, 99))
    of_row = np.repeat(np.arange(groups), rng.integers(1, 8, groups))
    joint = rng.integers(0, classes, groups)[of_row] if one_class_a_group else rng.integers(0, classes, len(of_row))
    expected = np.full(len(of_row), -1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            splits = StratifiedGroupKFold(k, shuffle=True, random_state=seed).split(joint, joint, of_row)
            for fold, (_, held_out) in enumerate(splits):
                expected[held_out] = fold
    except ValueError:
        with pytest.raises(ValueError, match=f"no class has {k} images"):
            stratified_group_folds(joint, of_row, k, seed)
    else:
        np.testing.assert_array_equal(stratified_group_folds(joint, of_row, k, seed), expected)


def test_the_work_of_folds_grows_as_their_people() -> None:
    few, many = (calls_of(partial(folds_of, people(number), "stratified_group")) for number in (1000, 4000))
    assert many < 5 * few
    table = people(20_000)
    folds = folds_of(table, "stratified_group")
    shares = pd.crosstab(folds, table["label_joint"], normalize="columns").to_numpy()
    assert np.abs(shares - 0.2).max() < 0.01


# --- refusals


@pytest.mark.parametrize("scheme", GROUPED)
def test_more_folds_than_groups_are_refused(scheme: str) -> None:
    table = people(4)
    assert len(folds_of(table, scheme, 4)) == 28
    with pytest.raises(InputError) as caught:
        folds_of(table, scheme, 5)
    assert str(caught.value) == "folds.k is 5, but there are only 4 groups."


@pytest.mark.parametrize("scheme", ["stratified", "kfold"])
def test_more_folds_than_images_are_refused(scheme: str) -> None:
    with pytest.raises(InputError) as caught:
        folds_of(manifest(["a", "b", "c"], [0, 0, 0]), scheme, 4)
    assert str(caught.value) == "folds.k is 4, but there are only 3 images."


@pytest.mark.parametrize("scheme", ["stratified_group", "holdout", "stratified"])
def test_folds_that_no_class_fills_are_refused_with_a_way_out(scheme: str) -> None:
    table = manifest([f"g{number}" for number in range(6)], [0, 0, 1, 1, 2, 2])
    with pytest.raises(InputError, match=r"^folds: .*; choose another folds\.scheme or a smaller folds\.k\.$"):
        folds_of(table, scheme, 5)
    for possible in ("group", "kfold"):
        assert set(folds_of(table, possible, 5)) == set(range(5))


def test_a_leak_is_refused_with_the_groups() -> None:
    check_leak(["a", "a", "b", "c"], [0, 0, 1, 1])
    with pytest.raises(InputError) as caught:
        check_leak(["b", "a", "a", "b", "c"], [0, 0, 1, 1, 1])
    assert str(caught.value).startswith("2 group(s) lie in two folds (a, b): ")


def test_a_group_that_is_held_out_in_part_leaks() -> None:
    with pytest.raises(InputError, match=r"\(b\)"):
        check_leak(["a", "b", "b"], [TRAIN_ONLY, TRAIN_ONLY, 0])


# --- what follows from folds


def test_classes_of_fewer_groups_than_folds_are_named_with_their_number() -> None:
    groups = ["a", "a", "a", "b", "c", "c", "d"]
    table = manifest(groups, [0, 0, 0, 0, 0, 1, 1])
    assert rare_classes(table, ("many", "some", "none"), 2) == ["none (0)"]
    assert rare_classes(table, ("many", "some", "none"), 3) == ["some (2)", "none (0)"]
    assert rare_classes(table, ("many", "some", "none"), 4) == ["many (3)", "some (2)", "none (0)"]


def test_replicas_are_trained_for_every_fold_but_not_for_train_only() -> None:
    assert replica_folds([2, 0, 1, 1, 2]) == [0, 1, 2]
    assert replica_folds([TRAIN_ONLY, 0, TRAIN_ONLY]) == [0]
    assert replica_folds([-4, -2, TRAIN_ONLY]) == []
