"""What the documents say can be typed: commands, options, settings and links, and the examples in docstrings."""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel

import raymask
from raymask.cli import USAGE_ERROR, app
from raymask.config.loading import load_config
from raymask.config.schema import RunConfig
from raymask.config.search import TuneConfig, search_config

PACKAGE = Path(raymask.__file__).parent
ROOT = PACKAGE.parent
README = ROOT / "README.md"
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))
RECIPES = sorted((PACKAGE / "recipes").glob("*.yaml"))
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*(page for page in sorted(ROOT.glob("*.md")) if page.name != "CHANGELOG.md"), *DOCS]

RAYMASK = re.compile(r"(?:uv run )?raymask (?=[a-z])")
JOB = re.compile(r".*python jobs/(ensemble|predict|tune)\.py\b")
JOBS = {"ensemble": "train", "predict": "predict", "tune": "tune"}
ROOMS = sorted({*RunConfig.model_fields} | {file.parent.name for file in PACKAGE.glob("*/__init__.py")})
DOTTED = re.compile(rf"(?:{'|'.join(ROOMS)})(?:\.\w+)+")


def fenced(text: str, language: str) -> list[str]:
    return [block.partition("```")[0] for block in text.split(f"```{language}\n")[1:]]


def spans(text: str) -> list[str]:
    """What stands between single backticks, outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def dotted(page: Path) -> list[str]:
    """Paths such as `vote.rule` and `data.stream` that a page begins a span with."""
    return sorted({found[0] for span in spans(page.read_text()) if (found := DOTTED.match(span))})


def arguments_of(line: str) -> list[str] | None:
    """Arguments of a line that runs raymask, or None for another line."""
    line = line.removeprefix("$ ").strip()
    if job := JOB.match(line):
        return [JOBS[job[1]], *shlex.split(line[job.end() :])]
    return shlex.split(line[found.end() :]) if (found := RAYMASK.match(line)) else None


def lines_to_type() -> Iterator[tuple[str, str]]:
    """Whole commands: those of shell blocks, of the README's text, and of recipes' comments."""
    for page in PAGES:
        for block in fenced(page.read_text(), "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                yield from ((page.name, part) for part in line.split("&&"))
    yield from (("README.md", span) for span in spans(README.read_text()))
    yield from ((recipe.name, line.removeprefix("# ")) for recipe in RECIPES for line in recipe.read_text().splitlines())


COMMANDS = [
    pytest.param(arguments, id=f"{name}: {' '.join(arguments)}")
    for name, line in dict.fromkeys(lines_to_type())
    if (arguments := arguments_of(line)) is not None and not {"…", "--help"} & set(arguments)
]
SPANS = [pytest.param(span, id=f"{page.name}: {span}") for page in PAGES for span in dict.fromkeys(spans(page.read_text()))]


def group() -> Any:
    return typer.main.get_command(app)


def parsed(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """The command and its parameters, as typer understands them."""
    with group().make_context("raymask", list(arguments), resilient_parsing=True) as context:
        name, command, rest = group().resolve_command(context, list(arguments))
        assert name in options(), arguments
        return name, command.make_context(name, rest, parent=context).params


@cache
def options() -> dict[str, set[str]]:
    return {
        name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in group().commands.items()
    }


@pytest.fixture(scope="module")
def own_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's example of a recipe, as a file."""
    [example] = fenced(README.read_text(), "yaml")
    file = tmp_path_factory.mktemp("recipes") / "mine.yaml"
    file.write_text(example)
    return file


