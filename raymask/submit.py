"""Voted probabilities -> predictions.parquet and submission.csv."""

from __future__ import annotations

import pandas as pd

from raymask.data.test_sets import TestSet
from raymask.ensemble import check_complete
from raymask.tasks import JOINT, LabelSpace, Probabilities


def prediction_table(image_ids: pd.Series, problems: pd.Series, joint: Probabilities, space: LabelSpace) -> pd.DataFrame:
    """One row an image: image_id, problem, joint label, each task's label and class, and all probabilities.

    The joint label is the most probable joint class, and the tasks' labels are its parts, so that they always agree.

    Args:
        image_ids: (N,) ids.
        problems: (N,) why an image is broken, "" where it is not.
        joint: (N, J) probabilities.
        space: the label space.
    """
    elected = joint.argmax(axis=1)
    columns: dict[str, object] = {"image_id": image_ids.to_numpy(), "problem": problems.to_numpy(), JOINT: elected}
    labels = space.split(elected)
    columns |= {f"{task}_label": of_task for task, of_task in labels.items()}
    columns |= {task: [space.classes(task)[label] for label in of_task] for task, of_task in labels.items()}
    for task in space.names:
        marginal = space.marginal(joint, task)
        columns |= {f"{task}:{name}": marginal[:, label] for label, name in enumerate(space.classes(task))}
    columns |= {f"{JOINT}:{name}": joint[:, label] for label, name in enumerate(space.joint_classes)}
    return pd.DataFrame(columns)


def submission_table(test: TestSet, predictions: pd.DataFrame, space: LabelSpace) -> pd.DataFrame:
    """The test file with its answers, in its own order and columns; a folder's images by name.

    Raises:
        InputError: an image of the test set has no prediction, or two.
    """
    ids = test.images["image_id"]
    check_complete("the predictions of the test set", predictions["image_id"].tolist(), ids.tolist())
    answers = predictions.set_index("image_id").loc[ids.to_numpy()]
    table = test.template.copy() if test.template is not None else pd.DataFrame({"image_id": ids})
    if test.joint_column:
        table[test.joint_column] = answers[JOINT].to_numpy()
    else:
        for task in space.tasks:
            table[task.column] = answers[task.name].to_numpy()
    return table
