"""Tests of the labels that a replica learns from, and of where its training goes on."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from made import make_run

from raymask.cluster.resources import Slots
from raymask.config.members import Member
from raymask.config.merging import deep_merge
from raymask.config.recipe import Recipe
from raymask.config.schema import resolve_members
from raymask.config.tasks import label_space
from raymask.core.tasks import JOINT, LabelSpace, Task
from raymask.data.cache import index_path, shard_path
from raymask.data.specs import stream_spec
from raymask.runs.configs import load_run_config
from raymask.runs.directory import ANY_FOLD, WHOLE, ReplicaId
from raymask.runs.tables import read_manifest
from raymask.training.checkpoints import Checkpoints, History
from raymask.training.packs import Job, Pack
from raymask.training.targets import LabelTable, label_table, teach
from raymask.training.trial import build_learner, learner_spec, train_pack_of_run

SPACE = LabelSpace((Task("colour", "colour", ("red", "green", "blue")), Task("half", "half", ("top", "bottom"))))
JOINTS = np.array([0, 1, 2, 3, 4, -1, -1, -1])
FOLDS = np.array([0, 0, 1, 1, -1, -1, -1, -1])
IDS = pd.Series([f"image-{row}" for row in range(len(JOINTS))])


def manifest() -> pd.DataFrame:
    labels = {**SPACE.split(JOINTS), JOINT: JOINTS}
    columns = {f"{kind}_{target}": of_target for target, of_target in labels.items() for kind in ("label", "train_label")}
    return pd.DataFrame({"image_id": IDS, "group": list("bbacacde"), "fold": FOLDS, **columns})


def targets(rows: list[int], fold: int, joint: list[list[float]]) -> pd.DataFrame:
    named = dict(zip([f"{JOINT}:{name}" for name in SPACE.joint_classes], np.array(joint, np.float32).T, strict=True))
    return pd.DataFrame({"image_id": IDS[rows].to_numpy(), "fold": fold, **named})


def confident(label: int) -> list[float]:
    return [float(label == other) for other in range(6)]


MIXED = [0.5, 0.25, 0.25, 0.0, 0.0, 0.0]
LABELS = label_table(manifest(), SPACE)


def rows_of(labels: LabelTable) -> list[int]:
    assert labels.trains is not None
    return np.flatnonzero(labels.trains).tolist()


def test_unlabelled_images_are_not_learned_from_without_a_teacher() -> None:
    assert rows_of(LABELS) == [0, 1, 2, 3, 4]
    assert teach(LABELS, IDS, None, 0) is LABELS
    other_fold = teach(LABELS, IDS, targets([5], 1, [MIXED]), 0)
    assert rows_of(other_fold) == rows_of(LABELS)
    for head, labels in LABELS.train.items():
        np.testing.assert_array_equal(other_fold.train[head], labels)


def test_rare_rows_are_those_of_any_of_the_named_classes() -> None:
    assert LABELS.rare_rows({}).tolist() == [False] * 8
    assert np.flatnonzero(LABELS.rare_rows({"colour": ("blue",)})).tolist() == [4]
    assert np.flatnonzero(LABELS.rare_rows({"colour": ("red",), "half": ("bottom",)})).tolist() == [0, 1, 3]
    assert np.flatnonzero(LABELS.rare_rows({JOINT: ("green top", "green bottom")})).tolist() == [2, 3]


def test_rare_rows_are_so_by_what_is_learned_of_them() -> None:
    hard = teach(LABELS, IDS, targets([5, 0], ANY_FOLD, [confident(4), confident(2)]), 0)
    assert np.flatnonzero(hard.rare_rows({"colour": ("blue",)})).tolist() == [4, 5]
    assert np.flatnonzero(hard.rare_rows({"colour": ("red",)})).tolist() == [1]
    soft = teach(LABELS, IDS, targets([5, 0], ANY_FOLD, [MIXED, confident(3)]), 1)
    assert np.flatnonzero(soft.rare_rows({"colour": ("red",)})).tolist() == [1, 5]
    assert np.flatnonzero(soft.rare_rows({"half": ("bottom",)})).tolist() == [0, 1, 3]


def test_images_of_one_group_have_one_number() -> None:
    assert LABELS.groups is not None
    assert LABELS.groups.tolist() == [1, 1, 0, 2, 0, 2, 3, 4]


def test_a_replica_is_taught_by_the_targets_of_its_fold_and_by_those_for_all() -> None:
    table = pd.concat(
        [
            targets([5], 0, [confident(5)]),
            targets([6], 1, [confident(4)]),
            targets([7], WHOLE, [confident(3)]),
            targets([1], ANY_FOLD, [confident(2)]),
        ]
    )
    taught = {fold: teach(LABELS, IDS, table, fold) for fold in (0, 1, WHOLE)}
    assert {fold: rows_of(labels)[5:] for fold, labels in taught.items()} == {0: [5], 1: [6], WHOLE: [7]}
    assert taught[0].train[JOINT].tolist() == [0, 2, 2, 3, 4, 5, -1, -1]
    assert taught[WHOLE].train[JOINT].tolist() == [0, 2, 2, 3, 4, -1, -1, 3]


def test_targets_of_the_fold_itself_go_before_those_for_all() -> None:
    table = pd.concat([targets([5], 0, [confident(5)]), targets([5], ANY_FOLD, [confident(1)])])
    assert [teach(LABELS, IDS, table, fold).train[JOINT][5] for fold in (0, 1)] == [5, 1]


def test_sure_targets_are_ordinary_labels_of_every_head() -> None:
    taught = teach(LABELS, IDS, targets([6, 5], ANY_FOLD, [confident(5), confident(2)]), 0)
    assert {head: labels.dtype.kind for head, labels in taught.train.items()} == {"colour": "i", "half": "i", JOINT: "i"}
    assert taught.train["colour"].tolist() == [0, 0, 1, 1, 2, 1, 2, -1]
    assert taught.train["half"].tolist() == [0, 1, 0, 1, 0, 0, 1, -1]
    assert LABELS.train[JOINT][5] == -1


def test_unsure_targets_make_all_labels_probabilities() -> None:
    taught = teach(LABELS, IDS, targets([5, 0], ANY_FOLD, [MIXED, confident(3)]), 1)
    assert {head: labels.dtype for head, labels in taught.train.items()} == dict.fromkeys(("colour", "half", JOINT), np.float32)
    np.testing.assert_allclose(taught.train[JOINT][[5, 0, 2]], [MIXED, confident(3), confident(2)])
    np.testing.assert_allclose(taught.train["colour"][[5, 0, 2]], [[0.75, 0.25, 0], [0, 1, 0], [0, 1, 0]])
    np.testing.assert_allclose(taught.train["half"][[5, 0, 2]], [[0.75, 0.25], [0, 1], [1, 0]])
    np.testing.assert_array_equal(taught.train[JOINT][[6, 7]], 0)
    assert rows_of(taught) == [0, 1, 2, 3, 4, 5]
    assert taught.counts(JOINT, 6, fold=1).sum() == pytest.approx(4)


def test_the_truth_stays_the_manifests() -> None:
    taught = teach(LABELS, IDS, targets([0, 5], ANY_FOLD, [confident(5), MIXED]), 0)
    for target, truth in LABELS.truth.items():
        np.testing.assert_array_equal(taught.truth[target], truth)
    np.testing.assert_array_equal(taught.fold, FOLDS)


def test_targets_of_images_that_were_set_aside_are_passed_over() -> None:
    gone = targets([5], ANY_FOLD, [MIXED]).assign(image_id="broken")
    assert rows_of(teach(LABELS, IDS, gone, 0)) == rows_of(LABELS)


@pytest.fixture(scope="module")
def job(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    run = make_run(tmp_path_factory.mktemp("begun") / "run", photos, members=[{"task": "joint"}])
    config = load_run_config(run)
    members = {member.name: member for member in resolve_members(config)}
    return Job(run, label_space(config.tasks), members, config.views, {}, {}, {}, 1)


@pytest.mark.usefixtures("one_thread")
def test_a_trial_learns_from_what_its_sampler_draws_and_mixes_by_a_task_that_it_does_not_predict(
    job: Job, tmp_path: Path
) -> None:
    """Without Ray, since a trial makes the first batches itself."""
    table = read_manifest(job.run, job.space)
    pixels = np.random.default_rng(0).integers(0, 256, (len(table), 32, 32, 3)).astype(np.uint8)
    np.save(shard_path(tmp_path, 0), pixels)
    index = pd.DataFrame({"image_id": table["image_id"], "shard": 0, "offset": range(len(table)), "problem": ""})
    index.to_parquet(index_path(tmp_path))
    rare, of_rare = job.space.classes("age")[-1], len(job.space.classes("age")) - 1
    given = {
        "batch_size": 16,
        "schedule": {"epochs": 2},
        "sampler": {"name": "repeat", "by": "age", "factors": {rare: 2}},
        "mix": {"name": "half_cutmix", "rare": {"age": [rare]}},
    }
    recipe = Recipe.model_validate(deep_merge(job.members["joint"].recipe.model_dump(), given))
    member = Member(name="mask", task="mask", seed=0, recipe=recipe)
    stream = stream_spec(recipe, 0, "mask", job.space)
    job = replace(job, members={"mask": member}, caches={stream.input: tmp_path})
    pack = Pack("pack-0", (ReplicaId("mask", 0), ReplicaId("mask", 1)), stream, 2)
    train_pack_of_run(job, pack, Slots(1, 1.0, 0.0, 1, 1.0), lambda report: None)
    counted = np.where(table["train_label_age"] == of_rare, 2, 1)
    for replica in pack.replicas:
        history = pd.read_csv(job.run.history(replica))
        assert history["images"].tolist() == [counted[table["fold"] != replica.fold].sum()] * 2
        assert len(pd.read_parquet(job.run.replica_oof(replica))) == len(job.views) * np.sum(table["fold"] == replica.fold)


class TestTakeUp:
    @pytest.fixture
    def begun(self, job: Job) -> Callable[[], tuple[int, History]]:
        replica, labels = ReplicaId("joint", 0), label_table(read_manifest(job.run, job.space), job.space)
        spec = learner_spec(job.members["joint"], 0, labels, 4)

        def begin() -> tuple[int, History]:
            built = partial(build_learner, job, replica, spec, torch.device("cpu"))
            learner, history = Checkpoints(job.run).resume(replica, built, torch.device("cpu"))
            return learner.epoch, history

        learner = build_learner(job, replica, spec, torch.device("cpu"))
        learner.epoch = 2
        Checkpoints(job.run).save([(replica, learner, [{"epoch": 1}, {"epoch": 2}])])
        return begin

    def test_goes_on_from_its_checkpoint(self, begun: Callable[[], tuple[int, History]]) -> None:
        assert begun() == (2, [{"epoch": 1}, {"epoch": 2}])

    @pytest.mark.parametrize("damage", ["halved", "emptied", "flipped", "of another model", "a pickle", "no mapping"])
    def test_begins_anew_where_that_is_damaged(self, job: Job, begun: Callable[[], tuple[int, History]], damage: str) -> None:
        file = job.run.checkpoint(ReplicaId("joint", 0))
        content, middle = file.read_bytes(), file.stat().st_size // 2
        if damage == "of another model":
            torch.save({"learner": {"epoch": 2, "optimizer_step": 1, "model": {}}, "history": []}, file)
        elif damage == "no mapping":
            torch.save([1, 2], file)
        else:
            flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            pickled = pickle.dumps(Bad())
            file.write_bytes({"halved": content[:middle], "emptied": b"", "flipped": flipped, "a pickle": pickled}[damage])
        assert begun() == (0, [])
        assert not file.exists()
        assert Bad.ran == 0


class Bad:
    """Runs code where it is unpickled."""

    ran = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _run, ()


def _run() -> None:
    Bad.ran += 1
