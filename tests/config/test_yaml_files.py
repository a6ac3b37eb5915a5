"""Config files as YAML 1.2's core schema reads them, settings as a user types them, and all that is neither."""

from __future__ import annotations

import copy
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymask.config.loading import load_config, validate
from raymask.config.settings import apply_setting, read_setting
from raymask.config.yaml_files import MAX_BYTES, dump_yaml, read_recipe, read_yaml
from raymask.core.errors import InputError


def refused(text: str) -> str:
    with pytest.raises(InputError) as caught:
        read_yaml(text, "it")
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith(".")
    return said


@pytest.mark.parametrize(
    ("written", "read"),
    [
        *[(text, text) for text in ("off", "no", "Yes", "on", "y", "2024-01-01", "2024-13-45", "12:30:45", "1_000", "=", "<<")],
        *[(text, text) for text in ("0b11", "+0x1f", "0o8", "1e", "nUll", "tRue", "a#b")],
        *[(text, None) for text in ("~", "null", "Null", "NULL")],
        *[(text, True) for text in ("true", "True", "TRUE")],
        ("0224", 224),
        ("-07", -7),
        ("0o17", 15),
        ("0x1F", 31),
        ("1e3", 1000.0),
        ("5.", 5.0),
        (".5", 0.5),
        ("-.INF", -float("inf")),
    ],
)
def test_plain_words_are_what_the_core_schema_says(written: str, read: Any) -> None:
    for got in (read_yaml(f"a: {written}", "it")["a"], read_yaml(f"[{written}, 0]", "it")[0], read_setting(written, "a")):
        assert got == read
        assert isinstance(got, type(read))


FORMS = r"[-+]?[0-9]{1,20}|0o[0-7]{1,9}|0x[0-9a-fA-F]{1,9}|[-+]?[0-9]{0,5}\.[0-9]{1,5}([eE][-+]?[0-9]{1,2})?"
NUMBERS = st.from_regex(re.compile(rf"({FORMS})", re.ASCII), fullmatch=True)


@given(st.lists(NUMBERS, min_size=2, max_size=4, unique=True))
@settings(max_examples=50, deadline=None)
def test_a_number_where_a_text_is_wanted_keeps_its_text(written: list[str]) -> None:
    listed = f"[{', '.join(written)}]"
    values = read_yaml(f"tasks: {{a: {{classes: {listed}, column: {written[0]}}}}}\ndata: {{path: {written[1]}}}", "it")
    apply_setting(values, f"tasks.b.classes={listed}")
    config = validate(pickle.loads(pickle.dumps(copy.deepcopy(values))))
    assert [list(config.tasks[name].classes or ()) for name in "ab"] == [written, written]
    assert config.tasks["a"].column == written[0]
    assert config.data.path == written[1]
    assert validate(read_yaml(dump_yaml(config.model_dump(mode="json")), "it")) == config


def test_names_and_paths_written_as_numbers_keep_their_text() -> None:
    over = ["name=0224", "runs=007", "cache=1.10", "members=[{task: mask, name: 01}]", "vote.weights={01: 0x2}"]
    config = load_config("demo", over)
    assert (config.name, config.runs, config.cache) == ("0224", Path("007"), Path("1.10"))
    assert (config.members[0].name, config.vote.weights) == ("01", {"01": 2.0})


TEXTS = st.text() | st.from_regex(r"\A[-+~=<>@`%&*!|#?:, .0-9a-fox_TneyN'\"\\\[\]{}\n\t]{0,12}\Z")
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
VALUES = st.recursive(SCALARS, lambda under: st.lists(under, max_size=3) | st.dictionaries(TEXTS, under, max_size=3))


@given(VALUES)
@settings(max_examples=300, deadline=None)
def test_what_is_dumped_is_read_again(values: Any) -> None:
    if "\\ud" not in ascii(values):  # half a surrogate pair is no character
        assert read_yaml(dump_yaml(values), "it") == values


@pytest.mark.parametrize("words", ["off", "2024-01-01", "1:30", "0224", "0o17", "1_0"])
def test_what_yaml_1_1_reads_as_another_is_dumped_in_quotes(words: str) -> None:
    assert dump_yaml([words]) == f"- '{words}'\n"


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_refused_in_one_sentence(text: str) -> None:
    said: list[str] = []
    for read in (lambda: read_yaml(text, "it"), lambda: read_setting(text.strip(), "a")):
        try:
            read()
        except InputError as error:
            said.append(str(error))
    assert all(sentence.endswith(".") for sentence in said)


# --- what a file may not be

