"""Votes of several runs, and commands on a run that leave its files to their owner. Without Ray."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made import VOTE, make_run, predict_and_report
from rich.console import Console

from raymask.config.schema import resolve_members
from raymask.core.console import Display
from raymask.core.errors import InputError
from raymask.data.sources import read_source
from raymask.inference.definition import read_definition
from raymask.inference.voting_runs import by_round, voting_runs
from raymask.io.atomic import write_json, write_table
from raymask.io.checked import DamagedFileError, read_json
from raymask.runs.configs import load_run_config
from raymask.runs.directory import ReplicaId, Run, read_ensemble
from raymask.voting.grouping import pooled
from raymask.workflows.setup import check_trained, finished_run
from raymask.workflows.vote import vote

MEMBERS = [{"task": "joint"}]


@pytest.fixture
def runs(photos: Path, tmp_path: Path) -> list[Run]:
    """Two runs that have predicted and voted, each for itself."""
    made = [make_run(tmp_path / name, photos, members=MEMBERS) for name in ("one", "other")]
    for run in made:
        predict_and_report(run, read_source(load_run_config(run)))
    return made


def contents(run: Run) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in run.root.rglob("*") if file.is_file()}


def spoken(runs: list[Run], into: Path | None) -> str:
    said = io.StringIO()
    vote([run.root for run in runs], into, display=Display(Console(file=said)))
    return " ".join(said.getvalue().split())


def vote_quietly(runs: list[Run], into: Path) -> Run:
    return vote([run.root for run in runs], into, display=Display(Console(file=io.StringIO()))).run


class TestSeveralRuns:
    def test_what_a_run_lacks_is_kept_where_it_votes(self, runs: list[Run], tmp_path: Path) -> None:
        one, other = runs
        collected = other.oof("joint").read_bytes()
        other.oof("joint").unlink()
        before = contents(one) | contents(other)
        both = vote_quietly(runs, tmp_path / "both")
        assert contents(one) | contents(other) == before
        assert both.of_voter(other).oof("joint").read_bytes() == collected
        assert not both.of_voter(one).root.exists()
        assert set(read_ensemble(both).members) == {"one/joint", "other/joint"}
        assert len(pd.read_csv(both.submission)) == 28

    def test_what_was_kept_goes_once_the_run_has_it(self, runs: list[Run], tmp_path: Path) -> None:
        other = runs[1]
        collected = other.oof("joint").read_bytes()
        other.oof("joint").unlink()
        both = vote_quietly(runs, tmp_path / "both")
        decided = both.ensemble.stat().st_mtime_ns
        other.oof("joint").write_bytes(collected)
        assert vote_quietly(runs, both.root) == both
        assert not both.of_voter(other).oof("joint").exists()
        assert both.ensemble.stat().st_mtime_ns >= decided

    def test_what_a_run_says_otherwise_than_its_models_is_collected_anew_beside_it(self, runs: list[Run], tmp_path: Path) -> None:
        other = runs[1]
        table = pd.read_parquet(other.oof("joint"))
        joint = [name for name in map(str, table) if name.startswith("joint:")]
        write_table(other.oof("joint"), table.assign(**dict.fromkeys(joint, 1 / 18)))
        before = contents(other)
        both = vote_quietly(runs, tmp_path / "both")
        assert contents(other) == before
        pd.testing.assert_frame_equal(pd.read_parquet(both.of_voter(other).oof("joint")), table)

    def test_what_is_damaged_in_a_run_is_collected_anew_beside_it(self, runs: list[Run], tmp_path: Path) -> None:
        other = runs[1]
        collected = other.oof("joint").read_bytes()
        other.oof("joint").write_bytes(collected[:100])
        before = contents(other)
        both = vote_quietly(runs, tmp_path / "both")
        assert contents(other) == before
        assert both.of_voter(other).oof("joint").read_bytes() == collected

    def test_predictions_that_a_run_lacks_are_refused_without_predict(self, runs: list[Run], tmp_path: Path) -> None:
        runs[1].test_predictions.unlink()
        with pytest.raises(InputError, match=r"'.*/other' has no predictions of its test images .*; add --predict\.$"):
            vote_quietly(runs, tmp_path / "both")


class TestFewerFolds:
    """A run of two folds with a member of one fold."""

    @pytest.fixture
    def run(self, photos: Path, tmp_path: Path) -> Run:
        run = make_run(tmp_path / "fewer", photos, members=[{"task": "joint"}, {"task": "multi", "folds": 1}])
        predict_and_report(run, read_source(load_run_config(run)))
        return run

    def test_the_vote_is_decided_on_what_all_members_predicted(self, run: Run) -> None:
        manifest = pd.read_parquet(run.manifest).set_index("image_id")
        common = set(manifest.index[manifest["fold"] == 0])
        assert 0 < len(common) < len(manifest)
        assert set(pd.read_parquet(run.oof("multi"))["image_id"]) == common == set(pd.read_parquet(run.oof_ensemble)["image_id"])
        assert set(pd.read_parquet(run.oof("joint"))["image_id"]) == set(manifest.index)
        written = read_ensemble(run)
        assert written.images == len(common)
        np.testing.assert_allclose(written.prior, np.bincount(manifest["label_joint"], minlength=18) / len(manifest))
        sentence = (
            f"The vote is decided on the {len(common)} of {len(manifest)} images that all members have predicted out of fold."
        )
        assert sentence in written.estimate_of
        assert sentence in run.report.read_text()
        assert "the first 1\N{NO-BREAK SPACE}fold(s)" in run.report.read_text()

    def test_scores_are_those_of_the_common_fold(self, run: Run) -> None:
        manifest = pd.read_parquet(run.manifest)
        own = manifest[manifest["fold"] == 0].set_index("image_id")["label_joint"]
        table = pd.read_parquet(run.oof("joint")).set_index("image_id").drop(columns=["view", "fold"])
        said = table.groupby(level=0).mean().loc[own.index].to_numpy().argmax(axis=1)
        assert read_ensemble(run).oof["joint"]["joint"]["accuracy"] == pytest.approx((said == own.to_numpy()).mean())

    def test_all_fold_models_vote_on_new_images_and_those_of_fewer_folds_go_round(self, run: Run) -> None:
        definition = read_definition(run.root)
        assert sorted(definition.models) == ["joint/fold-0", "joint/fold-1", "multi/fold-0"]
        assert [models["multi"] for models in definition.rounds] == ["multi/fold-0", "multi/fold-0"]
        [voting] = voting_runs([run])
        predicted = pd.read_parquet(run.test_predictions)
        assert sorted({name.partition("|")[0] for name in map(str, predicted) if "|" in name}) == sorted(definition.models)
        rounds = by_round([voting], [predicted])
        joint = definition.vote.over_rounds(rounds)
        expected = np.mean([definition.vote(members) for members in rounds], axis=0)
        np.testing.assert_allclose(joint, expected)
        np.testing.assert_array_equal(rounds[0]["multi"]["age"], rounds[1]["multi"]["age"])
        assert not np.allclose(rounds[0]["joint"]["joint"], rounds[1]["joint"]["joint"])
        np.testing.assert_allclose(pd.read_parquet(run.predictions).filter(like="joint:").to_numpy(), joint, atol=1e-6)

    def test_it_is_trained_to_its_end_and_lacks_no_model(self, run: Run) -> None:
        config = load_run_config(run)
        check_trained(run, resolve_members(config))
        shutil.rmtree(run.replica(ReplicaId("multi", 0)))
        with pytest.raises(InputError, match=r"there is no multi/fold-0\)"):
            check_trained(run, resolve_members(config))

    def test_it_votes_with_a_run_of_all_folds_on_what_both_predicted(self, run: Run, runs: list[Run], tmp_path: Path) -> None:
        for together in ([run, runs[0]], [runs[0], run]):
            both = vote_quietly(together, tmp_path / f"both-{together[0].name}")
            assert read_ensemble(both).images == read_ensemble(run).images
            assert set(pd.read_parquet(both.oof_ensemble)["image_id"]) == set(pd.read_parquet(run.oof_ensemble)["image_id"])

    def test_one_image_that_a_member_should_have_predicted_is_missed(self, run: Run) -> None:
        file = run.replica_oof(ReplicaId("multi", 0))
        write_table(file, pd.read_parquet(file).iloc[1:])
        with pytest.raises(InputError, match=r"of 'multi' \(original\) lack 1 image"):
            spoken([run], None)

    def test_a_collected_file_alone_is_checked_too(self, run: Run) -> None:
        for fold in (0, 1):
            run.replica_oof(ReplicaId("joint", fold)).unlink()
        table = pd.read_parquet(run.oof("joint"))
        write_table(run.oof("joint"), table[table["image_id"] != table["image_id"].iloc[0]])
        with pytest.raises(InputError, match=r"of 'joint' \(hflip\) lack 1 image"):
            spoken([run], None)


def test_weights_by_task_vote_on_new_images(photos: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "weighed", photos, members=[{"task": "joint"}, {"task": "multi"}])
    predict_and_report(run, read_source(load_run_config(run)))
    weights = "{mask: {joint: 1, multi: 0}, gender: {joint: 0, multi: 1}, age: {joint: 1, multi: 3}}"
    settings = [f"vote.weights={weights}", "vote.rule=weighted", "vote.level=task", "vote.calibrate=none"]
    vote([run.root], None, settings, display=Display(Console(file=io.StringIO())))
    [voting] = voting_runs([run])
    expected = 0
    for members in by_round([voting], [pd.read_parquet(run.test_predictions)]):
        joint, multi = members["joint"]["joint"].reshape(-1, 3, 2, 3), members["multi"]
        age = (joint.sum(axis=(1, 2)) + 3 * multi["age"]) / 4
        expected = expected + np.einsum("na,nb,nc->nabc", joint.sum(axis=(2, 3)), multi["gender"], age).reshape(-1, 18) / 2
    found = pd.read_parquet(run.predictions).filter(like="joint:").to_numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert load_run_config(run).vote.weights == {
        "mask": {"joint": 1, "multi": 0},
        "gender": {"joint": 0, "multi": 1},
        "age": {"joint": 1, "multi": 3},
    }


class TestByGroup:
    """A run that votes gender and age over all photos of a person."""

    @pytest.fixture
    def grouped_photos(self, photos: Path, tmp_path: Path) -> Path:
        """Test images with the person of each, of whom the last has none."""
        copy = Path(shutil.copytree(photos, tmp_path / "photos"))
        info = pd.read_csv(copy / "eval" / "info.csv")
        people = [f"p{number // 7}" for number in range(len(info))]
        info.assign(person=[*people[:-1], ""]).to_csv(copy / "eval" / "info.csv", index=False)
        return copy

    @staticmethod
    def made(root: Path, photos: Path, groups: Any = ("gender", "age"), **data: Any) -> Run:
        vote_config = {**VOTE, "groups": groups if isinstance(groups, str) else list(groups)}
        run = make_run(root, photos, members=MEMBERS, vote=vote_config, data={"path": str(photos), **data})
        predict_and_report(run, read_source(load_run_config(run)))
        return run

    def test_the_test_set_is_voted_by_its_column(self, grouped_photos: Path, tmp_path: Path) -> None:
        with_column = self.made(tmp_path / "with", grouped_photos, test_group_column="person")
        without = self.made(tmp_path / "without", grouped_photos)
        voted, alone = (pd.read_parquet(run.predictions) for run in (with_column, without))
        info = pd.read_csv(grouped_photos / "eval" / "info.csv", dtype=str).fillna("").set_index("ImageID")
        person = info["person"].loc[voted["image_id"]].to_numpy()
        definition = read_definition(with_column.root)
        grouping, space = definition.grouping, definition.space
        assert grouping.tasks == ("gender", "age")
        columns = [name for name in map(str, alone) if name.startswith("joint:")]
        numbers = np.unique(person, return_inverse=True)[1]
        expected = pooled(space, alone[columns].to_numpy(), numbers, grouping)
        np.testing.assert_allclose(voted[columns].to_numpy(), expected, atol=1e-12)
        assert (voted["joint"] != alone["joint"]).any()
        submitted = pd.read_csv(with_column.submission).set_index("ImageID")["ans"].loc[voted["image_id"]]
        assert submitted.tolist() == voted["joint"].tolist()
        one = (person == "").argmax()
        pd.testing.assert_frame_equal(voted.iloc[[one]], alone.iloc[[one]], check_exact=True)

    def test_out_of_fold_and_without_groups_all_is_as_by_a_vote_on_each_image(self, photos: Path, tmp_path: Path) -> None:
        runs = [self.made(tmp_path / groups, photos, groups if groups == "none" else (groups,)) for groups in ("none", "gender")]
        for file in ("predictions", "submission", "oof_ensemble"):
            assert getattr(runs[0], file).read_bytes() == getattr(runs[1], file).read_bytes()
        none, by_gender = (read_ensemble(run) for run in runs)
        assert none.vote == by_gender.vote
        assert none.estimate == by_gender.estimate
        assert none.oof == by_gender.oof
        assert none.by_group is None

    def test_what_it_is_worth_is_kept_out_of_fold_and_on_people_held_out(self, photos: Path, tmp_path: Path) -> None:
        run = self.made(tmp_path / "run", photos)
        known = read_ensemble(run)
        assert known.by_group is not None
        assert known.by_group.candidates == ["gender", "age"]
        assert known.by_group.tasks == ["gender", "age"]
        assert known.by_group.estimate is not None
        assert known.by_group.gain is not None
        assert known.estimate is not None
        gain = known.by_group.estimate.score - known.estimate.score
        assert known.by_group.gain.score == pytest.approx(gain, abs=1e-9)
        assert set(known.by_group.gains) == {"mask", "gender", "age", "joint"}
        assert [row.images for row in known.by_group.sizes] == [2, 3, 5, 7]
        assert known.reserve is not None
        assert known.reserve.grouped is not None
        assert known.reserve.grouped.score - known.reserve.score == pytest.approx(known.reserve.grouped.gain.score)
        page = run.report.read_text()
        assert "voted over all images of a group" in page

    def test_one_line_says_what_groups_would_be_worth(self, photos: Path, grouped_photos: Path, tmp_path: Path) -> None:
        lacking = self.made(tmp_path / "lacking", photos)
        said = spoken([lacking], tmp_path / "again")
        assert (
            "each image is voted on alone; with a column of groups (data.test_group_column) joint.f1 is expected to gain" in said
        )
        assert "where groups are of 7 images" in said
        assert "and voted by group there" in said
        idle = self.made(tmp_path / "idle", grouped_photos, "none", test_group_column="person")
        assert "the groups of the test images change nothing" in spoken([idle], tmp_path / "more")

    def test_several_runs_vote_by_group(self, grouped_photos: Path, tmp_path: Path) -> None:
        runs = [self.made(tmp_path / name, grouped_photos, test_group_column="person") for name in ("one", "other")]
        both = vote_quietly(runs, tmp_path / "both")
        known = read_ensemble(both)
        assert known.by_group is not None
        assert known.by_group.tasks == ["gender", "age"]
        assert known.reserve is not None
        assert known.reserve.grouped is not None
        assert read_definition(both.root).grouping.tasks == ("gender", "age")
        genders = pd.read_parquet(both.predictions)[["image_id", "gender:male"]].merge(
            pd.read_csv(grouped_photos / "eval" / "info.csv"), left_on="image_id", right_on="ImageID"
        )
        assert genders.groupby("person")["gender:male"].agg(np.ptp).max() < 1e-12

    def test_a_vote_that_is_decided_is_read_again_with_its_groups(self, photos: Path, tmp_path: Path) -> None:
        run = self.made(tmp_path / "run", photos)
        before = run.ensemble.stat().st_mtime_ns, run.predictions.read_bytes()
        said = spoken([run], None)
        assert "decided already" in said
        assert run.predictions.read_bytes() == before[1]
        assert read_definition(run.root).grouping.tasks == ("gender", "age")

    @pytest.mark.parametrize(
        ("groups", "message"),
        [
            (["mask"], r"vote.groups names 'mask', which differs within a group: '.*' has '.*' and '.*'; leave it out, .*"),
            (["gendre"], r"vote.groups: there is no task 'gendre'; it may be 'gender' .*"),
        ],
    )
    def test_tasks_that_cannot_be_voted_so_are_refused(
        self, runs: list[Run], tmp_path: Path, groups: list[str], message: str
    ) -> None:
        with pytest.raises(InputError, match=f"^{message}$"):
            vote([runs[0].root], tmp_path / "new", [f"vote.groups={groups}"], display=Display(Console(file=io.StringIO())))

    @pytest.mark.parametrize(
        "change",
        [{"tasks": ["mosk"]}, {"tasks": ["age", "age"]}, {"pool": "maximum"}, {"tasks": 3}, {"pool": None}],
    )
    def test_what_is_damaged_is_named(self, runs: list[Run], change: dict[str, Any]) -> None:
        file = runs[0].ensemble
        written = read_json(file)
        write_json(file, {**written, "by_group": {**written["by_group"], **change}})
        with pytest.raises(DamagedFileError, match=r"ensemble\.json"):
            read_definition(runs[0].root)

    def test_a_vote_of_an_older_raymask_is_on_each_image_alone(self, runs: list[Run]) -> None:
        written = read_json(runs[0].ensemble)
        del written["by_group"]
        write_json(runs[0].ensemble, written)
        assert read_definition(runs[0].root).grouping.tasks == ()


def test_a_run_that_is_looked_at_keeps_its_config(runs: list[Run]) -> None:
    """As `refit` and `soup` do it, with a rule of the caller's."""
    run = runs[0]
    before = contents(run)
    with finished_run(run.root, "hard", Display(Console(file=io.StringIO()))) as prepared:
        assert prepared.config.vote.rule == "hard"
    assert contents(run) == before
    assert run.finished(ReplicaId("joint", 0))
