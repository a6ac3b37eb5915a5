"""Tests of a run directory's paths, and of files that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from raymask.config import load_config
from raymask.errors import InputError
from raymask.store import (
    ReplicaId,
    Run,
    add_timing,
    load_run_config,
    read_json,
    replacing,
    save_run_config,
    write_json,
    write_table,
    write_text,
)


def below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# --- whole or not at all


def test_a_file_appears_under_its_name_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "a.txt"
    with replacing(file) as draft:
        draft.write_text("half")
        assert not file.exists()
        assert draft.parent == file.parent  # a rename within one file system
        assert draft.name.startswith(".")
        draft.write_text("whole")
    assert file.read_text() == "whole"
    assert below(tmp_path) == ["new", "new/folder", "new/folder/a.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with pytest.raises(RuntimeError, match="the disk is full"), replacing(file) as draft:  # noqa: PT012
        draft.write_text("half")
        raise RuntimeError("the disk is full")
    assert file.read_text() == "old"
    assert below(tmp_path) == ["a.txt"]


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    with replacing(tmp_path / "folder") as draft:
        draft.mkdir()
        (draft / "a.txt").write_text("a")
        assert not (tmp_path / "folder").exists()
    assert below(tmp_path) == ["folder", "folder/a.txt"]


def test_a_failure_leaves_no_half_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), replacing(tmp_path / "folder") as draft:  # noqa: PT012
        draft.mkdir()
        (draft / "a.txt").write_text("a")
        raise RuntimeError
    assert below(tmp_path) == []


def test_two_writers_at_once_do_not_share_a_draft(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    with replacing(file) as first:
        with replacing(file) as second:
            first.write_text("first")
            second.write_text("second")
        assert file.read_text() == "second"
    assert file.read_text() == "first"
    assert below(tmp_path) == ["a.txt"]


# --- formats


def test_json_keeps_values_and_letters(tmp_path: Path) -> None:
    values = {"name": "마스크", "scores": [0.5, 1, None], "nested": {"a": True}}
    write_json(tmp_path / "a.json", values)
    assert read_json(tmp_path / "a.json") == values
    assert "마스크" in (tmp_path / "a.json").read_text()


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"what": object()})
    assert read_json(tmp_path / "a.json") == 1
    assert below(tmp_path) == ["a.json"]


TABLE = pd.DataFrame({"image_id": ["b,1", 'a"2'], "label": [1, 0], "p": [0.25, 1.0]}, index=[7, 3])


def test_tables_keep_their_rows_in_both_formats(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", TABLE)
    write_table(tmp_path / "a.csv", TABLE)
    for read in (pd.read_parquet(tmp_path / "a.parquet"), pd.read_csv(tmp_path / "a.csv")):
        pd.testing.assert_frame_equal(read, TABLE.reset_index(drop=True), check_dtype=False)


def test_a_table_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", TABLE)
    with pytest.raises(Exception, match="object"):
        write_table(tmp_path / "a.parquet", pd.DataFrame({"what": [object()]}))
    assert len(pd.read_parquet(tmp_path / "a.parquet")) == 2
    assert below(tmp_path) == ["a.parquet"]


# --- a run


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
    config = load_config("demo", ["tasks.age.edges=[30,60]", "tasks.gender=null", "members=[{task: age, recipe: {lr: 0.1}}]"])
    save_run_config(run, config)
    assert load_run_config(run) == config


def test_a_folder_without_config_holds_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_run_config(Run(tmp_path))
    assert str(caught.value) == f"'{tmp_path}' holds no run: it has no config.yaml."


def test_a_config_that_was_cut_is_refused_with_its_line(tmp_path: Path) -> None:
    run = Run(tmp_path)
    save_run_config(run, load_config("demo", ["views=[original]"]))
    text = run.config.read_text()
    run.config.write_text(text[: text.index("views:")] + "views: [original")
    lines = len(run.config.read_text().splitlines())
    with pytest.raises(InputError) as caught:
        load_run_config(run)
    assert str(caught.value) == f"'{run.config}' is not valid YAML at line {lines}."


def test_a_config_with_a_wrong_key_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    save_run_config(run, load_config("demo"))
    run.config.write_text(run.config.read_text().replace("seed:", "sed:"))
    with pytest.raises(InputError, match=r"^there is no key 'sed'; it may be 'seed' \(the nearest\), "):
        load_run_config(run)


def test_timings_of_stages_add_up_to_one_file(tmp_path: Path) -> None:
    run = Run(tmp_path)
    add_timing(run, "prepare", 1.23456)
    add_timing(run, "train", 10)
    add_timing(run, "prepare", 2)
    assert read_json(run.timings) == {"prepare": 2, "train": 10}


def test_a_draft_that_was_never_finished_is_not_taken_for_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    dead = replacing(file)  # as in a process that is killed inside of the block
    dead.__enter__().write_text("half")
    assert not file.exists()
    write_text(file, "whole")
    assert file.read_text() == "whole"
