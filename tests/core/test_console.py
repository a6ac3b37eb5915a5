"""Tests of what a run shows: plain lines without a terminal, live tables with one."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from raymask.core import console
from raymask.core.console import Board, Display, duration

REPLICAS = {"pack-0": ["mask/fold-0", "mask/fold-1"], "pack-1": ["age/fold-0"]}


class Clock:
    """Stands in for `time.monotonic`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    return clock


def plain() -> tuple[Display, StringIO]:
    file = StringIO()
    return Display(Console(file=file)), file


def terminal(width: int = 100, height: int = 24, **kwargs: Any) -> tuple[Display, StringIO]:
    file = StringIO()
    return Display(Console(file=file, force_terminal=True, width=width, height=height, **kwargs)), file


def report(phase: str = "training", share: float = 0.5, pack: str = "pack-0", **more: Any) -> dict[str, Any]:
    return {"pack": pack, "phase": phase, "share": share, "epochs": 4, **more}


def metrics(epoch: int = 2, loss: float = 0.5, f1: float = 0.75) -> dict[str, Any]:
    return {"epoch": epoch, "train_loss": 0.25, "loss": loss, "f1": f1, "accuracy": 0.8}


EPOCH = {
    "images_per_second": 123.4,
    "waiting": 0.05,
    "replicas": {"mask/fold-0": metrics(loss=0.4), "mask/fold-1": metrics(loss=0.6, f1=0.85)},
}


def shown(board: Board, height: int, width: int = 140) -> list[str]:
    console = Console(file=StringIO(), width=width, height=height)
    console.print(board.table(height))
    return [line.rstrip() for line in console.file.getvalue().rstrip("\n").split("\n")]  # type: ignore[attr-defined]


class TestPlain:
    def test_nothing_of_a_terminals_codes_is_written_without_one(self, clock: Clock) -> None:
        display, file = plain()
        assert not display.live
        display.line("data", "560 images")
        display.warn("3 images are set aside")
        display.table("Scores", ["", "F1"], [["mask", "0.9"]])
        with display.counting("prepare", "images") as count:
            clock.now += 60
            count(5, 10)
        with display.training(REPLICAS) as take:
            take(report(share=1.0, **EPOCH))
        said = file.getvalue()
        assert len(said.splitlines()) >= 7
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", said)

    def test_a_line_has_its_stage_and_its_text(self) -> None:
        display, file = plain()
        display.line("train", "15 replicas in [2] packs")
        display.warn("some [bold]thing")
        assert file.getvalue() == "   train  15 replicas in [2] packs\n    note  some [bold]thing\n"

    def test_counting_says_nothing_of_what_is_quick(self, clock: Clock) -> None:
        display, file = plain()
        with display.counting("prepare", "images") as count:
            for done in range(1, 6):
                clock.now += 1
                count(done, 5)
        assert file.getvalue() == ""

    def test_counting_says_now_and_then_how_far_it_is(self, clock: Clock) -> None:
        display, file = plain()
        with display.counting("prepare", "images") as count:
            for done in range(1, 31):
                clock.now += 1
                count(done, 30)
        assert file.getvalue().splitlines() == [
            " prepare  10 of 30 images, 0:20 to go",
            " prepare  20 of 30 images, 0:10 to go",
        ]

    def test_training_is_told_at_its_end_and_now_and_then_before(self, clock: Clock) -> None:
        display, file = plain()
        with display.training(REPLICAS) as take:
            take(report("starting", 0.0))
            take(report(share=0.25))
            clock.now += 20
            take(report(share=0.5))
            take(report(share=0.75))
            take(report(share=1.0, **EPOCH))
            take(report("done", 1.0))
            take(report(share=1.0, pack="pack-1"))
        lines = file.getvalue().splitlines()
        assert lines == [
            "   train  pack-0 (2 models): epoch 2/4, 0:40 to go",
            "   train  pack-0 (2 models): epoch 4/4, mean loss 0.500, mean F1 0.800, 123 images/s, 5% waiting",
            "   train  pack-1 (1 models): epoch 4/4",
        ]

    def test_a_table_keeps_brackets_and_long_paths_whole(self) -> None:
        display, file = plain()
        path = "/data/[old]/[/x]/" + "y" * 100
        display.table("Files", ["", ""], [["submission.csv", path]])
        assert "submission.csv" in file.getvalue()
        assert path in file.getvalue()

    def test_logs_are_wide_whatever_the_console_says(self) -> None:
        file = StringIO()
        Display(Console(file=file, width=20)).line("train", "x " * 60)
        assert len(file.getvalue().splitlines()) == 1


