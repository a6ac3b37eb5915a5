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
from raymask.data.images import at_least_one, check_ids, check_several, name_of, read_image
from raymask.inference.definition import FOLDS, EnsembleDefinition, read_definition
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

    def predict(self, images: Iterable[Any], image_ids: Sequence[str] | None = None, batch_size: int = BATCH) -> pd.DataFrame:
        """Labels and probabilities of images, in their order.

        Args:
            images: paths or URLs, bytes of files, PIL images, or arrays of (H, W) or (H, W, C) in gray or RGB, in any mixture; or
                an (N, H, W, C) array. What does not have 8 bits is scaled as `raymask.data.colours.to_rgb` says.
            image_ids: names of the rows (default: the paths, else the images' numbers).
            batch_size: images that are in memory at a time.

        Returns:
            One row an image: image_id, problem ("" or why the image cannot be read; it then gets the classes' frequencies),
            agreement (share of the models that elect the same), the joint label, each task's label and class, all probabilities.

        Raises:
            InputError: a single image is given, something is no image at all, or there are more or fewer ids than images.
        """
        check_several(images)
        at_a_time, image_ids = at_least_one(batch_size), check_ids(image_ids)
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
        return pd.concat(tables, ignore_index=True) if tables else self.definition.table([], [], {})

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
