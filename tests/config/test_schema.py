"""Tests of how recipes, files and settings become a config, and of the sentences that refuse the wrong ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymask.config.loading import differences, dump_config, load_config, validate
from raymask.config.members import MemberConfig, member_recipe
from raymask.config.merging import deep_merge, flatten
from raymask.config.schema import RunConfig, one_of, resolve_members
from raymask.config.search import search_config
from raymask.config.settings import apply_setting
from raymask.config.tasks import TaskConfig
from raymask.config.yaml_files import RECIPES, read_recipe, read_yaml, recipe_names
from raymask.core.errors import InputError
from raymask.core.spelling import canonical

# What only a reader of pydantic's or Python's code would understand.
INTERNAL = re.compile(r"pydantic|constrained|tuple|dictionary|instance of|<class|\[type=|\[key\]|function-")


def sentence(call: Callable[[], object]) -> str:
    """The message of the `InputError` that a call ends in, which must be one sentence in the user's words."""
    with pytest.raises(InputError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert not INTERNAL.search(text), text
    return text


def refusal(values: dict[str, Any]) -> str:
    return sentence(lambda: validate(values))


def with_settings(*pairs: str) -> RunConfig:
    return load_config("demo", pairs)


# --- merging


NAMES = st.sampled_from(["a", "b", "c"])
PLAIN = st.one_of(st.none(), st.integers(0, 3), st.lists(st.integers(0, 3), max_size=2))
NESTED = st.recursive(st.dictionaries(NAMES, PLAIN), lambda inner: st.dictionaries(NAMES, inner | PLAIN), max_leaves=8)


def test_mappings_merge_key_by_key_and_anything_else_is_replaced() -> None:
    under = {"kept": 1, "deep": {"kept": 2, "list": [1, 2, 3], "plain": 3, "mapping": {"a": 1}}}
    over = {"deep": {"list": [9], "plain": {"now": "a mapping"}, "mapping": 0}, "new": {"x": 1}}
    assert deep_merge(under, over) == {
        "kept": 1,
        "deep": {"kept": 2, "list": [9], "plain": {"now": "a mapping"}, "mapping": 0},
        "new": {"x": 1},
    }


def test_null_over_a_mapping_replaces_it() -> None:
    assert deep_merge({"a": {"b": 1}}, {"a": None}) == {"a": None}


@given(under=NESTED, over=NESTED)
def test_merging_touches_neither_side_and_the_upper_one_wins(under: dict[str, Any], over: dict[str, Any]) -> None:
    before = deepcopy((under, over))
    merged = deep_merge(under, over)
    assert (under, over) == before
    assert merged.keys() == under.keys() | over.keys()
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(under.get(key), dict)
        assert merged[key] == (deep_merge(under[key], value) if both else value)
    assert all(merged[key] == under[key] for key in under.keys() - over.keys())


@given(values=NESTED)
def test_merging_with_nothing_or_with_itself_changes_nothing(values: dict[str, Any]) -> None:
    assert deep_merge(values, {}) == deep_merge({}, values) == deep_merge(values, values) == values


def test_a_merged_value_can_be_changed_without_changing_its_source() -> None:
    under, over = {"a": {"b": [1]}}, {"c": {"d": [2]}}
    merged = deep_merge(under, over)
    merged["a"]["b"].append(3)
    merged["c"]["d"].append(3)
    assert (under, over) == ({"a": {"b": [1]}}, {"c": {"d": [2]}})


# --- recipes and files


@pytest.mark.parametrize("name", sorted(file.stem for file in RECIPES.glob("*.yaml")))
def test_every_recipe_loads_and_changes_something(name: str) -> None:
    config = search_config(name).run if name == "search" else load_config(name)
    assert config.name == (f"{name}-tune" if name == "search" else name)
    assert config.recipe != RunConfig().recipe


def test_recipe_names_are_those_of_the_files() -> None:
    assert recipe_names() == sorted(file.name.removesuffix(".yaml") for file in RECIPES.iterdir())
    assert "demo" in recipe_names()


def write(folder: Path, text: str, name: str = "mine.yaml") -> str:
    file = folder / name
    file.write_text(text)
    return str(file)


def test_a_file_starts_from_its_base_and_is_named_by_itself(tmp_path: Path) -> None:
    file = write(tmp_path, "base: demo\nrecipe: {schedule: {epochs: 2}, head: {dropout: 0.5}}\n")
    config, demo = load_config(file), load_config("demo")
    assert (config.recipe.schedule.epochs, config.recipe.head.dropout, config.name) == (2, 0.5, "mine")
    assert config.recipe.backbone == demo.recipe.backbone
    assert config.recipe.image_size == demo.recipe.image_size


def test_a_file_without_base_starts_from_the_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "seed: 3\n"))
    assert config == RunConfig(name="mine", seed=3)


