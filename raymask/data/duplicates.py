"""One person, one file: groups and files that are written in several ways are found, and taken as one."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Collection, Hashable
from urllib.parse import unquote

import numpy as np
import pandas as pd

from raymask.core.columns import label_column, train_label_column
from raymask.core.spelling import MISSING, canonical, loose, mapped, spelling, written_twice
from raymask.core.tasks import JOINT
from raymask.core.types import Labels
from raymask.data.rejected import Rejected
from raymask.io import files

LABELS = [label_column(JOINT), train_label_column(JOINT)]
MAX_GROUPS = 10
"""Named groups that one content may lie in to make one of them."""


def read_groups(values: pd.Series, image_ids: pd.Series) -> tuple[pd.Series, list[str]]:
    """The group of each image under one name, and what is to be said of it; an image without one is a group of its own.

    Args:
        values: (N,) groups as they are written.
        image_ids: (N,) ids.
    """
    forms = mapped(values, loose)
    without = mapped(values, canonical).isin(list(MISSING))
    names = {form: spelling(written) for form, written in values[~without].groupby(forms[~without], sort=False)}
    groups = forms.map(names).where(~without, image_ids)
    used = set(names.values())
    alone = groups[without].isin(used)
    groups.update(pd.Series([_free(name, used) for name in groups[without][alone]], groups[without][alone].index, dtype=object))
    remarks = [written_twice("groups", values[~without], forms[~without])]
    if without.any():
        remarks.append(f"{without.sum()} images have no group; each is a group of its own")
    return groups, [remark for remark in remarks if remark]


def read_group_numbers(values: pd.Series) -> tuple[Labels, list[str]]:
    """(N,) int64 numbers of new images' groups from 0 on, and what is to be said; an image without one is a group of its own.

    What is written in several ways is one group, as it is among training images.

    Args:
        values: (N,) groups as they are written.
    """
    forms = mapped(values, loose)
    without = mapped(values, canonical).isin(list(MISSING)).to_numpy(dtype=bool)
    numbers = pd.factorize(forms)[0].astype(np.int64)
    numbers[without] = len(numbers) + np.arange(without.sum())
    remarks = [written_twice("groups", values[~without], forms[~without])]
    if without.any():
        remarks.append(f"{without.sum()} images have no group; each is a group of its own")
    return np.unique(numbers, return_inverse=True)[1].astype(np.int64), [remark for remark in remarks if remark]


def once(images: pd.DataFrame, rejected: Rejected, grouped: bool, ids_are_paths: bool) -> tuple[pd.DataFrame, list[str]]:
    """Labelled images without the second of any id and any file, and what is to be said of it.

    A file with two different labels is set aside wholly. Groups that share a file are one.

    Args:
        images: image_id, path, group, labels, size and stamp of files that are there.
        rejected: takes what is set aside.
        grouped: whether groups were named, and images are not each a group of their own.
        ids_are_paths: whether ids are spellings of paths, so that the files alone tell them apart.
    """
    file = pd.Series(pd.factorize(pd.Series(file_keys(images), dtype=object))[0], images.index)
    labelled = images[LABELS].assign(file=file).drop_duplicates()["file"]
    here = file.isin(labelled[labelled.duplicated()])
    rejected.add(images["image_id"][here].tolist(), "the file is there more than once, with different labels")
    images, file = images[~here], file[~here]
    groups = joined(images["group"], file) if grouped else images["group"]
    ids = images["image_id"] if ids_are_paths else mapped(images["image_id"], canonical)
    for twice, reason in (
        (ids.duplicated(), "the image_id is there twice; the first row counts"),
        (file.duplicated(), "the file is there already under another image_id"),
    ):
        here = twice.reindex(images.index, fill_value=False)
        rejected.add(images["image_id"][here].tolist(), reason)
        images, file = images[~here], file[~here]
    one = groups[images.index]
    lost = images["group"][one != images["group"]]
    remarks = []
    if len(lost):
        remarks.append(f"groups that share an image are taken as one, such as '{lost.iloc[0]}' and '{one[lost.index[0]]}'")
    return images.assign(group=one), remarks


def among(images: pd.DataFrame, others: pd.DataFrame) -> frozenset[str]:
    """Ids of the images that are one of the others by their content; image_id and digest of each are known."""
    return frozenset(images["image_id"][images["digest"].isin(set(others["digest"]) - {""})])


def copies_joined(images: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Images of which those of one content share a group, and so a fold, and what is to be said of copies.

    Where groups are named, a content in more than `MAX_GROUPS` of them stays apart: it is likely a picture that stands for a
    missing one, and would make one group of everybody.

    Args:
        images: image_id, group, digest and labels of each.
    """
    known = images[images["digest"] != ""]
    spread = known.groupby("digest")["group"].nunique()
    named = not images["group"].equals(images["image_id"])
    joining = spread.index[(spread > 1) & (spread <= (MAX_GROUPS if named else len(images)))]
    content = ("digest " + images["digest"]).where(images["digest"].isin(joining), "id " + images["image_id"])
    kinds = {
        "under another name; copies share a fold": joining,
        "in other groups, so that validation sees what training saw": spread.index[spread > 1].difference(joining),
        "with another label": _unlike(known),
    }
    remarks = []
    for what, digests in kinds.items():
        copies = known[known["digest"].isin(digests)].sort_values("digest", kind="stable")
        if len(copies):
            one, other = copies["image_id"].iloc[:2]
            remarks.append(f"{len(copies)} images are there byte for byte once more {what}, such as '{one}' and '{other}'")
    return images.assign(group=joined(images["group"], content)), remarks


def _unlike(images: pd.DataFrame) -> pd.Series:
    """Digests of the images whose copies have other labels."""
    labelled = images[["digest", *LABELS]].drop_duplicates()["digest"]
    return labelled[labelled.duplicated()]


def file_keys(images: pd.DataFrame) -> list[Hashable]:
    """What tells files apart, however their paths are spelled, by links too.

    Args:
        images: path, size and stamp of each.
    """
    return [_file_key(path, size, stamp) for path, size, stamp in images[["path", "size", "stamp"]].itertuples(index=False)]


def _file_key(path: str, size: int, stamp: str) -> Hashable:
    local = unquote(path.removeprefix("file://")) if path.startswith("file://") else path
    if files.is_url(local):
        scheme, _, inside = local.partition("://")
        return scheme, posixpath.normpath(unquote(inside)), size, stamp
    try:
        status = os.stat(local)
    except (OSError, ValueError):
        return os.path.realpath(local)
    return (status.st_dev, status.st_ino, status.st_size) if status.st_ino else os.path.normcase(os.path.realpath(local))


def joined(groups: pd.Series, file: pd.Series) -> pd.Series:
    """The groups, those that share a file under the name that is the first by alphabet.

    Args:
        groups: (N,) names.
        file: (N,) equal where images are one file.
    """
    root: dict[str, str] = {}

    def first(name: str) -> str:
        while (above := root.get(name, name)) != name:
            name = above
        return name

    shared = file.duplicated(keep=False)
    for _, names in groups[shared].groupby(file[shared], sort=False):
        low, *others = sorted({first(name) for name in names})
        root |= dict.fromkeys(others, low)
    return groups.map(first) if root else groups


def _free(name: str, used: Collection[str]) -> str:
    while name in used:
        name += " (alone)"
    return name
