"""Tests of columns that give a label away: a planted one is named, and ids, paths and honest columns are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from raymask.config.loading import load_config
from raymask.core.tasks import LabelSpace, Task
from raymask.data.sources import read_source
from raymask.data.telling_columns import given_away, leaks

SPACE = LabelSpace((Task("ripe", "ripe", ("no", "yes")), Task("size", "size", ("s", "m", "l"))))


def table_of(people: int = 60, photos: int = 3) -> tuple[Any, Any]:
    """A table of honest columns, and its images."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(people), photos)
    ripe, size = rng.integers(0, 2, people)[person], rng.integers(0, 3, people)[person]
    ids = pd.Series([f"{number}.jpg" for number in range(len(person))])
    table = pd.DataFrame(
        {
            "ripe": np.array(["no", "yes"])[ripe],
            "size": np.array(["s", "m", "l"])[size],
            "farm": rng.integers(0, 5, len(person)).astype(str),
            "person": person.astype(str),
            "constant": "x",
            "file": ids,
            "path": [f"{'no' if not label else 'yes'}/{name}" for label, name in zip(ripe, ids, strict=True)],
        }
    )
    return table, pd.DataFrame({"image_id": ids, "group": person.astype(str), "label_ripe": ripe, "label_size": size})


def test_honest_columns_ids_and_paths_that_hold_the_class_are_not_told_of() -> None:
    table, images = table_of()
    assert leaks(table, images["image_id"], images, SPACE, {"file"}) == []


@pytest.mark.parametrize("code", [["a", "b"], ["0", "1"], ["NO", "YES"]])
def test_a_column_that_is_the_label_in_other_words_is_named_with_its_task(code: list[str]) -> None:
    table, images = table_of()
    table["code"] = np.array(code)[images["label_ripe"]]
    [sentence] = leaks(table, images["image_id"], images, SPACE, set())
    assert sentence.startswith("the column 'code' nearly gives ripe away")
    assert leaks(table, images["image_id"], images, SPACE, {"code"}) == []


def test_rows_that_were_set_aside_and_another_order_change_nothing() -> None:
    table, images = table_of()
    table["code"] = np.array(["a", "b"])[images["label_ripe"]]
    some = images.sample(frac=0.7, random_state=1)
    assert len(leaks(table, images["image_id"], some, SPACE, set())) == 1


def test_it_is_the_balanced_accuracy_of_the_majority_of_the_other_parts() -> None:
    rng = np.random.default_rng(3)
    groups = np.arange(200)
    labels = rng.choice(3, 200, p=[0.7, 0.2, 0.1])
    values = np.where(rng.random(200) < 0.8, labels, rng.integers(0, 3, 200))
    right: dict[int, list[bool]] = {0: [], 1: [], 2: []}
    order = list(dict.fromkeys(labels.tolist()))  # ties go to the label that came first
    for image in range(200):
        others = [labels[o] for o in range(200) if values[o] == values[image] and o % 5 != image % 5]
        elected = max(order, key=others.count)
        right[int(labels[image])].append(bool(others) and elected == labels[image])
    balanced = np.mean([np.mean(of) for of in right.values()])
    assert given_away(values, labels, groups) == pytest.approx((balanced - 1 / 3) / (2 / 3))
    assert 0.3 < given_away(values, labels, groups) < 0.9


def test_a_column_by_person_is_judged_on_other_people() -> None:
    person = np.repeat(np.arange(50), 10)
    assert given_away(person, person % 2, person) == 0.0


def test_few_groups_are_no_evidence() -> None:
    labels = np.arange(18) % 2
    assert given_away(labels, labels, np.arange(18)) == 0.0


@pytest.mark.parametrize("most", [0.95, 0.99])
def test_a_frequent_class_alone_is_no_leak(most: float) -> None:
    labels = (np.random.default_rng(0).random(500) > most).astype(np.int64)
    assert given_away(np.zeros(500), labels, np.arange(500)) == 0.0


def test_a_planted_column_of_a_table_is_among_its_remarks_and_a_layout_of_folders_has_none(tmp_path: Path) -> None:
    for number in range(60):
        file = tmp_path / "photos" / f"class{number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2), (number, 0, 0)).save(file)
    rows = [f"photos/class{number % 2}/{number}.png,{number},c{number % 2},z{number % 2}" for number in range(60)]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["image,person,kind,code", *rows]))
    planted = load_config("demo", overrides={"data": {"path": str(table), "kind": "csv"}, "tasks": {"kind": {}}})
    told = [remark for remark in read_source(planted).remarks if "gives" in remark]
    assert [remark.split(":")[0] for remark in told] == ["the column 'code' nearly gives kind away"]
    folders = load_config("demo", overrides={"data": {"path": str(tmp_path / "photos"), "kind": "folders"}})
    assert not [remark for remark in read_source(folders).remarks if remark and "gives" in remark]