def test_bases_may_stand_on_bases(tmp_path: Path) -> None:
    middle = write(tmp_path, "base: demo\nseed: 1\nrecipe: {schedule: {epochs: 3}, batch_size: 8}\n", "middle.yaml")
    config = load_config(write(tmp_path, f"base: {middle}\nrecipe: {{schedule: {{epochs: 4}}}}\n"))
    assert (config.seed, config.recipe.schedule.epochs, config.recipe.batch_size, config.name) == (1, 4, 8, "mine")
    assert config.recipe.backbone == load_config("demo").recipe.backbone


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "null\n"])
def test_an_empty_file_is_all_defaults(tmp_path: Path, text: str) -> None:
    assert load_config(write(tmp_path, text)) == RunConfig(name="mine")


def test_settings_win_over_overrides_and_these_over_the_recipe() -> None:
    config = load_config(
        "demo", ["recipe.schedule.epochs=7"], {"recipe": {"schedule": {"epochs": 5}, "batch_size": 6}, "seed": 2}
    )
    assert (config.recipe.schedule.epochs, config.recipe.batch_size, config.seed) == (7, 6, 2)
    assert config.recipe.backbone == load_config("demo").recipe.backbone


def test_a_base_that_leads_back_to_itself_is_refused(tmp_path: Path) -> None:
    first, second = str(tmp_path / "first.yaml"), str(tmp_path / "second.yaml")
    write(tmp_path, f"base: {second}\n", "first.yaml")
    write(tmp_path, f"base: {first}\n", "second.yaml")
    assert sentence(lambda: load_config(first)).startswith(f"base: '{first}' is its own base")


def test_an_unknown_recipe_is_refused_with_the_nearest_name() -> None:
    text = sentence(lambda: load_config("demmo"))
    assert text.startswith("there is no recipe 'demmo'; it may be 'demo' (the nearest), ")
    assert text.endswith("or a path that ends in .yaml.")
    assert "'baseline'" in text


def test_an_unknown_base_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "base: no_such_recipe\n")
    assert sentence(lambda: load_config(file)).startswith("there is no recipe 'no_such_recipe'; it may be ")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert sentence(lambda: load_config(tmp_path / "gone.yaml")) == f"there is no config file '{tmp_path / 'gone.yaml'}'."


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("seed: 1\nrecipe: [1, 2\nname: x\n", 3),
        ("seed: 1\n\tname: x\n", 2),
        ("a: b: c\n", 1),
    ],
)
def test_invalid_yaml_is_refused_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    file = write(tmp_path, text)
    assert sentence(lambda: load_config(file)) == f"'{file}' is not valid YAML at line {line}."


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"name: \x00", b"seed: !!int x", b"name: !!timestamp x"])
def test_a_file_that_yaml_cannot_read_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    assert sentence(lambda: load_config(file)).startswith(f"'{file}' is not valid YAML")


@pytest.mark.parametrize(
    ("text", "kind"),
    [("- a\n- b\n", "list"), ("just words\n", "text"), ("5\n", "number"), ("1.5", "number"), ("true", "yes or no")],
)
def test_a_file_of_no_keys_is_refused(tmp_path: Path, text: str, kind: str) -> None:
    file = write(tmp_path, text)
    assert sentence(lambda: load_config(file)) == f"'{file}' must hold keys and values, not a {kind}."


# --- settings


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("seed=1", {"seed": 1}),
        ("recipe.schedule.epochs=8", {"recipe": {"schedule": {"epochs": 8}}}),
        ("recipe.head.norm=true", {"recipe": {"head": {"norm": True}}}),
        ("recipe.image_size=[64, 48]", {"recipe": {"image_size": [64, 48]}}),
        ("tasks.age.train_edges=[29,59]", {"tasks": {"age": {"train_edges": [29, 59]}}}),
        ("tasks.gender=null", {"tasks": {"gender": None}}),
        ("recipe.weights=", {"recipe": {"weights": None}}),
        ("data.path=s3://bucket/a=b", {"data": {"path": "s3://bucket/a=b"}}),
        ("name='007'", {"name": "007"}),
        ("recipe.augment=[{Blur: {p: 0.5}}]", {"recipe": {"augment": [{"Blur": {"p": 0.5}}]}}),
        (" seed =1", {"seed": 1}),
    ],
)
def test_a_setting_is_a_path_and_a_yaml_value(setting: str, expected: dict[str, Any]) -> None:
    values: dict[str, Any] = {}
    apply_setting(values, setting)
    assert values == expected


def test_settings_reach_into_lists_by_number() -> None:
    values: dict[str, Any] = {
        "members": [{"task": "a"}, {"task": "b", "recipe": {"optim": {"lr": 1}}}],
        "views": ["original", "hflip"],
    }
    for setting in ("members.1.recipe.optim.lr=2", "members.0.seeds=3", "views.1=zoom"):
        apply_setting(values, setting)
    assert values == {
        "members": [{"task": "a", "seeds": 3}, {"task": "b", "recipe": {"optim": {"lr": 2}}}],
        "views": ["original", "zoom"],
    }


