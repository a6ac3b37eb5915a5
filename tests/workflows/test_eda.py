"""Tests of `raymask eda`: what its page says of data with known faults, and what it refuses. No test starts Ray."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import ray
from layouts import sentence, write, write_table
from made import make_run
from PIL import Image
from rich.console import Console

from raymask.config.loading import load_config
from raymask.core.console import Display
from raymask.data import survey as surveying
from raymask.data.decode import decode_file
from raymask.data.specs import InputSpec
from raymask.report.eda import MARK
from raymask.workflows.eda import eda


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", refuse)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are measured in this process, which starts sooner than others do."""

    def one_by_one(work: Callable[[str], Any], paths: list[str], *_: Any) -> list[Any]:
        return [work(path) for path in paths]

    monkeypatch.setattr(surveying, "in_children", one_by_one)


def explored(tmp_path: Path, data: Path, settings: tuple[str, ...] = (), **more: Any) -> str:
    config = load_config("demo", [f"runs={tmp_path / 'runs'}", *settings], {"data": {"path": str(data), **more}})
    page = eda(config, tmp_path / "page.html", Display(Console(file=io.StringIO())))
    assert page == tmp_path / "page.html"
    return page.read_text()


def words(page: str) -> str:
    """What a page says, without its pictures, plots and tags."""
    text = re.sub(r"<(style|svg).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", text)).split())


def picture(seed: int, kind: str = "PNG", dark: int = 1, **save: Any) -> bytes:
    """Coloured patches, others for each seed."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)) // dark
    content = io.BytesIO()
    Image.fromarray(patches.astype(np.uint8)).resize((48, 64)).save(content, kind, **save)
    return content.getvalue()


def test_the_page_of_drawn_people_has_their_counts_and_needs_nothing_beside_it(photos: Path, tmp_path: Path) -> None:
    page = explored(tmp_path, photos)
    said = words(page)
    assert "training images 112 groups 16 of 7 images each" in said
    assert "test images 28" in said
    people = pd.read_csv(photos / "train" / "train.csv")
    for gender, count in people["gender"].value_counts().items():
        assert re.search(rf"{gender} {7 * count} {700 * count / 112:.1f}% {count}\b", said)
    old = people["age"] >= 60
    cross = [7 * int((old & (people["gender"] == gender)).sum()) for gender in ("male", "female")]
    table = page[page.index("gender × age") :]
    for gender, count in zip(("male", "female"), cross, strict=True):
        row = re.search(rf'<td class="name">{gender}</td>.*?</tr>', table, re.DOTALL)
        assert row
        assert words(row[0]).split()[5] == str(count)
    assert MARK in page[:1000]
    assert not re.search(r"<script|https?://|@import|<link|url\((?!#)", page)
    assert set(re.findall(r'(?:src|href)="([^";,]{0,22})', page)) == {"data:image/jpeg"}
    assert len(page) < 1_500_000


@pytest.mark.usefixtures("here")
def test_the_mean_and_deviation_are_those_of_all_training_images_and_can_be_pasted(photos: Path, tmp_path: Path) -> None:
    page = explored(tmp_path, photos, ("recipe.image_size=40",))
    [line] = re.findall(r"<pre>normalize: (.*?)</pre>", page)
    normalize: Any = load_config("demo", [f"recipe.normalize={line}"]).recipe.normalize
    files = sorted(str(file) for file in (photos / "train" / "images").rglob("*.jpg"))
    pixels = np.stack([decode_file(file, [InputSpec(40, 40, 1.0)])[1][0] for file in files]).reshape(-1, 3) / 255
    np.testing.assert_allclose(normalize.mean, pixels.mean(axis=0), atol=6e-5)
    np.testing.assert_allclose(normalize.std, pixels.std(axis=0), atol=6e-5)


PEOPLE, EACH = 12, 2
TASKS = ("tasks={colour: {}, age: {edges: [42]}}", "folds.k=3")
TABLE = {"group_column": "who", "id_column": None}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of pictures of 12 people, two each, and one of two test pictures."""
    rows = [("image", "who", "colour", "age")]
    for person in range(PEOPLE):
        for number in range(EACH):
            name = f"{person:02d}-{number}.png"
            write(tmp_path / "data" / name, picture(10 * person + number))
            rows.append((name, f"p{person}", "red" if person % 2 else "blue", str(20 + 4 * person)))
    for number in range(2):
        write(tmp_path / "data" / f"test-{number}.png", picture(900 + number))
    write_table(tmp_path / "data" / "test.csv", [("image",), ("test-0.png",), ("test-1.png",)])
    return write_table(tmp_path / "data" / "all.csv", rows)


def of_table(tmp_path: Path, table: Path) -> str:
    return words(explored(tmp_path, table, TASKS, group_column="who", test=str(table.parent / "test.csv")))


@pytest.mark.usefixtures("here")
def test_of_data_without_faults_nothing_but_the_few_people_is_said(tmp_path: Path, table: Path) -> None:
    said = of_table(tmp_path, table)
    found = said[said.index("What deserves a look") : said.index("Classes Images")]
    assert found.split("look", 1)[1].strip() == (
        "These joint classes have fewer than 10 groups, so that their scores say little: blue <42 (3), blue >=42 (3), "
        "red <42 (3), red >=42 (3)."
    )
    assert "Across groups of the training set: 0 pairs None. Across training and test: 0 pairs None." in said
    assert "groups by age" in said


