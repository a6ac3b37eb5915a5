"""Bake-offs: what can be had is compared, the rest is named, and nothing is done twice."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
from made import make_run
from rich.console import Console
from safetensors.torch import load_file

from raymask.config.bakeoff import bakeoff_config
from raymask.config.recipe import Recipe
from raymask.config.schema import RunConfig
from raymask.core.console import Display
from raymask.core.errors import InputError
from raymask.io.atomic import write_json
from raymask.runs.configs import load_run_config
from raymask.runs.directory import ReplicaId, Run
from raymask.runs.models import network_size, read_model
from raymask.runs.schemas import BakeOff
from raymask.training.backbones import check_backbones
from raymask.workflows.bakeoff import admit, bakeoff


def weights_of(folder: Path, seed: int) -> str:
    file = folder / f"{seed}.pth"
    torch.manual_seed(seed)
    torch.save(timm.create_model("test_resnet").state_dict(), file)
    return str(file)


def config_of(folder: Path, photos: Path, *backbones: Mapping[str, object]) -> RunConfig:
    recipe = {"image_size": 32, "schedule": {"epochs": 3}, "batch_size": 16, "amp": "off"}
    over = {"recipe": recipe, "runs": folder, "name": "bake", "data": {"path": str(photos)}, "folds": {"k": 2}}
    return bakeoff_config(overrides={**over, "backbones": list(backbones)})


def baked(config: RunConfig) -> tuple[BakeOff, str]:
    said = io.StringIO()
    return bakeoff(config, Display(Console(file=said))), said.getvalue()


def test_a_name_that_timm_does_not_have_is_refused_before_anything_is_begun(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'test_resnot', which timm does not have; the nearest are .*test_resnet"):
        bakeoff(config_of(tmp_path / "runs", photos, {"name": "test_resnet"}, {"name": "test_resnot"}))
    assert not (tmp_path / "runs").exists()
    check_backbones([Recipe(backbone="test_resnet"), Recipe(backbone="resnet18.a1_in1k")])


def test_the_size_of_a_network_is_that_of_its_backbone(photos: Path, tmp_path: Path) -> None:
    for head in ({"name": "linear", "norm": True, "dropout": 0.3}, {"name": "mlp", "hidden": 7}):
        recipe = {"backbone": "test_resnet", "pretrained": False, "image_size": 32, "head": head}
        run = make_run(tmp_path / str(head["name"]), photos, recipe=recipe, members=[{"task": "multi"}])
        parameters, features = network_size(read_model(run.replica(ReplicaId("multi", 0))))
        backbone = timm.create_model("test_resnet", num_classes=0)
        assert parameters == sum(parameter.numel() for parameter in backbone.parameters())
        assert features == backbone.num_features


def test_backbones_join_and_leave_but_nothing_else_changes(photos: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "bake", photos, members=[{"task": "multi", "name": name} for name in "ab"])
    known = load_run_config(run)
    one, other = known.members
    admit(run, known.model_copy(update={"members": (one,)}))
    assert load_run_config(run) == known, "it is no bake-off"
    write_json(run.root / "bakeoff.json", {"format": 1})
    admit(run, known.model_copy(update={"members": (one,), "seed": 1}))
    assert load_run_config(run) == known, "another seed is another bake-off, which is refused where the run is read"
    joins = other.model_copy(update={"name": "c"})
    admit(run, known.model_copy(update={"members": (one, joins), "tasks": {}}))
    assert [member.name for member in load_run_config(run).members] == ["a", "c"]
    again = other.model_copy(update={"recipe": {"image_size": 64}})
    with pytest.raises(InputError, match=r"compared 'b' by another recipe; put that back, give it a `label` of its own"):
        admit(run, known.model_copy(update={"members": (one, again)}))
    admit(run, known)
    assert load_run_config(run) == known


def test_backbones_are_compared_and_what_is_done_is_not_done_again(ray_session: None, photos: Path, tmp_path: Path) -> None:
    first, second = ({"name": "test_resnet", "label": f"of-{seed}", "weights": weights_of(tmp_path, seed)} for seed in (0, 1))
    misfit = {"name": "test_vit", "weights": weights_of(tmp_path, 0)}
    result, said = baked(config_of(tmp_path, photos, first, {**second, "image_size": 40}, misfit))
    run = Run(tmp_path / "bake")
    assert {row.name for row in result.rows[:2]} == {"of-0", "of-1"}
    assert result.rows[2].name == "test_vit"
    assert "does not fit the backbone 'test_vit'" in result.rows[2].problem
    assert "test_vit: recipe.weights" in said
    for row in result.rows[:2]:
        assert set(row.scores) == {"mask", "gender", "age", "joint"}
        assert row.ms_an_image > 0
        assert row.features == timm.create_model("test_resnet").num_features
    assert (result.images, result.groups, sum(row.chosen for row in result.rows)) == (112, 16, 1)
    assert said.rstrip().splitlines()[-1].startswith(" bakeoff  fine-tune of-")
    assert pd.read_csv(run.root / "bakeoff.csv")["name"].tolist() == [row.name for row in result.rows]
    assert (run.root / "bakeoff.png").stat().st_size > 10_000
    banks = sorted((tmp_path / ".cache" / "features").glob("*/*"))
    assert [file.name for file in banks] == ["view-original.npy"] * 2, "an image goes through a backbone once"
    kept = load_file(run.weights(ReplicaId("of-1", 0)))
    for name, tensor in torch.load(tmp_path / "1.pth").items():
        if not name.startswith("fc."):
            torch.testing.assert_close(kept[f"backbone.{name}"], tensor, rtol=0, atol=0)

    times = {file: file.stat().st_mtime_ns for file in [*banks, *run.root.rglob("model.safetensors")]}
    again, said = baked(config_of(tmp_path, photos, first, {**second, "image_size": 40}, misfit))
    assert again == result
    assert "compared already" in said
    third = {**second, "label": "third"}
    more, said = baked(config_of(tmp_path, photos, first, {**second, "image_size": 40}, third))
    assert {row.name for row in more.rows} == {"of-0", "of-1", "third"}
    assert times == {file: file.stat().st_mtime_ns for file in times}


def test_where_no_backbone_can_be_had_that_is_one_sentence(ray_session: None, photos: Path, tmp_path: Path) -> None:
    misfits = [{"name": "test_vit", "label": label, "weights": weights_of(tmp_path, 0)} for label in "abc"]
    with pytest.raises(InputError) as caught:
        baked(config_of(tmp_path, photos, *misfits))
    said = str(caught.value)
    assert said.startswith("none of the 3 backbones can be had, such as 'a': recipe.weights: ")
    assert said.count(". ") == 0