def test_a_setting_makes_a_mapping_where_null_was() -> None:
    values: dict[str, Any] = {"tasks": {"age": None}}
    apply_setting(values, "tasks.age.edges=[3]")
    assert values == {"tasks": {"age": {"edges": [3]}}}


def test_bands_of_the_competition_can_be_refined_for_the_loss_alone() -> None:
    config = with_settings("tasks.age.train_edges=[29,59]", "tasks.gender=null")
    assert config.tasks == {"age": TaskConfig(train_edges=(29, 59)), "gender": None}


def test_a_list_of_columns_is_a_task_of_each() -> None:
    assert with_settings("tasks=[colour, shape]").tasks == {"colour": TaskConfig(), "shape": TaskConfig()}


def test_a_number_without_a_point_is_a_number() -> None:
    assert with_settings("recipe.optim.lr=1e-3").recipe.optim.lr == 0.001  # YAML 1.1 wants 1.0e-3


@pytest.mark.parametrize("setting", ["recipe.schedule.epochs", "", "=5", "  =5"])
def test_a_setting_without_key_or_value_is_refused(setting: str) -> None:
    assert sentence(lambda: with_settings(setting)) == f"--set takes key.path=value, but got '{setting}'."


@pytest.mark.parametrize("text", ["[1, 2", "{", "'a", '"C:\\x"', "[a] b", "[a] # b", "'a' # b"])
def test_a_value_that_yaml_cannot_read_is_refused(text: str) -> None:
    expected = f"--set recipe.schedule.epochs: the value '{text}' cannot be read; quote it."
    assert sentence(lambda: with_settings(f"recipe.schedule.epochs={text}")) == expected


def test_a_setting_below_a_plain_value_is_refused() -> None:
    text = sentence(lambda: with_settings("recipe.schedule.epochs.x=1"))
    epochs = load_config("demo").recipe.schedule.epochs
    assert text == f"--set recipe.schedule.epochs.x: 'epochs' holds the plain value {epochs}, nothing lies below it."
    values = {"views": ["original"]}
    text = sentence(lambda: apply_setting(values, "views.0.x=1"))
    assert text == "--set views.0.x: '0' holds the plain value 'original', nothing lies below it."


@pytest.mark.parametrize("number", ["2", "-1", "first", "²"])
def test_a_setting_of_no_item_of_a_list_is_refused(number: str) -> None:
    values = {"members": [{"task": "a"}, {"task": "b"}]}
    for setting in (f"members.{number}.seeds=2", f"members.{number}=2"):
        path = setting.partition("=")[0]
        expected = f"--set {path}: '{number}' must be the number of an item, from 0 to 1."
        assert sentence(lambda setting=setting: apply_setting(values, setting)) == expected


def test_a_setting_of_an_item_of_an_empty_list_is_refused() -> None:
    text = sentence(lambda: apply_setting({"members": []}, "members.0.task=x"))
    assert text == "--set members.0.task: '0' is to be the number of an item, but the list is empty."


# --- unknown keys


