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

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
from pydantic import ValidationError

from raymask.config import DataConfig, RunConfig, TaskConfig, deep_merge
from raymask.data import files
from raymask.errors import InputError, one_of, shortened
from raymask.explain import explain
from raymask.tasks import JOINT, UNLABELLED, LabelSpace, Task, band_names, infer_classes

OWN_COLUMNS = ("image_id", "path", "group", "size", "stamp")
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"})

COMPETITION_TASKS: dict[str, dict[str, object]] = {
    "mask": {"classes": ["worn", "incorrect", "none"]},
    "gender": {"classes": ["male", "female"]},
    "age": {"edges": [30, 60], "valid_range": [0, 120]},
}
COMPETITION_COLUMNS = ("id", "gender", "age", "path")
PHOTOS = {**{f"mask{number}": "worn" for number in range(1, 6)}, "incorrect_mask": "incorrect", "normal": "none"}


@dataclass(frozen=True)
class Rejected:
    """Images set aside, with the reason."""

    image_id: list[str] = field(default_factory=list)
    reason: list[str] = field(default_factory=list)

    def add(self, image_ids: pd.Series | list[str], reason: str) -> None:
        """Sets several images aside for one reason."""
        self.image_id.extend(image_ids)
        self.reason.extend([reason] * len(image_ids))

    def table(self) -> pd.DataFrame:
        """One row an image: image_id, reason."""
        return pd.DataFrame({"image_id": self.image_id, "reason": self.reason}, dtype=str)


@dataclass(frozen=True)
class TestSet:
    """Images without labels, in the order of their file."""

    images: pd.DataFrame
    template: pd.DataFrame | None
    """The test file as it is, every value a string; None where the test set is a folder."""
    joint_column: str | None
    """Column that takes the joint label; None where each task has a column of its own."""


@dataclass(frozen=True)
class Source:
    """What a run's data configuration stands for."""

    images: pd.DataFrame
    rejected: pd.DataFrame
    space: LabelSpace
    task_configs: dict[str, TaskConfig | None]
    """The tasks with their classes; None for one of the layout's tasks that is dropped, so that it stays so."""


def resolve_kind(data: DataConfig) -> str:
    """The layout that a path holds.

    Raises:
        InputError: nothing is there.
    """
    if data.kind != "auto":
        if data.kind != "demo" and not data.path:
            raise InputError(f"data.path is missing; data.kind={data.kind} needs it.")
        return data.kind
    if data.path is None:
        return "demo"
    if not files.exists(data.path):
        raise InputError(f"data.path: there is nothing at '{data.path}'.")
    if not files.is_folder(data.path):
        return "csv"
    return "competition" if _competition_table(data.path) else "folders"


def read_source(config: RunConfig) -> Source:
    """The checked training images of a run whose `data.kind` is resolved.

    Raises:
        InputError: the data cannot be read, or more than `data.max_rejected` of it would be set aside.
    """
    data = config.data
    assert data.path is not None, "the demo is written before it is read"
    rejected = Rejected()
    if data.kind in ("demo", "competition"):
        table = _read_competition(data.path, rejected)
        wanted = deep_merge(COMPETITION_TASKS, {k: v and v.model_dump(exclude_unset=True) for k, v in config.tasks.items()})
    elif data.kind == "csv":
        table = _read_csv(data, rejected)
        wanted = {name: task and task.model_dump() for name, task in config.tasks.items()}
        if not wanted:
            raise InputError(f"tasks is empty; name the label columns of '{data.path}', such as --set tasks=[colour].")
    else:
        table = _read_folders(data.path)
        wanted = deep_merge({"label": {}}, {k: v and v.model_dump(exclude_unset=True) for k, v in config.tasks.items()})
    found = len(table) + len(rejected.image_id)
    task_configs = {name: None if values is None else _task_config(name, values) for name, values in wanted.items()}
    space, task_configs = _label_space(task_configs, table)
    images = _checked(_labelled(table, space, task_configs, rejected), rejected)
    check_rejected(rejected.table(), found, data.max_rejected)
    if images.empty:
        raise InputError(f"data.path: '{data.path}' holds no usable image{_reasons(rejected.table())}.")
    return Source(images, rejected.table(), space, task_configs)


