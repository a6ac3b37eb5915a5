"""Every file of a finished run, damaged in turn: whatever reads it ends well, or in a sentence that names the file."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made import context_of, make_run, predict_and_report
from rich.console import Console

from raymask.core.console import Display
from raymask.core.errors import InputError, RunError
from raymask.data.sources import read_source
from raymask.export.export import GraphFormat, export
from raymask.inference.definition import read_definition
from raymask.inference.ensemble import load
from raymask.inference.voting_runs import voting_runs
from raymask.io.checked import DamagedFileError, read_json
from raymask.report import run_report
from raymask.report.run_data import read_run_data
from raymask.report.run_report import build_report
from raymask.report.vote_sections import vote_section
from raymask.runs.configs import load_run_config, settled_config
from raymask.runs.directory import ReplicaId, Run
from raymask.runs.tables import read_manifest
from raymask.runs.timings import read_timings
from raymask.serving.deployment import Settings, about
from raymask.workflows import vote as workflow
from raymask.workflows.fold_models import is_sound
from raymask.workflows.setup import prepare_run, read_test_set, record_run, resolve

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
MEMBERS = [{"task": "joint"}]


@pytest.fixture(scope="module")
def made(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = make_run(tmp_path_factory.mktemp("whole") / "run", photos, members=MEMBERS)
    predict_and_report(run, read_source(load_run_config(run)))
    torch.save({"learner": {}, "history": []}, run.checkpoint(ReplicaId("joint", 0)))
    return run


def halved(content: bytes) -> bytes:
    return content[: len(content) // 2]


def emptied(content: bytes) -> bytes:
    return b""


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0x21]) + content[middle + 1 :]


def a_list(content: bytes) -> bytes:
    return b"[]"


def a_mapping(content: bytes) -> bytes:
    return b"{}"


class Said(Display):
    """What a command said, for where a part is made again."""

    def __init__(self) -> None:
        self.page = io.StringIO()
        super().__init__(Console(file=self.page, width=10_000))


def vote(run: Run, said: Said) -> None:
    """`raymask vote` without the page, which is a door of its own."""
    config = settled_config(run)
    context, [one] = context_of(run, config, said), voting_runs([run])
    decided = workflow.decide_vote(context, [one])
    test, _ = read_test_set(config, config.data, said)
    workflow.predict_test_set(context, decided, test)
    workflow.score_reserve(context, decided)


def report(run: Run, said: Said) -> None:
    for sentence in build_report(run):
        said.warn(sentence)


def sections(run: Run, said: Said) -> None:
    """What the page is made of, without the plots."""
    material = read_run_data(run)
    vote_section(material.ensemble, material.vote)
    for part in ("header", "tiles", "score_table", "confusions", "class_table", "worst_mistakes", "fold_table", "wall_time"):
        getattr(run_report, part)(material)
    for part in (run_report.set_aside, run_report.predicted_classes):
        part(material)
    for sentence in material.left_out:
        said.warn(sentence)


def predict_and_serve(run: Run, said: Said) -> None:
    ensemble = load(run.root)
    assert len(ensemble.predict([PICTURE])) == 1
    about(run.root, ensemble.definition, Settings().models)


def write_export(run: Run, said: Said) -> None:
    export(run.root, run.root.parent / "exported", graphs=GraphFormat("torch"), members=["joint"], display=said)


def resume(run: Run, said: Said) -> None:
    config = load_run_config(run).model_copy(update={"runs": run.root.parent})
    prepared = prepare_run(context_of(run, resolve(config), said))
    record_run(prepared)
    for replica in (ReplicaId(member.name, fold) for member in prepared.members for fold in (0, 1)):
        if run.checkpoint(replica).exists():
            is_sound(run, replica, said)
    read_manifest(run, prepared.space)


NOT_READ = ("report.html", "submission.csv")
"""What is only ever written."""


def files_of(run: Run) -> list[str]:
    return sorted(str(path.relative_to(run.root)) for path in run.root.rglob("*") if path.is_file())


@contextmanager
def damaged(run: Run, whole: dict[str, bytes], file: str, how: Callable[[bytes], bytes]) -> Iterator[None]:
    """The run with one file damaged, and whole again afterwards."""
    (run.root / file).write_bytes(how(whole[file]))
    try:
        yield
    finally:
        for name in {*files_of(run)} - whole.keys():
            (run.root / name).unlink()
        for name, content in whole.items():
            path = run.root / name
            if not path.exists() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)


def ends(door: Callable[[Run, Said], None], run: Run) -> tuple[str, str]:
    """What a door said, and the sentence that it ended in, if it did; any other exception is a fault."""
    said = Said()
    try:
        door(run, said)
    except (InputError, RunError) as error:
        return said.page.getvalue(), str(error)
    return said.page.getvalue(), ""


def test_every_file_damaged_in_turn(made: Run, tmp_path: Path) -> None:
    run = Run(shutil.copytree(made.root, tmp_path / "run"))
    faults: list[str] = []
    seen: dict[str, bool] = {}
    whole = {file: (run.root / file).read_bytes() for file in files_of(run)}
    for file in whole:
        if "fold-1" in file:  # as fold-0
            continue
        ways = [halved, emptied, flipped, *([a_list, a_mapping] if file.endswith(".json") else [])]
        for how in ways:
            for door in (vote, report if how is halved else sections, predict_and_serve, resume):
                with damaged(run, whole, file, how):
                    try:
                        said, ended = ends(door, run)
                    except Exception as error:  # the walk goes on, and tells of all of them
                        faults.append(f"{door.__name__} of {how.__name__} {file}: {type(error).__name__}: {error}"[:300])
                        continue
                named = str(run.root / file) in ended or (Path(file).parts[-2:-1] and str((run.root / file).parent) in ended)
                if ended and not named:
                    faults.append(f"{door.__name__} of {how.__name__} {file} does not name it: {ended}"[:300])
                seen[file] = seen.get(file, False) or bool(named) or str(run.root / file) in said
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults)
    silent = {file for file, told in seen.items() if not told}
    untold = {*NOT_READ, "timings.json", "members/joint/fold-0/oof.parquet"}  # the last was collected already
    assert silent <= untold, f"damage of these was never told: {sorted(silent - untold)}"


class TestMendedByItself:
    """Damage that loses no work: the part is made again, and that is said."""

    @pytest.fixture
    def run(self, made: Run, tmp_path: Path) -> Run:
        return Run(shutil.copytree(made.root, tmp_path / "run"))

    def test_out_of_fold_predictions_are_collected_again(self, run: Run) -> None:
        before = pd.read_parquet(run.oof("joint"))
        run.oof("joint").write_bytes(halved(run.oof("joint").read_bytes()))
        said, ended = ends(vote, run)
        assert not ended
        assert f"'{run.oof('joint')}' is damaged" in said
        assert "collected again" in said
        pd.testing.assert_frame_equal(pd.read_parquet(run.oof("joint")), before)

    def test_a_vote_is_decided_again(self, run: Run) -> None:
        before = read_json(run.ensemble)
        for file in (run.ensemble, run.oof_ensemble):
            file.write_bytes(halved(file.read_bytes()))
            said, ended = ends(vote, run)
            assert not ended
            assert f"'{file}' is damaged" in said
            assert "decided again" in said
            assert read_json(run.ensemble)["vote"] == before["vote"]

    def test_times_are_forgotten(self, run: Run) -> None:
        run.timings.write_text('{"train": "long"}')
        assert read_timings(run) == {}
        build_report(run)

    def test_a_checkpoint_is_dropped(self, run: Run) -> None:
        file = run.checkpoint(ReplicaId("joint", 0))
        file.write_bytes(halved(file.read_bytes()))
        said, ended = ends(resume, run)
        assert not ended
        assert f"'{file}' is damaged" in said
        assert "joint/fold-0 begins anew" in said
        assert not file.exists()


def test_lost_work_is_told_with_the_command_that_does_it_again(made: Run, tmp_path: Path) -> None:
    run = Run(shutil.copytree(made.root, tmp_path / "run"))
    file = run.replica_oof(ReplicaId("joint", 1))
    file.write_bytes(flipped(file.read_bytes()))
    run.oof("joint").unlink()
    _, ended = ends(vote, run)
    assert ended.startswith(f"'{file}' is damaged (")
    assert ended.endswith(
        f"delete the folder '{file.parent}', and `raymask train --recipe {run.config}` trains that model again."
    )


@pytest.mark.parametrize("name", ["model.safetensors", "meta.json"])
@pytest.mark.parametrize("how", [halved, flipped])
def test_an_export_names_the_runs_file(made: Run, tmp_path: Path, name: str, how: Callable[[bytes], bytes]) -> None:
    run = Run(shutil.copytree(made.root, tmp_path / "run"))
    file = run.replica(ReplicaId("joint", 0)) / name
    file.write_bytes(how(file.read_bytes()))
    with pytest.raises(DamagedFileError) as caught:
        export(run.root, tmp_path / "out", graphs=GraphFormat("torch"))
    assert str(caught.value).startswith(f"'{file}' is damaged (")
    assert not (tmp_path / "out").exists()


def places(values: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in nested ones."""
    inside = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    return [above, *(place for key, value in inside for place in places(value, (*above, key)))]


def put(values: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    changed = values.copy()
    changed[place[0]] = put(values[place[0]], place[1:], value)
    return changed


STRANGE = (None, True, -1, 10**400, 0.5, float("nan"), float("inf"), "", "x", "../x", "a:b", [], [[]], {}, {"x": 1}, [None] * 3)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_value_of_a_json_file_may_be_any_other(made: Run, data: st.DataObject) -> None:
    file = data.draw(st.sampled_from([made.ensemble, made.meta(ReplicaId("joint", 0))]))
    content = file.read_text()
    written = json.loads(content)
    value = data.draw(st.sampled_from(STRANGE))
    file.write_text(json.dumps(put(written, data.draw(st.sampled_from(places(written))), value)))
    try:
        for door in (lambda run, said: read_definition(run.root), sections):
            _, ended = ends(door, made)
            assert not ended or str(file) in ended or f"'{value}'" in ended
    finally:
        file.write_text(content)
