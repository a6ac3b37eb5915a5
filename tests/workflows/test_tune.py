"""Searches: trials that end early, fail, are cut off or joined by more; and what comes of the best."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from sklearn.metrics import f1_score
from tiny import RECIPE, TINY, run_and_read

from raymask.config.loading import load_config
from raymask.config.search import SearchConfig, search_config
from raymask.config.yaml_files import dump_yaml
from raymask.core.console import Display
from raymask.core.errors import InputError
from raymask.io.checked import DamagedFileError
from raymask.report.search import as_table, render_search, winning_recipe
from raymask.runs.directory import ReplicaId, Run
from raymask.runs.folders import SearchFiles
from raymask.runs.search_schemas import Search
from raymask.training import packs as packs_of
from raymask.workflows import fold_models
from raymask.workflows.tune import tune

LR = {"recipe.optim.lr": {"log": [1e-4, 1e-2]}}
TASKS = {"gender": None, "age": None}  # so that a trial has one specialist, and packs are small


def search_of(
    folder: Path, photos: Path, space: dict[str, Any] | None = None, how: dict[str, Any] | None = None, **more: Any
) -> SearchConfig:
    """A search of seconds, as a user's file has it."""
    recipe = {**RECIPE, "schedule": {"epochs": 4}, **more.pop("recipe", {})}
    file = folder / "mine.yaml"
    settings = {"folds": 1, "trials": 4, "method": "random", "grace": 1, **(how or {})}
    folder.mkdir(exist_ok=True)
    one_pack = {"cpu_packs": 1}  # so that all trials of a stream come to a rung together
    file.write_text(
        dump_yaml(
            {"compute": one_pack, **TINY, "recipe": recipe, "tasks": TASKS, **more, "search": space or LR, "tune": settings}
        )
    )
    return search_config(str(file), overrides={"runs": folder / "runs", "data": {"path": str(photos)}})


def searched(search: SearchConfig) -> tuple[Search, SearchFiles, str]:
    said = io.StringIO()
    found = tune(search, Display(Console(file=said, width=200)))
    return found, SearchFiles(Path(search.run.runs) / search.run.name), said.getvalue()


def test_half_of_the_trials_end_at_each_rung_and_the_best_becomes_a_recipe(photos: Path, tmp_path: Path) -> None:
    search = search_of(tmp_path, photos, how={"trials": 6})
    found, files, said = searched(search)
    ended = {trial.number: (trial.state, trial.reached) for trial in found.trials}
    assert sorted(ended.values(), key=str) == [("finished", 4), *[("stopped", 1)] * 3, *[("stopped", 2)] * 2]
    at_first_rung = sorted((trial.f1_by_epoch[1] for trial in found.trials), reverse=True)
    went_on = [trial for trial in found.trials if len(trial.curve) > 1]
    assert sorted((trial.f1_by_epoch[1] for trial in went_on), reverse=True) == at_first_rung[:3]
    run = Run(files.root)
    for trial in found.trials:
        model = ReplicaId(f"trial-{trial.number:03}", 0)
        history = pd.read_csv(run.history(model))
        assert history["epoch"].max() == ended[trial.number][1], "a trial learns no further than to where it ended"
        assert trial.f1_by_epoch == pytest.approx({epoch: history["f1"][epoch - 1] for epoch in trial.f1_by_epoch})
        assert not run.checkpoint(model).exists()
        assert not run.weights(model).exists()
    best = found.trials[found.best or 0]
    assert best.state == "finished"
    assert "is expected of the best" in said
    assert_score_is_of_the_people_left_out(run, found)
    config = load_config(str(files.best), overrides={"runs": tmp_path / "runs", "name": "best", "data": {"path": str(photos)}})
    assert config.recipe.optim.lr == best.values["recipe.optim.lr"]
    assert config.views == ("original", "hflip")
    done, _ = run_and_read(config)
    assert done.submission.exists()


def assert_score_is_of_the_people_left_out(run: Run, found: Search) -> None:
    manifest = pd.read_parquet(run.manifest).set_index("image_id")
    left_out = manifest[manifest["fold"] == 0]
    for trial in found.trials:
        oof = pd.read_parquet(run.oof(f"trial-{trial.number:03}")).set_index("image_id")
        assert set(oof.index) == set(left_out.index)
        elected = oof[[column for column in oof if ":" in str(column)]].to_numpy().argmax(axis=1)
        truth = left_out.loc[oof.index]["label_mask"].to_numpy()
        assert trial.score is not None
        assert trial.score.score == pytest.approx(f1_score(truth, elected, average="macro"))
    assert found.groups == left_out["group"].nunique()