def read_test(data: DataConfig, space: LabelSpace) -> TestSet | None:
    """The test images of a run, or None when it has none."""
    template: pd.DataFrame | None = None
    joint_column = None
    if data.test is not None and files.is_folder(data.test):
        names = [name for name in sorted(files.list_files(data.test)) if is_image(name)]
        ids = pd.Series(names, dtype=str)
        paths = [files.join(files.absolute(data.test), name) for name in names]
    elif data.kind in ("demo", "competition"):
        assert data.path is not None
        info = data.test or _competition_info(data.path)
        if info is None:
            return None
        template = read_csv(info)
        _need_columns(template, ("ImageID", "ans"), info)
        ids = template["ImageID"]
        paths = [files.join(f"{_parent(info)}/images", name) for name in ids]
        joint_column = "ans"
    elif data.test is None:
        return None
    else:
        template = read_csv(data.test)
        ids, paths = _ids_and_paths(template, data, data.test)
    images = pd.DataFrame({"image_id": ids.astype(str), "path": [files.absolute(path) for path in paths]})
    if images.empty:
        raise InputError(f"data.test: '{data.test or data.path}' names no image.")
    repeated = images["image_id"][images["image_id"].duplicated()]
    if len(repeated):
        raise InputError(f"the test set names an image twice: {shortened(repeated.tolist())}; each must be there once.")
    sizes = files.stat_files(images["path"].tolist())
    images["size"], images["stamp"] = [size for size, _ in sizes], [stamp for _, stamp in sizes]
    return TestSet(images, template, joint_column)


def label_space(tasks: Mapping[str, TaskConfig | None]) -> LabelSpace:
    """The label space of task configs whose classes are known, without the dropped tasks."""
    space = []
    for name, task in tasks.items():
        if task is None:
            continue
        assert task.classes is not None
        space.append(Task(name, task.column or name, task.classes, task.edges or (), task.train_edges or ()))
    return LabelSpace(tuple(space))


def check_rejected(rejected: pd.DataFrame, found: int, most: float) -> None:
    """Refuses to go on when more than a share of the images was set aside.

    Raises:
        InputError: with the three most frequent reasons.
    """
    if len(rejected) > most * max(found, 1):
        raise InputError(
            f"{len(rejected)} of {found} images would be set aside{_reasons(rejected)}; mend them, or raise "
            f"data.max_rejected (now {most:g})."
        )


def is_image(name: str) -> bool:
    """Whether a file name is that of an image and not hidden (`._mask1.jpg`, `.DS_Store`)."""
    path = PurePosixPath(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in path.parts)


