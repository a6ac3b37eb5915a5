"""Which package may import which, and who knows Ray, torch and albumentations. As a script it prints the picture."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

import raymask

ROOT = Path(raymask.__file__).parent

# From bottom to top: a package imports only from floors below its own, at the top of a file or inside a function.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"core", "recipes"}),
    frozenset({"config", "io", "metrics", "ray_internals", "transforms"}),
    frozenset({"cluster", "data", "models", "runs"}),
    frozenset({"search", "training", "voting"}),
    frozenset({"inference", "report"}),
    frozenset({"export", "serving", "workflows"}),
    frozenset({"raymask", "cli"}),
)
FLOOR_OF = {package: floor for floor, packages in enumerate(FLOORS, 1) for package in packages}

MAY_IMPORT_RAY = {"cluster", "data", "inference", "ray_internals", "serving", "training", "workflows"}
MAY_IMPORT_TORCH = {"cluster", "export", "inference", "models", "serving", "training", "transforms", "workflows"}
KNOWS_ALBUMENTATIONS = {"transforms.augment"}
IMPORTS_LAZILY = {"cli"}


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "raymask"


FILES = {name_of(file): file for file in sorted(ROOT.rglob("*.py"))}
MODULES = sorted(FILES)
PACKAGES = sorted({module.split(".")[0] for module in MODULES})


def package_of(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def _imports(body: list[ast.stmt], inside: bool) -> Iterator[str]:
    """Full names of what is imported: `raymask.io.files`, `ray.data`; with `inside`, by functions and type checkers too."""
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
def imports_of(module: str, inside: bool = True) -> frozenset[str]:
    return frozenset(_imports(ast.parse(FILES[module].read_text()).body, inside))


def own(names: frozenset[str]) -> set[str]:
    """The modules of raymask among imported names."""
    found = {name.removeprefix("raymask.") for name in names if name.split(".")[0] == "raymask"}
    return {name for name in found if name in FILES and FILES[name].name != "__init__.py"}


def libraries(names: frozenset[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@cache
def arrows() -> dict[tuple[str, str], frozenset[tuple[str, str]]]:
    """The imports behind each arrow from a package to another."""
    found: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for module in MODULES:
        for other in own(imports_of(module)):
            if package_of(other) != package_of(module):
                found[package_of(module), package_of(other)].add((module, other))
    return {pair: frozenset(imports) for pair, imports in found.items()}


@cache
def loaded_with(module: str) -> frozenset[str]:
    """Libraries that importing a module loads by way of raymask's own modules."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += own(imports_of(name, inside=False))
    return frozenset(chain.from_iterable(libraries(imports_of(name, inside=False)) for name in seen))


class TestFloors:
    def test_every_package_has_one_floor(self) -> None:
        assert sorted(FLOOR_OF) == sorted({*PACKAGES, "recipes"}), "a new package needs a floor in this file's table"
        assert len(FLOORS) <= 8

    @pytest.mark.parametrize("package", PACKAGES)
    def test_a_package_imports_only_from_lower_floors(self, package: str) -> None:
        upward = {
            f"{module} -> {other}"
            for (start, end), imports in arrows().items()
            if start == package and FLOOR_OF[end] >= FLOOR_OF[start] and (start, end) != ("cli", "raymask")
            for module, other in imports
        }
        assert not upward

    @pytest.mark.parametrize("package", PACKAGES)
    def test_modules_of_a_package_do_not_import_in_a_circle(self, package: str) -> None:
        inner = {
            module: {other for other in own(imports_of(module)) if package_of(other) == package and other != module}
            for module in MODULES
            if package_of(module) == package
        }
        while free := {module for module, below in inner.items() if not below & inner.keys()}:
            inner = {module: below for module, below in inner.items() if module not in free}
        assert not inner, "these import each other"

    def test_every_module_but_the_command_line_is_imported_by_another(self) -> None:
        reached = set().union(*(own(imports_of(module)) for module in MODULES))
        assert {module for module in MODULES if FILES[module].name != "__init__.py"} - reached == {"cli.__main__"}

    def test_the_walk_sees_imports_inside_functions(self) -> None:
        assert "workflows.train" in own(imports_of("cli.training"))
        assert "workflows.train" not in own(imports_of("cli.training", inside=False))
        assert "albumentations" in libraries(imports_of("transforms.augment"))


class TestLibraries:
    def test_only_these_packages_import_ray(self) -> None:
        assert {package_of(module) for module in MODULES if "ray" in libraries(imports_of(module))} <= MAY_IMPORT_RAY

    def test_only_these_packages_import_torch(self) -> None:
        assert {package_of(module) for module in MODULES if "torch" in libraries(imports_of(module))} <= MAY_IMPORT_TORCH

    def test_only_one_module_imports_albumentations(self) -> None:
        assert {module for module in MODULES if "albumentations" in libraries(imports_of(module))} == KNOWS_ALBUMENTATIONS

    @pytest.mark.parametrize("module", [module for module in MODULES if package_of(module) not in {*MAY_IMPORT_RAY, "cli"}])
    def test_importing_the_others_does_not_load_ray_by_way_of_a_third(self, module: str) -> None:
        assert "ray" not in loaded_with(module)

    @pytest.mark.parametrize("module", [module for module in MODULES if package_of(module) == "data"])
    def test_what_workers_of_the_stream_import_does_not_load_torch(self, module: str) -> None:
        assert loaded_with(module) & {"torch", "timm", "torchvision"} == set()

    def test_the_learner_knows_no_files(self) -> None:
        assert own(imports_of("training.learner")) & {"io.atomic", "io.files", "runs.directory", "data.sources"} == set()
        assert libraries(imports_of("training.learner")) & {"pathlib", "pandas", "pyarrow", "os"} == set()


def loaded_by(statement: str) -> set[str]:
    """Packages that a fresh Python has loaded after a statement."""
    code = f"{statement}; import json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=550)
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


class TestFreshProcess:
    @pytest.mark.parametrize("module", ["raymask", "raymask.cli"])
    def test_importing_raymask_is_light(self, module: str) -> None:
        loaded = loaded_by(f"import {module}")
        assert "raymask" in loaded
        assert loaded & {"ray", "torch", "timm", "pandas", "numpy", "albumentations", "sklearn"} == set()

    def test_labels_and_votes_need_neither_ray_nor_torch(self) -> None:
        loaded = loaded_by("import raymask.core.tasks, raymask.voting.vote, raymask.config.loading, raymask.runs.directory")
        assert "pandas" in loaded
        assert loaded & {"ray", "torch", "timm", "albumentations"} == set()

    def test_who_predicts_loads_no_scikit_learn(self) -> None:
        assert "sklearn" not in loaded_by("import raymask.inference.actors, raymask.inference.ensemble")

    def test_the_public_names_are_there_and_others_are_not(self) -> None:
        assert set(dir(raymask)) == set(raymask.__all__)
        assert raymask.InputError.__module__ == "raymask.core.errors"
        with pytest.raises(AttributeError, match="nonesuch"):
            raymask.nonesuch  # noqa: B018


def print_picture() -> None:
    """Packages by floor with the packages that each imports, and their numbers."""
    for floor in range(len(FLOORS), 0, -1):
        for package in sorted(FLOORS[floor - 1]):
            below = sorted(end for start, end in arrows() if start == package)
            files = sum(package_of(module) == package for module in MODULES)
            print(f"{floor}  {package:<11} {files:>3} files -> {', '.join(below) or '-'}")
    print(f"{len(PACKAGES)} packages on {len(FLOORS)} floors, {len(arrows())} arrows")


if __name__ == "__main__":
    print_picture()
