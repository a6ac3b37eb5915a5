"""Tests of a finished run in one process: what goes in, what comes out, and that Ray is not needed."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from made import VOTE, make_run
from PIL import Image
from safetensors.torch import load, save_file

import raymask
from raymask.core.errors import InputError
from raymask.data.images import read_image
from raymask.inference.definition import read_definition
from raymask.inference.ensemble import Ensemble
from raymask.inference.predictor import Predictor, specs_of, stacked
from raymask.io.atomic import write_json
from raymask.io.checked import read_json
from raymask.io.hashing import file_digest
from raymask.runs.directory import ReplicaId, Run
from raymask.transforms.tta import VIEWS, even

FROZEN = {"pretrained": True, "freeze": {"part": "backbone"}, "weights": "backbone.pth"}

CHOSEN = ["gender:male", "gender:female", "age:<30", "age:30-60", "age:>=60"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs") / "made", photos)


@pytest.fixture(scope="module")
def ensemble(run: Run) -> Ensemble:
    return raymask.load(run.root)


@pytest.fixture(scope="module")
def files(photos: Path) -> list[Path]:
    return sorted((photos / "eval" / "images").iterdir())[:7]


@pytest.fixture(scope="module")
def by_group(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    root = tmp_path_factory.mktemp("runs") / "grouped"
    return raymask.load(make_run(root, photos, vote={**VOTE, "groups": ["gender", "age"]}).root)


class TestGroups:
    """Images of one person, by a run that votes gender and age by group."""

    def test_the_chosen_tasks_are_voted_over_all_images_of_a_group(self, by_group: Ensemble, files: list[Path]) -> None:
        assert by_group.groups_voted == ("gender", "age")
        alone = by_group.predict(files[:6])
        table = by_group.predict(files[:6], groups=["p", 7, "P ", None, "7.0", ""])
        own, said = alone[CHOSEN].to_numpy(), table[CHOSEN].to_numpy()
        for one, other in ([0, 2], [1, 4]):
            np.testing.assert_allclose(said[one], said[other], atol=1e-12)
            assert (said[one] >= np.minimum(own[one], own[other]) - 1e-5).all()
            assert (said[one] <= np.maximum(own[one], own[other]) + 1e-5).all()
            assert not np.allclose(said[one], own[one], rtol=0, atol=1e-7)
        pd.testing.assert_frame_equal(table.iloc[[3, 5]], alone.iloc[[3, 5]], check_exact=True)
        assert table.dtypes.to_dict() == alone.dtypes.to_dict()
        assert table["agreement"].tolist() == alone["agreement"].tolist()
        joint = table[[name for name in table if name.startswith("joint:")]].to_numpy()
        assert (joint.argmax(axis=1) == table["joint"]).all()
        assert table["gender"].isin(["male", "female"]).all()

    def test_a_broken_image_is_told_what_its_group_says(self, by_group: Ensemble, files: list[Path]) -> None:
        table = by_group.predict([files[0], b"no image", b"none either"], groups=["p", "p", "q"])
        alone = by_group.predict([files[0], b"no image", b"none either"])
        pd.testing.assert_frame_equal(table.iloc[[0, 2]], alone.iloc[[0, 2]], check_exact=True)
        np.testing.assert_allclose(table[CHOSEN].to_numpy()[1], table[CHOSEN].to_numpy()[0], atol=1e-12)
        assert table["problem"].tolist() == alone["problem"].tolist()

    def test_a_run_that_votes_on_each_image_alone_changes_nothing(self, run: Run, files: list[Path]) -> None:
        ensemble = raymask.load(run.root)
        assert ensemble.groups_voted == ()
        pd.testing.assert_frame_equal(
            ensemble.predict(files[:3], groups=["p"] * 3), ensemble.predict(files[:3]), check_exact=True
        )

    @pytest.mark.parametrize("groups", [["p"], ["p"] * 3, []])
    def test_more_or_fewer_groups_than_images_are_refused(self, by_group: Ensemble, files: list[Path], groups: list[str]) -> None:
        for images in (files[:2], iter(files[:2])):
            with pytest.raises(InputError, match=rf"^there are {len(groups)} groups for 2 images\.$"):
                by_group.predict(images, groups=groups)

    def test_one_text_is_no_list_of_groups(self, by_group: Ensemble, files: list[Path]) -> None:
        with pytest.raises(InputError, match=r"^groups is a list of groups, one for each image\.$"):
            by_group.predict(files[:2], groups="ab")

    def test_no_image_has_no_group(self, by_group: Ensemble) -> None:
        assert by_group.predict([], groups=[]).empty


class TestPredict:
    def test_each_image_has_a_row_in_its_order(self, ensemble: Ensemble, files: list[Path]) -> None:
        table = ensemble.predict(files[::-1])
        assert table["image_id"].tolist() == [str(file) for file in files[::-1]]
        joint = table[[name for name in table if name.startswith("joint:")]].to_numpy()
        np.testing.assert_allclose(joint.sum(axis=1), 1, atol=1e-6)
        assert (joint.argmax(axis=1) == table["joint"]).all()
        assert (table["joint"] == table["mask_label"] * 6 + table["gender_label"] * 3 + table["age_label"]).all()
        assert table["agreement"].between(0, 1).all()

    def test_the_size_of_a_batch_changes_nothing(self, ensemble: Ensemble, files: list[Path]) -> None:
        whole, single = ensemble.predict(files), ensemble.predict(files, batch_size=1)
        assert (whole["joint"] == single["joint"]).all()
        numbers = whole.select_dtypes("number").columns
        np.testing.assert_allclose(whole[numbers], single[numbers], atol=1e-5)

    def test_views_that_go_through_together_say_what_each_says_alone(
        self, run: Run, files: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        definition = read_definition(run.root)
        specs = specs_of(definition.models)
        predictor = Predictor(definition.models, even(list(VIEWS)), specs)
        pixels = stacked([read_image(file, specs) for file in files[:3]], specs)
        together = predictor(pixels)
        monkeypatch.setattr("raymask.inference.predictor.BATCH", 1)
        for expected, given in zip(predictor(pixels), together, strict=True):
            for head in expected:
                np.testing.assert_allclose(given[head], expected[head], atol=1e-5)

    def test_a_path_its_bytes_and_its_pixels_are_the_same_image(self, ensemble: Ensemble, files: list[Path]) -> None:
        file = files[0]
        with Image.open(file) as opened:
            opened.load()
        pixels = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
        table = ensemble.predict([file, str(file), file.read_bytes(), opened, pixels])
        joint = table[[name for name in table if name.startswith("joint:")]].to_numpy()
        np.testing.assert_allclose(joint[1:3], joint[:2], atol=1e-6)
        # Decoded at full size, not at the scale that a JPEG is read at when much smaller images are wanted.
        np.testing.assert_allclose(joint[3:], joint[:2], atol=0.02)
        assert table["image_id"].tolist()[2:] == ["2", "3", "4"]

    def test_grey_images_and_ids_of_ones_own(self, ensemble: Ensemble) -> None:
        grey = np.full((50, 40), 90, dtype=np.uint8)
        colour = np.repeat(grey[..., None], 3, axis=2)
        table = ensemble.predict([grey, colour], image_ids=["grey", "colour"])
        assert table["image_id"].tolist() == ["grey", "colour"]
        assert table["joint"].nunique() == 1

    def test_a_broken_image_gets_the_prior_and_its_reason(self, ensemble: Ensemble, files: list[Path]) -> None:
        table = ensemble.predict([files[0], b"no image", "/nowhere/photo.jpg", b""])
        assert table["problem"].tolist() == [
            "",
            "the file is no image that can be read",
            "the file is missing",
            "the file is empty",
        ]
        columns = [name for name in table if name.startswith("joint:")]
        for row in (1, 2, 3):
            np.testing.assert_allclose(table.loc[row, columns].to_numpy(float), ensemble.definition.prior)
        assert (table["agreement"][1:] == 0).all()
        alone = ensemble.predict([files[0]])
        np.testing.assert_allclose(table.loc[0, columns].to_numpy(float), alone.loc[0, columns].to_numpy(float), atol=1e-5)

    def test_16_bits_are_the_same_image_through_every_door(self, ensemble: Ensemble, tmp_path: Path) -> None:
        values = (np.arange(48 * 64).reshape(48, 64) * 21).astype(np.uint16)
        path = tmp_path / "deep.png"
        Image.fromarray(values).save(path)
        given = [path, path.read_bytes(), Image.open(path), values, values.astype(np.int32), values.astype(np.float32)]
        table = ensemble.predict([*given, values.astype(np.float32) - 50_000], image_ids=(str(place) for place in range(7)))
        assert table["problem"].tolist()[:6] == [""] * 6
        assert "its pixels are from -50000" in table["problem"][6]
        joint = table[[name for name in table if name.startswith("joint:")]].to_numpy()
        np.testing.assert_allclose(joint[1:6], joint[:5], atol=1e-6)

    @pytest.mark.parametrize("make", [list, tuple, iter, np.asarray, pd.Series, lambda files: (file for file in files)])
    def test_any_order_of_images_will_do(self, ensemble: Ensemble, files: list[Path], make: Any) -> None:
        table = ensemble.predict(make([str(file) for file in files[:2]]))
        assert table["image_id"].tolist() == [str(file) for file in files[:2]]
        assert (table["problem"] == "").all()

    def test_an_array_of_images_is_as_many_images(self, ensemble: Ensemble) -> None:
        batch = np.random.default_rng(0).integers(0, 256, (3, 40, 30, 3), dtype=np.uint8)
        pd.testing.assert_frame_equal(ensemble.predict(batch), ensemble.predict(list(batch)))

    @pytest.mark.parametrize(
        "single",
        [
            *(np.zeros((80, 60, 3), np.uint8), np.zeros((80, 60)), np.zeros(()), torch.zeros(3, 8, 8), Image.new("RGB", (8, 8))),
            *(io.BytesIO(b"image"), Path("photo.jpg"), bytearray(b"image"), memoryview(b"image")),
        ],
        ids=lambda single: type(single).__name__,
    )
    def test_a_single_image_is_not_taken_for_many(self, ensemble: Ensemble, single: object) -> None:
        with pytest.raises(InputError, match=r"takes a list of images; put a single one in \[brackets\]"):
            ensemble.predict(single)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "images",
        [{"a.jpg": 1}, {"a.jpg"}, frozenset({"a.jpg"}), None, 3, torch.zeros(2, 8, 8, 3), pd.DataFrame({"path": ["a.jpg"]})],
        ids=lambda images: type(images).__name__,
    )
    def test_what_holds_no_images_in_an_order_is_refused(self, ensemble: Ensemble, images: object) -> None:
        with pytest.raises(InputError, match=f"takes a list of images, or .* and not a {type(images).__name__}"):
            ensemble.predict(images)  # type: ignore[arg-type]

    @pytest.mark.parametrize("size", [0, -1, 2.5, None, "4"])
    def test_a_batch_has_at_least_an_image(self, ensemble: Ensemble, files: list[Path], size: Any) -> None:
        with pytest.raises(InputError, match=r"batch_size is .*, at least 1"):
            ensemble.predict(files[:2], batch_size=size)

    def test_no_images_make_an_empty_table(self, ensemble: Ensemble, files: list[Path]) -> None:
        assert ensemble.predict([]).columns.tolist() == ensemble.predict(files[:1]).columns.tolist()

    @pytest.mark.parametrize(
        ("images", "ids", "sentence"),
        [
            ("photo.jpg", None, "predict takes a list of images; put a single one in [brackets]."),
            ([3], None, "a int is no image"),
            ([np.zeros((3, 9, 9))], None, r"an array of float64 \(3, 9, 9\) is no image"),
            ([np.zeros((4, 4, 5), np.uint8)], None, r"an array of uint8 \(4, 4, 5\) is no image"),
            ([np.zeros((0, 4, 3), np.uint8)], None, r"an array of uint8 \(0, 4, 3\) is no image"),
            ([np.zeros((4, 4), complex)], None, "an array of complex128"),
            ([np.array([["a"]])], None, "an array of <U1"),
            ([np.zeros((9, 9), np.uint8)], "a", "image_ids is a list of names"),
            ([np.zeros((9, 9), np.uint8)], ["a", "b"], "there are 2 image_ids for 1 images"),
            ([np.zeros((9, 9), np.uint8)] * 2, ["a"], "there are 1 image_ids for more images"),
        ],
    )
    def test_what_is_no_image_is_refused(self, ensemble: Ensemble, images: object, ids: list[str] | None, sentence: str) -> None:
        with pytest.raises(InputError, match=sentence.replace("[", r"\[").replace("]", r"\]")):
            ensemble.predict(images, ids)  # type: ignore[arg-type]


class TestPanel:
    def test_members_vote_by_fold_and_the_folds_are_averaged(self, run: Run, ensemble: Ensemble, files: list[Path]) -> None:
        definition = ensemble.definition
        assert len(definition.models) == 10
        assert definition.rounds[1]["age"] == "age/fold-1"
        said = ensemble.probabilities([read_image(file, ensemble.specs) for file in files])
        by_fold = [
            definition.vote({member: said[f"{member}/fold-{fold}"] for member in ("mask", "gender", "age", "multi", "joint")})
            for fold in (0, 1)
        ]
        np.testing.assert_allclose(definition.count(said), np.mean(by_fold, axis=0))
        mean = definition.member_probabilities(said)["age"]["age"]
        np.testing.assert_allclose(mean, (said["age/fold-0"]["age"] + said["age/fold-1"]["age"]) / 2, atol=1e-6)

    def test_agreement_is_the_share_of_heads_that_elect_the_same(self, ensemble: Ensemble) -> None:
        definition = ensemble.definition
        truth = {"mask": 2, "gender": 1, "age": 0}
        joint_label = definition.space.join({task: [label] for task, label in truth.items()})[0]
        said = {}
        for model in definition.models:
            member = model.split("/")[0]
            heads = ["mask", "gender", "age"] if member == "multi" else [member]
            said[model] = {
                head: np.eye(len(definition.space.classes(head)))[[joint_label if head == "joint" else truth[head]]]
                for head in heads
            }
        joint = np.eye(definition.space.joint_size)[[joint_label]]
        assert definition.agreement(said, joint).tolist() == [1.0]
        said["age/fold-0"] = {"age": np.eye(3)[[1]]}
        np.testing.assert_allclose(definition.agreement(said, joint), 13 / 14)

    def test_a_moved_run_finds_its_own_models(self, run: Run, files: list[Path], tmp_path: Path) -> None:
        import shutil

        moved = tmp_path / "moved"
        shutil.copytree(run.root, moved)
        assert all(moved in folder.parents for folder in read_definition(moved).models.values())

    def test_what_is_not_there_is_refused(self, run: Run, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="holds no run"):
            raymask.load(tmp_path)
        with pytest.raises(InputError, match=r"it may be 'soup' \(the nearest\)"):
            raymask.load(run.root, "soups")
        with pytest.raises(InputError, match="has no finished model mask/all"):
            raymask.load(run.root, "all")


def test_one_machine_needs_no_ray(run: Run, files: list[Path]) -> None:
    code = (
        f"import raymask, sys; table = raymask.load({str(run.root)!r}).predict([{str(files[0])!r}]); "
        "print(len(table), 'ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["1", "False"]


def test_the_readmes_lines_run(run: Run, files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    [block] = [part.split("```")[0] for part in readme.split("```python\n")[1:] if "raymask.load(" in part]
    assert len([line for line in block.splitlines() if line]) <= 5
    code = block.replace("runs/demo", str(run.root)).replace("photo.jpg", str(files[0])).replace("other.jpg", str(files[1]))
    with pd.option_context("display.width", 500, "display.max_columns", None):
        exec(compile(code, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert all(column in said for column in ("image_id", "mask", "gender", "age", "agreement"))


class TestFrozenBackbones:
    """Several models go through one frozen backbone only where it has the same weights, whatever their recipes say."""

    @pytest.fixture
    def frozen(self, photos: Path, tmp_path: Path) -> Run:
        run = make_run(tmp_path / "frozen", photos, members=[{"task": "mask"}, {"task": "gender"}, {"task": "age"}])
        for meta in run.root.glob("members/*/*/meta.json"):
            told = read_json(meta)
            write_json(meta, {**told, "recipe": {**told["recipe"], **FROZEN}, "frozen_backbone": "one for all"})
        same = run.weights(ReplicaId("mask", 0)).read_bytes()
        tensors = load(same)
        other = load(run.weights(ReplicaId("mask", 1)).read_bytes())
        whole = {**other, **{name: tensor for name, tensor in tensors.items() if name.startswith("backbone.")}}
        changed = ReplicaId("mask", 1)
        save_file(whole, str(run.weights(changed)))
        write_json(run.meta(changed), {**read_json(run.meta(changed)), "sha256": file_digest(run.weights(changed), "sha256")})
        return run

    def test_models_of_one_recipe_and_other_weights_say_together_what_they_say_alone(
        self, frozen: Run, files: list[Path]
    ) -> None:
        definition = read_definition(frozen.root)
        specs = specs_of(definition.models)
        pixels = stacked([read_image(file, specs) for file in files[:3]], specs)
        together = Predictor(definition.models, definition.vote.views, specs)
        assert sorted(len(places) for of_spec in together.groups.values() for places in of_spec.values()) == [1, 1, 1, 1, 2]
        for (name, folder), said in zip(definition.models.items(), together(pixels), strict=True):
            [alone] = Predictor({name: folder}, definition.vote.views, specs)(pixels)
            for head in alone:
                np.testing.assert_allclose(said[head], alone[head], atol=1e-6, err_msg=name)