def read_csv(path: str) -> pd.DataFrame:
    """A CSV file with every value as the string that it is.

    Raises:
        InputError: the file is missing, empty or no table.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # more values than columns would be dropped
            content = io.BytesIO(files.read_bytes(path))
            return pd.read_csv(content, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"there is no file '{path}'.") from None
    except pd.errors.ParserWarning:
        raise InputError(f"'{path}' cannot be read as a CSV file: its rows have more values than its header.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"'{path}' cannot be read as a CSV file: {str(error).strip().splitlines()[-1]}") from None


def _reasons(rejected: pd.DataFrame) -> str:
    counts = rejected["reason"].value_counts().head(3)
    listed = "; ".join(
        f"{count}× {reason}, such as '{rejected.loc[rejected['reason'] == reason, 'image_id'].iloc[0]}'"
        for reason, count in counts.items()
    )
    return f" ({listed})" if listed else ""


def _competition_table(root: str) -> str | None:
    for name in ("train/train.csv", "train.csv"):
        if files.exists(files.join(root, name)):
            return files.join(root, name)
    return None


def _competition_info(root: str) -> str | None:
    for name in ("eval/info.csv", "test/info.csv", "info.csv"):
        if files.exists(files.join(root, name)):
            return files.join(root, name)
    return None


def _parent(path: str) -> str:
    return path.rsplit("/", 1)[0] or "/" if "/" in path else "."


def _need_columns(table: pd.DataFrame, columns: tuple[str, ...], path: str) -> None:
    for column in columns:
        if column not in table:
            raise InputError(f"'{path}' has no column '{column}'; it has {one_of(map(str, table.columns), column)}.")


def _read_competition(root: str, rejected: Rejected) -> pd.DataFrame:
    """One row a photo: image_id, path, group, mask, gender, age, size, stamp; size -1 for a photo that is missing."""
    table_path = _competition_table(root)
    if table_path is None:
        raise InputError(f"data.path: '{root}' has no train/train.csv, as the competition layout needs.")
    people = read_csv(table_path)
    _need_columns(people, COMPETITION_COLUMNS, table_path)
    images_root = files.absolute(f"{_parent(table_path)}/images")
    if not files.is_folder(images_root):
        raise InputError(f"data.path: '{images_root}' is missing; the photos' folders of train.csv must lie there.")
    by_folder: dict[str, list[tuple[str, int, str]]] = {}
    for name, (size, stamp) in files.list_files(images_root).items():
        if is_image(name):
            folder, _, photo = name.rpartition("/")
            by_folder.setdefault(folder, []).append((photo, size, stamp))
    rows = []
    for person, gender, age, folder in people[["id", "gender", "age", "path"]].itertuples(index=False):
        present = by_folder.get(folder, [])
        stems = {photo.rpartition(".")[0] for photo, _, _ in present}
        absent = [(stem, files.MISSING, "") for stem in PHOTOS if stem not in stems]
        for photo, size, stamp in [*present, *absent]:
            mask = PHOTOS.get(photo.rpartition(".")[0] or photo)
            image_id = f"{folder}/{photo}"
            if mask is None:
                rejected.add([image_id], f"the file's name is none of {', '.join(PHOTOS)}")
            else:
                rows.append((image_id, f"{images_root}/{image_id}", person, mask, gender, age, size, stamp))
    for folder in sorted(by_folder.keys() - set(people["path"])):
        rejected.add([f"{folder}/{photo}" for photo, _, _ in by_folder[folder]], "the folder is not in train.csv")
    return pd.DataFrame(rows, columns=["image_id", "path", "group", "mask", "gender", "age", "size", "stamp"])


def _read_csv(data: DataConfig, rejected: Rejected) -> pd.DataFrame:
    assert data.path is not None
    table = read_csv(data.path)
    ids, paths = _ids_and_paths(table, data, data.path)
    if data.group_column:
        _need_columns(table, (data.group_column,), data.path)
    # Rows without a group are each a group of their own; together they would be one person of many faces.
    groups = table[data.group_column].where(table[data.group_column] != "", ids) if data.group_column else ids
    stats = files.stat_files(paths)
    table = table.drop(columns=[name for name in OWN_COLUMNS if name in table])
    return table.assign(
        image_id=ids.astype(str),
        path=paths,
        group=groups.astype(str),
        size=[size for size, _ in stats],
        stamp=[stamp for _, stamp in stats],
    )


def _ids_and_paths(table: pd.DataFrame, data: DataConfig, path: str) -> tuple[pd.Series, list[str]]:
    _need_columns(table, (data.image_column, *([data.id_column] if data.id_column else [])), path)
    root = files.absolute(data.image_root or _parent(path))
    paths = [files.join(root, name) for name in table[data.image_column]]
    return table[data.id_column or data.image_column], paths


def _read_folders(root: str) -> pd.DataFrame:
    """One row a photo below ROOT/CLASS/; the class is its first folder's name."""
    if not files.is_folder(root):
        raise InputError(f"data.path: there is no folder '{root}'.")
    found = sorted((name, *stat) for name, stat in files.list_files(root).items() if is_image(name) and "/" in name)
    if not found:
        raise InputError(f"data.path: '{root}' has no image in a folder of its class, such as '{root}/cat/1.jpg'.")
    table = pd.DataFrame(found, columns=["image_id", "size", "stamp"])
    table["path"] = [files.join(files.absolute(root), name) for name in table["image_id"]]
    table["group"] = table["image_id"]
    table["label"] = [name.split("/", 1)[0] for name in table["image_id"]]
    return table


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
    """The table sorted by image_id, without missing and empty files and without repeated ids."""
    for wrong, reason in (
        (table["size"] == files.MISSING, "the file is missing"),
        (table["size"] == 0, "the file is empty"),
        (table["image_id"].duplicated(), "the image_id is there twice; the first row counts"),
    ):
        here = wrong.reindex(table.index, fill_value=False)
        rejected.add(table["image_id"][here].tolist(), reason)
        table = table[~here]
    labels = [name for name in table.columns if name.startswith(("label_", "train_label_"))]
    columns = ["image_id", "path", "group", *labels, "size", "stamp"]
    return table[columns].sort_values("image_id", kind="stable").reset_index(drop=True)