@pytest.mark.parametrize(
    ("values", "key", "nearest"),
    [
        ({"recip": {}}, "recip", "recipe"),
        ({"data": {"pth": "x"}}, "data.pth", "path"),
        ({"data": {"imagecolumn": "x"}}, "data.imagecolumn", "image_column"),
        ({"tasks": {"age": {"edge": [3]}}}, "tasks.age.edge", "edges"),
        ({"folds": {"sheme": "group"}}, "folds.sheme", "scheme"),
        ({"recipe": {"schedule": {"epoch": 3}}}, "recipe.schedule.epoch", "epochs"),
        ({"recipe": {"head": {"hiden": 3}}}, "recipe.head.hiden", "hidden"),
        ({"members": [{"task": "a"}, {"task": "a", "nme": "x"}]}, "members.1.nme", "name"),
        ({"vote": {"rul": "soft"}}, "vote.rul", "rule"),
        ({"compute": {"cpu": 1}}, "compute.cpu", "cpus"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_first(values: dict[str, Any], key: str, nearest: str) -> None:
    assert refusal(values).startswith(f"there is no key '{key}'; it may be '{nearest}' (the nearest)")


@pytest.mark.parametrize(
    ("recipe", "key", "nearest"),
    [({"schedule": {"epoch": 3}}, "recipe.schedule.epoch", "epochs"), ({"head": {"drop": 1}}, "recipe.head.drop", "dropout")],
)
def test_an_unknown_key_of_a_members_recipe_is_refused_with_the_member(recipe: dict[str, Any], key: str, nearest: str) -> None:
    member = {"task": "age", "name": "second", "recipe": recipe}
    start = f"members: 'second': there is no key '{key}'; it may be '{nearest}' (the nearest), "
    assert refusal({"members": [{"task": "age"}, member]}).startswith(start)
    del member["name"]
    assert refusal({"members": [member]}).startswith(start.replace("second", "age"))


def test_an_unknown_key_near_to_none_is_refused_with_all_there_are() -> None:
    text = refusal({"recipe": {"head": {"qqq": 1}}})
    assert text == "there is no key 'recipe.head.qqq'; it may be 'name', 'norm', 'hidden', 'depth', 'dropout' or 'samples'."


@pytest.mark.parametrize("name", ["int", "str", "float", "tuple", "constrained-int", "list[int]"])
def test_an_unknown_key_named_like_a_type_is_refused_by_its_name(name: str) -> None:
    for values, key in (
        ({name: 3}, name),
        ({"recipe": {name: 3}}, f"recipe.{name}"),
        ({"tasks": {"age": {name: 3}}}, f"tasks.age.{name}"),
    ):
        with pytest.raises(InputError, match=rf"^there is no key '{re.escape(key)}'; it may be '"):
            validate(values)


def test_a_task_named_like_a_type_is_shown_by_its_name() -> None:
    text = refusal({"tasks": {"float": {"edges": [3, 1]}}})
    assert text == "tasks.float: edges must rise from left to right, such as [30, 60], but is [3.0, 1.0]."


@given(
    st.dictionaries(
        st.text(max_size=8).map(lambda text: f"{text}?"), st.none() | st.integers() | st.text(max_size=3), min_size=1, max_size=3
    )
)
@settings(max_examples=30, deadline=None)
def test_keys_that_are_none_are_always_refused_in_a_sentence(values: dict[str, Any]) -> None:
    for wrong in (values, {"recipe": values}, {"members": [{"task": "a", "recipe": values}]}, {"tasks": {"a": values}}):
        with pytest.raises(InputError, match=r"\.$"):
            validate(wrong)


# --- wrong values


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"seed": "x"}, "'seed' is 'x'; it must be a whole number."),
        ({"seed": -1}, "'seed' is -1; it must be greater than or equal to 0."),
        ({"seed": 2**31}, "'seed' is 2147483648; it must be less than 2147483648."),
        ({"name": "a/b"}, "'name' is 'a/b'; it must be letters, digits, '.', '_' and '-', beginning with a letter or a digit."),
        ({"name": True}, "'name' is true; where that is meant as a text, quote it."),
        ({"name": [3]}, "'name' is [3]; it must be a text."),
        ({"data": None}, "'data' is None; it must hold keys and values."),
        ({"data": {"path": [3]}}, "'data.path' is [3]; it must be a text."),
        ({"data": {"path": " "}}, "data.path: a path must not be empty."),
        ({"data": {"test": "a\0b"}}, "data.test: a path must not be one with a NUL character."),
        ({"runs": ""}, "runs: a path must not be empty."),
        ({"data": {"max_rejected": 2}}, "'data.max_rejected' is 2; it must be less than or equal to 1."),
        ({"tasks": 3}, "'tasks' is 3; it must hold keys and values."),
        ({"tasks": {"age": 3}}, "'tasks.age' is 3; it must hold keys and values."),
        (
            {"tasks": {"a b": {}}},
            "tasks: 'a b' cannot name a task, which takes a letter and then at most 99 letters, digits and _; name it otherwise: "
            "--set \"tasks={a_b: {column: 'a b'}}\".",
        ),
        (
            {"tasks": ["a b"]},
            "tasks: 'a b' cannot name a task, which takes a letter and then at most 99 letters, digits and _; name it otherwise: "
            "--set \"tasks={a_b: {column: 'a b'}}\".",
        ),
        ({"tasks": {"age": {"edges": 30}}}, "'tasks.age.edges' is 30; it must be a list."),
        (
            {"tasks": {"age": {"edges": [30, "x"]}}},
            "'tasks.age.edges.1' is 'x'; it must be a number.",
        ),
        ({"tasks": {"age": {"edges": [float("nan")]}}}, "'tasks.age.edges.0' is nan; it must be a finite number."),
        ({"tasks": {"age": {"valid_range": [0]}}}, "'tasks.age.valid_range.1' is missing; it must be given."),
        ({"tasks": {"age": {"classes": ["a", None]}}}, "'tasks.age.classes.1' is null; where that is meant as a text, quote it."),
        ({"folds": {"k": 1}}, "'folds.k' is 1; it must be greater than or equal to 2."),
        (
            {"recipe": {"schedule": {"epochs": 2.5}}},
            "'recipe.schedule.epochs' is 2.5; it must be a whole number.",
        ),
        ({"recipe": {"optim": {"lr": 0}}}, "'recipe.optim.lr' is 0; it must be greater than 0."),
        ({"recipe": {"optim": {"lr": float("inf")}}}, "'recipe.optim.lr' is inf; it must be a finite number."),
        ({"recipe": {"weights": [3]}}, "'recipe.weights' is [3]; it must be a path."),
        ({"recipe": {3: 4}}, "'recipe.3' is 3; keys should be strings."),
        ({"recipe": {"head": []}}, "'recipe.head' is []; it must hold keys and values."),
        ({"members": {"task": "a"}}, "'members' is {'task': 'a'}; it must be a list."),
        ({"members": [3]}, "'members.0' is 3; it must hold keys and values."),
        ({"members": [{"name": "x"}]}, "'members.0.task' is missing; it must be given."),
        ({"members": [{"task": "a", "seeds": 0}]}, "'members.0.seeds' is 0; it must be greater than or equal to 1."),
        ({"members": [{"task": "a", "recipe": 3}]}, "'members.0.recipe' is 3; it must hold keys and values."),
        (
            {"members": [{"task": "a", "recipe": {"optim": {"lr": -1}}}]},
            "members: 'a': 'recipe.optim.lr' is -1; it must be greater than 0.",
        ),
        ({"views": "original"}, "'views' is 'original'; it must be a list."),
        ({"compute": {"cpus": 0}}, "'compute.cpus' is 0; it must be greater than or equal to 1."),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_and_what_it_may_be(values: dict[str, Any], expected: str) -> None:
    assert refusal(values) == expected


@pytest.mark.parametrize("size", ["big", 0, -3, 1.5, None, [], [0, 3], [32], [32, 32, 3], [3, "b"], {"height": 3}])
def test_a_wrong_image_size_is_refused_by_its_key_and_both_of_its_forms(size: Any) -> None:
    expected = f"'recipe.image_size' is {size!r}; it may be pixels: one side, or [height, width]."
    assert refusal({"recipe": {"image_size": size}}) == expected
    assert refusal({"members": [{"task": "a", "recipe": {"image_size": size}}]}) == f"members: 'a': {expected}"


@pytest.mark.parametrize("augment", [5, None, {"Blur": {}}, ["Blur"], [{"Blur": 3}]])
def test_a_wrong_augment_is_refused_by_its_key_and_both_of_its_forms(augment: Any) -> None:
    assert refusal({"recipe": {"augment": augment}}) == (
        f"'recipe.augment' is {augment!r}; it may be none, light, medium, heavy, competition, cutout, distort, randaugment or "
        "trivialaugment; or a list of albumentations transforms."
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"recipe": {"freeze": {"part": "all"}}}, "'recipe.freeze.part' is 'all'; it may be 'none' or 'backbone'."),
        ({"recipe": {"amp": "bf32"}}, "'recipe.amp' is 'bf32'; it may be 'bf16' (the nearest), 'auto', 'off' or 'fp16'."),
        ({"recipe": {"amp": False}}, "'recipe.amp' is False; it may be 'auto', 'off', 'bf16' or 'fp16'."),
        (
            {"folds": {"scheme": "grup"}},
            "'folds.scheme' is 'grup'; it may be 'group' (the nearest), 'stratified_group', 'stratified', 'kfold' or 'holdout'.",
        ),
        ({"vote": {"level": "tasks"}}, "'vote.level' is 'tasks'; it may be 'task' (the nearest), 'auto' or 'joint'."),
        ({"data": {"kind": "zip"}}, "'data.kind' is 'zip'; it may be 'auto', 'demo', 'competition', 'csv' or 'folders'."),
    ],
)
def test_a_wrong_choice_is_refused_with_the_choices(values: dict[str, Any], expected: str) -> None:
    assert refusal(values) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"recipe": {"freeze": {"part": "backbone"}, "pretrained": False}},
            "recipe: freeze.part=backbone needs pretrained=true: a frozen backbone of random weights learns nothing.",
        ),
        (
            {"recipe": {"freeze": {"part": "backbone"}, "optim": {"ema": 0.9}}},
            "recipe: optim.ema averages weights that are fine-tuned; with freeze.part=backbone set it to 0.",
        ),
        (
            {"recipe": {"weights": "w.safetensors", "pretrained": False}},
            "recipe: weights is set but pretrained is false: set pretrained to true, or leave weights out.",
        ),
        (
            {"recipe": {"pretrained": False}, "members": [{"task": "age", "recipe": {"freeze": {"part": "backbone"}}}]},
            "members: 'age': recipe: freeze.part=backbone needs pretrained=true: a frozen backbone of random weights learns "
            "nothing.",
        ),
        (
            {"tasks": {"age": {"edges": [60, 30]}}},
            "tasks.age: edges must rise from left to right, such as [30, 60], but is [60.0, 30.0].",
        ),
        (
            {"tasks": {"age": {"edges": [30, 30]}}},
            "tasks.age: edges must rise from left to right, such as [30, 60], but is [30.0, 30.0].",
        ),
        ({"tasks": {"age": {"edges": []}}}, "tasks.age: edges must rise from left to right, such as [30, 60], but is []."),
        (
            {"tasks": {"age": {"edges": [30, 60], "train_edges": [29]}}},
            "tasks.age: train_edges needs edges with as many numbers.",
        ),
        (
            {"tasks": {"age": {"train_edges": [60, 30]}}},
            "tasks.age: train_edges must rise from left to right, such as [30, 60], but is [60.0, 30.0].",
        ),
        ({"tasks": {"a": {"classes": ["x"]}}}, "tasks.a: classes must be two or more different names, but is ['x']."),
        ({"tasks": {"a": {"classes": ["x", "x"]}}}, "tasks.a: classes must be two or more different names, but is ['x', 'x']."),
        (
            {"tasks": {"a": {"classes": ["7", "7.0"]}}},
            "tasks.a: classes must be two or more different names, but is ['7', '7.0'].",
        ),
        ({"tasks": {"a": {"classes": ["x", " \n"]}}}, "tasks.a: classes must be names that can be read, but is ['x', '']."),
        ({"tasks": {"a": {"edges": [1, 2], "classes": ["x", "y"]}}}, "tasks.a: 2 edges make 3 classes, not 2."),
        ({"tasks": {"a": {"valid_range": [5, 0]}}}, "tasks.a: valid_range must rise, such as [0, 120], but is [5.0, 0.0]."),
        (
            {"tasks": {"joint": {}}},
            "tasks: 'joint' is a kind of member and cannot name a task; name it otherwise: "
            '--set "tasks={my_joint: {column: joint}}".',
        ),
        (
            {"tasks": ["multi"]},
            "tasks: 'multi' is a kind of member and cannot name a task; name it otherwise: "
            '--set "tasks={my_multi: {column: multi}}".',
        ),
        (
            {"vote": {"weights": {"age": 1}, "rule": "soft"}},
            "vote: weights fix the rule to 'weighted', but rule is 'soft': leave one of them out.",
        ),
        (
            {"vote": {"weights": {"age": 1}, "level": "joint"}},
            "vote: weights are those of members, task by task, so that level cannot be joint.",
        ),
    ],
)
def test_values_that_do_not_go_together_are_refused(values: dict[str, Any], expected: str) -> None:
    assert refusal(values) == expected


