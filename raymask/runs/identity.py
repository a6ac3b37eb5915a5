"""Whether a run's images are those that it began with: by their content, wherever they lie and whenever they were written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from raymask.config.schema import RunConfig
from raymask.core.columns import FOLD_NAME, label_column, targets_of, train_label_column, value_column
from raymask.core.errors import InputError
from raymask.core.tasks import JOINT, LabelSpace
from raymask.io.atomic import write_table
from raymask.io.checked import read_table
from raymask.runs.digests import with_digests
from raymask.runs.directory import Run

PLACES = ["path", "size", "stamp"]
"""Columns of a table of images that say where a file lies, not what it is."""


def without_places(images: pd.DataFrame) -> pd.DataFrame:
    """The columns by which images are what they are."""
    return images.drop(columns=PLACES, errors="ignore")


def keep_source(run: Run, images: pd.DataFrame) -> None:
    """Keeps what the images and labels are that a run begins with."""
    if not run.source.exists():
        write_table(run.source, without_places(images))


def check_source(run: Run, images: pd.DataFrame, space: LabelSpace, option: str = "--name") -> None:
    """Refuses other images or labels than a run began with.

    Args:
        run: the run.
        images: image_id, group, labels and digest of each, sorted by image_id.
        space: the label space.
        option: by which the run's folder is given.

    Raises:
        InputError: they are not those that the run began with; says which image differs and how.
    """
    if not run.source.exists():
        return
    if changed := list(changes(read_table(run.source, {"image_id": "text"}), images, space)):
        more = f" (and {len(changed) - 1} more kinds of changes)" if len(changed) > 1 else ""
        raise InputError(
            f"'{run.root}' holds another run: since it began, {changed[0]}{more}; put the data back as they were, give this run "
            f"another {option}, or delete that folder."
        )


def changes(before: pd.DataFrame, now: pd.DataFrame, space: LabelSpace) -> Iterator[str]:
    """Sentences such as `2 images have other content, such as 'x.jpg'`, one for each kind of change."""
    old, new = before.set_index("image_id"), now.set_index("image_id")
    gone, added = old.index.difference(new.index), new.index.difference(old.index)
    if len(gone):
        yield f"{len(gone)} of {len(old)} images are gone or set aside, such as '{gone[0]}'"
    if len(added):
        yield f"{len(added)} images were added, such as '{added[0]}'"
    both = old.index.intersection(new.index)
    old, new = old.loc[both], new.loc[both]
    words = {"digest": "content", "group": "group", FOLD_NAME: "fold", **{label_column(name): name for name in space.names}}
    words |= {train_label_column(name): f"{name} to learn" for name in targets_of(space)} | {label_column(JOINT): "joint label"}
    words |= {value_column(name): f"number of {name}" for name in space.names}
    for column in [name for name in words if name in old and name in new]:
        differ = both[(old[column] != new[column]).to_numpy()]
        if len(differ):
            first = differ[0]
            was, is_ = old.loc[first, column], new.loc[first, column]
            if (task := words[column]) in space.names and column == label_column(task):
                was, is_ = (space.classes(task)[label] for label in (was, is_))
            values = "" if column == "digest" else f", which was '{was}' and is '{is_}'"
            yield f"{len(differ)} images have another {words[column]}, such as '{first}'{values}"


def relocate(file: Path, images: pd.DataFrame) -> pd.DataFrame:
    """A table of a run's images, whose files may lie elsewhere now; where they do, the table is written anew.

    Args:
        file: a manifest.
        images: the same images and maybe more, with where they lie.
    """
    table = read_table(file, {"image_id": "text", "path": "text"})
    here = images.set_index("image_id").reindex(table["image_id"]).reset_index()
    known = here["path"].notna()
    if "digest" in table and (here["path"] == table["path"])[known].all():
        return table
    table = table.assign(digest=table.get("digest", ""))
    for column in (*PLACES, "digest"):
        table[column] = table[column].mask(known, here[column]).astype(table[column].dtype)
    write_table(file, table)
    return table


def check_unchanged(images: pd.DataFrame, config: RunConfig, what: str) -> None:
    """Refuses images whose files are not what they were when their digests were taken.

    Args:
        images: image_id, path and digest of each.
        config: says where digests are remembered.
        what: they are, such as `test images`.

    Raises:
        InputError: names one of them.
    """
    changed = images["image_id"][(with_digests(images[["image_id", "path"]], config)["digest"] != images["digest"]).to_numpy()]
    if len(changed):
        raise InputError(
            f"{len(changed)} {what} have changed since they were read, such as '{changed.iloc[0]}'; start the same command again "
            "when nobody writes to them."
        )
