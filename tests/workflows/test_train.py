"""Whole runs on tiny real input."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from rich.console import Console

import raymask
from raymask.config.loading import load_config
from raymask.config.merging import deep_merge
from raymask.config.recipe import Recipe, ScheduleConfig
from raymask.config.schema import RunConfig
from raymask.core.console import Display
from raymask.core.errors import InputError
from raymask.core.types import ActorPool
from raymask.data.cache import open_cache
from raymask.data.decode import decode_file
from raymask.data.demo.dataset import write_demo
from raymask.data.folds import TRAIN_ONLY
from raymask.data.specs import input_spec
from raymask.inference.actors import predict
from raymask.inference.voting_runs import by_round, voting_runs
from raymask.io.atomic import write_json, write_table
from raymask.io.checked import read_json
from raymask.models.classifier import load_classifier, to_pixels
from raymask.runs.directory import GREEDY_SOUP, SOUP, WHOLE, ReplicaId, Run, load_run_config
from raymask.transforms.tta import VIEWS, even
from raymask.voting.reading import read_vote
from raymask.workflows.distill import distil, pseudo
from raymask.workflows.refit import refit
from raymask.workflows.soup import soup
from raymask.workflows.train import run

pytestmark = pytest.mark.usefixtures("ray_session")

# Without mixed precision, which a CPU may have or not, so that the same numbers come out anywhere.
RECIPE = {
    "backbone": "test_resnet",
    "pretrained": False,
    "image_size": 32,
    "schedule": {"epochs": 2},
    "batch_size": 16,
    "optim": {"lr": 0.003},
    "amp": "off",
}
PLAIN_VOTE = {"rule": "soft", "level": "joint", "adjust": "none", "calibrate": "none", "views": "all", "merge": "mean"}
TINY = {
    "recipe": RECIPE,
    "folds": {"k": 2},
    "vote": PLAIN_VOTE,
}


def tiny_config(runs: Path, data: Path, name: str = "tiny", **more: object) -> RunConfig:
    over = {**TINY, "name": name, "runs": runs, "data": {"path": str(data)}, **more}
    return load_config("demo", overrides=over)


def run_and_read(config: RunConfig) -> tuple[Run, str]:
    said = io.StringIO()
    result = run(config, Display(Console(file=said)))
    return result.run, said.getvalue()


@pytest.fixture(scope="module")
def finished(ray_session: None, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    """Specialists, a multi-head and a joint model, voted."""
    members = [{"task": "mask"}, {"task": "gender"}, {"task": "age"}, {"task": "multi"}, {"task": "joint", "seeds": 2}]
    return run_and_read(tiny_config(tmp_path_factory.mktemp("runs"), photos, members=members))


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


def test_the_saved_config_is_the_same_run(finished: tuple[Run, str]) -> None:
    done = finished[0]
    again, said = run_and_read(load_run_config(done))
    assert again == done
    assert "12 of 12 models are trained already" in said


def test_running_again_skips_what_is_finished_and_says_so(finished: tuple[Run, str], photos: Path) -> None:
    done = finished[0]
    kept = [*done.root.rglob("*.safetensors"), *done.root.rglob("oof.parquet"), done.test_predictions, done.oof("multi")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    _, said = run_and_read(load_run_config(done))
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    for sentence in ("prepared already", "models are trained already", "decided already", "predicted already"):
        assert sentence in said


def test_another_vote_is_counted_without_training_again(finished: tuple[Run, str], tmp_path: Path) -> None:
    copy = Run(tmp_path / "tiny")
    shutil.copytree(finished[0].root, copy.root)
    config = load_run_config(copy).model_copy(update={"runs": tmp_path, "cache": finished[0].root.parent / ".cache"})
    hard = config.model_copy(update={"vote": config.vote.model_copy(update={"rule": "hard"})})
    _, said = run_and_read(hard)
    assert "12 of 12 models are trained already" in said
    assert "predicted already" in said
    assert read_json(copy.ensemble)["vote"]["rule"] == "hard"


def test_a_missing_test_set_is_refused_before_anything_is_done(photos: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, photos)
    data = config.data.model_copy(update={"test": str(tmp_path / "nothing.csv")})
    with pytest.raises(InputError, match=r"nothing\.csv"):
        run_and_read(config.model_copy(update={"data": data}))
    assert not Run(tmp_path / "tiny").root.exists()


def test_a_lost_replica_alone_is_trained_again(finished: tuple[Run, str], tmp_path: Path) -> None:
    copy = Run(tmp_path / "tiny")
    shutil.copytree(finished[0].root, copy.root)
    lost = ReplicaId("gender", 1)
    expected = pd.read_parquet(copy.replica_oof(lost))
    shutil.rmtree(copy.replica(lost))
    config = load_run_config(copy).model_copy(update={"runs": tmp_path, "cache": finished[0].root.parent / ".cache"})
    _, said = run_and_read(config)
    assert "11 of 12 models are trained already" in said
    # Alone in its pack, with two threads in place of one, and yet the same but for the order of sums.
    pd.testing.assert_frame_equal(pd.read_parquet(copy.replica_oof(lost)), expected, atol=1e-3, rtol=0)


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


def test_another_config_under_the_same_name_is_refused(finished: tuple[Run, str]) -> None:
    config = load_run_config(finished[0])
    other = config.model_copy(update={"recipe": config.recipe.model_copy(update={"schedule": ScheduleConfig(epochs=3)})})
    with pytest.raises(InputError, match=r"recipe.schedule.epochs was 2 and is 3.*another --name"):
        run_and_read(other)


def test_nothing_depends_on_the_order_of_the_input(finished: tuple[Run, str], photos: Path, tmp_path: Path) -> None:
    shuffled = tmp_path / "photos"
    shutil.copytree(photos, shuffled)
    for table in (shuffled / "train" / "train.csv", shuffled / "eval" / "info.csv"):
        rows = pd.read_csv(table, dtype=str)
        rows.sample(frac=1, random_state=3).to_csv(table, index=False)
    members = [{"task": "mask"}, {"task": "gender"}, {"task": "age"}, {"task": "multi"}, {"task": "joint", "seeds": 2}]
    again, _ = run_and_read(tiny_config(tmp_path / "runs", shuffled, members=members))
    for table in ("predictions", "oof_ensemble"):
        before, after = (pd.read_parquet(getattr(one, table)) for one in (finished[0], again))
        pd.testing.assert_frame_equal(before, after, atol=1e-6, rtol=0)


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


def test_a_broken_test_image_gets_the_classes_frequencies_and_is_flagged(
    finished: tuple[Run, str], photos: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "photos"
    shutil.copytree(photos, damaged)
    first, second = sorted((damaged / "eval" / "images").iterdir())[:2]
    first.write_bytes(first.read_bytes()[: first.stat().st_size // 2])
    second.unlink()
    copy = Run(tmp_path / "tiny")
    shutil.copytree(finished[0].root, copy.root)
    config = load_run_config(copy)
    data = config.data.model_copy(update={"test": str(damaged / "eval" / "info.csv")})
    config = config.model_copy(update={"runs": tmp_path, "cache": finished[0].root.parent / ".cache", "data": data})
    done, said = run_and_read(config)
    predictions = pd.read_parquet(done.predictions).set_index("image_id")
    assert "truncated" in predictions.loc[first.name, "problem"]
    assert predictions.loc[second.name, "problem"] == "the file is missing"
    assert (predictions["problem"] != "").sum() == 2
    frequencies = np.bincount(pd.read_parquet(done.manifest)["label_joint"], minlength=18) / 112
    joint = [name for name in predictions.columns if name.startswith("joint:")]
    np.testing.assert_allclose(predictions.loc[first.name, joint].astype(float), frequencies)
    assert "2 test images cannot be read" in said
    assert len(pd.read_csv(done.submission)) == 28


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


@pytest.fixture(scope="module")
def reserving(ray_session: None, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    """A joint model, a quarter of the people being held out."""
    folds = {"k": 2, "reserve": 0.25}
    return run_and_read(tiny_config(tmp_path_factory.mktemp("runs"), photos, folds=folds, members=[{"task": "joint"}]))


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
        name.replace("fold-0", "greedy-soup") for name in pd.read_parquet(copy.reserve_predictions) if "fold-1" not in name
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


def test_soups_of_a_run_without_reserved_people_are_refused(finished: tuple[Run, str]) -> None:
    display = Display(Console(file=io.StringIO()))
    with pytest.raises(InputError, match=r"soups need people that no ingredient saw; set folds\.reserve=0\.2 in a new run\.$"):
        soup(finished[0].root, (), display)
    with pytest.raises(InputError, match=r"no member 'gendre'; it may be 'gender'"):
        soup(finished[0].root, ["gendre"], display)


def test_unlabelled_images_are_learned_from_by_a_teachers_targets_and_never_scored(
    reserving: tuple[Run, str], tmp_path: Path
) -> None:
    """The reserved images stand for unlabelled ones; fold 1 is taught nothing."""
    before, copy = reserving[0], Run(tmp_path / "tiny")
    for kept in (before.config, before.source):
        copy.root.mkdir(exist_ok=True)
        shutil.copy(kept, copy.root)
    shutil.copytree(before.root.parent / ".cache", tmp_path / ".cache")
    unlabelled, manifest = pd.read_parquet(before.reserve), pd.read_parquet(before.manifest)
    labels = [name for name in unlabelled.columns if "label_" in name]
    added = pd.concat([manifest, unlabelled.assign(fold=TRAIN_ONLY, **dict.fromkeys(labels, -1))])
    write_table(copy.manifest, added.sort_values("image_id", ignore_index=True))
    said = np.random.default_rng(0).dirichlet(np.ones(18), len(unlabelled)).astype(np.float32)
    table = pd.DataFrame(said, columns=[name for name in pd.read_parquet(before.oof("joint")) if name.startswith("joint:")])
    write_table(copy.targets, table.assign(image_id=unlabelled["image_id"], fold=0))
    done, _ = run_and_read(load_run_config(copy).model_copy(update={"runs": tmp_path}))
    assert sorted(pd.read_parquet(done.oof("joint"))["image_id"].unique()) == manifest["image_id"].tolist()
    learned = {fold: pd.read_csv(done.history(ReplicaId("joint", fold)))["train_loss"] for fold in (0, 1)}
    assert np.isfinite(learned[0]).all()
    assert np.isfinite(learned[1]).all()
    assert learned[0].iloc[-1] > learned[1].iloc[-1], "a quarter of its targets is noise"
    assert done.report.is_file()


def with_cache(done: Run, folder: Path) -> Run:
    """A copy of a run and of what it shares with others."""
    shutil.copytree(done.root, folder / done.name)
    shutil.copytree(done.root.parent / ".cache", folder / ".cache")
    return Run(folder / done.name)


def test_a_run_is_trained_anew_with_pseudo_labels_of_its_test_images(reserving: tuple[Run, str], tmp_path: Path) -> None:
    parent, said = with_cache(reserving[0], tmp_path), io.StringIO()
    taught = pseudo(parent.root, settings=["teacher.precision=0"], display=Display(Console(file=said, width=200))).run
    assert taught.root == tmp_path / "tiny-pseudo"
    assert "28 of 28 unlabelled images join the training folds, 28 to 28 of them a fold" in said.getvalue()
    before, manifest = pd.read_parquet(parent.manifest), pd.read_parquet(taught.manifest)
    unlabelled = manifest[manifest["image_id"].str.startswith("test/")]
    assert sorted(unlabelled["image_id"]) == sorted("test/" + pd.read_parquet(parent.test_predictions)["image_id"])
    assert (unlabelled[[name for name in manifest if "label_" in name]] == -1).all(axis=None)
    assert (unlabelled["fold"] == TRAIN_ONLY).all()
    assert manifest["image_id"].is_monotonic_increasing
    pd.testing.assert_frame_equal(manifest.drop(unlabelled.index).reset_index(drop=True), before)
    pd.testing.assert_frame_equal(pd.read_parquet(taught.reserve), pd.read_parquet(parent.reserve))
    for table in (taught.oof("joint"), taught.oof_ensemble):
        assert sorted(pd.read_parquet(table)["image_id"].unique()) == before["image_id"].tolist()

    targets, [one] = pd.read_parquet(taught.targets), voting_runs([parent])
    joint = [name for name in targets if name.startswith("joint:")]
    assert set(np.unique(targets[joint])) == {0, 1}
    vote, predicted = (
        read_vote(parent.ensemble, read_json(parent.ensemble)["vote"], one.space),
        pd.read_parquet(parent.test_predictions),
    )
    for fold, members in enumerate(by_round([one], [predicted])):
        of_fold = targets[targets["fold"] == fold]
        assert of_fold["image_id"].tolist() == ("test/" + predicted["image_id"]).tolist()
        np.testing.assert_array_equal(of_fold[joint].to_numpy().argmax(axis=1), vote(members).argmax(axis=1))
    assert set(targets["fold"]) == {0, 1, WHOLE}

    told = read_json(taught.gain)
    of_ensemble = [read_json(run_.ensemble)["oof"]["ensemble"]["joint"]["f1"] for run_ in (parent, taught)]
    assert [told["before"], told["after"]] == pytest.approx(of_ensemble)
    assert told["gain"]["score"] == pytest.approx(of_ensemble[1] - of_ensemble[0])
    assert told["gain"]["low"] <= told["gain"]["high"]
    assert told["kept"] == (told["gain"]["score"] > told["gain"]["se"])
    assert {part: sum(of_class.values()) for part, of_class in told["pseudo_labelled"].items()} == {
        "fold-0": 28,
        "fold-1": 28,
        "all": 28,
    }
    assert told["reserve"]["before"]["score"] == pytest.approx(read_json(parent.ensemble)["reserve"]["score"])
    assert f"{'kept' if told['kept'] else 'dropped'}: use '{taught.root if told['kept'] else parent.root}'" in said.getvalue()

    kept = [taught.targets, taught.manifest, taught.gain, taught.weights(ReplicaId("joint", 0)), parent.test_predictions]
    written = [path.stat().st_mtime_ns for path in kept]
    pseudo(parent.root, settings=["teacher.precision=0"], display=Display(Console(file=said)))
    assert "2 of 2 models are trained already" in said.getvalue()
    assert [path.stat().st_mtime_ns for path in kept] == written
    write_table(parent.oof_ensemble, pd.read_parquet(parent.oof_ensemble).iloc[::-1])
    with pytest.raises(InputError, match=r"learns from '.*tiny', whose vote, predictions or test images have changed since"):
        run_and_read(load_run_config(taught))
    with pytest.raises(InputError, match=r"teacher.precision is 1, but '.*tiny' is that sure of no unlabelled image"):
        pseudo(parent.root, "surer", ["teacher.precision=1"], Display(Console(file=said)))


def test_an_ensemble_is_distilled_into_one_model_of_all_people(reserving: tuple[Run, str], tmp_path: Path) -> None:
    parent, said = with_cache(reserving[0], tmp_path), io.StringIO()
    student = distil(parent.root, settings=["recipe.schedule.epochs=1"], display=Display(Console(file=said, width=200))).run
    assert student.root == tmp_path / "tiny-student"
    whole = ReplicaId("multi", WHOLE)
    assert [folder.name for folder in student.members.iterdir()] == ["multi"]
    assert all(student.finished(replica) for replica in (ReplicaId("multi", 0), ReplicaId("multi", 1), whole))
    assert f"deploy {student.weights(whole)}" in said.getvalue()
    targets, oof = pd.read_parquet(student.targets), pd.read_parquet(parent.oof_ensemble)
    joint = [name for name in targets if name.startswith("joint:")]
    labelled = targets[targets["fold"] == TRAIN_ONLY].set_index("image_id").loc[oof["image_id"], joint].to_numpy()
    truth = np.eye(18)[pd.read_parquet(parent.manifest).set_index("image_id").loc[oof["image_id"], "label_joint"]]
    np.testing.assert_allclose(labelled, 0.3 * truth + 0.7 * oof[joint].to_numpy(), atol=1e-5)
    assert targets["fold"].value_counts().to_dict() == {TRAIN_ONLY: 84, 0: 28, 1: 28, WHOLE: 28}
    told = read_json(student.gain)
    assert told["gain"]["score"] == pytest.approx(told["after"] - told["before"])
    assert list(told["made_of"]["whole"]) == ["multi/all"]
    for who in ("before", "after", "whole"):
        assert told["reserve"][who]["low"] <= told["reserve"][who]["score"] <= told["reserve"][who]["high"]

    written = student.gain.stat().st_mtime_ns, student.weights(whole).stat().st_mtime_ns
    distil(parent.root, settings=["recipe.schedule.epochs=1"], display=Display(Console(file=said)))
    assert (student.gain.stat().st_mtime_ns, student.weights(whole).stat().st_mtime_ns) == written
    quiet = Display(Console(file=io.StringIO()))
    with pytest.raises(InputError, match=r"teacher.run: '.*tiny' predicts other tasks or classes than this run"):
        distil(parent.root, name="other", settings=["tasks.age=null"], display=quiet)
    with pytest.raises(InputError, match=r"folds: they are those of the teacher; leave them"):
        distil(parent.root, name="other", settings=["folds.k=3"], display=quiet)
    with pytest.raises(InputError, match=r"--task is 'mask'; it may be 'multi' or 'joint'"):
        distil(parent.root, "mask", display=quiet)
    assert not (tmp_path / "other").exists()


def test_an_impossible_recipe_is_refused_in_a_sentence(photos: Path, tmp_path: Path) -> None:
    wrong = {**TINY["recipe"], "backbone": "test_resnot"}
    with pytest.raises(InputError, match=r"which timm does not have; the nearest are.*test_resnet"):
        run_and_read(tiny_config(tmp_path, photos, recipe=wrong))
    exploding = deep_merge(TINY["recipe"], {"optim": {"lr": 1e30}})
    with pytest.raises(InputError, match=r"the loss of .* lower recipe.optim.lr"):
        run_and_read(tiny_config(tmp_path, photos, name="exploding", recipe=exploding))


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


class TestDataElsewhereAndOther:
    """Data are what they hold: neither where they lie nor when they were written."""

    @pytest.fixture
    def moved(self, finished: tuple[Run, str], photos: Path, tmp_path: Path) -> tuple[Run, Path]:
        """A finished run in another folder, and its data in another one, written today."""
        data = tmp_path / "elsewhere"
        shutil.copytree(photos, data, copy_function=shutil.copyfile)
        return with_cache(finished[0], tmp_path / "copy"), data

    def again(self, moved: tuple[Run, Path]) -> str:
        done, data = moved
        config = load_run_config(done)
        config = config.model_copy(update={"runs": done.root.parent, "data": config.data.model_copy(update={"path": str(data)})})
        return run_and_read(config)[1]

    def test_the_same_data_copied_again_are_the_same_run(self, moved: tuple[Run, Path]) -> None:
        done, data = moved
        said = self.again(moved)
        for already in ("are prepared already", "models are trained already", "decided already", "are predicted already"):
            assert already in said
        manifest = pd.read_parquet(done.manifest)
        assert manifest["path"].str.startswith(str(data)).all()
        assert self.again(moved).count("already") == said.count("already")

    def test_test_images_that_changed_are_predicted_again(self, moved: tuple[Run, Path]) -> None:
        done, data = moved
        one, other = sorted((data / "eval" / "images").iterdir())[:2]
        before = pd.read_parquet(done.predictions).set_index("image_id").filter(like="joint:")
        content, stamps = one.read_bytes(), one.stat()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)
        for file in (one, other):  # neither its time nor, of other data, its size need tell of it
            os.utime(file, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
        assert "the test images are others than those that were predicted: all are predicted again" in self.again(moved)
        after = pd.read_parquet(done.predictions).set_index("image_id").filter(like="joint:")
        exchanged = {one.name: other.name, other.name: one.name}
        pd.testing.assert_frame_equal(after, before.rename(index=exchanged).loc[after.index], atol=1e-5)
        assert not np.allclose(before.loc[one.name], after.loc[one.name], atol=1e-4)
        assert "test images are predicted already" in self.again(moved)

    def test_other_weights_predict_again(self, moved: tuple[Run, Path]) -> None:
        done, _ = moved
        one, other = ReplicaId("mask", 0), ReplicaId("mask", 1)
        shutil.copy(done.weights(one), done.weights(other))
        write_json(done.meta(other), {**read_json(done.meta(other)), "sha256": read_json(done.meta(one))["sha256"]})
        assert "28 test images by 12 models" in self.again(moved)

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            (lambda image: image.write_bytes(image.read_bytes() + b"0"), "1 images have another content, such as '{}';"),
            (lambda image: image.unlink(), "1 of 112 images are gone or set aside, such as '{}';"),
            (
                lambda image: image.rename(image.with_name("mask5.png")),
                "1 of 112 images are gone or set aside, such as '{}' (and 1 more kinds of changes);",
            ),
        ],
    )
    def test_training_images_that_changed_are_refused_and_named(
        self, moved: tuple[Run, Path], change: Callable[[Path], object], sentence: str
    ) -> None:
        done, data = moved
        image = next((data / "train" / "images").rglob("mask5.jpg"))
        change(image)
        with pytest.raises(InputError) as refused:
            self.again(moved)
        name = str(image.relative_to(data / "train" / "images"))
        told = f"'{done.root}' holds another run: since it began, {sentence.format(name)} put the data back as they were"
        assert str(refused.value).startswith(told)
