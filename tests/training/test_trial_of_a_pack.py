"""Tests of a pack's trial, in this process: who is finished, who is given up, and where each goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from made import RECIPE, make_run
from safetensors.torch import load_file

from raymask.cluster.resources import Slots
from raymask.config.merging import deep_merge
from raymask.config.schema import resolve_members
from raymask.config.tasks import label_space
from raymask.data.cache import index_path, shard_path
from raymask.data.specs import input_spec, stream_spec
from raymask.io.atomic import write_table
from raymask.io.checked import read_json
from raymask.models.trunks import CutBackbone
from raymask.runs.configs import load_run_config
from raymask.runs.directory import ReplicaId
from raymask.runs.tables import read_manifest
from raymask.training.backbones import fetch_backbones
from raymask.training.learner import Learner
from raymask.training.packs import Job, Pack
from raymask.training.trial import build_learner, train_pack_of_run

pytestmark = pytest.mark.usefixtures("one_thread")

SLOTS = Slots(1, 0.5, 0.0, 1, 0.5)
EPOCHS = 3
TRAINED = deep_merge(RECIPE, {"schedule": {"epochs": EPOCHS}, "batch_size": 28, "augment": "none"})
TRUNK = CutBackbone.trunk
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


class TestOwnFold:
    """What fold models say of their own folds is kept from the last scoring."""

    @pytest.mark.parametrize(
        "recipe",
        [
            {},
            {"schedule": {"average_last": 2}},
            {"optim": {"ema": 0.9}},
            {"stop": {"patience": 1, "share": 0.3}, "optim": {"lr": 1.0}},
        ],
        ids=["last weights", "mean", "moving average", "stopped early"],
    )
    def test_it_is_what_would_be_predicted_anew(
        self, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any]
    ) -> None:
        kept, pack = begun(tmp_path / "kept", photos, **recipe)
        predicted = {"kept": self.predictions(kept, pack)}
        monkeypatch.setattr(Learner, "predict_own_fold", lambda self, view, feed: self.predict(self.own_rows, view, feed))
        anew, pack = begun(tmp_path / "anew", photos, **recipe)
        predicted["anew"] = self.predictions(anew, pack)
        for replica in pack.replicas:
            assert kept.run.replica_oof(replica).read_bytes() == anew.run.replica_oof(replica).read_bytes()
        assert len(predicted["kept"]) <= len(predicted["anew"])
        if "stop" not in recipe:
            assert predicted["anew"].count("original") - predicted["kept"].count("original") == len(pack.replicas)

    def predictions(self, job: Job, pack: Pack) -> list[str]:
        """Trains; the views of all predictions."""
        views: list[str] = []
        predict = Learner.predict

        def noted(learner: Learner, rows: np.ndarray, view: str, feed: Any) -> Any:
            views.append(view)
            return predict(learner, rows, view, feed)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Learner, "predict", noted)
            train(job, pack)
        return views


class TestSharedTrunk:
    """Fold models whose first stages are frozen, and start from one file of weights."""

    @pytest.fixture(scope="class")
    @classmethod
    def weights(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        file = tmp_path_factory.mktemp("weights") / "backbone.pth"
        torch.manual_seed(0)
        torch.save(timm.create_model("test_resnet").state_dict(), file)
        return file

    def begun(self, root: Path, photos: Path, weights: Path, **recipe: Any) -> tuple[Job, Pack]:
        given = {"pretrained": True, "weights": str(weights), "freeze": {"stages": 2}, **recipe}
        job, pack = begun(root, photos, **given)
        return replace(job, backbones=fetch_backbones(list(job.members.values()), root / "backbones")), pack

    def trunks_of(self, job: Job, pack: Pack) -> list[int]:
        """Trains, and returns how many images each call of a trunk was given."""
        given: list[int] = []

        def trunk(cut: CutBackbone, images: torch.Tensor) -> torch.Tensor:
            given.append(len(images))
            return TRUNK(cut, images)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CutBackbone, "trunk", trunk)
            train(job, pack)
        return given

    @pytest.mark.parametrize("ema", [0.0, 0.9])
    def test_it_sees_a_batch_once_and_each_ends_as_if_it_were_alone(
        self, photos: Path, weights: Path, tmp_path: Path, ema: float
    ) -> None:
        averaged = {"optim": {"ema": ema}}
        job, pack = self.begun(tmp_path / "both", photos, weights, **averaged)
        images = len(read_manifest(job.run, job.space))
        proofs = 2  # of each model's cut, on an example of two images
        models = len(pack.replicas) * (2 if ema else 1)
        given = self.trunks_of(job, pack)
        validated = images * len(job.views)  # once, and not in every epoch
        assert sum(given) == EPOCHS * images + validated + models * proofs
        for replica in pack.replicas:
            alone, whole = self.begun(tmp_path / f"alone-{replica.fold}", photos, weights, **averaged)
            train(alone, Pack(pack.name, (replica,), whole.stream, whole.epochs))
            for file in (job.run.weights, job.run.replica_oof):
                assert file(replica).read_bytes() == getattr(alone.run, file.__name__)(replica).read_bytes()

    def test_what_there_is_no_room_for_is_computed_again(
        self, photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        roomy, pack = self.begun(tmp_path / "roomy", photos, weights)
        kept = self.trunks_of(roomy, pack)
        monkeypatch.setattr("raymask.training.inputs.KEPT_BYTES", 0)
        narrow, pack = self.begun(tmp_path / "narrow", photos, weights)
        images = len(read_manifest(narrow.run, narrow.space))
        assert sum(self.trunks_of(narrow, pack)) == sum(kept) + images * (EPOCHS - 1)  # in each but the first
        for replica in pack.replicas:
            assert roomy.run.replica_oof(replica).read_bytes() == narrow.run.replica_oof(replica).read_bytes()

    def test_it_says_what_the_whole_backbone_says(
        self, photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job, pack = self.begun(tmp_path / "cut", photos, weights)
        train(job, pack)
        monkeypatch.setattr("raymask.training.trial.shared_cuts", lambda models: {})
        whole, pack = self.begun(tmp_path / "whole", photos, weights)
        train(whole, pack)
        for replica in pack.replicas:
            cut, expected = (pd.read_parquet(each.run.replica_oof(replica)) for each in (job, whole))
            pd.testing.assert_frame_equal(cut, expected, atol=1e-3, rtol=0)
            kept = load_file(job.run.weights(replica))
            for name, tensor in torch.load(weights).items():
                if name.startswith(("conv1", "bn1", "layer1", "layer2")):
                    torch.testing.assert_close(kept[f"backbone.{name}"], tensor, rtol=0, atol=0)

    @pytest.mark.parametrize(
        "recipe",
        [{"mix": {"name": "mixup"}}, {"freeze": {"stages": 2, "unfreeze_at": 1}}],
        ids=["pixels are mixed", "trained later"],
    )
    def test_where_it_cannot_be_shared_each_has_its_own(
        self, photos: Path, weights: Path, tmp_path: Path, recipe: dict[str, Any]
    ) -> None:
        job, pack = self.begun(tmp_path, photos, weights, **recipe)
        assert self.trunks_of(job, pack) == []
        assert all(job.run.finished(replica) for replica in pack.replicas)
