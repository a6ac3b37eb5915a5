"""Tests of a run directory's paths, and of files that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from raymask.config.loading import load_config
from raymask.core.errors import InputError
from raymask.io.atomic import write_json, write_text
from raymask.io.checked import DamagedFileError, read_json
from raymask.runs.configs import load_run_config, save_run_config
from raymask.runs.directory import ReplicaId, Run
from raymask.runs.timings import add_timing

TASKS = "tasks={age: {edges: [30, 60], classes: [young, middle, old]}, gender: null}"


def test_every_path_is_a_different_one_below_the_run(tmp_path: Path) -> None:
    run, replica = Run(tmp_path / "mine"), ReplicaId("age-s1", 3)
    plain = [getattr(run, name) for name, value in vars(Run).items() if isinstance(value, property) and name != "name"]
    of_replica = [getattr(run, name)(replica) for name in ("weights", "meta", "history", "replica_oof", "checkpoint")]
    paths = [*plain, *of_replica, run.oof("age-s1"), run.oof("joint")]
    assert len(set(paths)) == len(paths)
    assert all(path.is_relative_to(run.root) and path != run.root for path in paths)
    assert run.name == "mine"


def test_replicas_have_folders_of_their_own() -> None:
    run = Run(Path("r"))
    folders = {run.replica(ReplicaId(member, fold)) for member in ("a", "b") for fold in range(3)}
    assert len(folders) == 6
    assert str(ReplicaId("age", 2)) == "age/fold-2"
    assert run.weights(ReplicaId("age", 2)).parent == run.replica(ReplicaId("age", 2))


def test_a_replica_is_finished_when_its_last_file_is_there(tmp_path: Path) -> None:
    run, replica = Run(tmp_path), ReplicaId("age", 0)
    for path in (run.weights(replica), run.history(replica), run.replica_oof(replica), run.checkpoint(replica)):
        write_text(path, "")
    assert not run.finished(replica)
    write_json(run.meta(replica), {})
    assert run.finished(replica)
    assert not run.finished(ReplicaId("age", 1))


def test_a_saved_config_is_the_same_when_it_is_loaded(tmp_path: Path) -> None:
    run = Run(tmp_path / "mine")
    config = load_config("demo", [TASKS, "members=[{task: age, recipe: {optim: {lr: 0.1}}}]"])
    save_run_config(run, config)
    assert load_run_config(run) == config


def test_a_folder_without_config_holds_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_run_config(Run(tmp_path))
    assert str(caught.value) == f"'{tmp_path}' holds no run: it has no config.yaml."


def test_a_config_that_was_cut_anywhere_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    save_run_config(run, load_config("demo", [TASKS, "views=[original]"]))
    text = run.config.read_text()
    for end in (0, text.index("views:"), text.index("compute:") + 3, len(text) - 4, len(text) - 2):
        run.config.write_text(text[:end])
        with pytest.raises(DamagedFileError, match=r"\.yaml' is damaged \((it is empty|.*end may be missing; .*)\); it says"):
            load_run_config(run)


def test_a_config_with_a_wrong_key_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    save_run_config(run, load_config("demo", [TASKS]))
    run.config.write_text(run.config.read_text().replace("seed:", "sed:"))
    with pytest.raises(InputError, match=r"config\.yaml' is damaged \(there is no key 'sed'; it may be 'seed' \(the nearest\), "):
        load_run_config(run)


def test_timings_of_stages_add_up_to_one_file(tmp_path: Path) -> None:
    run = Run(tmp_path)
    add_timing(run, "prepare", 1.23456)
    add_timing(run, "train", 10)
    add_timing(run, "prepare", 2)
    assert read_json(run.timings) == {"prepare": 2, "train": 10}