def test_a_config_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().seed = 3  # type: ignore[misc]


def test_what_it_may_be_is_listed_with_the_nearest_in_front() -> None:
    assert one_of(["probe", "demo", "baseline"], "demmo") == "'demo' (the nearest), 'probe' or 'baseline'"
    assert one_of(["a", "b"], "zzz") == "'a' or 'b'"
    assert one_of(["a"], "zzz") == "'a'"
    assert one_of([], "zzz") == "nothing"


# --- members


@pytest.mark.parametrize("weights", [{"multi": 2, "age": 0}, {"age": {"multi": 2, "age": 1}, "gender": {"multi": 1}}])
def test_weights_are_by_member_or_by_task_and_member(weights: dict[str, Any]) -> None:
    config = validate({"tasks": ["age"], "vote": {"weights": weights}})
    assert config.vote.weights == weights
    assert validate(read_yaml(dump_config(config), "it")).vote.weights == weights
    settings = [f"vote.weights.{key}={value}" for key, value in flatten(weights).items()]
    assert load_config("demo", settings).vote.weights == weights


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"multi": -1}, "vote.weights: 'multi' has -1; it must be a number of 0 or more."),
        ({"age": {"multi": "much"}}, "vote.weights: 'multi' has 'much'; it must be a number of 0 or more."),
        ({"multi": float("inf")}, "vote.weights: 'multi' has inf; it must be a number of 0 or more."),
        ({"age": [1]}, "vote.weights: 'age' has [1]; it must be a number of 0 or more."),
        (
            {"age": {"multi": 2}, "gender": 1},
            "vote.weights: 'age' has weights by member, 'gender' a single one; give all by member, or all by task and member.",
        ),
        (3, "'vote.weights' is 3; it may be fixed weights of 0 or more, in place of a rule: by member, such as "),
    ],
)
def test_weights_of_neither_kind_are_refused(weights: Any, said: str) -> None:
    assert sentence(lambda: validate({"vote": {"weights": weights}})).startswith(said)


