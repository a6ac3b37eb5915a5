"""Voted probabilities -> predictions.parquet and submission.csv."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np
import pandas as pd

from raymask.core.tasks import JOINT, LabelSpace
from raymask.data.test_sets import TestSet
from raymask.runs.predictions import check_complete


def submission_table(test: TestSet, predictions: pd.DataFrame, space: LabelSpace) -> pd.DataFrame:
    """The test file with its answers, in its own order and columns, whatever these are called; a folder's images by name.

    Of several columns of one name the first takes the answers.

    Raises:
        InputError: an image of the test set has no prediction, or two.
    """
    ids = test.images["image_id"]
    check_complete("the predictions of the test set", predictions["image_id"].tolist(), ids.tolist())
    answers = predictions.set_index("image_id").loc[ids.to_numpy()]
    table = test.template if test.template is not None else pd.DataFrame({"image_id": ids})
    header, columns = list(table.columns), [table.iloc[:, index].to_numpy() for index in range(table.shape[1])]
    keys = {name for name, column in zip(header, columns, strict=True) if (column == ids.to_numpy()).all()}
    own = {JOINT: test.joint_column} if test.joint_column else answer_columns(space, header, keys)
    for target, column in own.items():
        if column not in header:
            header.append(column)
            columns.append(np.empty(len(ids), dtype=object))
        columns[header.index(column)] = answers[target].to_numpy()
    submission = pd.DataFrame(dict(enumerate(columns)))
    submission.columns = pd.Index(header, dtype=object)
    return submission


def answer_columns(space: LabelSpace, header: Collection[str], keys: Collection[str]) -> dict[str, str]:
    """The column of each task's answers: that of its labels, or one of the task's name where other tasks share that.

    Args:
        space: the label space.
        header: columns of the test file.
        keys: those that name the images, and so take no answers.
    """
    tasks_of = Counter(task.column for task in space.tasks)
    own = {task.name: task.column for task in space.tasks if tasks_of[task.column] == 1 and task.column not in keys}
    used = {*header, *own.values()}
    for task in space.tasks:
        if task.name not in own:
            column = task.name
            while column in used and (column != task.column or column in keys):
                column += "_answer"
            own[task.name] = column
            used.add(column)
    return {name: own[name] for name in space.names}