@pytest.fixture(scope="module")
def own_search(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The example of a search's file in its page."""
    [example] = fenced((ROOT / "docs" / "search.md").read_text(), "yaml")
    file = tmp_path_factory.mktemp("searches") / "mine.yaml"
    file.write_text(example)
    return str(file)


class TestCommands:
    def test_there_are_some_to_check(self) -> None:
        assert len(COMMANDS) >= 15

    @pytest.mark.parametrize("arguments", COMMANDS)
    def test_a_command_can_be_typed(self, arguments: list[str], own_recipe: Path, own_search: str) -> None:
        name, parameters = parsed(arguments)
        recipe = parameters.get("recipe") or "demo"
        if name == "tune":
            assert search_config(own_search if recipe == own_recipe.name else recipe, parameters.get("set_") or ()).space
            return
        load_config(own_recipe if recipe == own_recipe.name else recipe, parameters.get("set_") or ())

    def test_what_cannot_be_typed_is_seen(self) -> None:
        with pytest.raises(AssertionError, match="nonesuch"):
            parsed(["nonesuch", "RUN"])
        for wrong in (["vote", "RUN", "--nonesuch"], ["predict", "RUN"]):
            with pytest.raises(USAGE_ERROR):
                parsed(wrong)

    @pytest.mark.parametrize("span", [param for param in SPANS if RAYMASK.match(str(param.values[0]))])
    def test_a_command_that_is_mentioned_exists_with_its_options(self, span: str) -> None:
        name, *rest = arguments_of(span) or [""]
        assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= options()[name]

    @pytest.mark.parametrize("span", [param for param in SPANS if re.match(r"--[a-z]", str(param.values[0]))])
    def test_an_option_that_is_mentioned_exists(self, span: str) -> None:
        option, *values = shlex.split(span)
        if option == "--set" and values and "=" in values[0]:
            load_config("baseline", values)
        else:
            of_benchmarks = re.findall(r'"(--[a-z-]+)"', "".join(file.read_text() for file in BENCHMARKS))
            assert option.partition("=")[0] in set().union(of_benchmarks, *options().values())


def _has(model: Any, keys: list[str]) -> bool:
    """Whether a path of keys leads to a field of a model; what is no model may hold any."""
    models = [part for part in _parts(model) if isinstance(part, type) and issubclass(part, BaseModel)]
    if not keys or not models:
        return True
    return any(keys[0] in part.model_fields and _has(part.model_fields[keys[0]].annotation, keys[1:]) for part in models)


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _parts(part)


def _in_code(path: str) -> bool:
    """Whether a dotted path is that of a module, or of a name that is defined in one."""
    module, _, name = path.rpartition(".")
    if (PACKAGE / path.replace(".", "/")).with_suffix(".py").exists():
        return True
    file = (PACKAGE / module.replace(".", "/")).with_suffix(".py")
    return file.exists() and bool(re.search(rf"^(?:def |class )?{name}\b", file.read_text(), re.MULTILINE))


class TestNames:
    @pytest.mark.parametrize(("page", "path"), [(page, path) for page in (README, *DOCS) for path in dotted(page)], ids=str)
    def test_a_key_or_a_name_of_the_code_that_is_mentioned_exists(self, page: Path, path: str) -> None:
        group, *keys = path.split(".")
        is_key = (group in RunConfig.model_fields and _has(RunConfig, [group, *keys])) or (
            group == "tune" and _has(TuneConfig, keys)
        )
        assert is_key or _in_code(path) or (ROOT / path).exists()

    def test_what_does_not_exist_is_seen(self) -> None:
        assert not _in_code("voting.vote.nonesuch")
        assert not _has(RunConfig, ["vote", "nonesuch"])
        assert not _has(RunConfig, ["recipe", "nonesuch"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    lost = [link for link in links if "://" not in link and not (page.parent / link.partition("#")[0]).exists()]
    assert not lost


def test_commits_are_checked_as_ci_checks() -> None:
    hooks = [
        hook["entry"]
        for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
        for hook in repo["hooks"]
    ]
    checks = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("uv run ")]
    assert checks == [*hooks, "uv run pytest"]


EXAMPLE = re.compile(r">>> (?!.*doctest: \+SKIP)")
WITH_EXAMPLES = [file for file in sorted(PACKAGE.rglob("*.py")) if EXAMPLE.search(file.read_text())]


@pytest.mark.parametrize("file", WITH_EXAMPLES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_examples_in_docstrings_run(file: Path) -> None:
    module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.attempted
    assert not result.failed, "its failures are in the captured output"
