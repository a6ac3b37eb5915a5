"""Tests of the report on synthetic run directories."""

from __future__ import annotations

import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from html import unescape
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from raymask.config.loading import validate
from raymask.config.tasks import label_space
from raymask.config.vote import VoteConfig
from raymask.core.columns import joint_columns
from raymask.core.tasks import JOINT, LabelSpace
from raymask.io import files
from raymask.io.atomic import write_json, write_table
from raymask.io.checked import read_json
from raymask.metrics.scores import score_joint
from raymask.report import run_data, run_report, vote_sections
from raymask.report.run_report import build_report
from raymask.runs.configs import save_run_config
from raymask.runs.directory import ReplicaId, Run
from raymask.runs.predictions import prediction_table
from raymask.runs.schemas import Interval, RuleRow
from raymask.voting.view_selection import OofByView
from raymask.voting.vote import decide, estimate_caveat, summary

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
    data = {"kind": "folders", "path": str(root / "photos")}
    values = {"name": root.name, "runs": root.parent, "tasks": tasks, "members": members, "folds": scheme, "data": data}
    config = validate(values)
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
    told = {"images": len(validated), "groups": groups, **told_of_vote(space), "oof": {**of_members, "ensemble": scores}}
    write_json(run.ensemble, told)
    for name, number in product(of_members, [0] if holdout else range(folds)):
        epochs = pd.DataFrame({"epoch": [1, 2, 3], "train_loss": [1.0, 0.8, 0.7], "loss": [1.1, 0.9, 0.85 + number / 50]})
        epochs = epochs.assign(f1=[0.3, 0.5, 0.6 + number / 50], accuracy=0.5, lr=0.1, images_per_second=100.0, waiting=0.25)
        replica = ReplicaId(name, number)
        write_table(run.history(replica), epochs)
        write_json(run.meta(replica), {"classes": {"shape": ["a", "b"]}, "recipe": {}, "versions": {"torch": "9.8.7"}})
    write_json(run.timings, {"prepare": 4.0, "train": 60.0, "predict": 6.0})
    write_table(run.rejected, pd.DataFrame({"image_id": ["lost.jpg"], "reason": [f"shape is '{HOSTILE}&'"]}))
    table = prediction_table(pd.Series(["a", "b"]), pd.Series(["", "the file is empty"]), probabilities[:2], space)
    write_table(run.predictions, table)
    return run


def calibration_of(space: LabelSpace, target: str) -> dict[str, list[float]]:
    return {"scale": [1.0] * len(space.classes(target)), "bias": [0.0] * len(space.classes(target))}


def interval(score: float, half: float = 0.05) -> dict[str, float]:
    return {"score": score, "se": half / 2, "low": score - half, "high": score + half}


def told_of_vote(space: LabelSpace) -> dict[str, Any]:
    """What `raymask.voting.vote.summary` gives: the second of 41 ways is chosen, and the plain votes are among the last."""
    several = len(space.names) > 1
    first, *others = space.names if several else (JOINT,)
    ways = [("greedy", "joint", "thresholds"), ("weighted", "task", "prior"), *((f"own:{n}", "joint", "none") for n in range(36))]
    ways += [("rank", "joint", "none"), ("soft", "joint", "none"), ("hard", "task", "none")]
    quality = {"ece": 0.1234, "brier": 0.5678, "nll": 1.0}
    bins = [{"low": 0.5, "high": 0.6, "images": 3.0, "confidence": 0.55, "accuracy": 0.4}]
    return {
        "metric": "joint.f1",
        "vote": {
            "rule": "weighted",
            "level": "task" if several else "joint",
            "adjust": "prior",
            "voters": {first: ["shape", "multi"], **{other: ["multi"] for other in others}},
            "params": {first: {"weights": [0.125, 0.875]}, **{other: {"weights": [1.0]} for other in others}},
            "factors": {first: np.geomspace(0.5, 2.0, len(space.classes(first))).tolist(), **dict.fromkeys(others)},
            "views": {"names": ["original", "hflip"], "weights": [1.0, 1.0], "merge": "mean"},
            "calibrations": {
                "shape": {space.names[0]: calibration_of(space, space.names[0])},
                "multi": {name: calibration_of(space, name) for name in space.names},
            },
            "result": calibration_of(space, JOINT),
        },
        "estimate": {**interval(0.7111), "optimism": 0.0222},
        "rules": [
            {"rule": rule, "level": level, "adjust": adjust, **interval(0.75 - place / 200), "behind": place / 200}
            | {"behind_se": 0.0077, "seconds": 0.1, "chosen": rule == "weighted"}
            for place, (rule, level, adjust) in enumerate(ways)
        ],
        "views": [
            {"views": "original + hflip", **interval(0.7), "gain": interval(0.0133, 0.02), "chosen": True},
            {"views": "original", **interval(0.6867), "gain": interval(0.0, 0.0), "chosen": False},
        ],
        "calibration": {
            "shape": {
                "shape": {"before": {**quality, "reliability": bins}, "after": {**quality, "ece": 0.0432, "reliability": bins}}
            }
        },
    }


