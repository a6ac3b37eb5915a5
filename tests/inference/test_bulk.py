"""Tests of predicting any number of images: complete, in order, by shards that are not predicted twice."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made import HELPERS, VOTE, make_run
from rich.console import Console

import raymask
from raymask.core.console import Display
from raymask.core.errors import InputError
from raymask.data.test_sets import ImageList
from raymask.inference import actors, bulk
from raymask.inference.actors import PredictActor, decoded_block
from raymask.inference.bulk import missing_shards, read_predictions, split_models
from raymask.inference.definition import read_definition
from raymask.inference.predictor import specs_of
from raymask.io.atomic import write_table
from raymask.io.hashing import UNKNOWN, versions_of
from raymask.runs.directory import Run
from raymask.runs.folders import ModelFiles, PredictionFolder
from raymask.workflows import predict as workflow


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs") / "made", photos)


@pytest.fixture(scope="module")
def grouping_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that votes gender and age by group."""
    vote = {**VOTE, "groups": ["gender", "age"]}
    return make_run(tmp_path_factory.mktemp("runs") / "grouping", photos, vote=vote, members=[{"task": "multi"}])


@pytest.fixture(scope="module")
def folder(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test images, one of them cut off."""
    copy = tmp_path_factory.mktemp("wanted") / "images"
    shutil.copytree(photos / "eval" / "images", copy)
    broken = sorted(copy.iterdir())[5]
    broken.write_bytes(broken.read_bytes()[:300])
    return copy


@pytest.fixture(scope="module")
def expected(run: Run, folder: Path) -> pd.DataFrame:
    files = sorted(folder.iterdir())
    return raymask.load(run.root).predict(files, [file.name for file in files])


def predict(run: Run, images: Path, out: Path, **more: object) -> str:
    said = io.StringIO()
    columns = {key: more.pop(key) for key in ("image_column", "id_column", "group_column", "by_folder") if key in more}
    listed = ImageList(str(images), **columns)  # type: ignore[arg-type]
    workflow.predict(run.root, listed, out, display=Display(Console(file=said)), **more)  # type: ignore[arg-type]
    return said.getvalue()


def check_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, atol=1e-5, rtol=0)


@pytest.mark.usefixtures("one_thread")
def test_models_of_a_run_whose_folder_holds_a_bar_are_told_apart(
    run: Run, folder: Path, expected: pd.DataFrame, tmp_path: Path
) -> None:
    definition = read_definition(run.root)
    names = {name: f"a|b/{name}" for name in definition.models}
    rounds = tuple({member: names[model] for member, model in models.items()} for models in definition.rounds)
    renamed = replace(definition, models={names[name]: path for name, path in definition.models.items()}, rounds=rounds)
    specs, files = specs_of(renamed.models), sorted(folder.iterdir())[:3]
    block = {"chunk": np.zeros(3), "row": np.arange(3), "image_id": np.array([file.name for file in files], dtype=object)}
    block |= {"stamp": np.full(3, ""), "digest": np.full(3, "")}
    actor = PredictActor(renamed.models, renamed.vote.views, specs, 1, partial(bulk.voted_rows, renamed))
    table = actor(block | decoded_block([str(file) for file in files], specs, tmp_path))
    check_same(table.drop(columns=["chunk", "row", "stamp", "digest"]), expected[:3])


@pytest.mark.usefixtures("one_thread")
def test_a_block_that_passes_groups_of_models_ends_as_by_one_actor(run: Run, folder: Path, tmp_path: Path) -> None:
    models = dict(sorted(read_definition(run.root).models.items()))
    specs, files, views = specs_of(models), sorted(folder.iterdir())[3:7], read_definition(run.root).vote.views
    chunks = pd.DataFrame({"chunk": [{"image_id": [file.name for file in files], "path": list(map(str, files))}]})
    [block] = actors.decode_chunks(chunks, actors.rows_of_chunk, specs, tmp_path)
    whole = PredictActor(models, views, specs, 1, actors.joined)(dict(block))
    names = list(models)
    groups = [{name: models[name] for name in part} for part in (names[:1], names[1:])]
    passed = PredictActor(groups[0], views, specs, 1)(dict(block))
    last = PredictActor(groups[1], views, specs, 1, actors.joined)(passed)
    assert whole.keys() == last.keys() == {"image_id", "problem", "probabilities"}
    assert whole["image_id"].tolist() == [file.name for file in files]
    assert np.isnan(whole["probabilities"][2]).all(), "the sixth file is cut off"
    np.testing.assert_array_equal(last["probabilities"], whole["probabilities"])
    assert whole["probabilities"].shape == (4, len(actors.columns_of(models)))
    assert whole["probabilities"].dtype == np.float32


@pytest.mark.usefixtures("ray_session")
class TestShards:
    @pytest.fixture(autouse=True)
    def small_shards(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bulk, "IMAGES_PER_CHUNK", 4)
        monkeypatch.setattr(bulk, "CHUNKS_PER_SHARD", 2)

    def test_a_lost_shard_alone_is_predicted_again(self, run: Run, folder: Path, expected: pd.DataFrame, tmp_path: Path) -> None:
        out = PredictionFolder(tmp_path / "out")
        said = predict(run, folder, out.root)
        assert "1 images cannot be read" in said
        check_same(read_predictions(out), expected)
        assert pd.read_csv(out.problems)["image_id"].tolist() == [expected["image_id"][5]]
        assert pd.read_csv(out.submission)["image_id"].tolist() == expected["image_id"].tolist()
        shards = sorted(out.predictions.iterdir())
        assert len(shards) == -(-len(expected) // 8)
        shards[1].unlink()
        before = {path: path.stat().st_mtime_ns for path in shards if path != shards[1]}
        predict(run, folder, out.root)
        assert {path: path.stat().st_mtime_ns for path in before} == before
        check_same(read_predictions(out), expected)

    def test_models_that_do_not_fit_into_one_actor_pass_images_on(
        self, run: Run, folder: Path, expected: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        size = max(ModelFiles(path).weights.stat().st_size for path in read_definition(run.root).models.values())
        monkeypatch.setattr("raymask.workflows.predict.memory_of", lambda nodes, pool: 5.5 * size)
        said = predict(run, folder, tmp_path / "out")
        assert "2 of them pass each image on" in said
        check_same(read_predictions(PredictionFolder(tmp_path / "out")), expected)

    def test_tables_name_images_and_keep_their_order(
        self, run: Run, folder: Path, expected: pd.DataFrame, tmp_path: Path
    ) -> None:
        table = pd.DataFrame({"who": [f"p{n}" for n in range(6)], "photo": sorted(path.name for path in folder.iterdir())[:6]})
        table = table.iloc[::-1]
        table.to_parquet(folder / "wanted.parquet")
        try:
            predict(run, folder / "wanted.parquet", tmp_path / "out", image_column="photo", id_column="who")
        finally:
            (folder / "wanted.parquet").unlink()
        found = read_predictions(PredictionFolder(tmp_path / "out"))
        assert found["image_id"].tolist() == ["p5", "p4", "p3", "p2", "p1", "p0"]
        np.testing.assert_array_equal(found["joint"], expected["joint"][:6][::-1])

    def test_images_that_changed_are_predicted_again_and_copies_are_not(
        self, run: Run, folder: Path, expected: pd.DataFrame, tmp_path: Path
    ) -> None:
        images, out = tmp_path / "images", PredictionFolder(tmp_path / "out")
        shutil.copytree(folder, images)
        predict(run, images, out.root)
        before = {path: path.stat().st_mtime_ns for path in out.predictions.iterdir()}
        images.rename(tmp_path / "moved")
        shutil.copytree(tmp_path / "moved", images, copy_function=shutil.copyfile)
        moved_run = shutil.copytree(run.root, tmp_path / "runs" / run.name, copy_function=shutil.copyfile)
        assert "have changed" not in predict(Run(moved_run), images, out.root)
        assert {path: path.stat().st_mtime_ns for path in out.predictions.iterdir()} == before
        [broken, whole] = [sorted(images.iterdir())[number] for number in (5, 6)]
        stamps = broken.stat()
        broken.write_bytes(whole.read_bytes())
        os.utime(broken, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
        said = predict(run, images, out.root)
        assert "1 images have changed since, and are predicted again" in " ".join(said.split())
        mended = expected.copy()
        mended.loc[5] = mended.loc[6]
        mended.loc[5, "image_id"] = broken.name
        check_same(read_predictions(out), mended)
        assert pd.read_csv(out.problems).empty
        now = {path: path.stat().st_mtime_ns for path in out.predictions.iterdir()}
        assert [path for path in before if now[path] != before[path]] == [out.shard(0)]

    def test_groups_are_voted_over_shards_and_again_to_the_byte(self, grouping_run: Run, folder: Path, tmp_path: Path) -> None:
        """Groups lie in several shards; one image has none, and one of them cannot be read."""
        names = sorted(path.name for path in folder.iterdir())
        groups = [["", "p0", "p1", "p2"][number % 4] if number else "" for number in range(len(names))]
        table = folder / "wanted.csv"
        pd.DataFrame({"image": names, "person": groups}).to_csv(table, index=False)
        out = PredictionFolder(tmp_path / "out")
        try:
            said = predict(grouping_run, table, out.root, group_column="person")
            ensemble = raymask.load(grouping_run.root)
            expected = ensemble.predict([folder / name for name in names], names, groups=groups)
            check_same(read_predictions(out), expected)
            assert "gender and age are voted over all images of each" in " ".join(said.split())
            assert pd.read_csv(out.submission)["gender"].tolist() == expected["gender"].tolist()
            contents = {path: path.read_bytes() for path in (*out.shards(), out.submission, out.problems)}
            alone = PredictionFolder(out.root, "each-alone")
            check_same(read_predictions(alone), ensemble.predict([folder / name for name in names], names))
            before = alone.shard(0).stat().st_mtime_ns
            alone.shard(1).unlink()  # as if cut off
            out.shard(2).unlink()
            out.shard(0).write_bytes(b"")
            predict(grouping_run, table, out.root, group_column="person")
            assert {path: path.read_bytes() for path in contents} == contents
            assert alone.shard(0).stat().st_mtime_ns == before
            for other in ({}, {"group_column": "image"}):
                with pytest.raises(InputError, match="of other images, in other groups or by other models; choose another --out"):
                    predict(grouping_run, table, out.root, **other)
        finally:
            table.unlink()

    def test_groups_change_nothing_where_each_image_is_voted_on_alone(self, run: Run, folder: Path, tmp_path: Path) -> None:
        plain, grouped = PredictionFolder(tmp_path / "plain"), PredictionFolder(tmp_path / "grouped")
        predict(run, folder, plain.root)
        said = predict(run, folder, grouped.root, by_folder=True)
        assert "change nothing" in " ".join(said.split())
        assert [one.read_bytes() for one in grouped.shards()] == [one.read_bytes() for one in plain.shards()]
        assert grouped.job.read_bytes() == plain.job.read_bytes()
        assert not PredictionFolder(grouped.root, "each-alone").predictions.exists()

    @pytest.mark.parametrize(
        ("images", "sentence"),
        [
            ("nothing.csv", "there is nothing at"),
            ("empty", "names no image"),
            ("twice.csv", "names an image twice in column 'image': a.jpg"),
            (
                "columns.csv",
                "has none of the columns image, path, file, filename; name that",
            ),
        ],
    )
    def test_images_that_are_not_there_are_refused(self, run: Run, tmp_path: Path, images: str, sentence: str) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "twice.csv").write_text("image\na.jpg\na.jpg\n")
        (tmp_path / "columns.csv").write_text("photograph\na.jpg\n")
        with pytest.raises(InputError, match=sentence):
            predict(run, tmp_path / images, tmp_path / "out")


class TestBegin:
    """What is left of a job that is begun again. Shards are of one image."""

    @pytest.fixture(autouse=True)
    def shards_of_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bulk, "IMAGES_PER_CHUNK", 1)
        monkeypatch.setattr(bulk, "CHUNKS_PER_SHARD", 1)

    @pytest.fixture
    def images(self, tmp_path: Path) -> pd.DataFrame:
        paths = [tmp_path / name for name in "abc"]
        for path in paths:
            path.write_text(path.name)
        return pd.DataFrame({"image_id": ["a", "b", "c"], "path": list(map(str, paths))})

    @pytest.fixture
    def output(self, tmp_path: Path, images: pd.DataFrame) -> PredictionFolder:
        """Two images are predicted, the third is not yet."""
        output = PredictionFolder(tmp_path / "out")
        assert bulk.begin(output, images, "vote") == []
        for number in range(2):
            [version] = versions_of([images["path"][number]], [UNKNOWN])
            write_table(output.versions(number), pd.DataFrame([asdict(version)]))
            write_table(output.shard(number), images[number : number + 1])
        return output

    def test_another_job_in_the_same_folder_is_refused(self, output: PredictionFolder, images: pd.DataFrame) -> None:
        for other, vote in ((images[:2], "vote"), (images.assign(image_id=["a", "c", "b"]), "vote"), (images, "other vote")):
            with pytest.raises(InputError, match="holds predictions of other images, in other groups or by other models; choose"):
                bulk.begin(output, other, vote)
        assert bulk.begin(output, images, "vote") == []
        assert missing_shards(output, 3) == [2]

    def test_images_elsewhere_are_the_same(self, output: PredictionFolder, images: pd.DataFrame, tmp_path: Path) -> None:
        (tmp_path / "new").mkdir()
        for name in "abc":
            (tmp_path / "new" / name).write_text(name)
        moved = images.assign(path=[str(tmp_path / "new" / name) for name in "abc"])
        assert bulk.begin(output, moved, "vote") == []
        assert missing_shards(output, 3) == [2]
        assert pd.read_parquet(output.images)["path"].tolist() == moved["path"].tolist()
        (tmp_path / "new" / "b").write_text("x")
        assert bulk.begin(output, moved, "vote") == ["b"]

    @pytest.mark.parametrize("text", ["A", "", "a longer text", None])
    def test_what_changed_is_forgotten(self, output: PredictionFolder, images: pd.DataFrame, text: str | None) -> None:
        file = Path(images["path"][0])
        file.unlink()
        if text is not None:
            file.write_text(text)
        assert bulk.begin(output, images, "vote") == ["a"]
        assert missing_shards(output, 3) == [0, 2]

    def test_files_that_change_places_are_both_forgotten(
        self, output: PredictionFolder, images: pd.DataFrame, tmp_path: Path
    ) -> None:
        one, other = map(Path, images["path"][:2])
        one.rename(tmp_path / "aside")
        other.rename(one)
        (tmp_path / "aside").rename(other)
        assert bulk.begin(output, images, "vote") == ["a", "b"]

    def test_predictions_without_versions_are_made_again(self, output: PredictionFolder, images: pd.DataFrame) -> None:
        output.versions(1).unlink()
        assert bulk.begin(output, images, "vote") == []
        assert missing_shards(output, 3) == [1, 2]


def test_shards_that_are_missing(tmp_path: Path) -> None:
    output = PredictionFolder(tmp_path)
    size = bulk.IMAGES_PER_CHUNK * bulk.CHUNKS_PER_SHARD
    assert missing_shards(output, 2 * size + 1) == [0, 1, 2]
    output.shard(1).parent.mkdir()
    output.shard(1).touch()
    assert missing_shards(output, 2 * size + 1) == [0, 2]
    assert missing_shards(output, 0) == []


def test_models_are_split_in_order_by_their_weights(tmp_path: Path) -> None:
    models = {}
    for name, size in (("a", 40), ("b", 50), ("c", 20), ("d", 200), ("e", 10)):
        (tmp_path / name).mkdir()
        ModelFiles(tmp_path / name).weights.write_bytes(b"0" * size)
        models[name] = tmp_path / name
    assert [list(group) for group in split_models(models, 100)] == [["a", "b"], ["c"], ["d"], ["e"]]
    assert [list(group) for group in split_models(models, 1e9)] == [list(models)]


def test_a_machine_that_dies_half_way_loses_nothing(run: Run, folder: Path, expected: pd.DataFrame, tmp_path: Path) -> None:
    """In a process of its own, which has a Ray of two machines."""
    names = [expected["image_id"][place % len(expected)] for place in range(480)]
    table = folder / "many.csv"
    pd.DataFrame({"id": [f"{place:04d}" for place in range(480)], "image": names}).to_csv(table, index=False)
    script = HELPERS / "two_nodes.py"
    try:
        done = subprocess.run(
            [sys.executable, str(script), str(run.root), str(table), str(tmp_path / "out")],
            capture_output=True,
            text=True,
            timeout=550,
        )
    finally:
        table.unlink()
    assert done.returncode == 0, done.stderr[-3000:]
    killed, whole = (int((tmp_path / name).read_text()) for name in ("killed", "done"))
    assert 5 <= killed < whole == 30
    found = read_predictions(PredictionFolder(tmp_path / "out"))
    assert found["image_id"].tolist() == [f"{place:04d}" for place in range(480)]
    by_name = expected.set_index("image_id").loc[names].reset_index(drop=True)
    np.testing.assert_array_equal(found["joint"], by_name["joint"])
    np.testing.assert_array_equal(found["problem"], by_name["problem"])
    numbers = [column for column in found if ":" in column]
    np.testing.assert_allclose(found[numbers].to_numpy(float), by_name[numbers].to_numpy(float), atol=1e-5)
