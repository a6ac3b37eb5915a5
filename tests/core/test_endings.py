"""How commands end: one line and a status for every way to go wrong, and nothing left running or half-written."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from made import HELPERS, make_run
from rich.console import Console

from raymask.cli import main
from raymask.core.console import Display
from raymask.core.endings import conclude, forgiving
from raymask.core.errors import InputError, RunError, reason
from raymask.runs.directory import ReplicaId, Run
from raymask.workflows.context import ray_errors

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "raymask.cli"]


def typed(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The status of a command line, run in this process."""
    monkeypatch.setattr("sys.argv", ["raymask", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def refused(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command refuses what it is given."""
    status = typed(arguments, monkeypatch)
    said = capfd.readouterr().err
    assert status == 2, said
    assert re.fullmatch(r"raymask: [^\n]*\.\n", said), said
    return said


# --- every command, and every path that leads nowhere


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("finished") / "runs" / "made", photos).root


def a_folder(place: Path) -> str:
    (place / "folder").mkdir()
    return str(place / "folder")


def a_file(place: Path) -> str:
    (place / "file").write_text("a")
    return str(place / "file")


def below_a_file(place: Path) -> str:
    return f"{a_file(place)}/below"


def a_circle(place: Path) -> str:
    (place / "circle").symlink_to("circle")
    return str(place / "circle")


def a_pipe(place: Path) -> str:
    os.mkfifo(place / "pipe")
    return str(place / "pipe")


NOWHERE: dict[str, Callable[[Path], str]] = {
    "empty": lambda place: "",
    "blank": lambda place: "  ",
    "missing": lambda place: str(place / "missing"),
    "empty folder": a_folder,
    "file": a_file,
    "below a file": below_a_file,
    "circle": a_circle,
    "pipe": a_pipe,
    "too long": lambda place: str(place / ("x" * 300)),
    "of nobody": lambda place: "~no-such-user/x",
}
READS = {
    "train --recipe": ["train", "--recipe", "{bad}"],
    "train --recipe file": ["train", "--recipe", "{bad}.yaml"],
    "train --data": ["train", "--runs", "{here}/runs", "--data", "{bad}"],
    "train --test": ["train", "--runs", "{here}/runs", "--data", "{photos}/train", "--test", "{bad}"],
    "train teacher": ["train", "--runs", "{here}/runs", "--recipe", "probe", "--data", "{photos}", "--set", "teacher.run={bad}",
                      "--set", "teacher.truth=0.5"],
    "show": ["show", "{bad}"],
    "show file": ["show", "{bad}.yaml"],
    "show --data": ["show", "demo", "--data", "{bad}", "--set", "runs={here}/runs"],
    "eda --data": ["eda", "--data", "{bad}", "--out", "{here}/page.html", "--set", "runs={here}/runs"],
    "eda --test": ["eda", "--data", "{photos}/train", "--test", "{bad}", "--out", "{here}/page.html", "--set",
                   "runs={here}/runs"],
    "train --debug": ["train", "--debug", "--runs", "{here}/runs", "--data", "{bad}"],
    "tune --recipe": ["tune", "--recipe", "{bad}"],
    "tune --data": ["tune", "--runs", "{here}/runs", "--data", "{bad}"],
    "lr": ["lr", "{bad}.yaml"],
    "lr --data": ["lr", "demo", "--data", "{bad}", "--out", "{here}/lr", "--set", "runs={here}/runs"],
    "bakeoff --recipe": ["bakeoff", "--backbones", "test_resnet", "--recipe", "{bad}"],
    "bakeoff --data": ["bakeoff", "--backbones", "test_resnet", "--out", "{here}/bake", "--data", "{bad}"],
    "bakeoff weights": ["bakeoff", "--data", "{photos}", "--out", "{here}/bake", "--backbones", "test_resnet={bad}"],
    "add": ["add", "{bad}", "--member", "{{task: multi}}"],
    "refit": ["refit", "{bad}"],
    "soup": ["soup", "{bad}"],
    "pseudo": ["pseudo", "{bad}"],
    "distil": ["distil", "{bad}"],
    "vote": ["vote", "{bad}"],
    "vote second": ["vote", "{finished}", "{bad}", "--into", "{here}/into"],
    "predict": ["predict", "{bad}", "--images", "{photos}", "--out", "{here}/out"],
    "predict --images": ["predict", "{finished}", "--images", "{bad}", "--out", "{here}/out", "--set", "compute.cpus=1"],
    "serve": ["serve", "{bad}"],
    "export": ["export", "{bad}", "--out", "{here}/out"],
}  # fmt: skip
WRITES = {
    "train --runs": ["train", "--data", "{photos}", "--runs", "{bad}"],
    "train cache": ["train", "--data", "{photos}", "--runs", "{here}/runs", "--set", "cache='{bad}'"],
    "show --out": ["show", "demo", "--data", "{photos}", "--out", "{bad}", "--set", "runs={here}/runs"],
    "tune --runs": ["tune", "--data", "{photos}", "--runs", "{bad}"],
    "lr --out": ["lr", "demo", "--data", "{photos}", "--out", "{bad}", "--set", "runs={here}/runs"],
    "eda --out": ["eda", "--data", "{photos}", "--out", "{bad}", "--set", "runs={here}/runs"],
    "bakeoff --out": ["bakeoff", "--data", "{photos}", "--backbones", "test_resnet", "--out", "{bad}"],
    "vote --into": ["vote", "{finished}", "--into", "{bad}"],
    "predict --out": ["predict", "{finished}", "--images", "{photos}", "--out", "{bad}"],
    "export --out": ["export", "{finished}", "--out", "{bad}", "--format", "torch"],
    "demo-data": ["demo-data", "{bad}", "--people", "1"],
}
BESIDE_RAY = (
    "train --data",
    "train --debug",
    "tune --data",
    "lr --data",
    "bakeoff --data",
    "bakeoff weights",
    "train --test",
    "train teacher",
    "predict --images",
)
"""Commands that read while Ray starts."""
UNWRITABLE = [name for name in NOWHERE if name not in ("missing", "empty folder")]
CASES = [(command, bad) for command in READS for bad in NOWHERE] + [(command, bad) for command in WRITES for bad in UNWRITABLE]


@pytest.mark.parametrize(("command", "bad"), CASES, ids=[f"{command}, {bad}" for command, bad in CASES])
def test_a_path_that_leads_nowhere_is_refused_in_one_line(
    command: str,
    bad: str,
    finished: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    if command in BESIDE_RAY:
        request.getfixturevalue("ray_session")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    path = NOWHERE[bad](tmp_path)
    arguments = [part.format(bad=path, here=here, photos=photos, finished=finished) for part in {**READS, **WRITES}[command]]
    before = sorted(path.name for path in finished.iterdir())
    refused(arguments, monkeypatch, capfd)
    left = {path.relative_to(here) for path in here.rglob("*") if path.is_file()}
    assert not [path for path in left if ".cache" not in path.parts], "nothing is half-written"
    assert sorted(path.name for path in finished.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [["trian"], ["train", "--dta", "x"], ["serve"], ["serve", "x", "--port", "99999"], ["train", "--data="], ["train", "extra"],
     ["vote"], ["predict", "x"], ["train", "--set"], ["train", "--set", ""], ["train", "--name", ""],
     ["demo-data", "x", "--people", "many"], ["show"], ["show", "demo", "--batches", "0"], ["show", "demo", "--member", ""]],
)  # fmt: skip
def test_wrong_arguments_are_refused_in_one_line(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    refused(arguments, monkeypatch, capfd)


def read_only(place: Path) -> bool:
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "none", str(place)]
    return bool(shutil.which("mount")) and subprocess.run(mount, capture_output=True, check=False).returncode == 0


def test_a_read_only_disk_is_named_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "mounted"
    if not read_only(place):
        pytest.skip("nothing can be mounted here")
    try:
        said = refused(["train", "--data", "/nowhere", "--runs", str(place)], monkeypatch, capfd)
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert said == f"raymask: nothing can be written to '{place}/demo' (Read-only file system); give another --runs.\n"


# --- what nobody expected


def test_what_nobody_expected_is_one_line_and_a_log(capfd: pytest.CaptureFixture[str]) -> None:
    assert conclude(lambda: print(1 // 0), resumes=True) == 70
    said = capfd.readouterr().err
    assert said.startswith("raymask: this should not happen (ZeroDivisionError: ")
    assert len(said.splitlines()) == 1
    log = Path(re.search(r"/\S+\.log", said)[0])  # type: ignore[index]
    assert "1 // 0" in log.read_text()
    log.unlink()


def full_disk() -> None:
    with Path("/dev/full").open("w") as file:
        file.write("a")


def full_disk_of_torch() -> None:
    torch.save(torch.zeros(10**6), "/dev/full")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("write", [full_disk, full_disk_of_torch])
def test_a_full_disk_is_called_so(write: Callable[[], None], tmp_path: Path) -> None:
    with pytest.raises((OSError, RuntimeError)) as caught:
        write()
    try:
        raise ValueError("something about it") from caught.value
    except ValueError as error:
        said = reason(error, tmp_path / "not" / "there")
    assert re.fullmatch(rf"a disk is full; free are [\d,]+ MB at '{tmp_path}' and [\d,]+ MB at '.*'", said)


@pytest.mark.usefixtures("ray_session")
def test_what_is_raised_in_a_task_of_ray_is_what_it_is_outside(tmp_path: Path) -> None:
    import ray

    def fail(with_: Callable[[], None]) -> None:
        with_()

    def refuse() -> None:
        raise InputError("the data are wrong.")

    def write() -> None:
        with open("/dev/full", "w") as file:  # noqa: PTH123
            file.write("a")

    task = ray.remote(num_cpus=0, max_retries=0)(fail)
    with pytest.raises(InputError, match=r"^the data are wrong\.$"), ray_errors(tmp_path):
        ray.get(task.remote(refuse))
    with (
        pytest.raises(
            RunError, match=r"\(a disk is full; .*error\.log\. Once its cause is gone, the same command goes on"
        ) as caught,
        ray_errors(tmp_path),
    ):
        ray.get(task.remote(write))
    assert "\n" not in str(caught.value)
    assert "No space left on device" in (tmp_path / "error.log").read_text()


@pytest.mark.parametrize(("resumes", "sentence"), [(True, "goes on with what is unfinished"), (False, "begins anew")])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_command_with_a_sentence(
    number: signal.Signals, status: int, resumes: bool, sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    cleaned = []

    def work() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            cleaned.append(True)

    assert conclude(work, resumes) == status
    said = capfd.readouterr().err
    assert said.startswith(f"raymask: ended by {number.name}; ")
    assert said.endswith(f"{sentence}.\n")
    assert cleaned
    assert signal.getsignal(signal.SIGTERM) is before


# --- terminals and pipes


def test_a_terminal_without_our_characters_shows_others() -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    forgiving(ascii_only)
    Display(Console(file=ascii_only)).line("data", "2 × 3 … \udcff")
    ascii_only.flush()
    assert ascii_only.buffer.getvalue().split() == [b"data", b"2", b"?", b"3", b"?", b"?"]  # type: ignore[attr-defined]


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert not Display(Console(file=io.StringIO(), force_terminal=True)).live
    monkeypatch.setenv("TERM", "xterm")
    assert Display(Console(file=io.StringIO(), force_terminal=True)).live


CODE = """
import sys
from raymask.core.console import Display
from raymask.core.endings import conclude, open_streams
open_streams()
def work():
    for _ in range(20000):
        Display().line("data", "2 × 3")
sys.exit(conclude(work, resumes=True))
"""


def test_a_reader_that_leaves_ends_a_command_in_one_line() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CODE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as said:
        assert said.stdout
        assert said.stderr
        said.stdout.readline()
        said.stdout.close()
        errors = said.stderr.read()
    assert errors == "raymask: nobody reads its output any more; the same command goes on with what is unfinished.\n"
    assert said.returncode == 141


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "</dev/null >/dev/null"])
def test_closed_streams_are_no_error(closed: str) -> None:
    done = subprocess.run(
        f"{' '.join(COMMAND)} recipes {closed}", shell=True, capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- the whole of it, in an environment where much is missing


def test_a_run_in_a_poor_environment_is_ended_resumably_by_sigterm(photos: Path, tmp_path: Path) -> None:
    """No home, a temporary folder too long for sockets, an ascii terminal; then SIGTERM while it trains."""
    scratch = tmp_path / ("long" * 20)
    scratch.mkdir()
    settings = ["recipe.backbone=test_resnet", "recipe.pretrained=false", "recipe.image_size=32", "recipe.schedule.epochs=500",
                "recipe.batch_size=8", "folds.k=2", "tasks={mask: {}, gender: null, age: null}", "compute.cpus=2"]  # fmt: skip
    command = [*COMMAND, "train", "--data", str(photos / "train"), "--runs", str(tmp_path / "runs"), "--name", "cut"]
    command += [part for setting in settings for part in ("--set", setting)]
    environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "RAY_ADDRESS")}
    environment |= {
        "TMPDIR": str(scratch),
        "PYTHONIOENCODING": "ascii",
        "PYTHONUTF8": "0",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HELPERS / "forked")]),
    }
    checkpoint = Run(tmp_path / "runs" / "cut").checkpoint(ReplicaId("mask", 0))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd="/") as run:
        until = time.monotonic() + 200
        while not checkpoint.exists() and run.poll() is None and time.monotonic() < until:
            time.sleep(0.2)
        workers = {int(pid) for pid in children_of(run.pid)}
        run.send_signal(signal.SIGTERM)
        printed, errors = run.communicate(timeout=550)
    assert errors == "raymask: ended by SIGTERM; the same command goes on with what is unfinished.\n", errors
    assert run.returncode == 143
    assert "112 images" in printed
    assert f"its files are in /tmp/raymask-{os.getuid()}, as TMPDIR is too long" in " ".join(printed.split())
    assert checkpoint.exists()
    assert len(workers) > 3
    until = time.monotonic() + 30
    while left := [pid for pid in workers if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < until, [Path(f"/proc/{pid}/cmdline").read_text() for pid in left]
        time.sleep(0.2)


def children_of(pid: int) -> list[int]:
    """A process's children, and theirs."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [child for line in found for child in (int(line), *children_of(int(line)))]
