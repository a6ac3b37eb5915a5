"""Tests of how replicas' files become one prediction an image: joined on image_id, complete, and split by head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raymask.core.columns import by_head
from raymask.core.errors import InputError
from raymask.runs.directory import ReplicaId, Run
from raymask.runs.predictions import collect_oof, oof_by_view

VIEWS = ("original", "hflip")
IDS = [f"id-{number:02}" for number in range(12)]
FOLD = {name: number % 3 for number, name in enumerate(IDS)}
COLUMNS = ("mask:worn", "mask:none", "age:<30", "age:30-60", "age:>=60")


def value(image_id: str, view: str, column: str) -> float:
    """A different number for each cell, so that no two can be mistaken."""
    return IDS.index(image_id) + VIEWS.index(view) / 4 + COLUMNS.index(column) / 64


def replica_table(fold: int, views: tuple[str, ...] = VIEWS) -> pd.DataFrame:
    rows = [(name, view) for view in views for name in IDS if FOLD[name] == fold]
    table = pd.DataFrame(rows, columns=["image_id", "view"])
    for column in COLUMNS:
        table[column] = np.array([value(*row, column) for row in rows], dtype=np.float32)
    return table


def write(run: Run, change: Callable[[pd.DataFrame], pd.DataFrame] = lambda table: table, member: str = "m") -> None:
    for fold in range(3):
        path = run.replica_oof(ReplicaId(member, fold))
        path.parent.mkdir(parents=True, exist_ok=True)
        change(replica_table(fold)).to_parquet(path, index=False)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


VALIDATED = pd.Series(IDS)


class TestCollect:
    def test_holds_each_image_once_a_view_with_its_fold(self, run: Run) -> None:
        write(run)
        assert collect_oof(run, "m", range(3), VALIDATED) is False
        table = pd.read_parquet(run.oof("m"))
        assert len(table) == len(IDS) * 2
        assert not table.duplicated(["image_id", "view"]).any()
        assert (table["fold"] == table["image_id"].map(FOLD)).all()
        for row in table.to_dict("records"):
            assert all(row[column] == value(row["image_id"], row["view"], column) for column in COLUMNS)

    def test_the_order_of_rows_in_the_files_does_not_matter(self, tmp_path: Path) -> None:
        runs = [Run(tmp_path / name) for name in ("sorted", "shuffled")]
        write(runs[0])
        write(runs[1], lambda table: table.sample(frac=1, random_state=3))
        for run in runs:
            collect_oof(run, "m", range(3), VALIDATED)
        order = pd.Series(IDS).sample(frac=1, random_state=5)
        one, other = (oof_by_view(run.oof("m"), "m", VIEWS, order) for run in runs)
        pd.testing.assert_frame_equal(*(pd.read_parquet(run.oof("m")) for run in runs))
        for head, of_head in one.items():
            np.testing.assert_array_equal(other[head], of_head)

    def test_a_missing_image_is_refused_by_name_and_view(self, run: Run) -> None:
        write(run, lambda table: table[~((table["image_id"] == "id-04") & (table["view"] == "hflip"))])
        with pytest.raises(InputError, match=r"^the out-of-fold predictions of 'm' \(hflip\) lack 1 image\(s\): id-04\.$"):
            collect_oof(run, "m", range(3), VALIDATED)
        assert not run.oof("m").exists()

    def test_an_image_predicted_twice_is_refused_by_name(self, run: Run) -> None:
        write(run, lambda table: pd.concat([table, table[table["image_id"] == "id-07"]]))
        with pytest.raises(InputError, match=r"hold twice 1 image\(s\): id-07\.$"):
            collect_oof(run, "m", range(3), VALIDATED)

    def test_an_image_of_no_validated_fold_is_refused_by_name(self, run: Run) -> None:
        write(run)
        with pytest.raises(InputError, match=r"hold unknown 1 image\(s\): id-11\.$"):
            collect_oof(run, "m", range(3), VALIDATED[:-1])

    def test_a_replica_without_one_of_the_views_is_refused(self, run: Run) -> None:
        write(run)
        replica_table(1, ("original",)).to_parquet(run.replica_oof(ReplicaId("m", 1)), index=False)
        with pytest.raises(InputError, match=r"\(hflip\) lack 4 image"):
            collect_oof(run, "m", range(3), VALIDATED)

    def test_only_the_folds_with_replicas_are_wanted(self, run: Run) -> None:
        """As of a hold-out, where most images are never validated."""
        write(run)
        own = pd.Series([name for name in IDS if FOLD[name] == 0])
        collect_oof(run, "m", [0], own)
        assert set(pd.read_parquet(run.oof("m"))["image_id"]) == set(own)

    def test_a_file_that_is_there_is_left_as_it_is(self, run: Run) -> None:
        write(run)
        collect_oof(run, "m", range(3), VALIDATED)
        before = run.oof("m").read_bytes()
        assert collect_oof(run, "m", range(3), VALIDATED) is True
        for fold in range(3):
            run.replica_oof(ReplicaId("m", fold)).unlink()
        assert collect_oof(run, "m", range(3), VALIDATED) is True
        assert run.oof("m").read_bytes() == before

    def test_it_is_written_anew_when_a_replica_says_something_else(self, run: Run) -> None:
        write(run)
        collect_oof(run, "m", range(3), VALIDATED)
        write(run, lambda table: table.assign(**{COLUMNS[0]: table[COLUMNS[0]] + 1}))
        assert collect_oof(run, "m", range(3), VALIDATED) is False
        assert (pd.read_parquet(run.oof("m"))[COLUMNS[0]] >= 1).all()


class TestByView:
    @pytest.mark.parametrize("views", [("original",), ("hflip",), VIEWS, VIEWS[::-1]])
    def test_holds_the_views_and_the_images_in_the_order_asked_for(self, run: Run, views: tuple[str, ...]) -> None:
        write(run)
        collect_oof(run, "m", range(3), VALIDATED)
        order = pd.Series(IDS[::-1], index=range(100, 112))
        by_view = oof_by_view(run.oof("m"), "m", views, order)
        assert list(by_view) == ["mask", "age"]
        for head, columns in (("mask", COLUMNS[:2]), ("age", COLUMNS[2:])):
            expected = [[[value(name, view, column) for column in columns] for name in order] for view in views]
            np.testing.assert_array_equal(by_view[head], expected)
            assert by_view[head].dtype == np.float32

    def test_predictions_of_images_that_are_not_wanted_are_passed_over(self, run: Run) -> None:
        write(run)
        collect_oof(run, "m", range(3), VALIDATED)
        whole, some = (oof_by_view(run.oof("m"), "m", VIEWS, ids) for ids in (VALIDATED, VALIDATED[3:10]))
        assert all((some[head] == whole[head][:, 3:10]).all() for head in whole)

    def test_a_wanted_image_without_prediction_is_refused(self, run: Run) -> None:
        write(run)
        collect_oof(run, "m", range(3), VALIDATED)
        with pytest.raises(InputError, match=r"^the out-of-fold .* of 'm' \(hflip\) lack 1 image.*: id-12"):
            oof_by_view(run.oof("m"), "m", ("hflip",), pd.Series([*IDS, "id-12"]))

    def test_a_view_without_predictions_is_refused_by_name(self, run: Run) -> None:
        write(run)
        collect_oof(run, "m", range(3), VALIDATED)
        with pytest.raises(InputError, match=r"^the out-of-fold predictions of 'm' \(zoom\) lack 12 image"):
            oof_by_view(run.oof("m"), "m", ("original", "zoom"), VALIDATED)

    def test_ids_that_look_like_numbers_stay_apart(self, run: Run) -> None:
        """`007` and `7` are two images."""
        names = ["7", "007", "1e3", "1000"]
        for fold, name in enumerate(names):
            path = run.replica_oof(ReplicaId("m", fold))
            path.parent.mkdir(parents=True)
            pd.DataFrame({"image_id": [name], "view": ["original"], "mask:a": [fold / 4], "mask:b": [1 - fold / 4]}).to_parquet(
                path
            )
        collect_oof(run, "m", range(4), pd.Series(names))
        by_view = oof_by_view(run.oof("m"), "m", ["original"], pd.Series(names))
        np.testing.assert_allclose(by_view["mask"][0, :, 0], [0, 0.25, 0.5, 0.75])


class TestSplitHeads:
    def test_class_names_may_hold_colons_bars_and_spaces(self) -> None:
        columns = ["kind:a:b", "kind:a|b", "kind:a b", "kind: ", "age:<30", "age:>=60"]
        heads = by_head(pd.DataFrame(np.arange(12.0).reshape(2, 6), columns=columns))
        assert list(heads) == ["kind", "age"]
        np.testing.assert_array_equal(heads["kind"], [[0, 1, 2, 3], [6, 7, 8, 9]])
        np.testing.assert_array_equal(heads["age"], [[4, 5], [10, 11]])

    def test_heads_that_begin_alike_stay_apart(self) -> None:
        heads = by_head(pd.DataFrame([[1.0, 2.0, 3.0]], columns=["age:a", "age_band:a", "age:b"]))
        np.testing.assert_array_equal(heads["age"], [[1.0, 3.0]])
        np.testing.assert_array_equal(heads["age_band"], [[2.0]])

    def test_one_replica_is_taken_out_of_a_table_of_all(self) -> None:
        columns = [
            "image_id",
            "problem",
            "age/fold-1|age:a|b/fold-1|x:y",
            "age/fold-1|age:z",
            "age/fold-10|age:a",
            "age-s1/fold-1|age:a",
            "my.age/fold-1|age:a",
        ]
        predicted = pd.DataFrame([["id", "", 0.25, 0.75, 3.0, 4.0, 5.0]], columns=columns)
        heads = by_head(predicted, str(ReplicaId("age", 1)))
        assert list(heads) == ["age"]
        np.testing.assert_array_equal(heads["age"], [[0.25, 0.75]])
