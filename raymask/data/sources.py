"""Competition layout, generic CSV or plain folders -> one checked table of images.

The table has one row an image, sorted by `image_id`, so that nothing later depends on the order of the input:

| column | dtype | |
|---|---|---|
| image_id | str | unique; the key of everything |
| path | str | absolute path or URL |
| group | str | images of one group (person) never lie in two folds |
| fold_name | str | fold, where `folds.column` names a column of them |
| label_TASK | int64 | label that scores are made of |
| train_label_TASK | int64 | label that the loss is made of; the same but for tasks with `train_edges` |
| label_joint | int64 | joint label |
| value_TASK | float64 | number behind the label, of tasks with `edges` |
| size, stamp | int64, str | size in bytes and version of the file |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import ValidationError

from raymask.config.data import DataConfig
from raymask.config.merging import deep_merge
from raymask.config.messages import explain
from raymask.config.schema import RunConfig
from raymask.config.tasks import TaskConfig, label_space
from raymask.core.columns import FOLD_NAME, label_column, train_label_column, value_column
from raymask.core.errors import InputError, one_of, shortened
from raymask.core.spelling import MISSING, canonical, mapped, tidy, written_twice
from raymask.core.tasks import (
    JOINT,
    UNLABELLED,
    LabelSpace,
    Scale,
    Task,
    alike,
    band_names,
    check_task_names,
    infer_classes,
    numbers_of,
)
from raymask.data.duplicates import once, read_groups
from raymask.data.given_folds import read_fold_names
from raymask.data.kinds import KINDS, DataKind
from raymask.data.parquet import Table
from raymask.data.rejected import Rejected, check_rejected, reasons
from raymask.data.tables import need_columns
from raymask.data.telling_columns import leaks

NAMING_KEYS = ("image_column", "id_column", "group_column")
"""Keys of the config that name columns which tell images and groups apart."""


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
    left_out: int = 0
    """Images that `data.share` leaves out."""


def read_source(config: RunConfig) -> Source:
    """The checked training images of a run whose `data.kind` is resolved.

    Raises:
        InputError: the data cannot be read, or more than `data.max_rejected` of it would be set aside.
    """
    data = config.data
    assert data.path is not None, "the demo is written before it is read"
    kind, rejected = KINDS[data.kind], Rejected()
    images, table, listed = kind.read(data, rejected)
    remarks, wanted = list(listed), _wanted_tasks(config, kind)
    found = len(images) + len(rejected.image_id)
    if column := config.folds.column:
        images[FOLD_NAME], more = read_fold_names(_fold_column(column, table, data), column)
        remarks += more
    task_configs = {name: None if given is None else _task_config(name, given) for name, given in wanted.items()}
    _check_columns(task_configs, table, data)
    values = table.values
    space, task_configs = _label_space(task_configs, values, every=kind.names_are_classes)
    remarks += _remarks_on_classes(config.tasks, space, values)
    if grouped := kind.named_groups or bool(data.group_column):
        images["group"], more = read_groups(images["group"], images["image_id"])
        remarks += more
    listed_ids, named = images["image_id"], {getattr(data, key) for key in NAMING_KEYS}
    images = _readable(_labelled(images, values, space, task_configs, rejected), rejected)
    images = images.sort_values("image_id", kind="stable")
    images, more = once(images, rejected, grouped, ids_are_paths=data.kind != "csv" or not data.id_column)
    check_rejected(rejected.table(), found, data.max_rejected)
    if images.empty:
        raise InputError(f"data.path: '{data.path}' holds no usable image{reasons(rejected.table())}.")
    remarks += leaks(values.drop(columns=list(table.nested)), listed_ids, images, space, named)
    return Source(images.reset_index(drop=True), rejected.table(), space, task_configs, (*remarks, *more))


def _fold_column(column: str, table: Table, data: DataConfig) -> pd.Series:
    if data.kind != "csv":
        raise InputError(
            f"folds.column is '{column}', but has no effect with {KINDS[data.kind].words}; leave it out, or give a table."
        )
    need_columns(table, (column,), str(data.path))
    return table.values[column]


def number_scales(source: Source) -> dict[str, Scale]:
    """The numbers behind the bands of the tasks with edges."""
    numbers = {task: source.images[value_column(task.name)] for task in source.space.tasks if task.edges}
    return {task.name: Scale(task.edges, float(of_task.min()), float(of_task.max())) for task, of_task in numbers.items()}


def class_counts(source: Source) -> list[str]:
    """`mask: worn 400, incorrect 80, none 80` of each task; classes beyond a dozen are counted together."""
    lines = []
    for task in source.space.tasks:
        counts = np.bincount(source.images[label_column(task.name)], minlength=len(task.classes))
        shown = [name if len(name) < 40 else f"{name[:39]}…" for name in task.classes]
        lines.append(f"{task.name}: {shortened([f'{name} {count}' for name, count in zip(shown, counts, strict=True)], 12)}")
    return lines


def _wanted_tasks(config: RunConfig, kind: DataKind) -> dict[str, Any]:
    """The values of each task: the config's own, over those that the data bring; None for one that is dropped."""
    if kind.tasks is not None:
        return deep_merge(kind.tasks, {name: task and task.model_dump(exclude_unset=True) for name, task in config.tasks.items()})
    if not config.tasks:
        raise InputError(f"tasks is empty; name the label columns of '{config.data.path}', such as --set tasks=[colour].")
    return {name: task and task.model_dump() for name, task in config.tasks.items()}