class TestTerminal:
    def test_a_terminal_gets_colours_and_a_live_table(self) -> None:
        display, file = terminal(color_system="standard")
        assert display.live
        display.line("data", "560 images")
        assert "\x1b[" in file.getvalue()
        with display.training(REPLICAS) as take:
            take(report(share=0.5, **EPOCH))
        assert "mask/fold-0" in file.getvalue()
        assert "0.850" in file.getvalue()

    def test_a_bar_counts(self) -> None:
        display, file = terminal()
        with display.counting("prepare", "images") as count:
            count(0, 40)
            count(40, 40)
        assert "40/40" in file.getvalue()

    def test_a_path_wider_than_the_terminal_is_folded_not_cut(self) -> None:
        display, file = terminal(width=40, color_system=None)
        path = "/home/someone/projects/masks/runs/a-long-name/submission.csv"
        display.table("Files", ["", ""], [["submission.csv", path]])
        words = file.getvalue().split()
        assert "…" not in file.getvalue()
        assert "".join(words[2:]) == path
        assert words[:2] == ["Files", "submission.csv"]

    @pytest.mark.parametrize("height", [5, 12, 24, 60])
    def test_more_replicas_than_lines_are_shown_as_far_as_they_fit(self, height: int) -> None:
        replicas = {f"pack-{n}": [f"m{n}/fold-{fold}" for fold in range(5)] for n in range(20)}
        display, file = terminal(width=140, height=height, color_system=None)
        with display.training(replicas) as take:
            for pack, names in replicas.items():
                take(report(share=0.5, pack=pack, replicas={name: metrics() for name in names}))
        assert "m0/fold-0" in file.getvalue()
        board = Board(replicas)
        lines = shown(board, height)
        rows = sum(bool(re.match(r"m\d+/fold", line)) for line in lines)
        assert rows == max(4, height - 6)
        assert lines[-1] == f"… and {100 - rows} more"
        assert len(lines) <= max(height, 8)


