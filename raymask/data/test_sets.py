"""Images without labels: the test set of a run, and what someone wants predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd

from raymask.config.data import DataConfig
from raymask.core.errors import InputError, shortened
from raymask.data.competition import competition_info
from raymask.data.duplicates import read_group_numbers
from raymask.data.folders import list_folders
from raymask.data.parquet import Table
from raymask.data.rejected import is_image, left_out, reasons
from raymask.data.splits import TEST
from raymask.data.tables import NO_ID, images_of, need_columns, parquet_files, read_table
from raymask.io import files

PATH_COLUMNS = ("path", "image", "file", "filename")
COMPETITION_TEST = ("ImageID", "ans")
ID_COLUMNS = ("image_id", "id")


@dataclass(frozen=True)
class TestSet:
    """Images without labels, in the order of their file."""

    images: pd.DataFrame
    """image_id, path, size, stamp and problem of each; and `group`, a number from 0 on, where they come with groups."""
    template: pd.DataFrame | None
    """The test file as it is, every value a string; None where the test set is a folder."""
    joint_column: str | None
    """Column that takes the joint label; None where each task has a column of its own."""
    remarks: tuple[str, ...] = ()
    """What was made of the images' files, where that may surprise."""
    line_end: str = "\n"
    """What ends the lines of the test file."""
    left_out: int = 0
    """Images that `data.share` leaves out."""


def read_test(data: DataConfig) -> TestSet | None:
    """The test images of a run, or None when it has none.

    Raises:
        InputError: they cannot be read, or a column of groups is named and there is no test file.
    """
    found = _read_test(data)
    if found is None and data.test_group_column:
        raise InputError(
            f"data.test_group_column is '{data.test_group_column}', but there is no test file that could have such a column; "
            "leave it out, or name the file by data.test."
        )
    return found


def _read_test(data: DataConfig) -> TestSet | None:
    if data.test is not None and files.is_folder(data.test) and not parquet_files(data.test):
        return _of_folder(data.test, "data.test")
    if data.test is None and data.kind == "folders":
        assert data.path is not None
        return _of_split(data.path)
    if data.kind in ("demo", "competition"):
        assert data.path is not None
        info = data.test or competition_info(data.path)
        return None if info is None else _of_info(read_table(info, data), data, info, data.test_root, "data.test")
    if data.test is None:
        return _of_parquet(data) if data.kind == "csv" else None
    table = read_table(data.test, data, (data.image_column,))
    return _of_table(table, data, data.test, data.test_root or data.image_root, "data.test")


def _of_folder(folder: str, key: str) -> TestSet:
    listed = dict(sorted(files.list_files(folder).items()))
    images = {name: state for name, state in listed.items() if is_image(name)}
    if not images:
        raise InputError(f"{key}: '{folder}' names no image.")
    return TestSet(_listed(folder, images), None, None, tuple(filter(None, [left_out(listed)])))


def _of_parquet(data: DataConfig) -> TestSet | None:
    """The test images of a folder of Parquet files, some of which are for tests by their names."""
    path = data.path
    if path is None or not files.is_folder(path) or not parquet_files(path, TEST):
        return None
    found = _of_table(read_table(path, data, (data.image_column,), TEST), data, path, data.image_root, "data.path")
    message = f"the Parquet files in '{path}' that are for tests by their names are the test images, and are not trained on"
    return replace(found, remarks=(message, *found.remarks))


def _of_split(root: str) -> TestSet | None:
    if not files.is_folder(root):
        return None  # a finished run may outlive its training images
    found = list_folders(root)
    return TestSet(_listed(root, found.test), None, None) if found.test else None


def _listed(root: str, images: Mapping[str, files.State]) -> pd.DataFrame:
    paths = [files.join(files.absolute(root), name) for name in images]
    columns = files.state_columns(images.values())
    return pd.DataFrame({"image_id": pd.Series(list(images), dtype=str), "path": paths, **columns})


def _of_info(table: Table, data: DataConfig, where: str, root: str | None, key: str) -> TestSet:
    """The images of a table in the competition's layout, which lie beside it in `images/`."""
    need_columns(table, COMPETITION_TEST, where)
    columns = data.model_copy(update={"image_column": COMPETITION_TEST[0], "id_column": None})
    found = _of_table(table, columns, where, root or f"{files.parent(files.absolute(where))}/images", key)
    return replace(found, joint_column=COMPETITION_TEST[1] if data.kind in ("demo", "competition") else None)


