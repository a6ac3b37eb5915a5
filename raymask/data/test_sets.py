"""Images without labels: the test set of a run, and what someone wants predicted."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pandas as pd

from raymask.config import DataConfig
from raymask.data import files
from raymask.data.competition import competition_info
from raymask.data.tables import ids_and_paths, is_image, need_columns, read_csv
from raymask.errors import InputError, one_of, shortened
from raymask.tasks import LabelSpace

PATH_COLUMNS = ("path", "image", "file", "filename")
ID_COLUMNS = ("image_id", "id")


@dataclass(frozen=True)
class TestSet:
    """Images without labels, in the order of their file."""

    images: pd.DataFrame
    template: pd.DataFrame | None
    """The test file as it is, every value a string; None where the test set is a folder."""
    joint_column: str | None
    """Column that takes the joint label; None where each task has a column of its own."""


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
        info = data.test or competition_info(data.path)
        if info is None:
            return None
        template = read_csv(info)
        need_columns(template, ("ImageID", "ans"), info)
        ids = template["ImageID"]
        paths = [files.join(f"{files.parent(info)}/images", name) for name in ids]
        joint_column = "ans"
    elif data.test is None:
        return None
    else:
        template = read_csv(data.test)
        ids, paths = ids_and_paths(template, data, data.test)
    images = pd.DataFrame({"image_id": ids.astype(str), "path": [files.absolute(path) for path in paths]})
    if images.empty:
        raise InputError(f"data.test: '{data.test or data.path}' names no image.")
    repeated = images["image_id"][images["image_id"].duplicated()]
    if len(repeated):
        raise InputError(f"the test set names an image twice: {shortened(repeated.tolist())}; each must be there once.")
    sizes = files.stat_files(images["path"].tolist())
    images["size"], images["stamp"] = [size for size, _ in sizes], [stamp for _, stamp in sizes]
    return TestSet(images, template, joint_column)


def read_images(path: str, data: DataConfig, space: LabelSpace, image_column: str | None, id_column: str | None) -> TestSet:
    """The images of a folder, a CSV file or a Parquet file, local or by URL, in their order.

    Args:
        path: where they are named. A CSV in the competition's layout (`ImageID`, `ans`) finds its images beside it in `images/`.
        data: the run's data, whose columns are looked for first.
        space: the label space.
        image_column: column of the images' paths (default: the run's, or path, image, file or filename).
        id_column: column of the images' ids (default: the run's, or image_id or id, or the paths).

    Raises:
        InputError: nothing is there, a column is missing, or an image is named twice.
    """
    where = files.absolute(path)
    if files.is_folder(where):
        found = read_test(data.model_copy(update={"kind": "csv", "test": where}), space)
        assert found is not None, "a folder was given"
        return found
    if not files.exists(where):
        raise InputError(f"--images: there is nothing at '{path}'.")
    table = _read_table(where)
    if image_column is None and {"ImageID", "ans"} <= set(table.columns):
        root = files.join(where.rsplit("/", 1)[0], "images")
        paths = [files.join(root, name) for name in table["ImageID"]]
        return TestSet(_checked(table["ImageID"], paths, path), table, "ans" if data.kind in ("demo", "competition") else None)
    column = image_column or _first(table, (data.image_column, *PATH_COLUMNS), path)
    names = id_column or next((name for name in (data.id_column, *ID_COLUMNS) if name in table), column)
    for wanted in (column, names):
        if wanted not in table:
            raise InputError(f"'{path}' has no column '{wanted}'; it has {one_of(map(str, table.columns), str(wanted))}.")
    root = files.absolute(where.rsplit("/", 1)[0])
    return TestSet(_checked(table[names], [files.join(root, name) for name in table[column]], path), table, None)


def _read_table(path: str) -> pd.DataFrame:
    if not path.endswith(".parquet"):
        return read_csv(path)
    try:
        return pd.read_parquet(io.BytesIO(files.read_bytes(path))).astype(str)
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' cannot be read as a Parquet file: {str(error).strip().splitlines()[-1]}") from None


def _first(table: pd.DataFrame, names: tuple[str, ...], path: str) -> str:
    for name in names:
        if name in table:
            return name
    tried = ", ".join(dict.fromkeys(names))
    raise InputError(f"'{path}' has none of the columns {tried}; name that of the images' paths by --image-column.")


def _checked(ids: pd.Series, paths: list[str], path: str) -> pd.DataFrame:
    images = pd.DataFrame({"image_id": ids.astype(str).to_numpy(), "path": paths})
    if images.empty:
        raise InputError(f"--images: '{path}' names no image.")
    repeated = images["image_id"][images["image_id"].duplicated()]
    if len(repeated):
        raise InputError(f"--images: '{path}' names an image twice: '{repeated.iloc[0]}'; name the column of ids by --id-column.")
    return images