def test_without_members_each_task_has_a_specialist_of_the_runs_recipe() -> None:
    config = validate({"tasks": ["mask", "age"], "seed": 7, "recipe": {"schedule": {"epochs": 3}}})
    members = resolve_members(config)
    assert [(member.name, member.task, member.seed) for member in members] == [("mask", "mask", 7), ("age", "age", 7)]
    assert all(member.recipe == config.recipe for member in members)


def test_a_dropped_task_has_no_specialist() -> None:
    config = validate({"tasks": {"mask": {}, "gender": None, "age": {}}})
    assert [member.task for member in resolve_members(config)] == ["mask", "age"]
    config = validate({"tasks": {"mask": {}, "gender": None}, "members": [{"task": "gender"}]})
    assert sentence(lambda: resolve_members(config)).startswith("members: task is 'gender'; it may be 'mask', ")


def test_seeds_make_copies_that_differ_in_name_and_seed() -> None:
    config = validate({"tasks": ["age"], "seed": 5, "members": [{"task": "age", "seeds": 3}, {"task": "joint", "name": "j"}]})
    assert [(member.name, member.seed) for member in resolve_members(config)] == [
        ("age-s0", 5),
        ("age-s1", 6),
        ("age-s2", 7),
        ("j", 5),
    ]


def test_a_members_recipe_is_merged_over_the_runs() -> None:
    config = validate(
        {
            "tasks": ["age"],
            "recipe": {
                "schedule": {"epochs": 3},
                "head": {"name": "mlp", "hidden": 8, "dropout": 0.1},
                "augment": [{"Blur": {}}],
            },
            "members": [{"task": "multi", "recipe": {"head": {"dropout": 0.5}, "augment": [{"ToGray": {}}]}}],
        }
    )
    recipe = resolve_members(config)[0].recipe
    assert recipe == config.recipe.model_copy(
        update={"head": config.recipe.head.model_copy(update={"dropout": 0.5}), "augment": ({"ToGray": {}},)}
    )
    assert member_recipe(config.recipe, MemberConfig(task="age")) == config.recipe


