"""What a search's file may say, and what is answered to what it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymask.config.loading import load_config
from raymask.config.search import SearchConfig, search_config, with_values
from raymask.config.search_space import Domain, label_of
from raymask.config.yaml_files import read_yaml
from raymask.core.errors import InputError

LR = {"recipe.optim.lr": {"log": [1e-4, 1e-2]}}


def declared(space: Any, **more: Any) -> SearchConfig:
    tune = more.pop("tune", {})
    return search_config("probe", overrides={"search": space, **more}, tune=tune)


WRONG: dict[str, tuple[Any, str]] = {
    "nothing": ({}, r"a search needs the keys that it varies, in the recipe's file, such as search: \{recipe.optim.lr:"),
    "no mapping": ([1], "a search needs the keys that it varies"),
    "no recipe's key": ({"seed": {"choice": [1, 2]}}, r"'seed' is no key of the recipe; write it as recipe.KEY"),
    "an old key": ({"recipe.lr": {"log": [1, 2]}}, r"'recipe.lr' is 'recipe.optim.lr' now"),
    "an unknown key": ({"recipe.optim.lrr": {"log": [1, 2]}}, r"search: recipe.optim.lrr.*there is no key 'recipe.optim.lrr'"),
    "a plain value": ({"recipe.optim.lr": 3}, r"recipe.optim.lr must be one of \{log: \[LOW, HIGH\]\}.*, but is 3"),
    "two kinds": ({"recipe.optim.lr": {"log": [1, 2], "range": [1, 2]}}, "must be one of"),
    "one bound": ({"recipe.optim.lr": {"log": [1]}}, r"lr.log must be two numbers, \[LOW, HIGH\], but is \[1\]"),
    "a text": ({"recipe.optim.lr": {"range": ["a", "b"]}}, r"lr.range must be two numbers, \[LOW, HIGH\], but is \[a, b\]"),
    "the wrong order": ({"recipe.optim.lr": {"range": [2, 1]}}, "goes from 2 to 1; the first must be less than the second"),
    "a logarithm of 0": ({"recipe.optim.lr": {"log": [0, 1]}}, "log begins at 0, which has no logarithm"),
    "an empty choice": ({"recipe.loss.name": {"choice": []}}, r"choice must be a list of values, but is \[\]"),
    "a doubled choice": ({"recipe.loss.name": {"choice": ["focal", "focal"]}}, "choice holds focal twice"),
    "an unknown choice": (
        {"recipe.loss.name": {"choice": ["focal", "focul"]}},
        "name cannot be focul:.*'focal' ",
    ),
    "a step of a choice": ({"recipe.loss.name": {"choice": ["bce"], "step": 1}}, "neither step nor points are for"),
    "a step of a logarithm": (
        {"recipe.optim.lr": {"log": [1e-3, 1e-2], "step": 1e-3}},
        "step is 0.001;.* of a range alone",
    ),
    "too long a step": (
        {"recipe.head.dropout": {"range": [0.0, 0.5], "step": 0.6}},
        "step is 0.6; it must be .* to 0.5",
    ),
    "a broken step": ({"recipe.batch_size": {"range": [8, 64], "step": 0.5}}, "its range is of whole numbers; write them as 8.0"),
    "no points": ({"recipe.optim.lr": {"log": [1e-3, 1e-2], "points": 0}}, "points is 0; it must be a whole number from 1 on"),
    "another key": (
        {"recipe.optim.lr": {"log": [1e-3, 1e-2], "pints": 3}},
        "key 'pints'; beside log it may be .*'points'",
    ),
    "too high a bound": ({"recipe.head.dropout": {"range": [0.0, 2.0]}}, "head.dropout cannot be 2.0:"),
    "a key in another": (
        {"recipe.loss": {"choice": [{"name": "bce"}]}, "recipe.loss.name": {"choice": ["bce"]}},
        "'recipe.loss' holds",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_space_that_cannot_be_searched_is_refused(kind: str) -> None:
    space, says = WRONG[kind]
    with pytest.raises(InputError, match=says):
        declared(space)


def test_what_is_searched_must_have_an_effect() -> None:
    members = [{"task": "multi", "recipe": {"optim": {"lr": 0.1}}}]
    with pytest.raises(InputError, match=r"'recipe.optim.lr' has no effect on the member 'multi', whose own recipe sets it"):
        declared(LR, members=members)
    with pytest.raises(InputError, match="has no effect on the member 'multi'"):
        declared({"recipe.optim": {"choice": [{"name": "sgd"}]}}, members=members)
    declared({"recipe.optim.weight_decay": {"log": [0.01, 0.1]}}, members=members)


def test_how_a_search_goes_about_it_is_checked() -> None:
    with pytest.raises(InputError, match=r"'tune.method' is 'tpee'; it may be 'tpe' \(the nearest\)"):
        declared(LR, tune={"method": "tpee"})
    with pytest.raises(InputError, match=r"there is no key 'tune.trails'; it may be 'trials' \(the nearest\)"):
        declared(LR, tune={"trails": 3})
    with pytest.raises(InputError, match=r"tune.folds is 6, but there are 5 folds \(folds.k\)"):
        declared(LR, tune={"folds": 6})
    with pytest.raises(InputError, match=r"recipe.optim.lr is a range, of which a grid takes some values; say how many"):
        declared(LR, tune={"method": "grid"})
    with pytest.raises(InputError, match="'tune' is 3; it must hold keys and values"):
        search_config("probe", ["search.recipe.optim.lr.log=[1,2]", "tune=3"])
    values = {"range": [0.0, 0.5], "points": 101}
    with pytest.raises(InputError, match="the grid has 1,030,301 points, and 10,000 are the most"):
        declared(
            {f"recipe.{key}": values for key in ("head.dropout", "loss.class_weight_power", "loss.label_smoothing")},
            tune={"method": "grid"},
        )


def test_a_choice_that_some_values_of_the_other_keys_allow_is_allowed() -> None:
    space = {"recipe.loss.name": {"choice": ["focal", "cross_entropy"]}, "recipe.loss.gamma": {"choice": [2.0, 1.0]}}
    search = declared(space)
    with pytest.raises(InputError, match="gamma is an argument of focal"):
        search.trial({"recipe.loss.name": "cross_entropy", "recipe.loss.gamma": 1.0})
    assert search.trial({"recipe.loss.name": "focal", "recipe.loss.gamma": 1.0}).recipe.loss.gamma == 1.0


def test_keys_may_be_nested_and_set_on_the_command_line() -> None:
    nested = declared({"recipe": {"optim": {"lr": {"log": [1e-4, 1e-2]}}, "loss": {"name": {"choice": ["bce"]}}}})
    assert set(nested.space) == {"recipe.optim.lr", "recipe.loss.name"}
    given = search_config("probe", ["search.recipe.optim.lr.log=[1.0e-4, 0.01]", "recipe.head.dropout=0.1", "tune.trials=3"])
    assert given.space["recipe.optim.lr"] == nested.space["recipe.optim.lr"]
    assert (given.tune.trials, given.run.recipe.head.dropout, given.run.name) == (3, 0.1, "probe-tune")


def test_a_search_scores_under_one_view_but_its_recipe_keeps_its_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: probe\nviews: [original, hflip]\nsearch: {recipe.optim.lr: {log: [1.0e-3, 2.0e-3]}}\n")
    search = search_config(str(file), overrides={"data": {"path": "photos"}, "name": "found"})
    assert search.run.views == ("original",)
    assert search.values["views"] == ["original", "hflip"]
    assert search.run.name == "found"
    assert "data" not in search.values, "what is only where the data lie is not of the recipe"


def test_the_file_of_a_search_is_no_recipe_of_a_run() -> None:
    with pytest.raises(InputError, match="'search' is a key of a search: give this recipe to `raymask tune`, or drop that key"):
        load_config("search")
    assert search_config("search").space


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1000, 1000)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab 1:#-", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(values, values)
def test_a_label_tells_values_apart_and_is_one_line(one: object, other: object) -> None:
    assert "\n" not in label_of(one)
    if label_of(one) == label_of(other):
        assert one == other
    assert read_yaml(label_of(one), "it") == one


@given(st.dictionaries(st.sampled_from(["a", "b.c", "b.d", "e.f.g"]), st.integers()))
def test_a_key_that_is_set_has_that_value_and_all_others_keep_theirs(chosen: dict[str, int]) -> None:
    before = {"a": -1, "b": {"c": -2, "d": -3, "x": -4}, "z": [1]}
    after = with_values(before, chosen)
    assert before == {"a": -1, "b": {"c": -2, "d": -3, "x": -4}, "z": [1]}
    assert after["a"] == chosen.get("a", -1)
    assert after["b"] == {"c": chosen.get("b.c", -2), "d": chosen.get("b.d", -3), "x": -4}
    assert after["z"] == [1]
    assert after.get("e") == ({"f": {"g": chosen["e.f.g"]}} if "e.f.g" in chosen else None)


def test_a_whole_group_is_replaced_so_that_nothing_of_the_old_one_is_left() -> None:
    space = {"recipe.mix": {"choice": [{"name": "none"}, {"name": "mixup", "alpha": 0.4}]}}
    search = declared(space, recipe={"mix": {"name": "mixup", "alpha": 0.2}})
    assert search.trial({"recipe.mix": {"name": "none"}}).recipe.mix.name == "none"


ranges = st.tuples(st.floats(1e-6, 1e3), st.floats(1.01, 1e3), st.sampled_from(["log", "range"]), st.integers(1, 9))


@given(ranges)
def test_a_grid_of_a_range_begins_and_ends_with_it(given_range: tuple[float, float, Any, int]) -> None:
    low, factor, kind, points = given_range
    domain = Domain("recipe.x", kind, low, low * factor, points=points)
    grid = domain.grid()
    assert all(map(domain.holds, grid))
    assert grid == sorted(set(grid))
    assert len(grid) <= points
    assert grid[0] == pytest.approx(low, rel=1e-3)
    if points > 1:
        assert grid[-1] == pytest.approx(low * factor, rel=1e-3)


@given(st.integers(-50, 50), st.integers(1, 40), st.integers(1, 40))
def test_a_grid_by_steps_has_every_step(low: int, width: int, step: int) -> None:
    domain = Domain("recipe.x", "range", low, low + width, whole=True, step=step)
    assert domain.grid() == list(range(low, low + width + 1, step))
