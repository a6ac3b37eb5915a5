"""Debug runs: in a folder of their own that no real run loses, made anew each time, and what they say."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from made import make_run
from rich.console import Console
from tiny import tiny_config

from raymask.core.console import Display
from raymask.core.errors import InputError
from raymask.io.atomic import write_table
from raymask.runs.configs import load_run_config
from raymask.runs.directory import ReplicaId, Run
from raymask.workflows.debug import debug, histories_of, remove_debug_run, show_losses


def test_it_is_said_of_each_member_whether_its_loss_fell() -> None:
    said = io.StringIO()
    learns = pd.DataFrame({"epoch": [1, 1, 2, 2], "train_loss": [1.0, 2.0, 0.5, 2.1], "fold": [0, 1, 0, 1]})
    fails = learns.assign(train_loss=[1.0, 1.0, 1.0, 1.0])
    show_losses({"mask": learns, "age": fails}, Display(Console(file=said)))
    lines = [line.split() for line in said.getvalue().splitlines()]
    assert ["mask", "1.5000", "1.3000", "fell"] in lines
    assert ["age", "1.0000", "1.0000", "did", "not", "fall"] in lines
    assert "the training loss of 'age' did not fall (1.0000, then 1.0000)" in said.getvalue()
    assert said.getvalue().count("note") == 1


def test_only_a_debug_run_is_removed(photos: Path, tmp_path: Path) -> None:
    remove_debug_run(Run(tmp_path / "none"))
    real = make_run(tmp_path / "runs" / "tiny-debug", photos)
    with pytest.raises(InputError, match=r"tiny-debug' is no debug run, .*; give the run another --name"):
        remove_debug_run(real)
    with pytest.raises(InputError, match="is no debug run"):
        debug(tiny_config(tmp_path / "runs", photos), Display(Console(file=io.StringIO())))
    assert real.ensemble.exists()
    marked = make_run(tmp_path / "runs" / "other", photos, debug=True)
    (tmp_path / "link").symlink_to(marked.root)
    with pytest.raises(InputError, match="is no debug run"):
        remove_debug_run(Run(tmp_path / "link"))
    remove_debug_run(marked)
    assert not marked.root.exists()
    remove_debug_run(marked)


def test_histories_are_those_of_all_fold_models(photos: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", photos, members=[{"task": "joint"}])
    for fold in (0, 1):
        epochs = pd.DataFrame({"epoch": [1, 2], "train_loss": [1.0, fold], "images": 9, "images_per_second": 3.0, "loss": None})
        write_table(run.history(ReplicaId("joint", fold)), epochs)
    [(member, history)] = histories_of(run).items()
    assert member == "joint"
    assert history["fold"].tolist() == [0, 0, 1, 1]
    assert history["train_loss"].tolist() == [1, 0, 1, 1]


def test_a_debug_run_goes_through_everything_on_few_people_and_again_anew(
    ray_session: None, photos: Path, tmp_path: Path
) -> None:
    recipe = {"schedule": {"epochs": 30}}
    data = shutil.copytree(photos, tmp_path / "photos")
    next(data.glob("train/images/*/mask5.jpg")).write_bytes(b"")  # more than max_rejected of the few, less of all
    config = tiny_config(tmp_path, data, tasks={"gender": None, "age": None})
    config = config.model_copy(update={"recipe": config.recipe.model_validate({**config.recipe.model_dump(), **recipe})})
    said = io.StringIO()
    run = debug(config, Display(Console(file=said))).run
    assert run.root == tmp_path / "tiny-debug"
    assert re.search(r"2[78] of 111 images are used, those of 4 of 16 groups \(data\.share=0\.05\)", said.getvalue())
    assert len(pd.read_csv(run.rejected)) == 1
    assert "the real run, of 111 images, will take about" in said.getvalue()
    assert "on this machine: " in said.getvalue()
    assert load_run_config(run).recipe.schedule.epochs == 2
    assert [len(pd.read_csv(run.history(ReplicaId("mask", fold)))) for fold in (0, 1)] == [2, 2]
    manifest = pd.read_parquet(run.manifest)
    assert manifest.groupby(["fold", "label_joint"])["group"].nunique().tolist() == [2] * 6
    assert (len(pd.read_csv(run.submission)), run.report.exists()) == (16, True)
    assert not (tmp_path / ".cache" / "prepared").exists(), "its prepared images go with it"
    (run.root / "of-the-first").touch()
    again = debug(config, Display(Console(file=said))).run
    assert again.root == run.root
    assert not (run.root / "of-the-first").exists()
    pd.testing.assert_frame_equal(pd.read_parquet(again.manifest), manifest)