def test_trials_of_one_stream_share_a_pack_and_others_do_not(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs: list[int] = []
    planned = packs_of.plan_run

    def plan(*given: Any) -> Any:
        packs.append(len((made := planned(*given)).packs))
        return made

    monkeypatch.setattr(fold_models, "plan_run", plan)
    searched(search_of(tmp_path / "a", photos, how={"stop": "none"}, recipe={"schedule": {"epochs": 1}}))
    space = {"recipe.image_size": {"choice": [32, 40]}}
    grid = {"method": "grid", "stop": "none"}
    found, files, _ = searched(search_of(tmp_path / "b", photos, space, grid, recipe={"schedule": {"epochs": 1}}))
    assert packs == [1, 2]
    assert {trial.values["recipe.image_size"] for trial in found.trials} == {32, 40}
    assert len(list(files.root.parent.glob(".cache/prepared/*"))) == 2


def test_a_trial_whose_numbers_or_values_cannot_be_fails_and_the_others_go_on(photos: Path, tmp_path: Path) -> None:
    space = {
        "recipe.optim.lr": {"choice": [0.003, 1e30]},
        "recipe.loss": {"choice": [{"name": "cross_entropy"}, {"name": "focal", "gamma": 1.0}]},
        "recipe.schedule.average_last": {"choice": [1, 3]},
        "recipe.schedule.epochs": {"choice": [2, 3]},
    }
    found, files, _ = searched(search_of(tmp_path, photos, space, {"method": "grid", "trials": 16, "stop": "none"}))
    failed = [trial for trial in found.trials if trial.state == "failed"]
    searched_keys = ("optim.lr", "schedule.epochs", "schedule.average_last")
    values = [tuple(trial.values[f"recipe.{key}"] for key in searched_keys) for trial in failed]
    assert all(lr == 1e30 or (epochs, last) == (2, 3) for lr, epochs, last in values)
    impossible = [trial.problem for trial in failed if "is more than the 2 epochs" in trial.problem]
    assert len(impossible) == 4
    given_up = [trial for trial in failed if "was given up in epoch" in trial.problem]
    assert given_up
    assert all(f"trial-{trial.number:03}/fold-0" in trial.problem for trial in given_up), "each is told its own"
    assert sum(trial.state == "finished" for trial in found.trials) == 16 - len(failed)
    table = pd.read_csv(files.table)
    assert table["problem"].notna().sum() == len(failed)
    assert (table["state"] == "failed").sum() == len(failed)


def test_where_every_trial_fails_the_search_says_why(photos: Path, tmp_path: Path) -> None:
    space = {"recipe.optim.lr": {"choice": [1e30, 2e30]}}
    with pytest.raises(InputError, match=r"no trial of the search came to its end, such as trial 0: trial-000/fold-0 was"):
        searched(search_of(tmp_path, photos, space, {"method": "grid"}))


class CutOffError(Exception):
    """As when the process is killed: nothing is tidied up."""


def cut_off_after(reports: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Lets training end with an error at the given report of an epoch. Returns how many there were."""
    seen = 0
    made = fold_models.Watch

    def watch(judged_at: frozenset[int], on_report: Callable[[dict[str, Any]], None]) -> Any:
        def take(report: dict[str, Any]) -> None:
            nonlocal seen
            on_report(report)
            seen += "replicas" in report
            if seen == reports:
                raise CutOffError

        return made(judged_at, take)

    monkeypatch.setattr("raymask.workflows.tune.Watch", watch)
    return lambda: seen


@pytest.mark.parametrize("reports", [1, 6])
def test_a_search_that_was_cut_off_goes_on_and_ends_as_if_it_had_not_been(
    reports: int, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"trials": 6, "batch": 3, "method": "tpe"}
    whole, _, _ = searched(search_of(tmp_path / "whole", photos, how=how))
    search = search_of(tmp_path / "cut", photos, how=how)
    with monkeypatch.context() as patch:
        cut_off_after(reports, patch)
        with pytest.raises(CutOffError):
            searched(search)
    known = json.loads(SearchFiles(Path(search.run.runs) / search.run.name).search.read_text())
    assert [trial["values"] for trial in known["trials"]] == [trial.values for trial in whole.trials[: len(known["trials"])]]
    again, files, said = searched(search)
    comparable = [(trial.number, trial.values, trial.state, trial.score, trial.curve) for trial in again.trials]
    assert comparable == [(trial.number, trial.values, trial.state, trial.score, trial.curve) for trial in whole.trials]
    assert (again.best, again.estimate) == (whole.best, whole.estimate)
    for trial in again.trials:
        epochs = pd.read_csv(Run(files.root).history(ReplicaId(f"trial-{trial.number:03}", 0)))["epoch"].tolist()
        assert epochs == list(range(1, len(epochs) + 1)), "no epoch is learned twice"
    third, _, said = searched(search)
    assert third == again.model_copy(update={"seconds": third.seconds})
    assert "side by side" not in said, "what is finished is not done again"


def test_a_search_may_be_given_more_trials_but_nothing_else_of_it_changes(photos: Path, tmp_path: Path) -> None:
    first, _, _ = searched(search_of(tmp_path, photos, how={"trials": 2}))
    more, _, _ = searched(search_of(tmp_path, photos, how={"trials": 3}))
    assert len(more.trials) == 3
    assert [trial.values for trial in more.trials[:2]] == [trial.values for trial in first.trials]
    fewer, _, _ = searched(search_of(tmp_path, photos, how={"trials": 1}))
    assert len(fewer.trials) == 3, "what is trained is not thrown away"
    with pytest.raises(InputError, match=r"is a search by another search, .*log from 0.0001 to 0.01.* now; give"):
        searched(search_of(tmp_path, photos, {"recipe.optim.lr": {"log": [1e-3, 1e-2]}}))
    with pytest.raises(InputError, match=r"is a search by another tune.folds, 1 where it is 2 now"):
        searched(search_of(tmp_path, photos, how={"folds": 2}))
    with pytest.raises(InputError, match=r"holds another run: recipe.schedule.epochs was 4 and is 5"):
        searched(search_of(tmp_path, photos, recipe={"schedule": {"epochs": 5}}))


def test_a_damaged_table_of_trials_is_named(photos: Path, tmp_path: Path) -> None:
    search = search_of(tmp_path, photos, how={"trials": 1, "stop": "none"}, recipe={"schedule": {"epochs": 1}})
    _, files, _ = searched(search)
    whole = files.search.read_text()
    for text, says in (
        (whole[: len(whole) // 2], "search.json"),
        (whole.replace('"recipe.optim.lr": 0.0', '"recipe.optim.lr": 7.0'), "its trial 0 has values that are not searched"),
        (whole.replace('"format": 1', '"format": 9'), "a later raymask wrote it"),
    ):
        assert text != whole
        files.search.write_text(text)
        with pytest.raises(DamagedFileError, match=says):
            searched(search)
        assert files.search.read_text() == text


def test_when_the_minutes_are_over_one_trial_comes_to_its_end_and_none_begins(photos: Path, tmp_path: Path) -> None:
    how = {"trials": 6, "batch": 3, "minutes": 0.0001, "stop": "none"}
    found, _, _ = searched(search_of(tmp_path, photos, how=how))
    assert sorted(trial.state for trial in found.trials) == ["finished", "stopped", "stopped"]
    finished = next(trial for trial in found.trials if trial.state == "finished")
    assert finished.f1_by_epoch[1] == max(trial.f1_by_epoch[1] for trial in found.trials)
    again, _, _ = searched(search_of(tmp_path, photos, how={**how, "minutes": 60, "trials": 4}))
    assert len(again.trials) == 4, "more minutes are more trials"


def test_specialists_of_all_tasks_are_scored_together(photos: Path, tmp_path: Path) -> None:
    search = search_of(
        tmp_path, photos, how={"trials": 2, "stop": "none", "folds": 2}, recipe={"schedule": {"epochs": 1}}, tasks={"age": None}
    )
    found, files, _ = searched(search)
    run = Run(files.root)
    manifest = pd.read_parquet(run.manifest).set_index("image_id")
    parts = {task: pd.read_parquet(run.oof(f"trial-000-{task}")).set_index("image_id") for task in ("mask", "gender")}
    assert {len(part) for part in parts.values()} == {len(manifest)}, "each image is left out by one of the two folds"
    labels = {}
    for task, part in parts.items():
        columns = [column for column in part if str(column).startswith(f"{task}:")]
        labels[task] = part.loc[manifest.index, columns].to_numpy().argmax(axis=1)
    joint = 2 * labels["mask"] + labels["gender"]
    truth = 2 * manifest["label_mask"] + manifest["label_gender"]
    assert found.trials[0].score is not None
    assert found.trials[0].score.score == pytest.approx(f1_score(truth, joint, average="macro"))


def test_the_page_and_the_recipe_hold_nothing_that_a_file_of_trials_could_inject(photos: Path, tmp_path: Path) -> None:
    search = search_of(tmp_path, photos, how={"trials": 1, "stop": "none"}, recipe={"schedule": {"epochs": 1}})
    found, _, _ = searched(search)
    found.trials.append(
        found.trials[0].model_copy(update={"number": 1, "state": "failed", "score": None, "problem": "<script>1"})
    )

    page = render_search(search, found, "<b>name")
    assert "<script>" not in page
    assert "<b>name" not in page
    assert "http" not in page.replace("http://www.w3.org", ""), "nothing is loaded from elsewhere"
    assert len(as_table(found)) == 2
    assert winning_recipe(search, found).startswith("# Found by `raymask tune` (random, stopped by none)")
    assert np.isfinite(found.estimate.score if found.estimate else np.nan)
