"""A folder with a folder of images for each class, or with one for each part of a split: `train/cat`, `test/cat`."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from raymask.core.errors import InputError, shortened
from raymask.data.rejected import is_image, left_out
from raymask.data.splits import TEST, TRAIN, part_of
from raymask.io import files

Listed = dict[str, files.State]


@dataclass(frozen=True)
class Folders:
    """The images below a folder, by their path relative to it."""

    labelled: Listed
    """Those in a class's folder."""
    test: Listed
    """Those of the part of a split that is for tests."""
    split_at: int | None
    """Which of a path's folders names the part of a split; None where there is no split."""
    remarks: tuple[str, ...]
    """What was made of the folder, where that may surprise."""

    def label(self, name: str) -> str:
        """The class of an image."""
        return name.split("/")[1 if self.split_at == 0 else 0]


def list_folders(root: str) -> Folders:
    """What lies below a folder of classes.

    Raises:
        InputError: the folder is missing, has no image of a class, or has some parts of a split beside other folders.
    """
    if not files.is_folder(root):
        raise InputError(f"data.path: there is no folder '{root}'.")
    listed = dict(sorted(files.list_files(root).items()))
    images = {name: state for name, state in listed.items() if is_image(name)}
    split_at = _split_at(root, [name for name in images if "/" in name])
    test = {} if split_at is None else {name: images[name] for name in images if _part(name, split_at) == TEST}
    depth = 2 if split_at is None else 3
    labelled = {name: state for name, state in images.items() if name not in test and name.count("/") >= depth - 1}
    if not labelled:
        example = f"{root}/train/cat/1.jpg" if split_at == 0 else f"{root}/cat/1.jpg"
        raise InputError(f"data.path: '{root}' has no image in a folder of its class, such as '{example}'.")
    remarks = [left_out(listed)]
    if split_at is not None:
        remarks.append(_of_split(*({name.split("/")[split_at] for name in part} for part in (labelled, test))))
    if loose := len(images) - len(labelled) - len(test):
        remarks.append(f"{loose} images lie in no class's folder and are left out")
    found = Folders(labelled, test, split_at, ())
    if empty := _without_images(root, found):
        remarks.append(f"these folders hold no image and are no classes: {shortened(empty)}")
    return Folders(labelled, test, split_at, tuple(filter(None, remarks)))


def read_folders(found: Folders, root: str) -> pd.DataFrame:
    """One row an image of a class: image_id, path, group, label, size, stamp, problem."""
    table = pd.DataFrame(found.labelled.values(), columns=list(files.State._fields))
    table["image_id"] = list(found.labelled)
    table["path"] = [files.join(files.absolute(root), name) for name in found.labelled]
    table["group"] = table["image_id"]
    table["label"] = [found.label(name) for name in found.labelled]
    return table


def _part(name: str, split_at: int) -> str | None:
    folders = name.split("/")[:-1]
    return part_of(folders[split_at]) if len(folders) > split_at else None


def _split_at(root: str, names: list[str]) -> int | None:
    """Which folder of each image's path names the part of a split: the first, the second, or none."""
    first = sorted({name.split("/")[0] for name in names})
    parts = {folder: part for folder in first if (part := part_of(folder))}
    if first and len(parts) == len(first):
        if TRAIN not in parts.values():
            raise InputError(
                f"data.path: the folders of '{root}' ({shortened(first)}) are parts of a split, but none is for "
                "training; give the folder that holds a folder for each class."
            )
        return 0
    if TRAIN in parts.values() and len(set(parts.values())) > 1:
        training = next(folder for folder, part in parts.items() if part == TRAIN)
        others = [folder for folder in first if folder not in parts]
        raise InputError(
            f"data.path: '{root}' has parts of a split ({shortened(list(parts))}) beside other folders "
            f"({shortened(others)}); give the training images alone by --data '{root}/{training}' and the test images by "
            "--test, or move the other folders away."
        )
    second = {_part(name, 1) for name in names}
    return 1 if TRAIN in second and len(second) > 1 and None not in second else None


def _of_split(training: set[str], tests: set[str]) -> str:
    message = f"the images below {' and '.join(sorted(training))} are for training (raymask divides them into folds itself)"
    other = f"; those below {' and '.join(sorted(tests))} are not: they are the test images, unless data.test names others"
    return message + other if tests else message


def _without_images(root: str, found: Folders) -> list[str]:
    """Folders of classes, or of classes to be, without an image."""
    training = {name.split("/")[0] for name in found.labelled}
    above = [f"{folder}/" for folder in sorted(training)] if found.split_at == 0 else [""]
    known = {f"{part}{found.label(name)}" for part in above for name in found.labelled if name.startswith(part)}
    test = {name.split("/")[0] for name in found.test} if found.split_at == 0 else set()
    present = [f"{part}{name}" for part in above for name in files.list_names(files.join(root, part), folders=True)]
    return [name for name in present if name not in known | test and not files.is_hidden(name)]
