"""People held out from everything, and one model from a member's folds."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console

from raymask.config.recipe import Recipe
from raymask.core.console import Display
from raymask.data.cache import open_cache
from raymask.io.checked import read_json
from raymask.models.classifier import load_classifier
from raymask.runs.directory import GREEDY_SOUP, SOUP, ReplicaId, Run
from raymask.transforms.tta import even
from raymask.workflows.refit import refit
from raymask.workflows.soup import soup

pytestmark = pytest.mark.usefixtures("ray_session")


def test_reserved_people_are_in_nothing_but_their_own_file(reserving: tuple[Run, str]) -> None:
    done, said = reserving
    assert "28 images of 4 groups are held out from everything" in said
    reserve, manifest = pd.read_parquet(done.reserve), pd.read_parquet(done.manifest)
    assert set(manifest.columns) == {*reserve.columns, "fold"}
    assert (len(reserve), len(manifest)) == (28, 84)
    assert not set(reserve["group"]) & set(manifest["group"])
    assert sorted(pd.read_parquet(done.oof("joint"))["image_id"].unique()) == manifest["image_id"].tolist()
    [cache] = (done.root.parent / ".cache" / "prepared").iterdir()
    assert open_cache(cache, reserve["image_id"]).read(range(28)).shape == (28, 32, 32, 3)


def test_soups_and_refits_are_made_once_and_compared_on_reserved_people(reserving: tuple[Run, str], tmp_path: Path) -> None:
    copy, said = Run(tmp_path / "tiny"), io.StringIO()
    shutil.copytree(reserving[0].root, copy.root)
    shutil.copytree(reserving[0].root.parent / ".cache", tmp_path / ".cache")
    display = Display(Console(file=said))
    soups = [ReplicaId("joint", SOUP), ReplicaId("joint", GREEDY_SOUP)]
    assert soup(copy.root, (), display) == soups
    assert "joint: F1 of" in said.getvalue()
    for replica in soups:
        meta = read_json(copy.meta(replica))
        assert (meta["fold"], meta["views"]) == (replica.fold, even(["original", "hflip"]).to_json())
        assert set(meta["ingredients"]) <= {"fold-0", "fold-1"}
        assert meta["reserve"].keys() == {"mask", "gender", "age", "joint"}
        model = load_classifier(Recipe.model_validate(meta["recipe"]), {"joint": 18}, copy.weights(replica))
        assert model(torch.zeros(1, 3, 32, 32))["joint"].isfinite().all()
    reserve = pd.read_parquet(copy.reserve)
    columns = [
        name.replace("fold-0", "greedy-soup")
        for name in map(str, pd.read_parquet(copy.reserve_predictions))
        if "fold-1" not in name
    ]
    cross_fitted = pd.read_parquet(copy.replica_reserve(soups[1]))
    assert (list(cross_fitted), cross_fitted["image_id"].tolist()) == (columns, reserve["image_id"].tolist())
    assert [path.name for path in copy.replica(ReplicaId("joint", SOUP)).iterdir() if path.name[0] == "."] == []

    told = read_json(copy.singles)
    assert [(row["name"], row["models"]) for row in told["rows"]] == [
        ("ensemble", 2),
        ("fold", 1),
        ("soup", 1),
        ("greedy-soup", 1),
    ]
    assert (told["images"], told["groups"], told["metric"]) == (28, 4, "joint.f1")
    whole = read_json(copy.ensemble)["reserve"]
    assert told["rows"][0]["score"] == {key: whole[key] for key in ("score", "se", "low", "high")}
    assert told["rows"][0]["scores"] == whole["scores"]["ensemble"]
    for row in told["rows"]:
        assert row["score"]["score"] == pytest.approx(row["scores"]["joint"]["f1"])
        assert row["ms_an_image"] > 0
    uniform = told["members"]["joint"]["soup"]["joint"]["accuracy"]
    assert uniform == pytest.approx(read_json(copy.meta(soups[0]))["reserve"]["joint"]["accuracy"], abs=1 / 28)

    written = {path: path.stat().st_mtime_ns for path in (*copy.root.rglob("*.safetensors"), copy.reserve_singles, copy.singles)}
    soup(copy.root, ["joint"], display)
    assert "the soups of 1 of 1 members are made already" in said.getvalue()
    assert "the models are compared already" in said.getvalue()
    assert {path: path.stat().st_mtime_ns for path in written} == written

    refit(copy.root, (), display)
    rows = read_json(copy.singles)["rows"]
    assert [row["name"] for row in rows] == ["ensemble", "fold", "soup", "greedy-soup", "all"]
    assert [row["score"] for row in rows[:4]] == [row["score"] for row in told["rows"]]
    assert copy.weights(soups[0]).stat().st_mtime_ns == written[copy.weights(soups[0])]