@pytest.mark.parametrize("folds", [None, 1, 2, 4])
def test_a_member_may_have_the_first_folds_alone(folds: int | None) -> None:
    config = validate({"tasks": ["age"], "folds": {"k": 4}, "members": [{"task": "age", "folds": folds, "seeds": 2}]})
    for member in resolve_members(config):
        assert member.folds_of([0, 2, 3, 5]) == tuple([0, 2, 3, 5][: folds or 4])
        assert member.folds_of([-2]) == (-2,)


@pytest.mark.parametrize(
    ("folds", "most"), [({"k": 4}, "4 (folds.k)"), ({"scheme": "holdout", "k": 6}, "1 (folds.scheme=holdout has one)")]
)
def test_a_member_of_more_folds_than_the_run_is_refused(folds: dict[str, Any], most: str) -> None:
    said = sentence(lambda: validate({"folds": folds, "members": [{"task": "age", "name": "dear", "folds": 5}]}))
    fewer = most.partition(" ")[0]
    assert said == (f"members: 'dear' has folds=5, but the run has {most}; give it {fewer} or fewer, or leave its `folds` out.")
    assert sentence(lambda: validate({"members": [{"task": "age", "folds": 0}]})).startswith("'members.0.folds' is 0; ")


def test_a_member_of_an_unknown_task_is_refused_with_the_nearest() -> None:
    config = validate({"tasks": ["mask", "gender"], "members": [{"task": "gendr"}]})
    expected = "members: task is 'gendr'; it may be 'gender' (the nearest), 'mask', 'multi' or 'joint'."
    assert sentence(lambda: resolve_members(config)) == expected


@pytest.mark.parametrize(
    ("members", "name"),
    [
        ([{"task": "age"}, {"task": "age"}], "age"),
        ([{"task": "age"}, {"task": "joint", "name": "age"}], "age"),
        ([{"task": "age", "seeds": 2}, {"task": "joint", "name": "age-s1"}], "age-s1"),
    ],
)
def test_two_members_of_one_name_are_refused(members: list[dict[str, Any]], name: str) -> None:
    config = validate({"tasks": ["age"], "members": members})
    expected = f"members: two have the name '{name}'; give one of them another `name`."
    assert sentence(lambda: resolve_members(config)) == expected


def test_members_that_would_share_a_folder_are_refused() -> None:
    config = validate({"tasks": ["age"], "members": [{"task": "age", "name": "A"}, {"task": "age", "name": "a"}]})
    assert sentence(lambda: resolve_members(config)).startswith("members: 'A' and 'a' differ in case alone, and would share a ")
    assert sentence(lambda: validate({"members": [{"task": "age", "name": "a" * 101}]})).startswith("'members.0.name' is 'aaa")
    assert sentence(lambda: validate({"members": [{"task": "age", "name": "../x"}]})).startswith("'members.0.name' is '../x'")


# --- the resolved config


# What YAML 1.1 or 1.2 takes for something else than a text, unless it is quoted.
ELSE = [
    "off",
    "No",
    "y",
    "~",
    "null",
    "TRUE",
    "0224",
    "1e3",
    ".5",
    "1_0",
    "0o17",
    "0x1F",
    "1:30",
    "2024-01-01",
    ".inf",
    "=",
    "<<",
]
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from([*ELSE, "-", "# a", "", " ", " a", "a ", "a #b", "a: b", "a:\tb", "\n"]),
)
PATH = TEXT.filter(lambda text: text.strip() and "\0" not in text)
EDGES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3, unique=True).map(sorted)
TASKS = st.one_of(
    st.none(),
    st.fixed_dictionaries({}, optional={"column": TEXT.filter(bool), "edges": EDGES}),
    st.fixed_dictionaries({"classes": st.lists(TEXT.filter(canonical), min_size=2, max_size=4, unique_by=canonical)}),
)
RECIPE_VALUES = st.fixed_dictionaries(
    {},
    optional={
        "schedule": st.fixed_dictionaries({}, optional={"epochs": st.integers(1, 10**6), "warmup": st.floats(0, 0.9)}),
        "optim": st.fixed_dictionaries({}, optional={"lr": st.floats(1e-300, 1e6)}),
        "crop": st.floats(0.001, 1),
        "image_size": st.integers(1, 999) | st.lists(st.integers(1, 999), min_size=2, max_size=2),
        "augment": st.sampled_from(["none", "heavy", [{"Blur": None}], [{"Blur": {"p": 0.5, "blur_limit": [3, 5]}}]]),
        "weights": st.sampled_from(["w.safetensors", "/abs/w.pt", None]),
        "head": st.fixed_dictionaries({}, optional={"dropout": st.floats(0, 0.9), "norm": st.booleans()})
        | st.fixed_dictionaries({"name": st.just("mlp"), "hidden": st.integers(1, 9)}),
    },
)
RUNS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,8}\Z"),
        "data": st.fixed_dictionaries({}, optional={"path": PATH, "max_rejected": st.floats(0, 1)}),
        "tasks": st.dictionaries(st.sampled_from(["age", "a1", "T_x"]), TASKS),
        "recipe": RECIPE_VALUES,
        "members": st.lists(st.fixed_dictionaries({"task": TEXT}, optional={"recipe": RECIPE_VALUES}), max_size=2),
        "cache": st.none() | st.just("some/folder"),
    },
)