def _task_config(name: str, values: Mapping[str, object]) -> TaskConfig:
    try:
        return TaskConfig.model_validate(values)
    except ValidationError as error:
        raise InputError(explain(error, TaskConfig, f"tasks.{name}")) from None


def _check_columns(tasks: Mapping[str, TaskConfig | None], table: Table, data: DataConfig) -> None:
    keys = ("image_column", "id_column", "group_column") if data.kind == "csv" else ()
    used = {getattr(data, key): key for key in keys}
    for name, task in tasks.items():
        if task is None:
            continue
        column = task.column or name
        if column in used:
            raise InputError(f"tasks.{name}: its column '{column}' is data.{used[column]} too; a label has a column of its own.")
        if column not in table.values:
            known = [str(known) for known in table.values.columns if known not in used]
            raise InputError(f"tasks.{name}: there is no column '{column}'; it may be {one_of(known, column)}.")
        need_columns(table, (column,), str(data.path))


def _label_space(
    configs: Mapping[str, TaskConfig | None], values: pd.DataFrame, every: bool
) -> tuple[LabelSpace, dict[str, TaskConfig | None]]:
    """The label space, with the classes of each task found where the config does not give them."""
    complete: dict[str, TaskConfig | None] = dict(configs)
    check_task_names([name for name, task in configs.items() if task])
    for name, task in configs.items():
        if task is None:
            continue
        column = task.column or name
        if task.train_edges and not task.edges:
            raise InputError(f"tasks.{name}: train_edges needs edges with as many numbers.")
        if task.leave_out and not task.edges:
            raise InputError(f"tasks.{name}: leave_out needs edges, since it names numbers of a column that they cut into bands.")
        found = task.classes or (band_names(task.edges) if task.edges else infer_classes(name, values[column], every=every))
        complete[name] = task.model_copy(update={"column": column, "classes": found})
    if not any(complete.values()):
        raise InputError("tasks: every task is null; at least one must be left.")
    return label_space(complete), complete


def _remarks_on_classes(given: Mapping[str, TaskConfig | None], space: LabelSpace, values: pd.DataFrame) -> list[str]:
    """What is to be said of classes that are written in several ways, or are likely to be."""
    remarks = []
    for task in space.tasks:
        if task.edges:
            continue
        column = values[task.column]
        known = column[task.labels(column) != UNLABELLED]
        remarks.append(written_twice(f"classes of {task.name}", known, mapped(known, canonical)))
        config = given.get(task.name)
        for one, other, *_ in alike(task.classes) if not (config and config.classes) else []:
            remarks.append(f"'{one}' and '{other}' are two classes of {task.name}; write them alike if they are one")
    return [remark for remark in remarks if remark]


def _labelled(
    images: pd.DataFrame,
    values: pd.DataFrame,
    space: LabelSpace,
    configs: Mapping[str, TaskConfig | None],
    rejected: Rejected,
) -> pd.DataFrame:
    """The images with their labels; those with a label out of range are set aside."""
    kept = np.ones(len(images), dtype=bool)
    labels: dict[str, npt.NDArray[np.int64]] = {}
    train_labels: dict[str, npt.NDArray[np.int64]] = {}
    for task in space.tasks:
        column, config = values[task.column], configs[task.name]
        assert config is not None
        labels[task.name], train_labels[task.name] = task.labels(column), task.train_labels(column)
        wrong = labels[task.name] == UNLABELLED
        if config.valid_range:
            low, high = config.valid_range
            numbers = numbers_of(column)
            wrong |= ~((numbers >= low) & (numbers <= high))
        for value in column[wrong & kept].unique():
            here = wrong & kept & (column == value).to_numpy()
            rejected.add(images["image_id"][here].tolist(), _why_wrong(task, config, value))
        kept &= ~wrong
    for named, by_task in ((label_column, labels), (train_label_column, train_labels)):
        columns = {named(name): by_task[name] for name in space.names}
        images = images.assign(**columns, **{named(JOINT): space.join(by_task)})
    behind = {value_column(task.name): numbers_of(values[task.column]) for task in space.tasks if task.edges}
    return images.assign(**behind)[kept]


def _why_wrong(task: Task, config: TaskConfig, value: str) -> str:
    shown = tidy(value)
    if shown == "":
        return f"{task.name} is empty"
    if task.edges and config.valid_range:
        low, high = config.valid_range
        return f"{task.name} is '{shown}', no number from {low:g} to {high:g}"
    if task.edges:
        return f"{task.name} is '{shown}', no number"
    if canonical(value) in MISSING:
        return f"{task.name} is '{shown}', which stands for a missing value unless tasks.{task.name}.classes lists it"
    return f"{task.name} is '{shown}', none of {shortened(list(task.classes))}"


def _readable(images: pd.DataFrame, rejected: Rejected) -> pd.DataFrame:
    """The images without files that cannot be read."""
    for problem in images["problem"][images["problem"] != ""].unique():
        rejected.add(images["image_id"][images["problem"] == problem].tolist(), problem)
    return images[images["problem"] == ""].drop(columns="problem")