def _of_table(table: Table, data: DataConfig, where: str, root: str | None, key: str) -> TestSet:
    images = images_of(table, data, where, root)
    if images.empty:
        raise InputError(f"{key}: '{where}' names no image.")
    repeated = images["image_id"][images["image_id"].duplicated()]
    if len(repeated):
        column, other = data.id_column or data.image_column, ", or --id-column name another" if key == "--images" else ""
        raise InputError(
            f"{key}: '{where}' names an image twice in column '{column}': {shortened(repeated.tolist())}; each must be there "
            f"once{other}."
        )
    nameless = images["problem"] == NO_ID
    rows = images["image_id"][nameless].tolist()
    remarks = [f"{len(rows)} rows have no id and go by their number: {shortened(rows)}"] if rows else []
    groups = data.test_group_column or (data.group_column if data.group_column in table.values else None)
    if groups:
        need_columns(table, (groups,), where)
        images["group"], more = read_group_numbers(table.values[groups])
        remarks += more
    template = table.values
    if data.image_column in table.images and data.id_column is None:
        template = template.assign(**{data.image_column: images["image_id"]})  # images in Parquet often have no names
    images["problem"] = images["problem"].mask(nameless, "")
    return TestSet(images, template, None, tuple(remarks), table.line_end)


def check_missing(test: TestSet, most: float, root_key: str) -> str:
    """What is to be said of test images that cannot be read; "" where all seem to be there.

    Args:
        test: the images.
        most: share of them that may be missing.
        root_key: what sets the folder that relative paths start from.

    Raises:
        InputError: more of them are missing.
    """
    problems = test.images["problem"]
    missing = pd.DataFrame({"image_id": test.images["path"], "reason": problems})[problems != ""]
    count = f"{len(missing)} of {len(test.images)} test images cannot be read{reasons(missing)}"
    if len(missing) > most * len(test.images):
        raise InputError(
            f"{count}; set {root_key} to the folder that their paths start from, mend them, or raise data.max_missing_test "
            f"(now {most:g})."
        )
    return f"{count}; they get the classes' frequencies" if len(missing) else ""


@dataclass(frozen=True)
class ImageList:
    """Where images are named that are to be predicted."""

    path: str
    """A folder or a table, local or by URL. A CSV in the competition's layout (`ImageID`, `ans`) has its images in `images/`."""
    image_column: str | None = None
    """Column of the images' paths (default: the run's, or path, image, file or filename)."""
    id_column: str | None = None
    """Column of the images' ids (default: the run's, or image_id or id, or the paths)."""
    root: str | None = None
    """Folder that relative paths start from (default: the table's)."""
    group_column: str | None = None
    """Column of the images' groups, such as the person (default: the run's, where the table has it)."""
    by_folder: bool = False
    """Whether the images of each folder inside of a folder are one group."""


def read_images(listed: ImageList, data: DataConfig) -> TestSet:
    """The images of a folder or a table, in their order.

    Args:
        listed: where they are named.
        data: the run's data, whose columns are looked for first.

    Raises:
        InputError: nothing is there, a column is missing, or an image is named twice.
    """
    path, image_column = listed.path, listed.image_column
    where = files.absolute(path)
    if files.is_folder(where) and not parquet_files(where):
        if listed.group_column:
            raise InputError(
                f"--group-column is '{listed.group_column}', but '{path}' is a folder of images, which has no columns; give "
                "--group-by-folder where the images of one group lie in one folder, or name images and groups in a table."
            )
        found = _of_folder(where, "--images")
        return _grouped_by_folder(found) if listed.by_folder else found
    if not files.exists(where):
        raise InputError(f"--images: there is nothing at '{path}'.")
    if listed.by_folder:
        raise InputError(f"--group-by-folder: '{path}' is a table; name its column of groups by --group-column.")
    table = read_table(where, data, [image_column] if image_column else (data.image_column, *PATH_COLUMNS))
    header = set(table.values.columns)
    groups = next((name for name in (data.test_group_column, data.group_column) if name in header), None)
    data = data.model_copy(update={"test_group_column": listed.group_column or groups})
    if image_column is None and header.issuperset(COMPETITION_TEST):
        return _of_info(table, data, where, listed.root, "--images")
    column = image_column or _first(table, (data.image_column, *PATH_COLUMNS), path)
    names = listed.id_column or next((name for name in (data.id_column, *ID_COLUMNS) if name in header), None)
    columns = data.model_copy(update={"image_column": column, "id_column": names})
    return _of_table(table, columns, where, listed.root, "--images")


def _grouped_by_folder(found: TestSet) -> TestSet:
    """Images of a folder, those of each folder inside of it being one group; one that lies in none is a group of its own."""
    folders = found.images["image_id"].map(lambda name: name.rpartition("/")[0])
    numbers = pd.factorize(folders.where(folders != "", found.images["image_id"] + "/"))[0].astype("int64")
    return replace(found, images=found.images.assign(group=numbers))


def _first(table: Table, names: tuple[str, ...], path: str) -> str:
    for name in names:
        if name in table.values:
            return name
    tried = ", ".join(dict.fromkeys(names))
    raise InputError(f"'{path}' has none of the columns {tried}; name that of the images' paths by --image-column.")
