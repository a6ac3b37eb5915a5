"""Whole runs on tiny real input: what they leave, of every kind of data and recipe."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from rich.console import Console
from tiny import TINY, run_and_read, tiny_config

import raymask
from raymask.config.loading import load_config
from raymask.config.merging import deep_merge
from raymask.config.recipe import Recipe
from raymask.core.console import Display
from raymask.core.errors import InputError
from raymask.core.types import ActorPool
from raymask.data.decode import decode_file
from raymask.data.demo.dataset import write_demo
from raymask.data.specs import input_spec
from raymask.inference.actors import predict
from raymask.io.checked import read_json
from raymask.models.classifier import load_classifier, to_pixels
from raymask.runs.directory import ReplicaId, Run
from raymask.transforms.tta import VIEWS, even

pytestmark = pytest.mark.usefixtures("ray_session")


def test_the_submission_has_the_test_files_rows_in_its_order(finished: tuple[Run, str], photos: Path) -> None:
    submission = pd.read_csv(finished[0].submission, dtype=str)
    asked = pd.read_csv(photos / "eval" / "info.csv", dtype=str)
    assert list(submission.columns) == list(asked.columns)
    assert submission["ImageID"].tolist() == asked["ImageID"].tolist()
    assert submission["ans"].astype(int).between(0, 17).all()


def test_each_image_has_one_oof_prediction_a_member_and_view(finished: tuple[Run, str]) -> None:
    done = finished[0]
    ids = pd.read_parquet(done.manifest)["image_id"]
    for member in ("mask", "gender", "age", "multi", "joint-s0", "joint-s1"):
        oof = pd.read_parquet(done.oof(member))
        for _, of_view in oof.groupby("view"):
            assert sorted(of_view["image_id"]) == ids.tolist()
        probabilities = oof[[name for name in oof.columns if ":" in name]].to_numpy()
        heads = 3 if member == "multi" else 1
        np.testing.assert_allclose(probabilities.sum(axis=1), heads, atol=1e-4)


def test_each_image_is_predicted_by_the_replica_that_never_saw_its_person(finished: tuple[Run, str]) -> None:
    manifest = pd.read_parquet(finished[0].manifest)
    assert manifest.groupby("group")["fold"].nunique().max() == 1
    oof = pd.read_parquet(finished[0].oof("mask"))
    fold_of = manifest.set_index("image_id")["fold"]
    assert (oof["fold"].to_numpy() == fold_of[oof["image_id"]].to_numpy()).all()


def test_predictions_hold_consistent_probabilities(finished: tuple[Run, str]) -> None:
    table = pd.read_parquet(finished[0].predictions)
    joint = table[[name for name in table.columns if name.startswith("joint:")]].to_numpy()
    np.testing.assert_allclose(joint.sum(axis=1), 1, atol=1e-5)
    assert (joint.argmax(axis=1) == table["joint"]).all()
    assert (table["joint"] == table["mask_label"] * 6 + table["gender_label"] * 3 + table["age_label"]).all()
    np.testing.assert_allclose(table[["mask:worn", "mask:incorrect", "mask:none"]].sum(axis=1), 1, atol=1e-5)


def test_the_run_directory_holds_what_it_promises(finished: tuple[Run, str]) -> None:
    done = finished[0]
    for path in (done.config, done.manifest, done.rejected, done.ensemble, done.report):
        assert path.is_file()
    meta = read_json(done.meta(ReplicaId("multi", 1)))
    assert meta["classes"]["gender"] == ["male", "female"]
    assert len(pd.read_csv(done.history(ReplicaId("age", 0)))) == 2
    assert not list(done.root.rglob("checkpoint.pt"))
    assert not [path for path in done.root.rglob(".*") if path.is_file() and "tune" not in path.parts]


def test_a_missing_test_set_is_refused_before_anything_is_done(photos: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, photos)
    data = config.data.model_copy(update={"test": str(tmp_path / "nothing.csv")})
    with pytest.raises(InputError, match=r"nothing\.csv"):
        run_and_read(config.model_copy(update={"data": data}))
    assert not Run(tmp_path / "tiny").root.exists()


@pytest.mark.parametrize("size", [1, 7])
def test_predictions_do_not_depend_on_the_batch_size(
    finished: tuple[Run, str], photos: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr("raymask.inference.actors.IMAGES_PER_TASK", size)
    expected = pd.read_parquet(finished[0].test_predictions).head(10)
    images = pd.DataFrame({"image_id": expected["image_id"]})
    images["path"] = [str(photos / "eval" / "images" / name) for name in images["image_id"]]
    replicas = [
        ReplicaId(member, fold) for member in ("mask", "gender", "age", "multi", "joint-s0", "joint-s1") for fold in (0, 1)
    ]
    pool = ActorPool(size=1, cpus=0.5, gpus=0.0, threads=1, decode_cpus=0.5)
    predicted = predict(finished[0], images, replicas, even(["original", "hflip"]), pool, lambda done, in_all: None)
    pd.testing.assert_frame_equal(predicted, expected, atol=1e-5, rtol=0)


def test_heads_on_a_frozen_backbone_from_a_local_file(photos: Path, tmp_path: Path) -> None:
    weights = tmp_path / "backbone.pth"
    torch.manual_seed(0)
    backbone = timm.create_model("test_resnet")
    torch.save(backbone.state_dict(), weights)
    recipe = {
        **TINY["recipe"],
        "pretrained": True,
        "weights": str(weights),
        "freeze": {"part": "backbone", "passes": 2},
        "schedule": {"epochs": 3},
    }
    config = tiny_config(tmp_path / "runs", photos / "train", recipe=recipe)  # without a test set
    done, said = run_and_read(config)
    assert "features of test_resnet" in said
    from safetensors.torch import load_file

    for fold in (0, 1):
        trained = load_file(done.weights(ReplicaId("age", fold)))
        for name, tensor in backbone.state_dict().items():
            if not name.startswith("fc."):
                torch.testing.assert_close(trained[f"backbone.{name}"], tensor, rtol=0, atol=0)
    again, said = run_and_read(config.model_copy(update={"name": "second"}))
    assert "are there already" in said
    pd.testing.assert_frame_equal(pd.read_parquet(done.oof_ensemble), pd.read_parquet(again.oof_ensemble))


def test_a_generic_csv_with_groups_and_a_folder_as_test_set(photos: Path, tmp_path: Path) -> None:
    people = pd.read_csv(photos / "train" / "train.csv", dtype=str)
    rows = [
        {"file": f"{folder}/{photo}.jpg", "person": person, "sex": gender, "years": age}
        for person, gender, age, folder in people[["id", "gender", "age", "path"]].itertuples(index=False)
        for photo in ("normal", "mask1", "mask2")
    ]
    table = tmp_path / "photos.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    data = {
        "path": str(table),
        "image_column": "file",
        "image_root": str(photos / "train" / "images"),
        "group_column": "person",
        "test": str(photos / "eval" / "images"),
    }
    tasks = {"sex": {}, "age": {"column": "years", "edges": [40]}}
    done, _ = run_and_read(load_config("demo", overrides={**TINY, "name": "csv", "runs": tmp_path, "data": data, "tasks": tasks}))
    submission = pd.read_csv(done.submission)
    assert list(submission.columns) == ["image_id", "sex", "years"]
    assert set(submission["sex"]) <= {"male", "female"}
    assert set(submission["years"]) <= {"<40", ">=40"}
    assert len(submission) == 28


def test_folders_of_classes_with_one_task_and_hold_out(photos: Path, tmp_path: Path) -> None:
    for number, image in enumerate(sorted((photos / "train" / "images").rglob("*.jpg"))[:40]):
        folder = tmp_path / "classes" / ("cats" if number % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, folder / f"{number}.jpg")
    config = load_config("demo", overrides={**TINY, "name": "f", "runs": tmp_path, "data": {"path": str(tmp_path / "classes")}})
    config = config.model_copy(update={"folds": config.folds.model_copy(update={"scheme": "holdout", "k": 4})})
    done, said = run_and_read(config)
    assert "there is no submission" in said
    assert read_json(done.ensemble)["images"] == 10
    assert done.report.is_file()


@pytest.mark.tune
def test_an_impossible_recipe_is_refused_in_a_sentence(photos: Path, tmp_path: Path) -> None:
    wrong = {**TINY["recipe"], "backbone": "test_resnot"}
    with pytest.raises(InputError, match=r"which timm does not have; the nearest are.*test_resnet"):
        run_and_read(tiny_config(tmp_path, photos, recipe=wrong))
    exploding = deep_merge(TINY["recipe"], {"optim": {"lr": 1e30}})
    given_up = r"was given up in epoch 1 at step \d.*its loss is not finite: lower recipe.optim.lr.*failed-batch"
    with pytest.raises(InputError, match=given_up):
        run_and_read(tiny_config(tmp_path, photos, name="exploding", recipe=exploding))


@pytest.mark.tune
def test_the_library_draws_the_demo_when_no_data_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {}

    def small(folder: Path, people: int, test_people: int) -> Path:
        drawn.update(people=people, test_people=test_people)
        return write_demo(folder, people=people, test_people=test_people, size=(48, 64))

    monkeypatch.setattr("raymask.workflows.setup.write_demo", small)
    settings = ["data.demo_people=8", "data.demo_test_people=2", "tasks.gender=null", "tasks.age=null"]
    config = raymask.load_config("demo", settings, {**TINY, "runs": tmp_path})
    result = raymask.run(config, Display(Console(file=io.StringIO())))
    assert drawn == {"people": 8, "test_people": 2}
    assert set(result.scores) == {"mask", "ensemble"}
    assert 0 <= result.scores["ensemble"]["mask"]["f1"] <= 1
    assert len(pd.read_csv(result.run.submission)) == 14


def test_test_images_are_predicted_as_by_the_models_that_were_trained(finished: tuple[Run, str], photos: Path) -> None:
    """Folded batch norms, shared normalising and batches of any size leave the numbers as they are."""
    done, replica = finished[0], ReplicaId("multi", 1)
    table = pd.read_parquet(done.test_predictions).set_index("image_id")
    recipe = Recipe.model_validate(read_json(done.meta(replica))["recipe"])
    model = load_classifier(recipe, {"mask": 3, "gender": 2, "age": 3}, done.weights(replica))
    for image_id in table.index[:5]:
        problem, [pixels] = decode_file(str(photos / "eval" / "images" / image_id), [input_spec(recipe)])
        assert problem == ""
        views = [view(to_pixels(pixels[None], torch.device("cpu"))) for view in (VIEWS["original"], VIEWS["hflip"])]
        with torch.inference_mode():
            expected = torch.stack([torch.cat([one.softmax(1) for one in model(view).values()], 1)[0] for view in views]).mean(0)
        columns = [name for name in table.columns if name.startswith(f"{replica}|")]
        np.testing.assert_allclose(table.loc[image_id, columns].to_numpy(float), expected, atol=1e-4)
