"""Commands of development: `uv run nox -l` lists them, `uv run nox -s lint types` runs some. Arguments after `--` go on."""

from __future__ import annotations

import os

import nox

PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))
WITHOUT_RAY = ("core", "config", "io", "metrics", "transforms", "models", "voting", "runs", "report")
MIN_COVERAGE = 80
BENCHMARKS = ("ensemble", "tta")

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests"]


@nox.session
def lint(session: nox.Session) -> None:
    """Rules and format."""
    session.run("uv", "run", "ruff", "check", ".", *session.posargs)
    session.run("uv", "run", "ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types."""
    session.run("uv", "run", "mypy")
    session.run("uv", "run", "mypy", "tests", "benchmarks")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, by the README's second command."""
    session.run("uv", "run", "pytest", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Branch coverage, with a floor, of the packages whose tests start no Ray; it nearly doubles their time."""
    measured = [f"--cov=raymask.{package}" for package in WITHOUT_RAY]
    options = ("--cov-branch", "--cov-report=term-missing:skip-covered", f"--cov-fail-under={MIN_COVERAGE}")
    session.run("uv", "run", "pytest", *(f"tests/{package}" for package in WITHOUT_RAY), *measured, *options, *session.posargs)


@nox.session(venv_backend="uv", python=PYTHONS)
def tests_without_ray(session: nox.Session) -> None:
    """The tests that start no Ray, under each Python that raymask supports."""
    location = session.virtualenv.location
    session.run_install("uv", "sync", "--quiet", f"--python={location}", env={"UV_PROJECT_ENVIRONMENT": location})
    session.run("pytest", *(f"tests/{package}" for package in WITHOUT_RAY), *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """The README's first command."""
    session.run("uv", "run", "python", "jobs/ensemble.py", *session.posargs)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """The benchmarks of training and prediction, as ratios to what others write."""
    for name in BENCHMARKS:
        session.run("uv", "run", "--group", "benchmarks", "python", f"benchmarks/{name}.py", *session.posargs)


@nox.session
def numbers(session: nox.Session) -> None:
    """The picture of the packages, and the counts of long functions, files and argument lists."""
    environment = {"PYTHONPATH": os.curdir}
    session.run("uv", "run", "python", "tests/test_layers.py", env=environment)
    session.run("uv", "run", "python", "tests/helpers/code_size.py", env=environment)


@nox.session
def package(session: nox.Session) -> None:
    """The wheel and the source distribution, in dist/."""
    session.run("uv", "build", *session.posargs)
