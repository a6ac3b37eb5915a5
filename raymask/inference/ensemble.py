"""A run's models and its vote in one process: what actors, the server and `raymask.load` predict with. Without Ray."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from raymask.core.errors import InputError
from raymask.core.paths import absolute
from raymask.core.types import ByHead, Pixels
from raymask.data.duplicates import read_group_numbers
from raymask.data.images import at_least_one, check_groups, check_ids, check_several, name_of, read_image
from raymask.inference.definition import FOLDS, EnsembleDefinition, read_definition
from raymask.inference.group_tables import voted_by_group
from raymask.inference.predictor import BATCH, Predictor, specs_of, stacked


class Ensemble:
    """A finished run that predicts in this process, on a GPU if there is one; see `load`."""

    def __init__(self, definition: EnsembleDefinition) -> None:
        """Loads all models of a definition."""
        self.definition = definition
        self.specs = specs_of(definition.models)
        self.predictor = Predictor(definition.models, definition.vote.views, self.specs)

    @cached_property
    def tasks(self) -> dict[str, tuple[str, ...]]:
        """Class names by task."""
        return {task.name: task.classes for task in self.definition.space.tasks}

    def predict(
        self,
        images: Iterable[Any],
        image_ids: Sequence[str] | None = None,
        batch_size: int = BATCH,
        groups: Sequence[Any] | None = None,
    ) -> pd.DataFrame:
        """Labels and probabilities of images, in their order.

        Args:
            images: paths or URLs, bytes of files, PIL images, or arrays of (H, W) or (H, W, C) in gray or RGB, in any mixture; or
                an (N, H, W, C) array. What does not have 8 bits is scaled as `raymask.data.colours.to_rgb` says.
            image_ids: names of the rows (default: the paths, else the images' numbers).
            batch_size: images that are in memory at a time.
            groups: the group of each image, such as the person, None or "" where there is none; tasks that the run votes by group
                (`groups_voted`) are then voted over all images of a group. By default each image is voted on alone.

        Returns:
            One row an image: image_id, problem ("" or why the image cannot be read; it then gets the classes' frequencies, and
            what its group says), agreement (share of the models that elect what the image by itself is elected as), unusual
            (share of the training images that the vote doubted less of, 1 where there is a problem), the joint
            label, each task's label and class, TASK_set and joint_set (the classes that hold the true one with the chance
            `vote.coverage`, with a bar between them), all probabilities.

        Raises:
            InputError: a single image is given, something is no image at all, or there are more or fewer ids or groups than
                images.
        """
        check_several(images)
        at_a_time, image_ids, groups = at_least_one(batch_size), check_ids(image_ids), check_groups(groups, images)
        tables, iterator, start = [], iter(images), 0
        while chunk := list(islice(iterator, at_a_time)):
            ids = [name_of(image, start + index) for index, image in enumerate(chunk)]
            if image_ids is not None:
                ids = image_ids[start : start + len(chunk)]
            if len(ids) != len(chunk):
                raise InputError(f"there are {len(image_ids or ())} image_ids for more images.")
            tables.append(self.predict_batch(ids, [read_image(image, self.specs) for image in chunk]))
            start += len(chunk)
        if image_ids is not None and len(image_ids) != start:
            raise InputError(f"there are {len(image_ids)} image_ids for {start} images.")
        table = pd.concat(tables, ignore_index=True) if tables else self.definition.table([], [], {})
        return table if groups is None else self._by_group(table, groups)

    @property
    def groups_voted(self) -> tuple[str, ...]:
        """The tasks that are voted over all images of a group, where images are given with groups."""
        return self.definition.grouping.tasks

    def _by_group(self, table: pd.DataFrame, groups: Sequence[Any]) -> pd.DataFrame:
        if len(groups) != len(table):
            raise InputError(f"there are {len(groups)} groups for {len(table)} images.")
        numbers, _ = read_group_numbers(pd.Series(groups, dtype=object))
        definition = self.definition
        return voted_by_group(table, numbers, definition.grouping, definition.space, definition.sets_by_group)

    def predict_batch(self, image_ids: Sequence[str], read: Sequence[tuple[str, Sequence[Pixels]]]) -> pd.DataFrame:
        """The table of `predict` for images that are read already: why each cannot be used or "", and its pixels by spec."""
        return self.definition.table(image_ids, [problem for problem, _ in read], self.probabilities(read))

    def probabilities(self, read: Sequence[tuple[str, Sequence[Pixels]]]) -> dict[str, ByHead]:
        """(N, C) probabilities by head of every model; a broken image is black."""
        return self.predictor.probabilities(stacked(read, self.specs))


def load(folder: str | Path, models: str = FOLDS, rule: str | None = None) -> Ensemble:
    """A finished run, ready to predict in this process; Ray is not needed.

    Args:
        folder: the run's directory.
        models: `folds` for all fold models; `all`, `soup` or `greedy-soup` for one model a member, where they were made.
        rule: import path of the rule of your own that the run votes by, if it does; a run's files are not believed there.

    Raises:
        InputError: the run is not finished, lacks such models, or is damaged.
    """
    return Ensemble(read_definition(absolute(folder), models, rule))