class TestBoard:
    def test_time_left_follows_from_the_share_since_the_phase_began(self, clock: Clock) -> None:
        board = Board(REPLICAS)
        assert board.remaining("pack-0") is None
        board.take(report("starting", 0.0))
        assert board.remaining("pack-0") is None
        clock.now += 100  # importing and building are no part of the rate
        board.take(report(share=0.2))
        assert board.remaining("pack-0") is None
        clock.now += 30
        board.take(report(share=0.5))
        assert board.remaining("pack-0") == pytest.approx(50)
        board.take(report(share=1.0))
        assert board.remaining("pack-0") == 0
        board.take(report("done", 1.0))
        assert board.remaining("pack-0") is None

    def test_the_packs_own_forecast_is_counted_down(self, clock: Clock) -> None:
        board = Board(REPLICAS)
        board.take({**report(share=0.25), "seconds_left": 100.0})
        clock.now += 40
        assert board.remaining("pack-0") == pytest.approx(60)
        assert board.sentence("pack-0").endswith("1:00 to go")
        clock.now += 80
        assert board.remaining("pack-0") == 0
        board.take(report(share=0.0))  # by another process
        assert board.remaining("pack-0") is None

    def test_a_pack_begun_again_has_no_time_left_before_it_is_further(self, clock: Clock) -> None:
        board = Board(REPLICAS)
        board.take(report(share=0.5))
        clock.now += 10
        board.take(report(share=0.25))
        assert board.remaining("pack-0") is None

    @pytest.mark.parametrize(
        ("share", "epochs", "said"),
        [(0.25, 4, "epoch 1/4"), (0.3, 4, "epoch 1.2/4"), (1.0, 10, "epoch 10/10"), (0.0, 30, "epoch 0/30")],
    )
    def test_the_sentence_counts_epochs(self, share: float, epochs: int, said: str) -> None:
        board = Board(REPLICAS)
        board.take({**report(share=share), "epochs": epochs})
        assert board.sentence("pack-0") == f"pack-0 (2 models): {said}"

    def test_a_row_shows_the_latest_of_its_replica(self, clock: Clock) -> None:
        board = Board(REPLICAS)
        board.take(report(share=0.25))
        clock.now += 30
        board.take(report(share=0.5, **EPOCH))
        rows = {line.split()[0]: line.split()[1:] for line in shown(board, 40) if "/fold-" in line}
        assert rows["mask/fold-0"] == ["pack-0", "2/4", "0.250", "0.400", "0.750", "0.800", "123", "5%", "1:00"]
        assert rows["age/fold-0"] == ["pack-1", "-", "-", "-", "-", "-", "-", "-", "waiting"]
        board.take(report("done", 1.0))
        rows = {line.split()[0]: line.split()[1:] for line in shown(board, 40) if "/fold-" in line}
        assert rows["mask/fold-1"] == ["pack-0", "2/4", "0.250", "0.600", "0.850", "0.800", "123", "5%", "done"]

    def test_a_replica_without_a_fold_of_its_own_shows_its_training_loss_alone(self) -> None:
        board, unknown = Board({"pack-0": ["mask/all"], "pack-1": ["age/all", "age/fold-0"]}), float("nan")
        whole = {**metrics(loss=unknown, f1=unknown), "accuracy": unknown}
        board.take(report(replicas={"mask/all": whole}))
        board.take(report(pack="pack-1", replicas={"age/all": whole, "age/fold-0": metrics(loss=0.6)}))
        assert board.sentence("pack-0").endswith("epoch 2/4, mean train loss 0.250")
        assert board.sentence("pack-1").endswith("epoch 2/4, mean loss 0.600, mean F1 0.750")
        rows = {line.split()[0]: line.split()[1:7] for line in shown(board, 40) if "/" in line}
        assert rows["mask/all"] == ["pack-0", "2/4", "0.250", "-", "-", "-"]

    def test_finished_replicas_make_room_for_the_others(self) -> None:
        replicas = {f"pack-{n}": [f"m{n}/fold-{fold}" for fold in range(5)] for n in range(3)}
        board = Board(replicas)
        board.take(report("done", 1.0, pack="pack-0"))
        lines = shown(board, 16)
        assert not any("pack-0" in line for line in lines)
        assert sum("/fold-" in line for line in lines) == 10
        assert lines[-1] == "… and 5 more"
        assert len([line for line in shown(board, 40) if "/fold-" in line]) == 15

    def test_a_narrow_terminal_keeps_every_row_on_one_line(self) -> None:
        board = Board(REPLICAS)
        board.take(report(share=0.5, **EPOCH))
        assert len(shown(board, 40, width=60)) == len(shown(board, 40, width=200))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0:00"),
        (0.4, "0:00"),
        (5, "0:05"),
        (42, "0:42"),
        (59.6, "1:00"),
        (60, "1:00"),
        (725, "12:05"),
        (3599.6, "1:00:00"),
        (11231, "3:07:11"),
        (36000, "10:00:00"),
        (90000, "1 day, 1:00:00"),
    ],
)
def test_durations_read_like_a_clock(seconds: float, said: str) -> None:
    assert duration(seconds) == said