@given(values=RUNS)
@settings(max_examples=60, deadline=None)
def test_a_dumped_config_is_the_same_when_it_is_loaded(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    config = validate(values)
    text = dump_config(config)
    file = tmp_path_factory.getbasetemp() / "dumped.yaml"
    file.write_text(text)
    assert load_config(file) == validate(read_yaml(text, "it")) == config
    assert dump_config(load_config(file)) == text


def test_a_dumped_config_holds_every_key_with_its_value() -> None:
    config = load_config("demo", ["tasks=[age]", "members=[{task: age}]"])
    dumped = read_yaml(dump_config(config), "it")
    assert dumped.keys() == RunConfig.model_fields.keys()
    assert dumped["recipe"]["schedule"]["epochs"] == config.recipe.schedule.epochs
    assert dumped["members"][0] == {"task": "age", "name": None, "seeds": 1, "folds": None, "recipe": {}}


def test_paths_are_dumped_as_text_and_weights_hold_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = dump_config(with_settings("recipe.pretrained=true", "recipe.weights=w.safetensors", "runs=my/runs"))
    monkeypatch.chdir("/")
    config = validate(read_yaml(text, "it"))
    assert config.recipe.weights == tmp_path / "w.safetensors"
    assert config.runs == Path("my/runs")


def test_reading_a_recipe_gives_what_the_file_says_and_no_base(tmp_path: Path) -> None:
    values = read_recipe(write(tmp_path, "base: demo\nseed: 4\n"))
    assert values == {**read_yaml((RECIPES / "demo.yaml").read_text(), "it"), "seed": 4, "name": "mine"}


# --- differences


def test_equal_configs_have_no_differences() -> None:
    assert differences(with_settings("seed=1"), with_settings("seed=1")) == []


def test_what_differs_is_told_by_its_key_and_both_values() -> None:
    old, new = (
        with_settings("recipe.schedule.epochs=5", "tasks=[a]"),
        with_settings("recipe.schedule.epochs=8", "tasks=[a]", "folds.k=3"),
    )
    assert differences(old, new) == ["folds.k was 5 and is 3", "recipe.schedule.epochs was 5 and is 8"]


def test_a_list_that_grew_differs() -> None:
    old, new = with_settings("views=[original]"), with_settings("views=[original, hflip]")
    assert differences(old, new) == ["views.1 was None and is hflip"]


@pytest.mark.parametrize(
    "setting",
    [
        "name=other",
        "runs=elsewhere",
        "cache=elsewhere",
        "compute.cpus=3",
        "compute.retries=9",
        "data.test=a",
        "data.test_root=b",
        "data.max_missing_test=1",
    ],
)
def test_what_cannot_change_a_result_is_no_difference(setting: str) -> None:
    assert differences(with_settings(), with_settings(setting)) == []


def test_nested_values_are_flattened_to_dotted_keys() -> None:
    values = {"a": {"b": [1, {"c": 2}]}, "d": None, "empty": []}
    assert flatten(values) == {"a.b.0": 1, "a.b.1.c": 2, "d": None}


def test_a_task_that_no_member_predicts_is_refused() -> None:
    tasks = {name: {"classes": ["a", "b"]} for name in ("mask", "age")}
    alone = validate({"tasks": tasks, "members": [{"task": "mask"}]})
    with pytest.raises(InputError, match=r"none predicts the task 'age'.*tasks.age=null"):
        resolve_members(alone)
    for whole in ("multi", "joint"):
        assert len(resolve_members(validate({"tasks": tasks, "members": [{"task": "mask"}, {"task": whole}]}))) == 2


def test_another_vote_or_test_set_is_the_same_run() -> None:
    old = validate({"vote": {"rule": "soft"}})
    assert not differences(old, validate({"vote": {"rule": "hard"}, "data": {"test": "new.csv"}, "runs": "elsewhere"}))
    elsewhere = {"path": "new.csv", "image_root": "photos"}  # data are told apart by their content
    assert not differences(old, validate({"vote": {"rule": "soft"}, "data": elsewhere}))
    assert differences(old, validate({"data": {"group_column": "person"}}))
