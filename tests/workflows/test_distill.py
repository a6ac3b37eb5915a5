"""Runs that learn from another: pseudo-labels and distillation."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from tiny import run_and_read, with_cache

from raymask.core.console import Display
from raymask.core.errors import InputError
from raymask.data.folds import TRAIN_ONLY
from raymask.inference.voting_runs import by_round, voting_runs
from raymask.io.atomic import write_table
from raymask.io.checked import read_json
from raymask.runs.configs import load_run_config
from raymask.runs.directory import WHOLE, ReplicaId, Run
from raymask.voting.reading import read_vote
from raymask.workflows.distill import distil, pseudo

pytestmark = pytest.mark.usefixtures("ray_session")


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
    table = pd.DataFrame(
        said, columns=[name for name in map(str, pd.read_parquet(before.oof("joint"))) if name.startswith("joint:")]
    )
    write_table(copy.targets, table.assign(image_id=unlabelled["image_id"], fold=0))
    done, _ = run_and_read(load_run_config(copy).model_copy(update={"runs": tmp_path}))
    assert sorted(pd.read_parquet(done.oof("joint"))["image_id"].unique()) == manifest["image_id"].tolist()
    learned = {fold: pd.read_csv(done.history(ReplicaId("joint", fold)))["train_loss"] for fold in (0, 1)}
    assert np.isfinite(learned[0]).all()
    assert np.isfinite(learned[1]).all()
    assert learned[0].iloc[-1] > learned[1].iloc[-1], "a quarter of its targets is noise"
    assert done.report.is_file()


def test_a_run_is_trained_anew_with_pseudo_labels_of_its_test_images(reserving: tuple[Run, str], tmp_path: Path) -> None:
    parent, said = with_cache(reserving[0], tmp_path), io.StringIO()
    taught = pseudo(parent.root, settings=["teacher.precision=0"], display=Display(Console(file=said, width=200))).run
    assert taught.root == tmp_path / "tiny-pseudo"
    assert "28 of 28 unlabelled images join the training folds, 28 to 28 of them a fold" in said.getvalue()
    before, manifest = pd.read_parquet(parent.manifest), pd.read_parquet(taught.manifest)
    unlabelled = manifest[manifest["image_id"].str.startswith("test/")]
    assert sorted(unlabelled["image_id"]) == sorted("test/" + pd.read_parquet(parent.test_predictions)["image_id"])
    assert (unlabelled[[name for name in map(str, manifest) if "label_" in name]] == -1).all(axis=None)
    assert (unlabelled["fold"] == TRAIN_ONLY).all()
    assert manifest["image_id"].is_monotonic_increasing
    pd.testing.assert_frame_equal(manifest.drop(unlabelled.index).reset_index(drop=True), before)
    pd.testing.assert_frame_equal(pd.read_parquet(taught.reserve), pd.read_parquet(parent.reserve))
    for table in (taught.oof("joint"), taught.oof_ensemble):
        assert sorted(pd.read_parquet(table)["image_id"].unique()) == before["image_id"].tolist()

    targets, [one] = pd.read_parquet(taught.targets), voting_runs([parent])
    joint = [name for name in map(str, targets) if name.startswith("joint:")]
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
    joint = [name for name in map(str, targets) if name.startswith("joint:")]
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


def test_nothing_depends_on_the_order_of_the_input(reserving: tuple[Run, str], photos: Path, tmp_path: Path) -> None:
    shuffled = tmp_path / "photos"
    shutil.copytree(photos, shuffled)
    for table in (shuffled / "train" / "train.csv", shuffled / "eval" / "info.csv"):
        rows = pd.read_csv(table, dtype=str)
        rows.sample(frac=1, random_state=3).to_csv(table, index=False)
    config = load_run_config(reserving[0])
    data = config.data.model_copy(update={"path": str(shuffled), "test": None})
    again, _ = run_and_read(config.model_copy(update={"runs": tmp_path / "runs", "cache": None, "data": data}))
    for name in ("predictions", "oof_ensemble"):
        before, after = (pd.read_parquet(getattr(one, name)) for one in (reserving[0], again))
        pd.testing.assert_frame_equal(before, after, atol=1e-6, rtol=0)