def change(run: Run, **changes: Any) -> None:
    """Changes ensemble.json; None takes a key away."""
    told = {**read_json(run.ensemble), **changes}
    write_json(run.ensemble, {key: value for key, value in told.items() if value is not None})


def section_of(page: str, name: str) -> str:
    """The text of a section, its tags being spaces."""
    text = re.sub(r"<[^>]*>", " ", page.split(f'<section id="{name}">')[1].split("</section>", maxsplit=1)[0])
    return unescape(" ".join(text.split()))


@pytest.fixture(scope="module", autouse=True)
def equal_plots_are_drawn_once() -> Iterator[None]:
    """Most pages here are of the same numbers, whose plots take most of the time."""
    drawn: dict[bytes, Any] = {}

    def once(plot: Callable[..., Any]) -> Callable[..., Any]:
        def plotted(*given: Any) -> Any:
            key = pickle.dumps((plot.__name__, given))
            if key not in drawn:
                drawn[key] = plot(*given)
            return drawn[key]

        return plotted

    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((run_report, "plot_curves"), (run_report, "plot_reliability"), (vote_sections, "plot_calibration")):
            patch.setattr(module, name, once(getattr(module, name)))
        yield


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
    assert page.count("<svg ") == page.count("</svg>") == len(MEMBERS) + 2
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
    data = run_report.read_run_data(run)
    classes = run_report.class_table(data)
    assert classes is not None
    f1 = [row["f1"] for row in classes["rows"]]
    assert f1 == sorted(f1)
    assert np.mean(f1) == pytest.approx(data.ensemble.oof["ensemble"][JOINT]["f1"])
    assert sum(row["images"] for row in classes["rows"]) == 24
    assert {row["groups"] for row in classes["rows"]} == {2}
    confusion = {matrix["target"]: matrix for matrix in run_report.confusions(data)}
    assert list(confusion) == ["shape", "size", JOINT]
    right = sum(row["cells"][place]["count"] for place, row in enumerate(confusion[JOINT]["rows"]))
    assert right / 24 == pytest.approx(data.ensemble.oof["ensemble"][JOINT]["accuracy"])