N = 200_000


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "a second time"),
        ("recipe:\n  lr: 1\n  epochs: 2\n  lr: 3\n", 4, "a second time"),
        ("{a: 1, 'a': 2}", 1, "a second time"),
        ("? [a]\n: b\n", 1, "no list or mapping"),
        ("{a: b}: c", 1, "no list or mapping"),
        ("a: !!python/object/apply:os.system [id]", 1, "a tag"),
        ("a: 1\nb: !custom 2", 2, "a tag"),
        ("a: !!binary aGk=", 1, "a tag"),
        ("a: !!int x", 1, "no number"),
        (f"a: {'9' * 2000}", 1, "no number"),
        (f"a: 0x{'f' * 9000}", 1, "no number"),
        ("a: *b", 1, "no anchor"),
        ("a: 1\n---\nb: 2\n", 2, "a second document"),
        ("a: &b [1, *b]", 1, "itself a part"),
        ("a:\n\tb: 1\n", 2, ""),
        ("a: 1\nb: \0", 2, "no text has"),
        ("- " * 100, 1, "levels deep"),
        ("a: [" + "x," * N + "]", 1, "values"),
    ],
)
def test_what_no_config_needs_is_refused_with_its_line(text: str, line: int, why: str) -> None:
    said = refused(text)
    assert f"line {line}" in said
    assert why in said


def test_aliases_may_repeat_a_little_but_not_grow_without_end() -> None:
    assert read_yaml("a: &x {b: 1}\nc: [*x, *x]", "it") == {"a": {"b": 1}, "c": [{"b": 1}, {"b": 1}]}
    levels = [f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]" for level in range(1, 12)]
    assert "more than 100,000 values" in refused("\n".join(["l0: &l0 x", *levels]))


@pytest.mark.parametrize(
    "piece", ["[", "{", "- ", "? ", "[a: ", "{a: ", "&a ", "*a ", "!", "!a ", "%a\n", "---\n", '"', "|\n", "a: 1\n"]
)
def test_a_bomb_of_one_piece_is_refused_at_once(piece: str) -> None:
    refused(piece * (MAX_BYTES // len(piece)))


def test_words_after_a_bom_and_in_any_language_are_read(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes("tasks: {mask: {classes: ['쓴', '안 쓴', Größe]}}\n".encode("utf-8-sig"))
    assert load_config(file).tasks["mask"].classes == ("쓴", "안 쓴", "Größe")


@pytest.mark.parametrize("content", ["name: x\n".encode("utf-16"), "name: x\n".encode("utf-16-le"), b"name: \xff\n", b"\x80"])
def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"is not valid YAML.*\.$"):
        read_recipe(str(file))


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "circle.yaml").symlink_to("circle.yaml")
    (tmp_path / "large.yaml").write_bytes(b"# comment\n" * (MAX_BYTES // 10 + 1))
    (tmp_path / "file").touch()
    names = ["folder", "fifo", "zero", "circle", "large", "file/below", "x" * 300, "nul\0"]
    for name in names:
        with pytest.raises(InputError, match=r"^'?[^\n]*\.$"):
            read_recipe(f"{tmp_path}/{name}.yaml")
    for recipe in ("", "..", "../recipes/demo", "/etc/passwd", "x" * 300, "a\0b"):
        with pytest.raises(InputError, match=r"^there is no recipe "):
            read_recipe(recipe)


# --- settings


@pytest.mark.parametrize(
    "text",
    ["/data/runs #1/x", "a: b", "#a", "@a", "%a", "*a", "&a", "!a", "!!int 3", "|", "> a", "- a", "? a", "C:\\x", "C:\\new", "a]",
     "a, b", "off", "no", "2024-01-01", "it's", 'a "b" c', "---", "...", "a\tb"],
)  # fmt: skip
def test_a_plain_value_of_a_setting_is_kept_whole(text: str) -> None:
    values: dict[str, Any] = {}
    apply_setting(values, f"data.path={text}")
    assert values == {"data": {"path": text}}


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("'a #1'", "a #1"),
        ('"a\\tb"', "a\tb"),
        ("[yes, no]", ["yes", "no"]),
        ("['a #1', b]", ["a #1", "b"]),
        ("{a: {edges: [30, 60]}}", {"a": {"edges": [30, 60]}}),
        ("''", ""),
    ],
)
def test_quotes_lists_and_mappings_of_a_setting_are_yaml(text: str, read: Any) -> None:
    assert read_setting(text, "x") == read


@pytest.mark.parametrize(
    "text", ["[a #1, b]", "{a: b #c}", "[a] # c", "'a' # c", "[a]b", "'a'b", '"C:\\x"', "{a: 1, a: 2}", "[*a]", "['a"]
)
def test_a_value_that_would_be_cut_or_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^--set x: the value '.*' cannot be read; quote it.*\.$"):
        read_setting(text, "x")


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("vote.weights.'mask.v2'=3", {"vote": {"weights": {"mask.v2": 3}}}),
        ('tasks."a=b".column=c=d', {"tasks": {"a=b": {"column": "c=d"}}}),
        ("'a.b'=1", {"a.b": 1}),
    ],
)
def test_keys_with_dots_are_quoted(setting: str, values: dict[str, Any]) -> None:
    got: dict[str, Any] = {}
    apply_setting(got, setting)
    assert got == values


@pytest.mark.parametrize("setting", ["a..b=1", ".a=1", "a.=1", "''=1", "=", ".=1", "a.''=1"])
def test_a_setting_with_an_empty_key_is_refused(setting: str) -> None:
    with pytest.raises(InputError, match=r"^--set takes key\.path=value"):
        apply_setting({}, setting)


def test_no_message_is_longer_than_a_screen() -> None:
    with pytest.raises(InputError) as caught:
        load_config("demo", [f"seed={'x' * 10**6}"])
    assert len(str(caught.value)) < 1000
