"""The rooms of the code: which way the arrows between them run, and who knows Ray, torch and albumentations."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

import raymask

ROOT = Path(raymask.__file__).parent

# From bottom to top: a module may import those of the levels below its own, at the top of its file or inside a function.
LEVELS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "machine"}),
    frozenset(
        {
            "names",
            "paths",
            "endings",
            "device",
            "display",
            "kernels",
            "plots",
            "trees",
            "data.portraits",
            "guard",
            "turns",
            "data.colours",
            "data.embedded",
            "data.splits",
        }
    ),
    frozenset({"config_files", "ray_environment", "explain", "tasks", "formats", "run_files", "data.files", "data.demo"}),
    frozenset({"config", "calibration", "data.decode", "data.parquet"}),
    frozenset(
        {
            "store",
            "data.careful",
            "tta",
            "losses",
            "metrics",
            "models",
            "data.tables",
            "data.rejected",
            "data.folds",
            "data.cache",
            "data.augment",
        }
    ),
    frozenset({"optim", "rules", "given", "hashing", "data.batches", "data.competition", "data.duplicates", "data.folders"}),
    frozenset(
        {
            "adjust",
            "uploads",
            "ensemble",
            "resample",
            "data.features",
            "data.sources",
            "data.test_sets",
            "data.kinds",
            "model_files",
        }
    ),
    frozenset({"identity", "outputs", "run_tables", "oof", "gate", "choice", "submit", "feeds"}),
    frozenset({"viewing", "gauges", "listen"}),
    frozenset({"plan", "engine", "vote"}),
    frozenset({"vote_files"}),
    frozenset({"ways", "cluster", "soup", "inference", "report_vote", "data.prepare", "data.stream"}),
    frozenset({"capacity", "waiting"}),
    frozenset({"session", "backbones", "graphs", "card", "report_material", "bundle", "answers"}),
    frozenset({"train", "trial", "embed", "predict", "bulk", "report", "web", "graph_files", "checkpoints"}),
    frozenset({"election", "prediction", "soups", "serve", "export"}),
    frozenset({"teacher", "gain"}),
    frozenset({"opening"}),
    frozenset({"stages"}),
    frozenset({"refit"}),
    frozenset({"singles"}),
    frozenset({"pipeline"}),
    frozenset({"afterwards"}),
    frozenset({"cli"}),
)
LEVEL_OF = {module: level for level, modules in enumerate(LEVELS) for module in modules}
WITHIN_A_LEVEL = {("data.prepare", "data.stream"), ("train", "trial"), ("bulk", "predict"), ("data.tables", "data.rejected")}

KNOWS_RAY = {
    "capacity",
    "cluster",
    "train",
    "trial",
    "embed",
    "predict",
    "bulk",
    "soups",
    "serve",
    "backbones",
    "waiting",
    "data.prepare",
    "data.stream",
}
KNOWS_ALBUMENTATIONS = {"data.augment"}


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(file): file for file in sorted(ROOT.rglob("*.py"))}
MODULES = sorted(name for name in FILES if name not in ("", "data"))


def _imports(body: list[ast.stmt], inside: bool) -> Iterator[str]:
    """Full names of what is imported: `raymask.data.files`, `ray.data`; with `inside`, by functions and type checkers too."""
    for node in chain.from_iterable(ast.walk(statement) if inside else [statement] for statement in body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif not inside and isinstance(node, ast.If | ast.Try | ast.With) and "TYPE_CHECKING" not in ast.dump(node):
            yield from _imports([child for child in ast.walk(node) if isinstance(child, ast.Import | ast.ImportFrom)], inside)


@cache
def imports_of(name: str, inside: bool = True) -> frozenset[str]:
    return frozenset(_imports(ast.parse(FILES[name].read_text()).body, inside))


def own(names: frozenset[str]) -> set[str]:
    """The modules of raymask among imported names."""
    return {name.removeprefix("raymask.") for name in names} & set(MODULES)


def packages(names: frozenset[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@cache
def loaded_with(name: str) -> frozenset[str]:
    """Packages that importing a module loads by way of raymask's own modules."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += own(imports_of(module, inside=False))
    return frozenset(chain.from_iterable(packages(imports_of(module, inside=False)) for module in seen))


