"""Models of all people, after the folds."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console

from raymask.config.recipe import Recipe
from raymask.core.console import Display
from raymask.core.errors import InputError
from raymask.io.checked import read_json
from raymask.models.classifier import load_classifier
from raymask.runs.directory import WHOLE, ReplicaId, Run
from raymask.workflows.refit import refit
from raymask.workflows.soup import soup

pytestmark = pytest.mark.usefixtures("ray_session")


def test_a_member_is_refitted_on_all_people_once(finished: tuple[Run, str], tmp_path: Path) -> None:
    copy, whole, said = Run(tmp_path / "tiny"), ReplicaId("multi", WHOLE), io.StringIO()
    shutil.copytree(finished[0].root, copy.root)
    shutil.copytree(finished[0].root.parent / ".cache", tmp_path / ".cache")
    display = Display(Console(file=said))
    assert refit(copy.root, ["multi"], display) == [whole]
    assert "1 models in 1 pack(s)" in said.getvalue()
    assert "prepared already" in said.getvalue()
    folder = copy.replica(ReplicaId("multi", WHOLE))
    assert sorted(path.name for path in folder.iterdir()) == ["history.csv", "meta.json", "model.safetensors"]
    meta = json.loads(copy.meta(ReplicaId("multi", WHOLE)).read_text(), parse_constant=pytest.fail)
    assert meta["fold"] == WHOLE
    assert meta["scores"].keys() == {"epoch", "images", "train_loss", "lr", "images_per_second", "waiting"}
    history = pd.read_csv(copy.history(whole))
    assert history["epoch"].tolist() == [1, 2]
    assert history["train_loss"].notna().all()
    assert history[["loss", "f1", "accuracy"]].isna().all(axis=None)
    model = load_classifier(Recipe.model_validate(meta["recipe"]), {"mask": 3, "gender": 2, "age": 3}, copy.weights(whole))
    assert model(torch.zeros(1, 3, 32, 32))["mask"].isfinite().all()
    assert "refit" in read_json(copy.timings)
    assert read_json(copy.timings)["train"] == read_json(finished[0].timings)["train"]

    written = copy.weights(whole).stat().st_mtime_ns
    refit(copy.root, ["multi"], display)
    assert "1 of 1 models are trained already" in said.getvalue()
    assert copy.weights(whole).stat().st_mtime_ns == written


def test_a_refit_of_what_is_not_there_is_refused(finished: tuple[Run, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no member 'gendre'; it may be 'gender' \(the nearest\), 'mask', .* or 'joint-s1'\.$"):
        refit(finished[0].root, ["mask", "gendre"], Display(Console(file=io.StringIO())))
    with pytest.raises(InputError, match="holds no run"):
        refit(tmp_path)
    copy = Run(tmp_path / "tiny")
    shutil.copytree(finished[0].root, copy.root)
    copy.meta(ReplicaId("age", 1)).unlink()
    with pytest.raises(InputError, match=r"not trained to its end \(there is no age/fold-1\); finish it first by `raymask train"):
        refit(copy.root, (), Display(Console(file=io.StringIO())))


def test_soups_of_a_run_without_reserved_people_are_refused(finished: tuple[Run, str]) -> None:
    display = Display(Console(file=io.StringIO()))
    with pytest.raises(InputError, match=r"soups need people that no ingredient saw; set folds\.reserve=0\.2 in a new run\.$"):
        soup(finished[0].root, (), display)
    with pytest.raises(InputError, match=r"no member 'gendre'; it may be 'gender'"):
        soup(finished[0].root, ["gendre"], display)
