"""Competition layout, generic CSV or plain folders -> one checked table of images.

The table has one row an image, sorted by `image_id`, so that nothing later depends on the order of the input:

| column | dtype | |
|---|---|---|
| image_id | str | unique; the key of everything |
| path | str | absolute path or URL |
| group | str | images of one group (person) never lie in two folds |
| label_TASK | int64 | label that scores are made of |
| train_label_TASK | int64 | label that the loss is made of; the same but for tasks with `train_edges` |
| label_joint | int64 | joint label |
| size, stamp | int64, str | size in bytes and version of the file |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pydantic import ValidationError

from raymask.config import DataConfig, RunConfig, TaskConfig
from raymask.config_files import deep_merge
from raymask.data import files
from raymask.data.competition import COMPETITION_TASKS, read_competition
from raymask.data.folders import list_folders, read_folders
from raymask.data.tables import Rejected, check_rejected, ids_and_paths, need_columns, read_csv, reasons
from raymask.errors import InputError, one_of, shortened
from raymask.explain import explain
from raymask.tasks import JOINT, UNLABELLED, LabelSpace, Task, band_names, infer_classes

OWN_COLUMNS = ("image_id", "path", "group", "size", "stamp", "problem")


@dataclass(frozen=True)
class Source:
    """What a run's data configuration stands for."""

    images: pd.DataFrame
    rejected: pd.DataFrame
    space: LabelSpace
    task_configs: dict[str, TaskConfig | None]
    """The tasks with their classes; None for one of the layout's tasks that is dropped, so that it stays so."""
    remarks: tuple[str, ...] = ()
    """What was made of the data, where that may surprise."""


def read_source(config: RunConfig) -> Source:
    """The checked training images of a run whose `data.kind` is resolved.

    Raises:
        InputError: the data cannot be read, or more than `data.max_rejected` of it would be set aside.
    """
    data = config.data
    assert data.path is not None, "the demo is written before it is read"
    rejected, remarks = Rejected(), list[str]()
    if data.kind in ("demo", "competition"):
        table = read_competition(data.path, rejected)
        wanted = deep_merge(COMPETITION_TASKS, {k: v and v.model_dump(exclude_unset=True) for k, v in config.tasks.items()})
    elif data.kind == "csv":
        table = _read_csv(data, rejected)
        wanted = {name: task and task.model_dump() for name, task in config.tasks.items()}
        if not wanted:
            raise InputError(f"tasks is empty; name the label columns of '{data.path}', such as --set tasks=[colour].")
    else:
        found_folders = list_folders(data.path)
        remarks += found_folders.remarks
        table = read_folders(found_folders, data.path)
        wanted = deep_merge({"label": {}}, {k: v and v.model_dump(exclude_unset=True) for k, v in config.tasks.items()})
    found = len(table) + len(rejected.image_id)
    task_configs = {name: None if values is None else _task_config(name, values) for name, values in wanted.items()}
    space, task_configs = _label_space(task_configs, table)
    images = _checked(_labelled(table, space, task_configs, rejected), rejected)
    check_rejected(rejected.table(), found, data.max_rejected)
    if images.empty:
        raise InputError(f"data.path: '{data.path}' holds no usable image{reasons(rejected.table())}.")
    return Source(images, rejected.table(), space, task_configs, tuple(remarks))


def label_space(tasks: Mapping[str, TaskConfig | None]) -> LabelSpace:
    """The label space of task configs whose classes are known, without the dropped tasks."""
    space = []
    for name, task in tasks.items():
        if task is None:
            continue
        assert task.classes is not None
        space.append(Task(name, task.column or name, task.classes, task.edges or (), task.train_edges or ()))
    return LabelSpace(tuple(space))


def _read_csv(data: DataConfig, rejected: Rejected) -> pd.DataFrame:
    assert data.path is not None
    table = read_csv(data.path)
    ids, paths = ids_and_paths(table, data, data.path, data.image_root)
    if data.group_column:
        need_columns(table, (data.group_column,), data.path)
    # Rows without a group are each a group of their own; together they would be one person of many faces.
    groups = table[data.group_column].where(table[data.group_column] != "", ids) if data.group_column else ids
    table = table.drop(columns=[name for name in OWN_COLUMNS if name in table])
    return table.assign(
        image_id=ids.astype(str),
        path=paths,
        group=groups.astype(str),
        **files.state_columns(files.stat_files(paths)),
    )