FAULTS: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "saved again as another person": (
        lambda data: write(data / "03-1.png", picture(0, "JPEG", quality=60)),
        ["1 pair(s) of images of different groups look alike, of 2 groups", "1 pair(s) of images that look alike have different"],
    ),
    "a copy of a training image": (
        lambda data: write(data / "test-1.png", picture(50)),
        ["1 test image(s) are training images byte for byte, such as 'test-1.png'", "1 test image(s) look like a training image"],
    ),
    "a copy under another person": (
        lambda data: write(data / "03-1.png", picture(10)),
        ["1 pair(s) of images of different groups look alike", "2 images are there byte for byte once more under another name"],
    ),
    "broken": (
        lambda data: write(data / "05-0.png", b"nothing"),
        ["1 of 24 training image(s) are set aside (1× the file is no image", "that is more than data.max_rejected (0.02) allows",
         "training 05-0.png the file is no image that can be read"],
    ),
    "missing test image": (
        lambda data: (data / "test-0.png").unlink(),
        ["1 test image(s) cannot be read (1× the file is missing", "test test-0.png the file is missing"],
    ),
    "one colour": (
        lambda data: Image.new("RGB", (48, 64), (9, 9, 9)).save(data / "04-1.png"),
        ["There is next to nothing on 1 training image(s): 04-1.png."],
    ),
    "dark test images": (
        lambda data: [write(data / f"test-{number}.png", picture(number + 99, dark=8)) for number in range(2)],
        ["Test images are darker than training images"],
    ),
    "other sizes": (
        lambda data: Image.open(data / "test-1.png").crop((0, 0, 40, 64)).save(data / "test-1.png"),
        ["1 of 2 test images have sizes that no training image has, such as 40×64, while those are 48×64"],
    ),
    "large": (
        lambda data: Image.open(data / "01-1.png").resize((480, 640)).save(data / "01-1.png"),
        ["The longer sides of training images are of 64 to 640 pixels."],
    ),
}  # fmt: skip


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_said_in_a_sentence(fault: str, tmp_path: Path, table: Path) -> None:
    make, sentences = FAULTS[fault]
    before = of_table(tmp_path, table)
    make(table.parent)
    after = of_table(tmp_path, table)
    for part in sentences:
        assert part not in before
        assert part in after


@pytest.mark.usefixtures("here")
def test_one_person_has_no_folds_and_yet_a_page(tmp_path: Path, table: Path) -> None:
    frame = pd.read_csv(table).assign(who="all")
    frame.to_csv(table, index=False)
    said = of_table(tmp_path, table)
    assert "A run with these folds would be refused: folds.k is 3, but there are only 1 groups." in said
    assert "It cannot be measured here: folds.k is 3, but there are only 1 groups." in said


@pytest.mark.usefixtures("here")
def test_strangers_names_are_text(tmp_path: Path) -> None:
    root, evil = tmp_path / "data", "<script>alert(1)<&'\">"
    for place, name in enumerate([evil.replace("/", ""), "b $x$ \udcff"]):
        for number in range(3):
            write(root / name / f"<img onerror=1>{number}.png", picture(10 * place + number))
    page = explored(tmp_path, root, ("folds.k=2",))
    assert "<script>" not in page
    assert "<img onerror" not in page
    assert "&lt;script&gt;alert(1)&lt;&amp;&#39;&#34;&gt;" in page
    assert r"b $x$ \udcff" in page


def nothing(_: Path) -> None: ...


def all_broken(data: Path) -> None:
    for file in data.glob("*.png"):
        file.write_bytes(b"broken")


def all_gone(data: Path) -> None:
    for file in data.glob("*.png"):
        file.unlink()


def no_rows(data: Path) -> None:
    write_table(data / "all.csv", [("image", "who", "colour", "age")])


def one_class(data: Path) -> None:
    pd.read_csv(data / "all.csv").assign(colour="red").to_csv(data / "all.csv", index=False)


BAD: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "all broken": (all_broken, TASKS[0], "none of the 24 labelled images of .* can be read"),
    "all gone": (all_gone, TASKS[0], "the file is missing"),
    "no rows": (no_rows, TASKS[0], "."),
    "one class": (one_class, TASKS[0], "only the value 'red'"),
    "no such column": (nothing, "tasks=[color]", "there is no column 'color'"),
    "no tasks": (nothing, "tasks={}", "tasks is empty"),
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("bad", BAD)
def test_data_that_are_none_are_refused_in_a_sentence(bad: str, tmp_path: Path, table: Path) -> None:
    spoil, tasks, expected = BAD[bad]
    spoil(table.parent)
    said = sentence(lambda: explored(tmp_path, table, (tasks,), group_column="who"))
    assert re.search(expected, said)
    assert not (tmp_path / "page.html").exists()


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert str(tmp_path / "data") in sentence(lambda: explored(tmp_path, tmp_path / "data"))


@pytest.mark.usefixtures("here")
def test_only_a_page_of_its_own_is_replaced(tmp_path: Path, table: Path) -> None:
    first = explored(tmp_path, table, TASKS, group_column="who")
    assert explored(tmp_path, table, TASKS, group_column="who") == first
    (tmp_path / "page.html").write_text("my own")
    assert "is another file, which would be lost" in sentence(lambda: explored(tmp_path, table, TASKS, group_column="who"))
    assert (tmp_path / "page.html").read_text() == "my own"


def test_a_folder_and_a_run_are_no_place_for_it(photos: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "made", photos).root
    config = load_config("demo", [f"runs={tmp_path / 'runs'}"], {"data": {"path": str(photos)}})
    assert "is a folder; name the file" in sentence(lambda: eda(config, tmp_path))
    assert "lies in the run" in sentence(lambda: eda(config, run / "page.html"))


@pytest.mark.usefixtures("here")
def test_it_is_named_after_the_data(tmp_path: Path, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config("demo", ["runs=runs", *TASKS], {"data": {"path": "data/all.csv", "group_column": "who"}})
    assert eda(config, display=Display(Console(file=io.StringIO()))) == tmp_path / "eda-all.html"
