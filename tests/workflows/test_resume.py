"""Runs that are started again: what is finished is left, what is lost or changed is made again or refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import run_and_read, trials_here, with_cache

from raymask.config.components import ScheduleConfig
from raymask.core.errors import InputError
from raymask.io.atomic import write_json
from raymask.io.checked import read_json
from raymask.runs.configs import load_run_config
from raymask.runs.directory import ReplicaId, Run

pytestmark = pytest.mark.usefixtures("ray_session")


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


def test_another_config_under_the_same_name_is_refused(finished: tuple[Run, str]) -> None:
    config = load_run_config(finished[0])
    other = config.model_copy(update={"recipe": config.recipe.model_copy(update={"schedule": ScheduleConfig(epochs=3)})})
    with pytest.raises(InputError, match=r"recipe.schedule.epochs was 2 and is 3.*another --name"):
        run_and_read(other)


LOST = ReplicaId("gender", 1)


@pytest.fixture(scope="module")
def mended(finished: tuple[Run, str], photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str, list[str]]:
    """A copy of a run that lost one of its models, started again with a cut and a missing test image; with their names."""
    folder = tmp_path_factory.mktemp("mended")
    shutil.copytree(photos, folder / "photos")
    first, second = sorted((folder / "photos" / "eval" / "images").iterdir())[:2]
    first.write_bytes(first.read_bytes()[: first.stat().st_size // 2])
    second.unlink()
    copy = Run(folder / "tiny")
    shutil.copytree(finished[0].root, copy.root)
    shutil.rmtree(copy.replica(LOST))
    config = load_run_config(copy)
    data = config.data.model_copy(update={"test": str(folder / "photos" / "eval" / "info.csv")})
    config = config.model_copy(update={"runs": folder, "cache": finished[0].root.parent / ".cache", "data": data})
    with trials_here():
        return *run_and_read(config), [first.name, second.name]


def test_a_lost_fold_model_alone_is_trained_again(finished: tuple[Run, str], mended: tuple[Run, str, list[str]]) -> None:
    done, said, _ = mended
    assert "11 of 12 models are trained already" in said
    # Alone in its pack, with two threads in place of one, and yet the same but for the order of sums.
    expected = pd.read_parquet(finished[0].replica_oof(LOST))
    pd.testing.assert_frame_equal(pd.read_parquet(done.replica_oof(LOST)), expected, atol=1e-3, rtol=0)


def test_a_broken_test_image_gets_the_classes_frequencies_and_is_flagged(mended: tuple[Run, str, list[str]]) -> None:
    done, said, [cut, missing] = mended
    predictions = pd.read_parquet(done.predictions).set_index("image_id")
    assert "truncated" in str(predictions.loc[cut, "problem"])
    assert predictions.loc[missing, "problem"] == "the file is missing"
    assert (predictions["problem"] != "").sum() == 2
    frequencies = np.bincount(pd.read_parquet(done.manifest)["label_joint"], minlength=18) / 112
    joint = [name for name in predictions.columns if name.startswith("joint:")]
    np.testing.assert_allclose(predictions.loc[cut, joint].astype(float), frequencies)
    assert "2 test images cannot be read" in said
    assert len(pd.read_csv(done.submission)) == 28


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

    def test_a_model_of_other_weights_predicts_again(self, moved: tuple[Run, Path]) -> None:
        done, _ = moved
        one, other = ReplicaId("mask", 0), ReplicaId("mask", 1)
        shutil.copy(done.weights(one), done.weights(other))
        write_json(done.meta(other), {**read_json(done.meta(other)), "sha256": read_json(done.meta(one))["sha256"]})
        assert "28 test images by 1 models under 2 view(s), and by 11 already" in " ".join(self.again(moved).split())

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
