"""Config files and `key.path=value` settings as plain values, and back: YAML 1.2's core schema alone.

`off`, `no` and dates are texts. A number remembers how it is written, for where it is a name after all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from yamlcore import CCoreLoader

from raymask.config.flat_recipes import config_in_groups
from raymask.config.merging import deep_merge
from raymask.core.errors import InputError, one_of

RECIPES = Path(__file__).parents[1] / "recipes"
RUN_CONFIG = "config.yaml"
"""What a run calls its config; a recipe of that name is taken for a file of a run."""

MAX_BYTES = 2**20
MAX_VALUES = 100_000
"""Of a config file, those that its aliases repeat among them."""
MAX_LEVELS = 50
MAX_DIGITS = 1000


class _AsWritten:
    """A number that is printed as it is written: `0224` for 224."""

    text: str

    def __str__(self) -> str:
        return self.text


class WrittenInt(_AsWritten, int):
    """A whole number and its text."""


class WrittenFloat(_AsWritten, float):
    """A number and its text."""


class Loader(CCoreLoader):  # type: ignore[misc]
    """The core schema, with numbers that remember how they are written."""

    def number(self, node: yaml.ScalarNode) -> WrittenInt | WrittenFloat:
        """A number that remembers its text."""
        number: WrittenInt | WrittenFloat
        try:
            if len(node.value) > MAX_DIGITS:
                raise ValueError
            if node.tag.endswith(":int"):
                number = WrittenInt(self.construct_yaml_int_core(node))
            else:
                number = WrittenFloat(self.construct_yaml_float_core(node))
        except (ValueError, IndexError):  # such as `!!int x`
            raise yaml.constructor.ConstructorError(None, None, "no number", node.start_mark) from None
        number.text = node.value
        return number


Loader.add_constructor("tag:yaml.org,2002:int", Loader.number)
Loader.add_constructor("tag:yaml.org,2002:float", Loader.number)


class _Dumper(yaml.SafeDumper):
    """Quotes a text that YAML 1.1 or 1.2 would read as something else."""

    def text(self, value: str) -> yaml.ScalarNode:
        lost = "\x85" in value or "\u2028" in value or "\u2029" in value  # line ends of YAML 1.1, which are folded unless escaped
        return self.represent_scalar("tag:yaml.org,2002:str", value, style='"' if lost else None)


_Dumper.add_representer(str, _Dumper.text)
for _first, _resolvers in CCoreLoader.yaml_implicit_resolvers.items():
    for _tag, _pattern in _resolvers:
        _Dumper.add_implicit_resolver(_tag, _pattern, [_first])


def read_yaml(text: str, name: str) -> Any:
    """The values of a YAML document.

    Args:
        text: the document.
        name: of what it is, for messages.

    Raises:
        InputError: it is no YAML, or of a kind that no config needs: several documents, tags of other types, aliases that
            repeat themselves or grow without end.
    """
    return guarded(lambda: _checked_load(text, name), text, f"{name} is not valid YAML")


def guarded(load: Callable[[], Any], text: str, refusal: str) -> Any:
    """What `load` makes of a text; where that is no YAML, `refusal` is raised with the line and the reason."""
    try:
        return load()
    except yaml.MarkedYAMLError as error:
        line = _at_line(error.problem_mark or error.context_mark)
        why = next((words for start, words in REASONS.items() if str(error.problem).startswith(start)), "")
        raise InputError(f"{refusal}{line}{why}.") from None
    except yaml.reader.ReaderError as error:
        number = text[: error.position].count("\n") + 1
        raise InputError(f"{refusal} at line {number}: it holds a character that no text has.") from None
    except KeyError:  # such as `!!bool x`
        raise InputError(f"{refusal}.") from None


def _at_line(mark: Any) -> str:
    return f" at line {mark.line + 1}" if mark else ""


REASONS = {
    "found duplicate key": ": a key stands there a second time",
    "found unhashable key": ": a key must be one word, no list or mapping",
    "could not determine a constructor": ": it has a tag that no config needs",
    "found undefined alias": ": an alias has no anchor before it",
    "no number": ": that is no number",
}


def _checked_load(text: str, name: str) -> Any:
    _check_size(text, name)
    return yaml.load(text, Loader=Loader)


def _check_size(text: str, name: str) -> None:
    """Refuses what would take long or much memory to build, before anything is built."""
    counted = _Counted(name)
    for event in yaml.parse(text, Loader=Loader):
        counted.add(event)


class _Counted:
    """The values of a document, those that aliases repeat counted again."""

    def __init__(self, name: str) -> None:
        self.name, self.values, self.documents = name, 0, 0
        self.sizes: dict[str, int] = {}
        """Values at and below each anchor."""
        self.opened: list[tuple[str | None, int]] = []
        """Of each open list or mapping its anchor, and the values before it."""

    def add(self, event: yaml.Event) -> None:
        """Counts a part of the document, and refuses the document where it holds too much."""
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise self._refusal(event, "a second document begins; a config is one")
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = self.opened.pop()
            if anchor:
                self.sizes[anchor] = self.values - before
        elif isinstance(event, yaml.ScalarEvent):
            self.values += 1
            if event.anchor:
                self.sizes[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            self._repeat(event)
        if self.values > MAX_VALUES:
            raise self._refusal(event, f"there are more than {MAX_VALUES:,} values, what aliases repeat among them")

    def _open(self, event: yaml.CollectionStartEvent) -> None:
        self.opened.append((event.anchor, self.values))
        self.values += 1
        if len(self.opened) > MAX_LEVELS:
            raise self._refusal(event, f"values lie more than {MAX_LEVELS} levels deep")

    def _repeat(self, event: yaml.AliasEvent) -> None:
        if event.anchor in {anchor for anchor, _ in self.opened}:
            raise self._refusal(event, f"the alias '*{event.anchor}' repeats what it is itself a part of")
        self.values += self.sizes.get(event.anchor or "", 1)

    def _refusal(self, event: yaml.Event, why: str) -> InputError:
        return InputError(f"{self.name}{_at_line(event.start_mark)}: {why}.")


def dump_yaml(values: Any, in_a_line: bool = False) -> str:
    """YAML from which `read_yaml` makes the same values again."""
    how: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "width": float("inf"), "default_flow_style": in_a_line}
    return str(yaml.dump(values, Dumper=_Dumper, **how))


def recipe_names() -> list[str]:
    """Names of the recipes that come with raymask."""
    return sorted(file.stem for file in RECIPES.glob("*.yaml"))


def read_recipe(recipe: str, above: Sequence[str] = ()) -> dict[str, Any]:
    """The values of a named recipe or a YAML file, its `base` merged under it; `above` are those that led to it."""
    if recipe in above:
        raise InputError(f"base: '{recipe}' is its own base ({' -> '.join([*above, recipe])}).")
    is_file = recipe.endswith((".yaml", ".yml"))
    file = Path(recipe) if is_file else RECIPES / f"{recipe}.yaml"
    if not is_file and recipe not in recipe_names():
        raise InputError(
            f"there is no recipe '{recipe}'; it may be {one_of(recipe_names(), recipe)}, or a path that ends in .yaml."
        )
    values = read_yaml(_read_text(file, recipe), f"'{file}'") or {}
    if not isinstance(values, dict):
        raise InputError(f"'{file}' must hold keys and values, not a {_kind(values)}.")
    if file.name == RUN_CONFIG:
        values = config_in_groups(values)
        _mark_untrusted(values, file)
    base = values.pop("base", None)
    values.setdefault("name", file.stem)
    if not base:
        return values
    beside = file.parent / str(base)
    return deep_merge(read_recipe(str(beside) if is_file and beside.is_file() else str(base), [*above, recipe]), values)


class RuleOfARun(str):
    """An import path that stands in a run's config, and is not followed unless the caller gives it too."""

    file: Path


def _mark_untrusted(values: dict[str, Any], file: Path) -> None:
    """Marks a rule of one's own in a run's config, so that it is refused unless the caller gives one in its place."""
    vote = values.get("vote")
    if isinstance(vote, dict) and isinstance(vote.get("rule"), str) and ":" in vote["rule"]:
        vote["rule"] = RuleOfARun(vote["rule"])
        vote["rule"].file = file


def _read_text(file: Path, given: str) -> str:
    try:
        if not file.is_file():  # nothing else is opened: a FIFO would never answer
            raise InputError(f"'{given}' is no file." if file.exists() else f"there is no config file '{given}'.")
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"'{given}' is no config file: it has {size:,} bytes, where {MAX_BYTES:,} are the most.")
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"'{given}' is not valid YAML: byte {error.start} is not UTF-8; save it as UTF-8.") from None
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"'{given}' cannot be read: {getattr(error, 'strerror', None) or error}.") from None


def _kind(value: Any) -> str:
    kinds = {bool: "yes or no", list: "list", str: "text", WrittenInt: "number", WrittenFloat: "number"}
    return kinds[type(value)]
