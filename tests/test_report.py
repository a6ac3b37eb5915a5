"""Tests of the report on synthetic run directories."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from raymask import report
from raymask.config import validate
from raymask.data.sources import label_space
from raymask.metrics import score_joint
from raymask.report import build_report, expected_calibration_error, reliability
from raymask.store import ReplicaId, Run, save_run_config, write_json, write_table
from raymask.submit import prediction_table
from raymask.tasks import JOINT

HOSTILE = "<b>x"
TASKS = {"shape": {"classes": ["round", HOSTILE]}, "size": {"classes": ["small", "medium", "large"]}}
MEMBERS = [{"task": "shape"}, {"task": "multi"}]


def make_run(
    root: Path,
    tasks: dict[str, dict[str, list[str]]] = TASKS,
    members: list[dict[str, str]] = MEMBERS,
    groups: int = 12,
    folds: int = 2,
    holdout: bool = False,
    images: bool = True,
) -> Run:
    """A whole run of random predictions, two images a group, without weights."""
    scheme = {"scheme": "holdout" if holdout else "stratified_group", "k": folds}
    config = validate({"name": root.name, "runs": root.parent, "tasks": tasks, "members": members, "folds": scheme})
    run, space, rng = Run(root), label_space(config.tasks), np.random.default_rng(0)
    save_run_config(run, config)
    joint = np.repeat(np.arange(groups) % space.joint_size, 2)
    fold = np.repeat(np.arange(groups) % folds, 2)
    ids = [f"person-{row // 2:02d}/{row % 2}.jpg" for row in range(2 * groups)]
    manifest = pd.DataFrame({"image_id": ids, "path": [str(root / "photos" / name) for name in ids]})
    manifest["group"] = [name.split("/")[0] for name in ids]
    for target, labels in {**space.split(joint), JOINT: joint}.items():
        manifest[f"label_{target}"] = manifest[f"train_label_{target}"] = labels
    manifest["fold"] = np.where(fold == 0, 0, -1) if holdout else fold
    write_table(run.manifest, manifest)
    for name in ids if images else []:
        (root / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(root / "photos" / name)
    validated = manifest[manifest["fold"] >= 0]
    probabilities = rng.dirichlet(np.ones(space.joint_size), len(validated))
    probabilities[np.arange(len(validated)), validated[f"label_{JOINT}"]] += 0.3
    probabilities /= 1.3
    no_problems = pd.Series("", index=validated.index)
    write_table(run.oof_ensemble, prediction_table(validated["image_id"], no_problems, probabilities, space))
    truth = {target: validated[f"label_{target}"].to_numpy() for target in (*space.names, JOINT)}
    scores = score_joint(space, probabilities.argmax(axis=1), truth)
    of_members = {
        m.get("name", m["task"]): scores if m["task"] in ("multi", "joint") else {m["task"]: scores[m["task"]]} for m in members
    }
    write_json(
        run.ensemble, {"rule": "soft", "views": ["original"], "images": len(validated), "oof": {**of_members, "ensemble": scores}}
    )
    for name, number in product(of_members, [0] if holdout else range(folds)):
        epochs = pd.DataFrame({"epoch": [1, 2, 3], "train_loss": [1.0, 0.8, 0.7], "loss": [1.1, 0.9, 0.85 + number / 50]})
        epochs = epochs.assign(f1=[0.3, 0.5, 0.6 + number / 50], accuracy=0.5, lr=0.1, images_per_second=100.0, waiting=0.25)
        replica = ReplicaId(name, number)
        write_table(run.history(replica), epochs)
        write_json(run.meta(replica), {"member": name, "fold": number, "versions": {"torch": "9.8.7"}})
    write_json(run.timings, {"prepare": 4.0, "train": 60.0, "predict": 6.0})
    write_table(run.rejected, pd.DataFrame({"image_id": ["lost.jpg"], "reason": [f"shape is '{HOSTILE}&'"]}))
    table = prediction_table(pd.Series(["a", "b"]), pd.Series(["", "the file is empty"]), probabilities[:2], space)
    write_table(run.predictions, table)
    return run


def page_of(run: Run) -> str:
    build_report(run)
    return run.report.read_text()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "tiny")


def test_page_is_self_contained_and_whole(run: Run) -> None:
    page = page_of(run)
    assert "http" not in page
    assert not re.search(r"<(script|link|iframe)\b", page)
    assert not re.search(r'(src|href)="(?!data:image/jpeg;base64,|#)', page)
    assert page.count("<svg ") == page.count("</svg>") == len(MEMBERS) + 1
    assert 'class="absent"' not in page
    assert not [path for path in run.root.iterdir() if path.name.startswith(".report")]
    for fact in ("24 of 12 groups", "6 = 2 shape × 3 size", "torch 9.8.7", "prepare 0:04", "together 1:10", "0.600 … 0.620"):
        assert fact in page


def test_names_from_the_data_are_escaped(run: Run) -> None:
    page = page_of(run)
    assert HOSTILE not in page
    assert "&lt;b&gt;x" in page


def test_predictions_are_joined_on_image_id(run: Run) -> None:
    page = page_of(run)
    shuffled = pd.read_parquet(run.oof_ensemble).sample(frac=1.0, random_state=3)
    assert shuffled["image_id"].tolist() != pd.read_parquet(run.manifest)["image_id"].tolist()
    write_table(run.oof_ensemble, shuffled)
    assert page_of(run) == page


def test_scores_of_the_page_are_those_of_the_table(run: Run) -> None:
    material = report.read_material(run)
    classes = report.class_table(material)
    assert classes is not None
    f1 = [row["f1"] for row in classes["rows"]]
    assert f1 == sorted(f1)
    assert np.mean(f1) == pytest.approx(material.ensemble["oof"]["ensemble"][JOINT]["f1"])
    assert sum(row["images"] for row in classes["rows"]) == 24
    assert {row["groups"] for row in classes["rows"]} == {2}
    confusion = {matrix["target"]: matrix for matrix in report.confusions(material)}
    assert list(confusion) == ["shape", "size", JOINT]
    right = sum(row["cells"][place]["count"] for place, row in enumerate(confusion[JOINT]["rows"]))
    assert right / 24 == pytest.approx(material.ensemble["oof"]["ensemble"][JOINT]["accuracy"])


def test_worst_mistakes_are_the_least_probable_truths(run: Run) -> None:
    oof = pd.read_parquet(run.oof_ensemble).set_index("image_id")
    space = report.read_material(run).space
    columns = report.joint_columns(space)
    truth = pd.read_parquet(run.manifest).set_index("image_id")[f"label_{JOINT}"]
    for image_id, of_truth in {"person-03/1.jpg": 0.001, "person-01/0.jpg": 0.002}.items():
        others = np.full(len(columns), (1 - of_truth - 0.5) / (len(columns) - 2))
        others[truth[image_id]], others[(truth[image_id] + 3) % 6] = of_truth, 0.5  # differs in `shape` alone
        oof.loc[image_id, columns] = others
    oof.loc["person-05/0.jpg", columns] = np.eye(6)[truth["person-05/0.jpg"]] * 0.0005 + 0.0004  # right, so no mistake
    write_table(run.oof_ensemble, oof.reset_index())
    worst = report.worst_mistakes(report.read_material(run))
    assert [mistake["image_id"] for mistake in worst[:2]] == ["person-03/1.jpg", "person-01/0.jpg"]
    assert [mistake["probability"] for mistake in worst[:2]] == [0.001, 0.002]
    assert worst[0]["parts"] == [(HOSTILE, "round"), ("small", "small")]
    assert "person-05/0.jpg" not in [mistake["image_id"] for mistake in worst]
    assert all(mistake["thumbnail"].startswith("data:image/jpeg;base64,/9j/") for mistake in worst)


def test_unreadable_photos_are_shown_as_empty_tiles(tmp_path: Path) -> None:
    run = make_run(tmp_path / "gone", images=False)
    (run.root / "photos" / "person-00").mkdir(parents=True)
    for photo in "01":
        (run.root / "photos" / "person-00" / f"{photo}.jpg").write_bytes(b"no image")
    page = page_of(run)
    assert "cannot" in page
    assert "base64" not in page


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("predictions", "no predictions of a test set"),
        ("rejected", "No image was set aside"),
        ("ensemble", "There is no vote yet"),
        ("oof_ensemble", "no out-of-fold predictions"),
        ("manifest", "manifest of the images is missing"),
        ("timings", "images/s"),
    ],
)
def test_a_missing_file_costs_its_section_alone(run: Run, missing: str, said: str) -> None:
    getattr(run, missing).unlink()
    assert said in page_of(run)


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    begun = make_run(tmp_path / "begun")
    run = Run(tmp_path / "new")
    save_run_config(run, report.read_material(begun).config)
    write_table(run.rejected, pd.DataFrame({"image_id": [], "reason": []}))
    replica = ReplicaId("shape", 0)
    run.history(replica).parent.mkdir(parents=True)
    run.history(replica).write_text("\n")
    assert page_of(run).count('class="absent"') == 11


def test_holdout_and_a_single_task(tmp_path: Path) -> None:
    tasks = {"shape": {"classes": ["round", "flat"]}}
    page = page_of(make_run(tmp_path / "single", tasks, [{"task": "shape"}, {"task": "joint", "name": "whole"}], holdout=True))
    assert "always trained on" in page
    assert "joint label" not in page.split("<main>")[1].split('id="classes"')[0]
    assert page.count("<tbody>") >= 6


def test_many_classes_are_not_drawn_as_a_matrix(tmp_path: Path) -> None:
    tasks = {"species": {"classes": [f"species {number}" for number in range(50)]}}
    page = page_of(make_run(tmp_path / "many", tasks, [{"task": "species"}], groups=50, images=False))
    assert "50 classes are too many for a matrix" in page
    assert "10 better classes are left out" in page
    assert "50 classes are too many to be shown by fold" in page


def test_calibration_error_by_hand() -> None:
    confidence = [0.15, 0.2, 0.95, 0.85, 1.0]
    correct = [False, True, True, False, True]
    bins = reliability(confidence, correct)
    assert bins["images"].tolist() == [0, 2, 0, 0, 0, 0, 0, 0, 1, 2]  # 0.2 belongs to (0.1, 0.2]
    by_hand = 2 / 5 * abs(0.5 - 0.175) + 1 / 5 * abs(0.0 - 0.85) + 2 / 5 * abs(1.0 - 0.975)
    assert expected_calibration_error(bins) == pytest.approx(by_hand)


def test_calibrated_confidence_has_no_error() -> None:
    assert expected_calibration_error(reliability([0.5] * 4, [1, 0, 1, 0])) == 0.0
    assert reliability([0.0, 1.0, 0.3, 0.7], [1] * 4)["images"].tolist() == [1, 0, 1, 0, 0, 0, 1, 0, 0, 1]