def _task_config(name: str, values: Mapping[str, object]) -> TaskConfig:
    try:
        return TaskConfig.model_validate(values)
    except ValidationError as error:
        raise InputError(explain(error, TaskConfig, f"tasks.{name}")) from None


def _label_space(
    configs: Mapping[str, TaskConfig | None], table: pd.DataFrame
) -> tuple[LabelSpace, dict[str, TaskConfig | None]]:
    """The label space, with the classes of each task found where the config does not give them."""
    complete: dict[str, TaskConfig | None] = dict(configs)
    for name, task in configs.items():
        if task is None:
            continue
        column = task.column or name
        if column not in table:
            known = [str(known) for known in table.columns if known not in OWN_COLUMNS]
            raise InputError(f"tasks.{name}: there is no column '{column}'; it may be {one_of(known, column)}.")
        if column in OWN_COLUMNS:
            raise InputError(f"tasks.{name}: the name '{column}' is taken by raymask; rename the column.")
        if task.train_edges and not task.edges:
            raise InputError(f"tasks.{name}: train_edges needs edges with as many numbers.")
        classes = task.classes or (band_names(task.edges) if task.edges else infer_classes(name, table[column]))
        complete[name] = task.model_copy(update={"column": column, "classes": classes})
    if not any(complete.values()):
        raise InputError("tasks: every task is null; at least one must be left.")
    space = label_space(complete)
    if len(set(space.joint_classes)) < space.joint_size:
        raise InputError("tasks: some joint classes would have the same name; give the tasks' classes names without spaces.")
    return space, complete


def _labelled(
    table: pd.DataFrame, space: LabelSpace, configs: Mapping[str, TaskConfig | None], rejected: Rejected
) -> pd.DataFrame:
    """The table with its labels; rows with a label out of range are set aside."""
    kept = np.ones(len(table), dtype=bool)
    for task in space.tasks:
        values, config = table[task.column], configs[task.name]
        assert config is not None
        labels, train_labels = task.labels(values), task.train_labels(values)
        wrong = labels == UNLABELLED
        if valid := config.valid_range:
            wrong |= ~pd.to_numeric(values, errors="coerce").between(*valid).to_numpy()
        for value in values[wrong & kept].unique():
            here = wrong & kept & (values == value).to_numpy()
            rejected.add(table["image_id"][here].tolist(), _why_wrong(task, config, value))
        kept &= ~wrong
        table = table.assign(**{f"label_{task.name}": labels, f"train_label_{task.name}": train_labels})
    table = table[kept]
    joint = space.join({name: table[f"label_{name}"] for name in space.names})
    train_joint = space.join({name: table[f"train_label_{name}"] for name in space.names})
    return table.assign(**{f"label_{JOINT}": joint, f"train_label_{JOINT}": train_joint})


def _why_wrong(task: Task, config: TaskConfig, value: str) -> str:
    if value == "":
        return f"{task.name} is empty"
    if task.edges and config.valid_range:
        low, high = config.valid_range
        return f"{task.name} is '{value}', no number from {low:g} to {high:g}"
    if task.edges:
        return f"{task.name} is '{value}', no number"
    return f"{task.name} is '{value}', none of {shortened(list(task.classes))}"


def _checked(table: pd.DataFrame, rejected: Rejected) -> pd.DataFrame:
    """The table sorted by image_id, without files that cannot be read and without repeated ids."""
    for reason in table["problem"][table["problem"] != ""].unique():
        rejected.add(table["image_id"][table["problem"] == reason].tolist(), reason)
    table = table[table["problem"] == ""]
    twice = table["image_id"].duplicated()
    rejected.add(table["image_id"][twice].tolist(), "the image_id is there twice; the first row counts")
    table = table[~twice]
    labels = [name for name in table.columns if name.startswith(("label_", "train_label_"))]
    columns = ["image_id", "path", "group", *labels, "size", "stamp"]
    return table[columns].sort_values("image_id", kind="stable").reset_index(drop=True)