def test_losses_are_drawn_as_they_were_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of a member with several heads, which are means over them already."""
    drawn: list[pd.DataFrame] = []
    monkeypatch.setattr(run_report, "plot_curves", lambda history, f1_range: drawn.append(history))
    run_report.curves(run_report.read_run_data(run))
    assert [history["member"].iloc[0] for history in drawn] == [member["task"] for member in MEMBERS]
    for history in drawn:
        for fold, of_fold in history.groupby("fold"):
            written = pd.read_csv(run.history(ReplicaId(of_fold["member"].iloc[0], int(str(fold)))))
            assert of_fold[["train_loss", "loss"]].to_numpy().tolist() == written[["train_loss", "loss"]].to_numpy().tolist()


def test_worst_mistakes_are_the_least_probable_truths(run: Run) -> None:
    oof = pd.read_parquet(run.oof_ensemble).set_index("image_id")
    space = run_report.read_run_data(run).space
    columns = joint_columns(space)
    truth = pd.read_parquet(run.manifest).set_index("image_id")[f"label_{JOINT}"]
    for image_id, of_truth in {"person-03/1.jpg": 0.001, "person-01/0.jpg": 0.002}.items():
        others = np.full(len(columns), (1 - of_truth - 0.5) / (len(columns) - 2))
        others[truth[image_id]], others[(truth[image_id] + 3) % 6] = of_truth, 0.5  # differs in `shape` alone
        oof.loc[image_id, columns] = others
    oof.loc["person-05/0.jpg", columns] = np.eye(6)[truth["person-05/0.jpg"]] * 0.0005 + 0.0004  # right, so no mistake
    write_table(run.oof_ensemble, oof.reset_index())
    worst = run_report.worst_mistakes(run_report.read_run_data(run))
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


class TestPictures:
    """A stranger's manifest may name any path or URL; the page shows pictures of the run's own data alone."""

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What the page wanted to read."""
        wanted: list[str] = []
        read = files.read_bytes
        monkeypatch.setattr(files, "read_bytes", lambda path, most=None: wanted.append(path) or read(path, most))
        return wanted

    def test_elsewhere_are_not_read(self, run: Run, tmp_path: Path, asked: list[str]) -> None:
        for folder in (tmp_path, run.root / "photos-of-others"):
            folder.mkdir(exist_ok=True)
            Image.new("RGB", (8, 8)).save(folder / "secret.png")
        paths = [
            str(tmp_path / "secret.png"),
            f"{run.root}/photos/../../secret.png",
            f"{run.root}/photos-of-others/secret.png",
            f"file://{tmp_path}/secret.png",
            "http://169.254.169.254/latest/meta-data",
            "s3://bucket/secret.png",
            "memory://secret.png",
            f"zip://secret.png::{tmp_path}/secret.zip",
            "secret.png",
            "../secret.png",
            "~/secret.png",
            "",
        ]
        write_table(run.manifest, pd.read_parquet(run.manifest).assign(path=paths * 2))
        [sentence] = build_report(run)
        assert asked == []
        assert re.match(rf"\d+ pictures, such as '.*', lie outside of '{run.root}/photos', where the run's config says", sentence)
        page = run.report.read_text()
        assert "base64" not in page
        assert "are not shown" in page

    def test_of_the_runs_own_data_are_shown(self, run: Run, asked: list[str]) -> None:
        paths = pd.read_parquet(run.manifest)
        write_table(run.manifest, paths.assign(path=paths["path"].str.replace("photos/", "./photos//")))
        assert build_report(run) == []
        assert len(asked) > 0
        assert "base64" in run.report.read_text()

    def test_that_are_no_files_or_too_large_are_empty_tiles(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        shutil.rmtree(run.root / "photos")
        for person in range(12):
            (run.root / "photos" / f"person-{person:02d}").mkdir(parents=True)
            os.mkfifo(run.root / "photos" / f"person-{person:02d}" / "0.jpg")
            (run.root / "photos" / f"person-{person:02d}" / "1.jpg").symlink_to("/dev/zero")
        assert build_report(run) == []
        assert "base64" not in run.report.read_text()

    def test_of_a_table_lie_beside_it_or_where_its_root_is(self, tmp_path: Path) -> None:
        config = validate({"data": {"path": str(tmp_path / "photos.csv"), "kind": "csv"}})
        assert run_data.data_roots(config) == [str(tmp_path)]
        config = validate({"data": {"path": "s3://bucket/a/photos.csv", "kind": "csv"}})
        assert run_data.is_below("s3://bucket/a/b/c.jpg", run_data.data_roots(config))
        for other in ("s3://bucket/ab/c.jpg", "s3://bucket/a/../c.jpg", "gs://bucket/a/c.jpg", "/bucket/a/c.jpg"):
            assert not run_data.is_below(other, run_data.data_roots(config))


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("predictions", "no predictions of a test set"),
        ("rejected", "No image was set aside"),
        ("ensemble", "There is no vote yet"),
        ("ensemble", "nothing to tell of the vote"),
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
    save_run_config(run, run_report.read_run_data(begun).config)
    write_table(run.rejected, pd.DataFrame({"image_id": [], "reason": []}))
    replica = ReplicaId("shape", 0)
    run.history(replica).parent.mkdir(parents=True)
    run.history(replica).write_text("\n")
    assert page_of(run).count('class="absent"') == 12


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


class TestVote:
    def test_what_was_chosen_is_said_in_a_sentence(self, run: Run) -> None:
        said = section_of(page_of(run), "vote")
        for words in (
            "is a weighted mean of the voters' probabilities task by task , corrected for the classes' frequencies",
            "under the views original + hflip.",
            "Of the 41 ways that were tried it is the simplest that is as good as the best within one standard error.",
            "On groups that are new to it, macro-F1 of the joint label is expected to be 0.7111 (0.6611 to 0.7611)",
            "its score here is 0.0222 more, which is taken off",
            "Nothing was held out",
        ):
            assert words in said

    def test_it_is_said_that_the_expected_score_is_of_one_folds_models(self, run: Run) -> None:
        assert "one fold's models" not in section_of(page_of(run), "vote")
        change(run, estimate_of=estimate_caveat(5))
        said = section_of(page_of(run), "vote")
        assert "This is the score of one fold's models an image" in said
        assert "on new images the models of 5 folds vote together, which usually does better." in said
        assert estimate_caveat(1) == ""

    def test_the_chosen_one_is_marked_and_the_weakest_are_left_out(self, run: Run) -> None:
        page = page_of(run)
        said = section_of(page, "vote")
        assert "2 weighted task by task, prior chosen 0.7450 0.0050 ± 0.0077" in said
        assert "1 greedy of the joint label, thresholds 0.7500 best" in said
        assert "own:17 of" in said
        assert "own:18 of" not in said
        assert "rank of" not in said
        assert "40 soft of the joint label 0.5550" in said
        assert "41 hard task by task 0.5500" in said
        assert "19 weaker ways are left out" in said
        assert page.count(">chosen</span>") == 2  # a way and a set of views

    def test_the_plain_votes_and_a_late_choice_are_always_there(self, run: Run) -> None:
        rows = [RuleRow(**{**row, "chosen": row["rule"] == "own:35"}) for row in read_json(run.ensemble)["rules"]]
        shown = vote_sections.compared_candidates(rows, run_report.read_run_data(run).space)["rows"]
        assert [row["rank"] for row in shown] == [*range(1, 21), 38, 40, 41]
        assert all(0 <= row["a"] <= row["v"] <= row["b"] <= 1 for row in shown)

    @pytest.mark.parametrize(("score", "place"), [(0.7, "within"), (0.3, "below"), (0.99, "above")])
    def test_what_was_held_out_stands_beside_what_was_expected(self, run: Run, score: float, place: str) -> None:
        change(run, reserve={"images": 8, "groups": 4, **interval(score, 0.1), "scores": {}})
        said = section_of(page_of(run), "vote")
        assert f"On 8 images of 4 groups that were held out from everything it is {score:.4f}" in said
        assert f"which lies {place} the interval that was expected of so many groups, " in said

    def test_weights_and_factors(self, run: Run) -> None:
        said = section_of(page_of(run), "vote")
        assert "Weights voter shape size multi 0.875 1.000 shape 0.125 –" in said
        assert f"Factors shape round × 0.50 {HOSTILE} × 2.00" in said

    def test_voters_that_count_alike_have_no_table(self, run: Run) -> None:
        vote = {
            **read_json(run.ensemble)["vote"],
            "rule": "soft",
            "params": {"shape": {}, "size": {}},
            "factors": {"shape": None, "size": None},
        }
        change(run, vote=vote)
        said = section_of(page_of(run), "vote")
        assert "All 2 voters count alike" in said
        assert "Weights" not in said
        assert "Factors" not in said

    def test_factors_of_many_classes_are_summed_up(self, run: Run) -> None:
        space = label_space(validate({"name": "x", "tasks": {"n": {"classes": [str(n) for n in range(21)]}}}).tasks)
        table = vote_sections.factor_table("n", [4.0] + [1.0] * 19 + [0.25], space)
        assert (table["rows"], table["size"], table["low"], table["high"]) == ([], 21, 0.25, 4.0)

    def test_factors_that_change_nothing_are_not_drawn(self, run: Run) -> None:
        change(run, vote={**read_json(run.ensemble)["vote"], "factors": {"shape": [0.3, 0.3], "size": None}})
        assert "Factors shape All are the same" in section_of(page_of(run), "vote")

    def test_gains_of_views(self, run: Run) -> None:
        said = section_of(page_of(run), "vote")
        assert "original + hflip chosen 0.7000 +0.0133 −0.0067 … +0.0333" in said
        change(run, views=[])
        assert "gain over the original" not in section_of(page_of(run), "vote")

    def test_one_way_is_not_compared(self, run: Run) -> None:
        told = read_json(run.ensemble)
        change(run, rules=told["rules"][1:2], estimate={**told["estimate"], "optimism": 0.0})
        said = section_of(page_of(run), "vote")
        assert "The config asked for it, so nothing else was tried" in said
        assert "behind the best" not in said

    def test_members_before_and_after_calibration(self, run: Run) -> None:
        assert "shape shape 0.1234 → 0.0432 0.5678 → 0.5678" in section_of(page_of(run), "calibration")
        of_head = read_json(run.ensemble)["calibration"]["shape"]["shape"]
        change(run, calibration={f"member {n}": {"shape": of_head} for n in range(9)})
        page = page_of(run)
        assert "member 8 shape 0.1234" in section_of(page, "calibration")
        assert page.count("<svg ") == len(MEMBERS) + 1  # nine are too many to be drawn

    @pytest.mark.parametrize("rule", ["soft", "hard"])
    def test_header_scores_and_confidences_follow_the_vote(self, run: Run, rule: str) -> None:
        change(run, vote={**read_json(run.ensemble)["vote"], "rule": rule})
        page = page_of(run)
        assert f"<dd>{rule} task by task, prior; views original + hflip</dd>" in page
        assert f"<small>{rule} task by task, prior; views original + hflip</small>" in page
        assert ("share of the ballots" in page) == (rule == "hard")

    def test_an_older_ensemble_has_scores_alone(self, run: Run) -> None:
        oof = read_json(run.ensemble)["oof"]
        write_json(run.ensemble, {"rule": "soft", "images": 24, "oof": oof})
        page = page_of(run)
        assert "an older raymask wrote it" in page
        assert "<dd>not decided yet</dd>" in page
        assert page.count('class="absent"') == 1

    def test_what_the_vote_writes_is_what_the_page_reads(self, run: Run) -> None:
        data, rng = run_report.read_run_data(run), np.random.default_rng(0)
        images, space = data.manifest, data.space
        members = {name: {JOINT: rng.dirichlet(np.ones(6), (2, 24)).astype(np.float32)} for name in "ab"}
        groups, folds = pd.factorize(images["group"])[0].astype(np.int64), images["fold"].to_numpy()
        evidence = OofByView(space, members, ("original", "hflip"), images[f"label_{JOINT}"].to_numpy(), groups, folds)
        change(run, **summary(decide(evidence, VoteConfig(rule="best", level="joint"), seed=0)))
        said = section_of(page_of(run), "vote")
        assert "is the prediction of the single best voter over joint classes" in said
        assert "Weights voter joint label" in said

    def test_axes_hold_what_is_on_them(self) -> None:
        axis = vote_sections.axis_of([Interval(**interval(0.8412, 0.0213))])
        assert [tick["text"] for tick in axis["ticks"]] == ["0.81", "0.82", "0.83", "0.84", "0.85", "0.86", "0.87"]
        assert axis["low"] <= 0.8199
        assert axis["high"] >= 0.8625
        assert "−0.010" in [tick["text"] for tick in vote_sections.axis_of([Interval(**interval(0.0, 0.01))])["ticks"]]
        assert len(vote_sections.axis_of([Interval(**interval(1.0, 0.0))])["ticks"]) > 1
