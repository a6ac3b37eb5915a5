"""Tests of where a command may write: new or empty folders and its own, so that no other file is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from made import context_of, make_run

from raymask.core.errors import InputError
from raymask.export.export import export
from raymask.runs.configs import load_run_config
from raymask.runs.directory import Run
from raymask.runs.outputs import check_output
from raymask.workflows import predict, vote
from raymask.workflows.setup import prepare_run, resolve


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs") / "made", photos)


def all_rows(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


class TestFolders:
    @pytest.mark.parametrize("begun", [None, (), ("images.parquet",)])
    def test_new_and_empty_ones_are_taken(self, tmp_path: Path, begun: tuple[str, ...] | None) -> None:
        (tmp_path / "empty").mkdir()
        for folder in ("empty", "new", "new/deep"):
            check_output(tmp_path / folder, "--out", "job.json", begun)

    def test_ones_own_is_taken_whatever_else_lies_in_it(self, tmp_path: Path) -> None:
        for name in ("job.json", "submission.csv", "notes.txt"):
            (tmp_path / name).touch()
        check_output(tmp_path, "--out", "job.json")
        with pytest.raises(
            InputError, match=rf"^--out '{tmp_path}' holds other files, such as 'job\.json'; name a folder that is"
        ):
            check_output(tmp_path, "--out", "other.json")

    def test_what_a_command_began_is_gone_on_with(self, tmp_path: Path) -> None:
        for name in ("images.parquet", "error.log", ".images.parquet.1234"):
            (tmp_path / name).touch()
        check_output(tmp_path, "--out", "job.json", ("images.parquet",))
        with pytest.raises(InputError, match=r"such as 'images\.parquet'"):
            check_output(tmp_path, "--out", "job.json", ())
        with pytest.raises(InputError, match=r"such as '\.images\.parquet\.1234'"):
            check_output(tmp_path, "--out", "job.json")

    def test_files_are_no_folders(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match=r"is a file; name a folder that is new or empty\.$"):
            check_output(tmp_path / "file", "--out")
        with pytest.raises(InputError, match=rf"lies below '{tmp_path}/file', which is a file; name another folder\.$"):
            check_output(tmp_path / "file" / "deep" / "out", "--out")


class TestCommands:
    """No command that is given a wrong folder changes a file of it."""

    @pytest.mark.parametrize("where", ["", "members", "members/mask", "new", "new/deep"])
    def test_predictions_never_go_into_a_run(self, run: Run, photos: Path, where: str) -> None:
        before = all_rows(run.root)
        sentence = f"lies in the run '{run.root}'" if where else "is a run, whose own files would be lost"
        with pytest.raises(InputError, match=sentence):
            predict.predict(run.root, str(photos / "eval" / "images"), run.root / where)
        assert all_rows(run.root) == before

    def test_predictions_that_an_older_version_wrote_into_a_run_are_not_gone_on_with(self, run: Run, photos: Path) -> None:
        job = run.root / "job.json"
        job.write_text("{}")
        try:
            with pytest.raises(InputError, match="is a run, whose own files would be lost"):
                predict.predict(run.root, str(photos / "eval" / "images"), run.root)
        finally:
            job.unlink()

    def test_predictions_do_not_go_among_the_images_or_the_runs(self, run: Run, photos: Path, tmp_path: Path) -> None:
        images = photos / "eval" / "images"
        before = all_rows(images)
        for out in (images, run.root.parent, photos):
            with pytest.raises(InputError, match=rf"^--out '{out}' holds other files, such as '"):
                predict.predict(run.root, str(images), out)
        assert all_rows(images) == before

    def test_a_vote_of_several_runs_goes_into_none_of_them(self, run: Run, photos: Path, tmp_path: Path) -> None:
        other = make_run(tmp_path / "other", photos)
        before = all_rows(run.root) | all_rows(other.root)
        for folders, into in (([run, other], run), ([run, other], other), ([run], other)):
            with pytest.raises(InputError, match=rf"^--into '{into.root}' is a run, whose own files would be lost"):
                vote.vote([one.root for one in folders], into.root)
        with pytest.raises(InputError, match=r"^--into .* holds other files"):
            vote.vote([run.root, other.root], photos)
        assert all_rows(run.root) | all_rows(other.root) == before

    def test_an_export_needs_a_new_folder_outside_of_runs(self, run: Run, photos: Path) -> None:
        with pytest.raises(InputError, match=r"^--out .* lies in the run"):
            export(run.root, run.root / "exported")
        with pytest.raises(InputError, match=r"^--out .* holds other files"):
            export(run.root, photos)

    def test_a_run_does_not_begin_where_something_else_lies(self, run: Run, photos: Path, tmp_path: Path) -> None:
        config = load_run_config(run)
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "chapter.tex").touch()
        (tmp_path / "file").touch()
        for runs, name, sentence in (
            (tmp_path, "thesis", r"^--name '.*/thesis' holds other files, such as 'chapter\.tex'"),
            (tmp_path, "file", "is a file"),
            (tmp_path / "file", "demo", "which is a file"),
            (run.root, "demo", "lies in the run"),
            (run.root.parent, "made/members", "lies in the run"),
        ):
            there = context_of(Run(runs / name), resolve(config.model_copy(update={"runs": runs, "name": name})))
            with pytest.raises(InputError, match=sentence):
                prepare_run(there)
        assert not list((tmp_path / "thesis").glob("*.yaml"))
