"""Tests of a pack's trial, in this process: who is finished, who is given up, and where each goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from made import RECIPE, make_run

from raymask.cluster.resources import Slots
from raymask.config.merging import deep_merge
from raymask.config.schema import resolve_members
from raymask.config.tasks import label_space
from raymask.data.cache import index_path, shard_path
from raymask.data.specs import input_spec, stream_spec
from raymask.io.atomic import write_table
from raymask.io.checked import read_json
from raymask.runs.directory import ReplicaId, load_run_config
from raymask.runs.tables import read_manifest
from raymask.training.learner import Learner
from raymask.training.packs import Job, Pack
from raymask.training.trial import build_learner, train_pack_of_run

pytestmark = pytest.mark.usefixtures("one_thread")

SLOTS = Slots(1, 0.5, 0.0, 1, 0.5)
EPOCHS = 3
TRAINED = deep_merge(RECIPE, {"schedule": {"epochs": EPOCHS}, "batch_size": 28, "augment": "none"})
ONE, OTHER = ReplicaId("joint", 0), ReplicaId("joint", 1)
Report = dict[str, Any]


def begun(root: Path, photos: Path, **recipe: Any) -> tuple[Job, Pack]:
    """A run of which nothing is trained, its images drawn, and a pack of both its fold models."""
    run = make_run(root / "run", photos, members=[{"task": "joint"}], recipe=deep_merge(TRAINED, recipe))
    config = load_run_config(run)
    [member] = resolve_members(config)
    manifest, spec, folder = read_manifest(run, label_space(config.tasks)), input_spec(member.recipe), root / "cache"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (len(manifest), spec.height, spec.width, 3)).astype(np.uint8)
    images[:, :8, :8] = (40 * manifest["label_joint"].to_numpy()[:, None, None, None] % 256).astype(np.uint8)
    np.save(shard_path(folder, 0), images)
    index = pd.DataFrame({"image_id": manifest["image_id"], "shard": 0, "offset": np.arange(len(manifest)), "problem": ""})
    write_table(index_path(folder), index)
    for replica in (ONE, OTHER):
        run.meta(replica).unlink()
    job = Job(run, label_space(config.tasks), {"joint": member}, config.views, {spec: folder}, {}, {}, 2**20)
    return job, Pack(
        "pack-0", (ONE, OTHER), stream_spec(member.recipe, config.seed, member.task, job.space), member.recipe.schedule.epochs
    )


def train(job: Job, pack: Pack) -> list[Report]:
    reports: list[Report] = []
    train_pack_of_run(job, pack, SLOTS, reports.append)
    return reports


def with_one_that_breaks(name: str, epoch: int) -> Callable[..., Learner]:
    """Builds learners as always, but that the logits of one of them are no numbers from an epoch on, while it trains."""

    def build(job: Job, replica: ReplicaId, *args: Any) -> Learner:
        learner = build_learner(job, replica, *args)

        def break_logits(module: torch.nn.Module, _: object, logits: torch.Tensor) -> torch.Tensor:
            return logits * math.nan if module.training and learner.epoch + 1 >= epoch else logits

        if str(replica) == name:
            learner.model.get_submodule("heads.joint-head").register_forward_hook(break_logits)
        return learner

    return build


class TestOneThatFails:
    @pytest.fixture(scope="class")
    @classmethod
    def ended(cls, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Pack, list[Report]]:
        job, pack = begun(tmp_path_factory.mktemp("failing"), photos)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("raymask.training.trial.build_learner", with_one_that_breaks(str(OTHER), epoch=2))
            return job, pack, train(job, pack)

    def test_the_others_are_finished_as_if_they_were_alone(
        self, ended: tuple[Job, Pack, list[Report]], photos: Path, tmp_path: Path
    ) -> None:
        alone, pack = begun(tmp_path, photos)
        train(alone, Pack(pack.name, (ONE,), pack.stream, pack.epochs))
        both = [read_json(run.meta(ONE)) for run in (ended[0].run, alone.run)]
        assert both[0]["sha256"] == both[1]["sha256"]
        assert both[0]["epochs"] == EPOCHS
        assert not ended[0].run.finished(OTHER)

    def test_the_run_is_refused_with_one_sentence_that_names_it_and_its_batch(
        self, ended: tuple[Job, Pack, list[Report]]
    ) -> None:
        job, _, reports = ended
        file = job.run.replica(OTHER) / "failed-batch.csv"
        assert [report["refusal"] for report in reports if "refusal" in report] == [
            "joint/fold-1 was given up in epoch 2 at step 1, since its loss is not finite: lower recipe.optim.lr, set "
            f"recipe.optim.clip_grad, or look at the images of that step, which are listed in '{file}'."
        ]
        assert "done" not in [report.get("phase") for report in reports]
        listed = pd.read_csv(file)
        assert listed.columns.tolist() == ["image_id", "epoch", "step"]
        manifest = read_manifest(job.run, job.space).set_index("image_id")
        assert (manifest.loc[listed["image_id"], "fold"] == 0).all()
        assert 2 <= len(listed) <= 28
        assert listed[["epoch", "step"]].drop_duplicates().to_numpy().tolist() == [[2, 1]]

    def test_no_checkpoint_is_left_and_it_begins_anew(self, ended: tuple[Job, Pack, list[Report]]) -> None:
        job, pack, _ = ended
        assert not job.run.checkpoint(OTHER).exists(), "the one after its first epoch neither"
        before = job.run.meta(ONE).stat().st_mtime_ns
        reports = train(job, pack)
        assert job.run.meta(ONE).stat().st_mtime_ns == before
        assert job.run.finished(OTHER)
        assert not (job.run.replica(OTHER) / "failed-batch.csv").exists()
        assert pd.read_csv(job.run.history(OTHER))["epoch"].tolist() == [1, 2, 3]
        assert reports[-1]["phase"] == "done"


EARLY: Report = {"stop": {"patience": 1, "share": 0.3}, "optim": {"lr": 0.1}, "schedule": {"epochs": 5}}


class TestEarlyStopping:
    @pytest.fixture(scope="class")
    @classmethod
    def ended(cls, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Pack]:
        job, pack = begun(tmp_path_factory.mktemp("stopping"), photos, **EARLY)
        train(job, pack)
        return job, pack

    def test_the_epoch_and_the_scores_are_those_of_the_weights_that_are_kept(self, ended: tuple[Job, Pack]) -> None:
        for replica in (ONE, OTHER):
            history, meta = pd.read_csv(ended[0].run.history(replica)), read_json(ended[0].run.meta(replica))
            best = int(history["judged_loss"].argmin())
            assert len(history) == min(5, best + 2)
            assert meta["epochs"] == best + 1
            assert meta["scores"]["loss"] == pytest.approx(history["loss"][best])
            oof = pd.read_parquet(ended[0].run.replica_oof(replica)).query("view == 'original'").set_index("image_id")
            manifest = read_manifest(ended[0].run, ended[0].space).set_index("image_id").loc[oof.index]
            said = oof.filter(like="joint:").to_numpy()
            loss = -np.log(np.maximum(said[np.arange(len(said)), manifest["label_joint"]], 1e-12)).mean()
            assert loss == pytest.approx(history["loss"][best], rel=1e-4)

    def test_some_fold_model_ends_early(self, ended: tuple[Job, Pack]) -> None:
        """So that the test above sees it."""
        assert min(len(pd.read_csv(ended[0].run.history(replica))) for replica in (ONE, OTHER)) < 5

    def test_cut_off_after_it_has_ended_it_is_finished_without_learning_again(
        self, ended: tuple[Job, Pack], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job, pack = begun(tmp_path, photos, **EARLY)

        class CutOffError(Exception):
            pass

        def cut_off(*_: Any) -> None:
            raise CutOffError

        with monkeypatch.context() as patch:
            patch.setattr("raymask.training.trial._finish", cut_off)
            with pytest.raises(CutOffError):
                train(job, pack)
        train(job, pack)
        for replica in (ONE, OTHER):
            assert read_json(job.run.meta(replica))["sha256"] == read_json(ended[0].run.meta(replica))["sha256"]


def test_without_early_stopping_a_history_knows_nothing_of_it(photos: Path, tmp_path: Path) -> None:
    job, pack = begun(tmp_path, photos, schedule={"epochs": 1})
    train(job, pack)
    assert "judged_loss" not in pd.read_csv(job.run.history(ONE)).columns
