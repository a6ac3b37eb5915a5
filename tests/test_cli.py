"""The command line as a user types it: mistakes end in one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def raymask(*arguments: str, script: str = "-m raymask.cli") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *script.split(), *arguments], capture_output=True, text=True, timeout=550, check=False, cwd=ROOT
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data", "/nowhere/photos"], "data.path: there is nothing at '/nowhere/photos'."),
        (["--recipe", "demos"], "there is no recipe 'demos'; it may be 'demo' (the nearest)"),
        (["--set", "recipe.schedule.epoch=3"], "there is no key 'recipe.schedule.epoch'; it may be 'epochs' (the nearest)"),
        (["--set", "views=[original,vflop]"], "there is no view or set of views 'vflop'"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(arguments: list[str], sentence: str) -> None:
    answer = raymask(*arguments, script="jobs/ensemble.py")
    assert answer.returncode == 2
    assert sentence in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
    assert not answer.stdout


def test_a_refit_of_no_run_is_answered_in_one_sentence(tmp_path: Path) -> None:
    answer = raymask("refit", str(tmp_path), "--member", "mask", "--member", "age")
    assert answer.returncode == 2
    assert answer.stderr == f"raymask: '{tmp_path}' holds no run: it has no config.yaml.\n"
    assert not list(tmp_path.iterdir())


def test_the_recipes_are_listed_with_their_commands() -> None:
    listed = raymask("recipes").stdout
    for name in ("demo", "probe", "baseline"):
        assert f"\n{name}\n" in f"\n{listed}"
    assert "raymask train --recipe probe" in listed


def test_demo_data_are_written_once(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    assert raymask("demo-data", str(folder), "--people", "3", "--test-people", "1").returncode == 0
    assert len(list((folder / "train" / "images").rglob("*.jpg"))) == 21
    other = raymask("demo-data", str(folder), "--people", "4", "--test-people", "1")
    assert other.returncode == 2
    assert len(other.stderr.strip().splitlines()) == 1


def test_a_ray_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    answer = raymask("train", "--runs", str(tmp_path), "--set", "data.demo_people=5", "--set", "folds.k=2")
    assert answer.returncode == 2
    assert "RAY_ADDRESS is '127.0.0.1:1', but no Ray answers there" in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
