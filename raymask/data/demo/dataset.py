"""The embedded demo data set: drawn people, with and without face masks, in the competition's layout."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from raymask.data.demo.portraits import PHOTOS, Person, draw_photo, imagine

FORMAT = 1
TEST_FIRST = 1_000_000  # the test people's numbers start here, so that nobody is in both parts
BLOCK = 40
GENDERS = ("male", "female")
BANDS = ((18, 29), (30, 59), (60, 70))
# People in a block by gender and age band. The first block has its share of the oldest ahead of time, so that
# five folds of a small data set find some; the second one makes up for it.
QUOTAS = (((7, 7, 2), (11, 10, 3)), ((8, 7, 0), (12, 12, 1)), ((7, 7, 1), (12, 11, 2)))


def write_demo(root: Path, *, people: int = 80, test_people: int = 20, seed: int = 0, size: tuple[int, int] = (384, 512)) -> Path:
    """Draw the demo data set into the new directory `root` and return `root`.

    It has `people` labelled people under train/ and `test_people` others under eval/, seven photos each, as
    RGB JPEGs of `size` = (width, height) pixels. train/train.csv has a row a person (id, gender, race, age in
    years, path), eval/info.csv a row a photo (ImageID, ans = 0) and eval/answers.csv its true class
    mask * 6 + gender * 3 + age. Person i of a `seed` is the same for any number of people.

    A complete data set of the same arguments that already lies there is left as it is. The directory appears
    only when all of it is written. Raises ValueError if an argument is out of range or if `root` exists and
    is anything else, and OSError if it can't be written.
    """
    root = Path(root)
    if not (0 < people < TEST_FIRST and 0 <= test_people < TEST_FIRST and seed >= 0 and min(size) >= 32):
        raise ValueError(
            "A demo needs 1 person or more, 0 test people or more, a seed of 0 or more and a size of 32 x 32 "
            f"pixels or more, not people={people}, test_people={test_people}, seed={seed}, size={size}."
        )
    asked = {"format": FORMAT, "people": people, "test_people": test_people, "seed": seed, "size": [*size]}
    if _holds_demo(root, asked):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as scratch:
        draft = Path(scratch) / "demo"
        _write_train(draft / "train", assign_people(people, seed), seed, size)
        _write_eval(draft / "eval", assign_people(test_people, seed, TEST_FIRST), seed, size)
        (draft / "demo.json").write_text(json.dumps(asked, indent=2) + "\n", encoding="utf-8")
        try:
            draft.rename(root)
        except OSError:
            if not _holds_demo(root, asked):  # else another process was faster
                raise
    return root


def assign_people(count: int, seed: int, first: int = 0) -> list[Person]:
    """Genders and ages of `count` people, in the competition's shares; nobody's depend on `count`.

    `first` is the number of the first person: 0 for the labelled people, TEST_FIRST for the test people.
    """
    people: list[Person] = []
    for block in range(math.ceil(count / BLOCK)):
        rng = np.random.default_rng(np.random.SeedSequence([seed, block + first // BLOCK, 1]))
        quotas = QUOTAS[min(block, len(QUOTAS) - 1)]
        cells = [(g, b) for g in range(2) for b in range(3) for _ in range(quotas[g][b])]
        for gender, band in rng.permutation(cells):
            low, high = BANDS[band]
            people.append(Person(GENDERS[gender], int(rng.integers(low, high + 1))))
    return people[:count]


def _holds_demo(root: Path, asked: dict[str, object]) -> bool:
    if not os.path.lexists(root):
        return False
    try:
        found = json.loads((root / "demo.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found != asked:
        kind = "a demo of other arguments" if isinstance(found, dict) else "something that is no demo"
        raise ValueError(f"{root} already holds {kind}: choose another directory, or remove that one first.")
    return True


def _write_train(folder: Path, people: Sequence[Person], seed: int, size: tuple[int, int]) -> None:
    rows = []
    for index, person in enumerate(people):
        name = f"{index + 1:06d}_{person.gender}_Asian_{person.age}"
        rows.append((f"{index + 1:06d}", person.gender, "Asian", person.age, name))
        (folder / "images" / name).mkdir(parents=True)
        for photo, jpeg in zip(PHOTOS, draw_person(person, seed, index, size), strict=True):
            (folder / "images" / name / f"{photo}.jpg").write_bytes(jpeg)
    _write_table(folder / "train.csv", ("id", "gender", "race", "age", "path"), rows)


def _write_eval(folder: Path, people: Sequence[Person], seed: int, size: tuple[int, int]) -> None:
    (folder / "images").mkdir(parents=True)
    answers = []
    for index, person in enumerate(people):
        for photo, jpeg in zip(PHOTOS, draw_person(person, seed, TEST_FIRST + index, size), strict=True):
            digest = hashlib.sha1(f"{seed}/{index}/{photo}".encode(), usedforsecurity=False)
            name = f"{digest.hexdigest()}.jpg"
            answers.append((name, true_class(person, photo)))
            (folder / "images" / name).write_bytes(jpeg)
    rng = np.random.default_rng(np.random.SeedSequence([seed, len(people), 2]))
    answers = [answers[i] for i in rng.permutation(len(answers))]
    _write_table(folder / "info.csv", ("ImageID", "ans"), [(name, 0) for name, _ in answers])
    _write_table(folder / "answers.csv", ("ImageID", "ans"), answers)


def _write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def true_class(person: Person, photo: str) -> int:
    """The class 0..17 of one of a person's PHOTOS: mask * 6 + gender * 3 + age."""
    mask = {"incorrect_mask": 1, "normal": 2}.get(photo, 0)
    band = sum(person.age >= low for low, _ in BANDS[1:])
    return mask * 6 + GENDERS.index(person.gender) * 3 + band


def draw_person(person: Person, seed: int, index: int, size: tuple[int, int]) -> Iterator[bytes]:
    """The JPEGs of PHOTOS, in that order, of one person; `size` is (width, height) in pixels."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
    look = imagine(person, rng)
    for number in range(len(PHOTOS)):
        image = cv2.cvtColor(draw_photo(look, number, size, rng), cv2.COLOR_RGB2BGR)
        done, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        if not done:
            raise OSError("OpenCV could not encode a JPEG.")
        yield jpeg.tobytes()