class TestArrows:
    def test_every_module_has_one_level(self) -> None:
        assert sum(map(len, LEVELS)) == len(LEVEL_OF)
        assert sorted(LEVEL_OF) == MODULES, "a new module needs a level in this file's table, a deleted one has none"

    @pytest.mark.parametrize("module", MODULES)
    def test_a_module_imports_only_those_of_lower_levels(self, module: str) -> None:
        upward = {
            other
            for other in own(imports_of(module))
            if LEVEL_OF[other] >= LEVEL_OF[module] and (module, other) not in WITHIN_A_LEVEL
        }
        assert not upward, f"raymask.{module} must not import {sorted(upward)}"

    def test_every_module_but_the_command_line_is_imported_by_another(self) -> None:
        reached = set().union(*(own(imports_of(module)) for module in MODULES))
        assert set(MODULES) - reached == {"cli"}

    def test_the_walk_sees_imports_inside_functions(self) -> None:
        assert "train" in own(imports_of("stages"))
        assert "train" not in own(imports_of("stages", inside=False))
        assert {"config", "data.folds"} <= own(imports_of("stages", inside=False))
        assert "albumentations" in packages(imports_of("data.augment"))


class TestPackages:
    def test_only_these_modules_import_ray(self) -> None:
        assert {module for module in MODULES if "ray" in packages(imports_of(module))} == KNOWS_RAY

    def test_only_one_module_imports_albumentations(self) -> None:
        assert {module for module in MODULES if "albumentations" in packages(imports_of(module))} == KNOWS_ALBUMENTATIONS

    @pytest.mark.parametrize("module", ["tasks", "rules", "calibration", "ensemble", "choice", "viewing", "vote"])
    def test_labels_and_votes_know_neither_ray_nor_torch(self, module: str) -> None:
        assert packages(imports_of(module)) & {"ray", "torch", "timm"} == set()

    @pytest.mark.parametrize("module", sorted(set(MODULES) - KNOWS_RAY))
    def test_importing_the_others_does_not_load_ray_by_way_of_a_third(self, module: str) -> None:
        assert "ray" not in loaded_with(module)

    @pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("data.")])
    def test_what_workers_of_the_stream_import_does_not_load_torch(self, module: str) -> None:
        assert loaded_with(module) & {"torch", "timm", "torchvision"} == set()

    def test_the_engine_knows_no_files(self) -> None:
        assert own(imports_of("engine")) & {"store", "data.files", "data.sources"} == set()
        assert packages(imports_of("engine")) & {"pathlib", "pandas", "pyarrow", "os"} == set()


def loaded_by(statement: str) -> set[str]:
    """Packages that a fresh Python has loaded after a statement."""
    code = f"{statement}; import json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


class TestFreshProcess:
    @pytest.mark.parametrize("module", ["raymask", "raymask.cli"])
    def test_importing_raymask_is_light(self, module: str) -> None:
        loaded = loaded_by(f"import {module}")
        assert "raymask" in loaded
        assert loaded & {"ray", "torch", "timm", "pandas", "numpy", "albumentations", "sklearn"} == set()

    def test_labels_and_votes_need_neither_ray_nor_torch(self) -> None:
        loaded = loaded_by("import raymask.tasks, raymask.ensemble, raymask.config, raymask.store")
        assert "pandas" in loaded
        assert loaded & {"ray", "torch", "timm", "albumentations"} == set()

    def test_the_public_names_are_there_and_others_are_not(self) -> None:
        assert set(dir(raymask)) == set(raymask.__all__)
        assert raymask.InputError.__module__ == "raymask.errors"
        with pytest.raises(AttributeError, match="nonesuch"):
            raymask.nonesuch  # noqa: B018
