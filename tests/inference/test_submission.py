"""Tests of the answers: labels that agree with each other, and a submission in the test file's own form."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from raymask.config.data import DataConfig
from raymask.core.errors import InputError
from raymask.core.tasks import JOINT, LabelSpace, Task
from raymask.data.test_sets import TestSet as Given
from raymask.data.test_sets import read_test
from raymask.inference.submission import submission_table
from raymask.io.atomic import write_table
from raymask.runs.predictions import prediction_table

SPACE = LabelSpace(
    (
        Task("mask", "Mask state", ("worn", "wrong", "none")),
        Task("age", "age", ("<30", "30-60", ">=60"), edges=(30.0, 60.0)),
    )
)
IDS = ["007", "b:1", "7", "z|9", "with space"]
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
ELECTED = [8, 0, 4, 2, 5]


def joint_of(elected: list[int], classes: int) -> np.ndarray:
    rows = np.random.default_rng(0).dirichlet(np.ones(classes), len(elected)) / 2
    rows[np.arange(len(elected)), elected] += 0.5
    return rows


def table_of(ids: list[str] = IDS, elected: list[int] = ELECTED, space: LabelSpace = SPACE) -> pd.DataFrame:
    return prediction_table(pd.Series(ids), pd.Series("", index=range(len(ids))), joint_of(elected, space.joint_size), space)


def given_of(ids: list[str], template: pd.DataFrame | None, joint_column: str | None = None) -> Given:
    return Given(pd.DataFrame({"image_id": ids}), template, joint_column)


class TestPredictions:
    def test_labels_and_classes_are_parts_of_the_elected_joint_class(self) -> None:
        table = table_of()
        assert table[JOINT].tolist() == ELECTED
        assert table["mask_label"].tolist() == [2, 0, 1, 0, 1]
        assert table["mask"].tolist() == ["none", "worn", "wrong", "worn", "wrong"]
        assert table["age"].tolist() == [">=60", "<30", "30-60", ">=60", ">=60"]
        assert table["image_id"].tolist() == IDS

    def test_the_elected_class_need_not_be_each_tasks_most_probable_one(self) -> None:
        joint = np.array([[0.0, 0.3, 0.0, 0.24, 0.0, 0.23, 0.0, 0.23, 0.0]])
        table = prediction_table(pd.Series(["a"]), pd.Series([""]), joint, SPACE)
        assert table.loc[0, "mask"] == "worn"
        assert table.loc[0, ["mask:worn", "mask:wrong"]].tolist() == pytest.approx([0.3, 0.47])

    def test_probabilities_are_there_for_every_class_and_sum_to_1(self) -> None:
        table = table_of()
        for target, classes in (("mask", 3), ("age", 3), (JOINT, 9)):
            columns = [name for name in table.columns if name.startswith(f"{target}:")]
            assert len(columns) == classes
            np.testing.assert_allclose(table[columns].sum(axis=1), 1)
        assert table.loc[0, "joint:none >=60"] == table[[n for n in table if n.startswith("joint:")]].loc[0].max()

    def test_joint_classes_whose_names_would_be_equal_keep_a_column_each(self) -> None:
        """`a b` and `c`, and `a` and `b c`, make the same words."""
        space = LabelSpace((Task("one", "one", ("a b", "a")), Task("two", "two", ("c", "b c"))))
        assert len(set(space.joint_classes)) == 4
        table = table_of(["x", "y"], [0, 3], space)
        columns = [name for name in table.columns if name.startswith("joint:")]
        assert len(columns) == 4
        np.testing.assert_allclose(table[columns].sum(axis=1), 1)


class TestSubmission:
    def test_the_joint_label_goes_into_the_answer_column_in_the_files_order(self) -> None:
        template = pd.DataFrame({"ImageID": IDS[::-1], "ans": [0] * 5})
        table = submission_table(given_of(IDS[::-1], template, "ans"), table_of(), SPACE)
        assert table.columns.tolist() == ["ImageID", "ans"]
        assert table["ImageID"].tolist() == IDS[::-1]
        assert table["ans"].tolist() == ELECTED[::-1]
        assert template["ans"].tolist() == [0] * 5

    def test_predictions_in_another_order_are_joined_on_the_id(self) -> None:
        template = pd.DataFrame({"ImageID": IDS, "ans": 0})
        shuffled = table_of().sample(frac=1, random_state=1)
        pd.testing.assert_frame_equal(
            submission_table(given_of(IDS, template, "ans"), shuffled, SPACE),
            submission_table(given_of(IDS, template, "ans"), table_of(), SPACE),
        )

    def test_columns_of_a_file_stay_in_place_with_all_that_is_in_them(self, tmp_path: Path) -> None:
        text = 'code,Mask state,image,note,empty\n007,,b:1,"a, ""b""",\n1e3,,7,007,\n0.10,x,007,,\n'
        template = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
        ids = template["image"].tolist()
        predictions = table_of(ids, [0, 4, 8])
        table = submission_table(given_of(ids, template), predictions, SPACE)
        assert table.columns.tolist() == ["code", "Mask state", "image", "note", "empty", "age"]
        write_table(tmp_path / "submission.csv", table)
        expected = (
            'code,Mask state,image,note,empty,age\n007,worn,b:1,"a, ""b""",,<30\n1e3,wrong,7,007,,30-60\n0.10,none,007,,,>=60\n'
        )
        assert (tmp_path / "submission.csv").read_text() == expected

    def test_a_folders_images_are_answered_by_name(self) -> None:
        table = submission_table(given_of(IDS, None), table_of(), SPACE)
        assert table.columns.tolist() == ["image_id", "Mask state", "age"]
        assert table["image_id"].tolist() == IDS
        assert table["Mask state"].tolist() == ["none", "worn", "wrong", "worn", "wrong"]

    def test_a_header_without_names_or_with_one_twice_stays_as_it_is(self, tmp_path: Path) -> None:
        template = pd.DataFrame([["0", "a", "", "p", "x"], ["1", "b", "", "q", "y"]])
        template.columns = ["", "image", "age", "note", "age"]
        table = submission_table(given_of(["a", "b"], template), table_of(["a", "b"], [0, 8]), SPACE)
        write_table(tmp_path / "submission.csv", table)
        expected = ",image,age,note,age,Mask state\n0,a,<30,p,x,worn\n1,b,>=60,q,y,none\n"
        assert (tmp_path / "submission.csv").read_text() == expected
        assert template.iloc[:, 2].tolist() == ["", ""]

    @given(
        header=st.lists(ANY_TEXT, max_size=3),
        cells=st.lists(ANY_TEXT, min_size=3, max_size=3),
        end=st.sampled_from(["\n", "\r\n"]),
    )
    @example(header=["\n"], cells=["", "", ""], end="\r\n")
    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_a_test_file_comes_back_as_it_was_but_for_the_answers(
        self, tmp_path: Path, header: list[str], cells: list[str], end: str
    ) -> None:
        rows = [["image", "age", *header], *([name, "", *cells[: len(header)]] for name in ("b.jpg", "a.jpg"))]
        text = io.StringIO()
        csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(rows)
        (tmp_path / "test.csv").write_bytes(text.getvalue().encode())
        data = DataConfig(kind="csv", test=str(tmp_path / "test.csv"))
        test = read_test(data)
        assert test is not None
        table = submission_table(test, table_of(["b.jpg", "a.jpg"], [0, 8]), SPACE)
        write_table(tmp_path / "submission.csv", table, test.line_end)
        written = (tmp_path / "submission.csv").read_bytes().decode()
        back = list(csv.reader(io.StringIO(written, newline="")))
        kept = [[*row[:1], *row[2:]] for row in rows]
        assert [[*row[:1], *row[2 : len(rows[0])]] for row in back] == kept
        assert [row[1] for row in back[1:]] == ["<30", ">=60"]
        assert written.endswith(end)
        again = read_test(data.model_copy(update={"test": str(tmp_path / "submission.csv")}))
        assert again is not None
        assert again.template is not None
        assert again.template.columns.tolist()[: len(rows[0])] == rows[0]

    def test_tasks_of_one_column_have_a_column_each(self) -> None:
        bands = [Task("old", "age", ("<60", ">=60"), edges=(60.0,)), Task("age", "age", ("<9", ">=9"), edges=(9.0,))]
        for space, more in ((bands, []), (bands[::-1], []), ([bands[0], Task("b", "age", ("x", "y"))], ["b"])):
            template = pd.DataFrame({"file": ["a"], "age": ["?"], "old": ["kept"]})
            whole = LabelSpace(tuple(space))
            table = submission_table(given_of(["a"], template), table_of(["a"], [3], whole), whole)
            assert table.columns.tolist() == ["file", "age", "old", *({"age", "old_answer"} - {"age"}), *more]
            assert table.loc[0, ["file", "old", "old_answer"]].tolist() == ["a", "kept", ">=60"]
            assert table.loc[0, "age"] == ("?" if more else ">=9")

    @given(
        header=st.lists(st.sampled_from(["", "image", "x", "y", "x_answer", "image_id"]), max_size=5),
        tasks=st.lists(st.tuples(st.sampled_from(["x", "y", "z"]), st.sampled_from(["x", "y", "image", "", "image_id"])),
                       min_size=1, max_size=3, unique_by=lambda both: both[0]),
    )  # fmt: skip
    @settings(deadline=None)
    def test_every_task_is_answered_and_nothing_else_is_changed(self, header: list[str], tasks: list[tuple[str, str]]) -> None:
        space = LabelSpace(tuple(Task(name, column, (f"{name}0", f"{name}1")) for name, column in tasks))
        template = pd.DataFrame([["id", *(f"v{place}" for place in range(len(header)))]])
        template.columns = pd.Index(["image", *header], dtype=object)
        table = submission_table(given_of(["id"], template), table_of(["id"], [0], space), space)
        assert table.columns[: template.shape[1]].tolist() == template.columns.tolist()
        row = table.iloc[0].tolist()
        assert row[0] == "id"
        assert sorted(value for value in row if value[0] in "xyz") == sorted(f"{name}0" for name, _ in tasks)
        changed = [place for place, value in enumerate(template.iloc[0]) if row[place] != value]
        assert all(template.columns[place] in {column for _, column in tasks} for place in changed)

    def test_a_templates_own_index_does_not_matter(self) -> None:
        template = pd.DataFrame({"ImageID": IDS, "ans": 0}, index=[9, 3, 5, 1, 0])
        images = pd.DataFrame({"image_id": IDS}, index=[9, 3, 5, 1, 0])
        table = submission_table(Given(images, template, "ans"), table_of(), SPACE)
        assert table["ans"].tolist() == ELECTED

    @pytest.mark.parametrize(
        ("have", "message"),
        [
            (IDS[1:], r"lack 1 image\(s\): 007"),
            ([*IDS, "x"], r"hold unknown 1 image\(s\): x"),
            ([*IDS, "7"], r"hold twice 1 image\(s\): 7"),
        ],
    )
    def test_missing_unknown_and_repeated_images_are_refused_by_name(self, have: list[str], message: str) -> None:
        with pytest.raises(InputError, match=f"^the predictions of the test set {message}\\.$"):
            submission_table(given_of(IDS, None), table_of(have, [0] * len(have)), SPACE)
