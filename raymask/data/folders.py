"""A folder with a folder of images for each class."""

from __future__ import annotations

import pandas as pd

from raymask.data import files
from raymask.data.tables import is_image
from raymask.errors import InputError


def read_folders(root: str) -> pd.DataFrame:
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
