"""Tests of the drawn demo data set."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from raymask.data.demo import dataset
from raymask.data.demo.dataset import assign_people, write_demo
from raymask.data.demo.portraits import PHOTOS, Person, draw_photo, imagine

SIZE = (96, 128)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def bytes_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "new" / "demo"
    assert write_demo(folder, people=5, test_people=3, size=SIZE) == folder
    return folder


def test_train_table_and_folders_agree(root: Path) -> None:
    rows = rows_of(root / "train" / "train.csv")
    assert list(rows[0]) == ["id", "gender", "race", "age", "path"]
    assert [row["id"] for row in rows] == [f"{number:06d}" for number in range(1, 6)]
    for row in rows:
        assert row["path"] == "_".join((row["id"], row["gender"], "Asian", row["age"]))
        assert row["gender"] in ("male", "female")
        assert 18 <= int(row["age"]) <= 70
    assert {path.name for path in (root / "train" / "images").iterdir()} == {row["path"] for row in rows}


def test_each_person_has_seven_photos_of_the_size(root: Path) -> None:
    for folder in (root / "train" / "images").iterdir():
        assert {path.name for path in folder.iterdir()} == {f"{photo}.jpg" for photo in PHOTOS}
    photos = list(root.rglob("*.jpg"))
    assert len(photos) == 7 * (5 + 3)
    assert {np.asarray(cv2.imread(str(path))).shape for path in photos} == {(128, 96, 3)}


def test_eval_tables_and_images_agree(root: Path) -> None:
    info, answers = rows_of(root / "eval" / "info.csv"), rows_of(root / "eval" / "answers.csv")
    assert list(info[0]) == list(answers[0]) == ["ImageID", "ans"]
    names = [row["ImageID"] for row in info]
    assert names == [row["ImageID"] for row in answers]
    assert sorted(names) == sorted(path.name for path in (root / "eval" / "images").iterdir())
    assert all(len(name) == 44 and int(name.removesuffix(".jpg"), 16) >= 0 for name in names)
    assert {row["ans"] for row in info} == {"0"}


def test_answers_are_the_true_classes_in_shuffled_order(root: Path) -> None:
    answers = [int(row["ans"]) for row in rows_of(root / "eval" / "answers.csv")]
    in_order = [dataset.true_class(person, photo) for person in assign_people(3, 0, dataset.TEST_FIRST) for photo in PHOTOS]
    assert Counter(answers) == Counter(in_order)
    assert answers != in_order


@pytest.mark.parametrize(
    ("gender", "age", "photo", "expected"),
    [
        ("male", 29, "mask1", 0),
        ("male", 30, "mask5", 1),
        ("female", 59, "mask3", 4),
        ("female", 60, "incorrect_mask", 11),
        ("male", 18, "normal", 12),
        ("female", 70, "normal", 17),
    ],
)
def test_true_class(gender: str, age: int, photo: str, expected: int) -> None:
    assert dataset.true_class(Person(gender, age), photo) == expected


def test_answers_belong_to_their_images(root: Path) -> None:
    images = {path.read_bytes(): path.name for path in (root / "eval" / "images").iterdir()}
    answers = {row["ImageID"]: int(row["ans"]) for row in rows_of(root / "eval" / "answers.csv")}
    for index, person in enumerate(assign_people(3, 0, dataset.TEST_FIRST)):
        jpegs = dataset.draw_person(person, 0, dataset.TEST_FIRST + index, SIZE)
        for photo, jpeg in zip(PHOTOS, jpegs, strict=True):
            assert answers[images[jpeg]] == dataset.true_class(person, photo)


def test_same_arguments_give_the_same_bytes(root: Path, tmp_path: Path) -> None:
    assert bytes_of(write_demo(tmp_path / "again", people=5, test_people=3, size=SIZE)) == bytes_of(root)


def test_another_seed_gives_other_photos(root: Path, tmp_path: Path) -> None:
    other = write_demo(tmp_path / "other", people=5, test_people=3, seed=1, size=SIZE)
    jpegs = [{data for name, data in bytes_of(r).items() if name.endswith(".jpg")} for r in (root, other)]
    assert not jpegs[0] & jpegs[1]


def test_a_person_is_the_same_however_many_are_drawn(root: Path, tmp_path: Path) -> None:
    fewer = bytes_of(write_demo(tmp_path / "fewer", people=4, test_people=2, size=SIZE))
    photos = {name for name in fewer if name.endswith(".jpg")}
    assert len(photos) == 7 * (4 + 2)
    assert all(bytes_of(root)[name] == fewer[name] for name in photos)
    assert assign_people(200, 3)[:50] == assign_people(50, 3)


def test_no_test_people_leaves_a_header(tmp_path: Path) -> None:
    root = write_demo(tmp_path / "demo", people=1, test_people=0, size=(48, 40))
    assert (root / "eval" / "info.csv").read_text(encoding="utf-8") == "ImageID,ans\n"
    assert (root / "eval" / "answers.csv").read_text(encoding="utf-8") == "ImageID,ans\n"
    assert not list((root / "eval" / "images").iterdir())


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_class_frequencies(seed: int) -> None:
    people = assign_people(200, seed)
    ages = np.array([person.age for person in people])
    assert np.mean([person.gender == "male" for person in people]) == pytest.approx(0.39, abs=0.02)
    assert np.mean(ages < 30) == pytest.approx(0.47, abs=0.02)
    assert np.mean((ages >= 30) & (ages < 60)) == pytest.approx(0.46, abs=0.02)
    assert np.mean(ages >= 60) == pytest.approx(0.07, abs=0.01)
    assert ages.min() >= 18
    assert ages.max() <= 70


@pytest.mark.parametrize("count", [40, 41, 80])
def test_forty_people_include_the_oldest_of_both_genders(count: int) -> None:
    for seed in range(20):
        oldest = Counter(person.gender for person in assign_people(count, seed) if person.age >= 60)
        assert oldest.total() >= 5
        assert min(oldest["male"], oldest["female"]) >= 2


def test_photos_are_in_colour_and_the_right_way_round(tmp_path: Path) -> None:
    person = assign_people(1, 0)[0]
    rng = np.random.default_rng(np.random.SeedSequence([0, 0]))
    drawn = draw_photo(imagine(person, rng), 0, SIZE, rng)
    jpeg = next(dataset.draw_person(person, 0, 0, SIZE))
    decoded = np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))
    assert np.abs(drawn.mean((0, 1)) - decoded.mean((0, 1))[::-1]).max() < 2
    assert np.ptp(drawn.mean((0, 1))) > 5


def test_about_a_tenth_of_the_looks_contradict_the_gender() -> None:
    people = assign_people(400, 0)
    looks = [imagine(person, np.random.default_rng([7, i])) for i, person in enumerate(people)]
    womanly = [(look.shoulders < 2) + (look.jaw < 0.81) + (look.hair_end > 0 or look.tied) >= 2 for look in looks]
    wrong = np.mean([a != (person.gender == "female") for a, person in zip(womanly, people, strict=True)])
    assert 0.02 < wrong < 0.12


def test_a_complete_one_is_left_alone(tmp_path: Path) -> None:
    root = write_demo(tmp_path / "demo", people=1, test_people=1, size=SIZE)
    times = {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]}
    assert write_demo(root, people=1, test_people=1, size=SIZE) == root
    assert {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]} == times


@pytest.mark.parametrize("change", [{"people": 2}, {"test_people": 0}, {"seed": 1}, {"size": (128, 128)}])
def test_other_arguments_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"people": 1, "test_people": 1, "seed": 0, "size": (48, 64)}
    root = write_demo(tmp_path / "demo", **arguments)
    before = bytes_of(root)
    with pytest.raises(ValueError, match="other arguments: choose another directory"):
        write_demo(root, **arguments | change)
    assert bytes_of(root) == before


def test_an_older_format_is_refused(tmp_path: Path) -> None:
    root = write_demo(tmp_path / "demo", people=1, test_people=0, size=(48, 64))
    record = json.loads((root / "demo.json").read_text(encoding="utf-8"))
    (root / "demo.json").write_text(json.dumps(record | {"format": -1}), encoding="utf-8")
    with pytest.raises(ValueError, match="other arguments"):
        write_demo(root, people=1, test_people=0, size=(48, 64))


def test_a_users_files_are_refused_and_kept(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    file.write_text("mine", encoding="utf-8")
    for root in (folder, file):
        with pytest.raises(ValueError, match="no demo: choose another directory"):
            write_demo(root, people=1, test_people=0, size=SIZE)
    assert bytes_of(tmp_path) == {"folder/notes.txt": b"mine", "file": b"mine"}


@pytest.mark.parametrize("change", [{"people": 0}, {"test_people": -1}, {"seed": -1}, {"size": (8, 512)}])
def test_arguments_out_of_range_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="A demo needs"):
        write_demo(tmp_path / "demo", **change)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fault", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_one_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException) -> None:
    encode, calls = cv2.imencode, iter(range(100))

    def fails_at_the_tenth(*arguments: Any) -> Any:
        if next(calls) == 9:
            raise fault
        return encode(*arguments)

    monkeypatch.setattr(cv2, "imencode", fails_at_the_tenth)
    with pytest.raises(type(fault)):
        write_demo(tmp_path / "demo", people=2, test_people=1, size=SIZE)
    assert not list(tmp_path.iterdir())


def test_a_faster_process_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, draw = tmp_path / "demo", dataset.draw_person

    def other_writes_first(*arguments: Any) -> Iterator[bytes]:
        monkeypatch.setattr(dataset, "draw_person", draw)
        write_demo(root, people=1, test_people=0, size=SIZE)
        return draw(*arguments)

    monkeypatch.setattr(dataset, "draw_person", other_writes_first)
    assert write_demo(root, people=1, test_people=0, size=SIZE) == root
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
