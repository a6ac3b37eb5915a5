"""A finished model's folder: `meta.json`, which says how to rebuild and feed it, and its weights, whose digest stands there."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from raymask.config.flat_recipes import in_groups, is_flat
from raymask.config.messages import explain
from raymask.config.recipe import Recipe
from raymask.core.tasks import LabelSpace, Scale
from raymask.io.checked import damaged, weight_shapes
from raymask.io.hashing import file_digest
from raymask.runs.directory import GREEDY_SOUP, SOUP, ReplicaId, Run
from raymask.runs.folders import ModelFiles
from raymask.runs.schemas import Meta, read_run_file
from raymask.transforms.tta import ViewPlan

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""What of a batch norm is no parameter."""


@dataclass(frozen=True)
class ModelFolder:
    """A model as its folder tells of it."""

    folder: Path
    recipe: Recipe
    classes: dict[str, list[str]]
    """Class names by head, in the order of its probabilities."""
    scales: dict[str, Scale]
    """What the bands of ordered heads are cut from, by head."""
    versions: dict[str, str]
    scores: dict[str, float]
    """Of its last epoch, by name."""
    sha256: str | None
    """SHA-256 of its weights; None in folders that were written without."""
    statistics: tuple[float, ...] | None = None
    """Mean and then deviation of each channel of the images that it learned from, where it normalises by those."""

    @property
    def files(self) -> ModelFiles:
        """The paths of its files."""
        return ModelFiles(self.folder)

    @property
    def weights(self) -> Path:
        """Its weights."""
        return self.files.weights

    @property
    def heads(self) -> dict[str, int]:
        """Number of classes by head."""
        return {head: len(names) for head, names in self.classes.items()}


def read_model(folder: Path) -> ModelFolder:
    """What a model's `meta.json` says.

    Raises:
        DamagedFileError: it cannot be read, or its recipe is none.
    """
    file = ModelFiles(folder).meta
    meta = read_run_file(file, Meta)
    try:
        recipe = Recipe.model_validate(in_groups(meta.recipe) if is_flat(meta.recipe) else meta.recipe)
    except ValidationError as error:
        raise damaged(file, explain(error, Recipe, "recipe").rstrip(".")) from None
    if recipe.normalize == "dataset" and not (meta.statistics and min(meta.statistics[3:]) > 0):
        raise damaged(file, "its recipe normalises by its training images, whose mean and deviation it lacks")
    statistics = tuple(meta.statistics) if meta.statistics else None
    scales = {head: Scale(tuple(scale.edges), scale.low, scale.high) for head, scale in meta.scales.items()}
    return ModelFolder(folder, recipe, meta.classes, scales, meta.versions, meta.scores, meta.sha256, statistics)


def network_size(model: ModelFolder) -> tuple[int, int]:
    """Parameters of a model's backbone, and the width of the features that it gives its heads.

    Raises:
        DamagedFileError: its weights cannot be read.
    """
    shapes = weight_shapes(model.weights)
    backbone = {name: shape for name, shape in shapes.items() if name.startswith("backbone.")}
    parameters = sum(math.prod(shape) for name, shape in backbone.items() if not name.endswith(STATISTICS))
    layers = [shapes[name] for name in sorted(shapes.keys() - backbone.keys()) if len(shapes[name]) > 1]
    return parameters, layers[0][1]


def check_model(model: ModelFolder, space: LabelSpace, heads: Collection[str]) -> None:
    """Refuses a model that does not say what the vote counts.

    Args:
        model: the model.
        space: the label space.
        heads: what the vote calibrates of its member.

    Raises:
        DamagedFileError: it has other heads, or other classes.
    """
    if set(model.classes) != set(heads):
        raise damaged(model.files.meta, f"it predicts {', '.join(model.classes)}, but the vote counts {', '.join(heads)}")
    for head, names in model.classes.items():
        if tuple(names) != space.classes(head):
            raise damaged(model.files.meta, f"its head '{head}' has other classes than the run's config")


def soups_are_made(run: Run, member: str, views: ViewPlan) -> bool:
    """Whether both soups are there, of the fold models as they are; the greedy one is chosen and known under certain views."""
    greedy = ReplicaId(member, GREEDY_SOUP)
    if not (run.finished(ReplicaId(member, SOUP)) and run.finished(greedy)):
        return False
    meta = read_run_file(run.meta(greedy), Meta)
    now = {model.part: file_digest(run.weights(model)) for model in run.fold_models(member) if run.weights(model).exists()}
    return meta.made_of in (None, now) and meta.views == views.to_json()
