"""Paths as users give them: from the working directory, from home, inside a Ray job, and those that lead nowhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from made import make_run

from raymask import load
from raymask.cli import main
from raymask.config.loading import load_config
from raymask.core.errors import InputError
from raymask.core.paths import absolute, check_writable
from raymask.io import files
from raymask.runs.directory import cache_root
from raymask.workflows.setup import absolute_paths


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Ray job in a package folder of its own; the home folder."""
    home, package = tmp_path / "home", tmp_path / "package"
    home.mkdir()
    package.mkdir()
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(package)
    return home


def test_a_path_starts_at_the_working_directory_or_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/somebody")
    assert absolute("a/b") == tmp_path / "a/b"
    assert absolute(Path("~/a")) == Path("/somebody/a")
    assert absolute("/a") == Path("/a")
    assert files.absolute("a/../b") == str(tmp_path / "b")
    assert files.absolute("s3://a/../b") == "s3://a/../b"


def test_in_a_job_every_relative_path_starts_at_home(job: Path) -> None:
    given = ["runs=r", "cache=c", "data.path=d", "data.test=t", "data.image_root=i", "data.test_root=o", "recipe.weights=w.pth"]
    config = load_config("probe", given)
    data = absolute_paths(config.data)
    found = [
        data.path,
        data.test,
        data.image_root,
        data.test_root,
        config.recipe.weights,
        cache_root(config),
        absolute(config.runs),
    ]
    assert [*map(str, found)] == [f"{job}/{name}" for name in ("d", "t", "i", "o", "w.pth", "c", "r")]
    (Path.cwd() / "mine.yaml").write_text("seed: 7")
    assert load_config("mine.yaml").seed == 7  # a config file travels with the job


@pytest.mark.usefixtures("ray_session")
def test_what_commands_write_in_a_job_lies_at_home(job: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(job / "runs" / "made", photos)
    shutil.copytree(photos / "eval" / "images", job / "new")
    for arguments in (
        ["predict", "runs/made", "--images", "new", "--out", "preds"],
        ["export", "runs/made", "--out", "exported", "--format", "torch", "--member", "mask"],
        ["demo-data", "demo", "--people", "1", "--test-people", "0"],
    ):
        monkeypatch.setattr("sys.argv", ["raymask", *arguments])
        with suppress(SystemExit):
            main()
    assert len(pd.read_csv(job / "preds" / "submission.csv")) == 28
    assert (job / "exported" / "preprocessing.json").exists()
    assert (job / "demo" / "demo.json").exists()
    assert load("runs/made").definition.models
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("path", ["", " ", "a\0b", "~no-such-user/a", "x" * 300, "circle/below"])
def test_what_is_no_path_is_refused(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("circle").symlink_to("circle")
    with pytest.raises(InputError, match=r"^'[^\n]*\.$"):
        absolute(path)


def test_a_home_or_working_directory_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(InputError, match="working directory, which is gone"):
        absolute("a")


def below_a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").touch()
    return tmp_path / "file" / "below"


def a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").touch()
    return tmp_path / "file"


def a_broken_link(tmp_path: Path) -> Path:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    return tmp_path / "link"


def a_circle(tmp_path: Path) -> Path:
    (tmp_path / "circle").symlink_to("circle")
    return tmp_path / "circle" / "below"


UNWRITABLE: list[Callable[[Path], Path]] = [
    below_a_file,
    a_file,
    a_broken_link,
    a_circle,
    lambda tmp_path: Path("/proc/raymask/runs"),
    lambda tmp_path: Path("/dev/null"),
    lambda tmp_path: tmp_path / ("x" * 300),
]


@pytest.mark.parametrize("make", UNWRITABLE)
def test_a_folder_that_cannot_be_written_to_is_named_and_nothing_stays_there(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = make(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"^nothing can be written to '/.*' \(.+\); give another --out\.$"):
        check_writable(folder, "--out")
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_is_not_there_yet_is_left_unmade(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b", "--out")
    assert not list(tmp_path.iterdir())
