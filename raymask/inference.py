"""A run's models and its vote in one process: what actors, the server and `raymask.load` predict with. Without Ray."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from raymask.data import sources
from raymask.data.colours import Pixels
from raymask.data.decode import InputSpec
from raymask.ensemble import ByHead
from raymask.errors import InputError, one_of
from raymask.formats import WrittenMember
from raymask.given import at_least_one, check_ids, check_several, name_of, read_image
from raymask.model_files import check_model, read_model
from raymask.paths import absolute
from raymask.plan import input_spec
from raymask.run_files import check_weights, damaged, within
from raymask.store import PART_NAMES, ReplicaId, Run, load_run_config, read_ensemble
from raymask.submit import prediction_table
from raymask.tasks import JOINT, LabelSpace, Probabilities
from raymask.viewing import ViewPlan
from raymask.vote import Vote
from raymask.vote_files import read_vote

if TYPE_CHECKING:
    from torch import Tensor

    from raymask.models import Classifier

BATCH = 64
FOLDS = "folds"
Models = Mapping[str, Path]
"""Folders of trained models, each with meta.json and model.safetensors, by `MEMBER/PART`."""


def weights_bytes(models: Models) -> int:
    """Bytes of models' weights on disk."""
    return sum((folder / "model.safetensors").stat().st_size for folder in models.values())


def specs_of(models: Models) -> list[InputSpec]:
    """How files are prepared for these models, each way once."""
    return sorted({input_spec(read_model(folder).recipe) for folder in models.values()})


def check_models(models: Models) -> None:
    """Refuses models whose files are damaged, in the process that started it all rather than in an actor.

    Raises:
        DamagedFileError: names the file.
    """
    for folder in models.values():
        told = read_model(folder)
        check_weights(told.weights, told.sha256)


class Predictor:
    """Models on one device; those with one frozen backbone share its forward pass."""

    def __init__(self, models: Models, views: ViewPlan, specs: Sequence[InputSpec], threads: int | None) -> None:
        """Loads all models.

        Args:
            models: what predicts.
            views: test-time augmentations, how much each counts, and how they are merged.
            specs: how the images that will come are prepared.
            threads: torch threads of this process; None to leave them as they are.
        """
        import torch

        from raymask.device import prepare_process
        from raymask.engine import mixed_precision
        from raymask.models import backbone_digest, load_classifier, quicken_prediction

        automatic = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.device = automatic if threads is None else prepare_process(threads)
        self.views, self.names = views, list(models)
        self.groups: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        """Places of the models that share a backbone, by the place of the spec of their images."""
        self.models: list[Classifier] = []
        self.amp: list[Callable[[], AbstractContextManager[Any]]] = []
        for place, (name, folder) in enumerate(models.items()):
            told = read_model(folder)
            recipe = told.recipe
            model = load_classifier(recipe, told.heads, told.weights, told.sha256)
            shared = f"{recipe.backbone} {recipe.amp} {backbone_digest(model)}" if recipe.freeze == "backbone" else name
            group = self.groups[specs.index(input_spec(recipe))][shared]
            if group:
                model.backbone = self.models[group[0]].backbone
            else:
                quicken_prediction(model, recipe)
            group.append(place)
            self.models.append(model.to(self.device))
            self.amp.append(mixed_precision(recipe, self.device)[0])

    def __call__(self, pixels: Sequence[npt.NDArray[np.uint8 | np.float32]]) -> list[ByHead]:
        """(n, C) float32 probabilities by head of each model, the views merged.

        Args:
            pixels: (n, H, W, 3) images from 0 to 255 for each spec.
        """
        import torch

        from raymask.models import to_pixels
        from raymask.tta import VIEWS

        said: dict[int, list[npt.NDArray[np.float32]]] = defaultdict(list)
        with torch.inference_mode():
            for spec, backbones in self.groups.items():
                images = to_pixels(np.ascontiguousarray(pixels[spec]), self.device).float()  # so that no view rounds
                for names in self._views_by_pass(len(images)):
                    viewed, normalised = torch.cat([VIEWS[name](images) for name in names]), {}
                    for places in backbones.values():
                        model = self.models[places[0]]
                        if model.statistics not in normalised:
                            normalised[model.statistics] = model.normalise(viewed)
                        with self.amp[places[0]]():
                            features = model.backbone(normalised[model.statistics])
                            for place in places:
                                said[place].append(_softmaxed(self.models[place].classify(features)))
        return [self._merged(place, np.concatenate(said[place])) for place in range(len(self.models))]

    def said(self, pixels: Sequence[npt.NDArray[np.uint8 | np.float32]]) -> dict[str, ByHead]:
        """The same by the models' names."""
        return dict(zip(self.names, self(pixels), strict=True))

    def _views_by_pass(self, images: int) -> list[tuple[str, ...]]:
        """Of few images several views go through a model together, since a pass of few costs nearly as much as one of many."""
        together = max(1, BATCH // max(1, images))
        return [self.views.names[start : start + together] for start in range(0, len(self.views.names), together)]

    def _merged(self, place: int, said: npt.NDArray[np.float32]) -> ByHead:
        """(n, C) by head from (W × n, C of all heads), view after view."""
        from raymask.tta import merge_views

        classes = self.models[place].classes
        by_view = said.reshape(len(self.views.names), -1, said.shape[1])
        parts = np.split(by_view, np.cumsum(list(classes.values()))[:-1], axis=2)
        return {
            head: merge_views(part, self.views.weights, self.views.merge).astype(np.float32)
            for head, part in zip(classes, parts, strict=True)
        }


def _softmaxed(logits: Mapping[str, Tensor]) -> npt.NDArray[np.float32]:
    import torch

    return np.asarray(torch.cat([of_head.float().softmax(dim=1) for of_head in logits.values()], dim=1).cpu().numpy())


@dataclass(frozen=True, eq=False)
class Panel:
    """Who votes and how: a finished run, or members of several, as `ensemble.json` says."""

    vote: Vote
    space: LabelSpace
    prior: Probabilities
    """(J,) frequencies of the joint classes in training: what a broken image gets."""
    models: Models
    rounds: tuple[Mapping[str, str], ...]
    """For each round of voting the model of every member, by the member's name in the vote."""

    def count(self, said: Mapping[str, ByHead]) -> Probabilities:
        """(N, J) joint probabilities: the mean over rounds of the vote of a round's models.

        Args:
            said: (N, C) probabilities by head of every model.
        """
        return self.vote.over_rounds({member: said[model] for member, model in models.items()} for models in self.rounds)

    def agreement(self, said: Mapping[str, ByHead], joint: Probabilities) -> npt.NDArray[np.float32]:
        """(N,) share of all models' heads that elect what the ensemble elects."""
        elected = joint.argmax(axis=1)
        labels = {**self.space.split(elected), JOINT: elected}
        same = [said[model][head].argmax(axis=1) == labels[head] for model in self.models for head in said[model]]
        return np.asarray(np.mean(same, axis=0), dtype=np.float32)

    def member_probabilities(self, said: Mapping[str, ByHead]) -> dict[str, ByHead]:
        """(N, C) by head of every member: the mean over its models."""
        return {
            member: {
                head: np.mean([said[models[member]][head] for models in self.rounds], axis=0)
                for head in said[self.rounds[0][member]]
            }
            for member in self.rounds[0]
        }

    def table(self, image_ids: Sequence[str], problems: Sequence[str], said: Mapping[str, ByHead]) -> pd.DataFrame:
        """One row an image, see `raymask.submit.prediction_table`, and the agreement; the prior where there is a problem."""
        joint = self.count(said) if len(image_ids) else np.zeros((0, self.space.joint_size))
        agreement = self.agreement(said, joint) if len(image_ids) else np.zeros(0, dtype=np.float32)
        broken = np.array([problem != "" for problem in problems], dtype=bool)
        joint[broken], agreement[broken] = self.prior, 0.0
        ids, why = pd.Series(list(image_ids), dtype=str), pd.Series(list(problems), dtype=str)
        table = prediction_table(ids, why, joint, self.space)
        table.insert(2, "agreement", agreement)
        return table


def read_panel(folder: Path, part: str = FOLDS, rule: str | None = None) -> Panel:
    """The vote and the models of a finished run's directory, or of an exported one.

    Args:
        folder: a directory with config.yaml and ensemble.json.
        part: which models vote: `folds` for each fold's replicas, or one of `PART_NAMES` for one model a member.
        rule: import path of the rule of the caller's own that the run may vote by.

    Raises:
        InputError: the run is not finished, lacks such models, is damaged, or votes by a rule that the caller does not give.
    """
    run = Run(folder)
    config = load_run_config(run)
    if not run.ensemble.exists():
        raise InputError(f"'{folder}' has no vote yet: finish it by `raymask train --recipe {run.config}`.")
    written, space = read_ensemble(run, "vote", "members", "prior"), sources.label_space(config.tasks)
    if part not in (FOLDS, *PART_NAMES.values()):
        raise InputError(f"there are no models '{part}'; it may be {one_of([FOLDS, *PART_NAMES.values()], part)}.")
    vote, prior = read_vote(run.ensemble, written["vote"], space, rule), np.asarray(written["prior"])
    if set(written["members"]) != set(vote.calibrations):
        raise damaged(run.ensemble, "its vote is by other members than it lists")
    if prior.shape != (space.joint_size,) or not np.isclose(prior.sum(), 1) or (prior < 0).any():
        raise damaged(run.ensemble, "its `prior` is no share of each joint class")
    of_member = {name: _parts(run, name, where, part) for name, where in written["members"].items()}
    number = max(map(len, of_member.values()))
    rounds = [{name: list(parts)[place % len(parts)] for name, parts in of_member.items()} for place in range(number)]
    models = {model: path for parts in of_member.values() for model, path in parts.items()}
    for name, path in models.items():
        check_model(read_model(path), space, vote.calibrations[name.rpartition("/")[0]])
    return Panel(vote, space, prior, models, tuple(rounds))


def _parts(run: Run, name: str, where: WrittenMember, part: str) -> dict[str, Path]:
    """Folders of a member's models; those of another run are looked for there."""
    member = where["member"]
    home = run if within(run.root, "members", *member.split("/")).is_dir() or "run" not in where else Run(Path(where["run"]))
    if part != FOLDS:
        number = next(fold for fold, known in PART_NAMES.items() if known == part)
        found = [ReplicaId(member, number)]
    else:
        folders = within(home.root, "members", *member.split("/")).glob("fold-*")
        numbers = sorted(int(path.name.removeprefix("fold-")) for path in folders if path.name.removeprefix("fold-").isdecimal())
        found = [ReplicaId(member, number) for number in numbers]
    missing = [replica for replica in found if not home.finished(replica)]
    if missing or not found:
        raise InputError(f"'{home.root}' has no finished model {missing[0] if missing else name + '/fold-*'}.")
    return {f"{name}/{replica.part}": home.replica(replica) for replica in found}


class Ensemble:
    """A finished run that predicts in this process, on a GPU if there is one; see `load`."""

    def __init__(self, panel: Panel) -> None:
        """Loads all models of a panel."""
        self.panel = panel
        self.specs = specs_of(panel.models)
        self.predictor = Predictor(panel.models, panel.vote.views, self.specs, None)

    @cached_property
    def tasks(self) -> dict[str, tuple[str, ...]]:
        """Class names by task."""
        return {task.name: task.classes for task in self.panel.space.tasks}

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
            ids = [name_of(image, start + place) for place, image in enumerate(chunk)]
            if image_ids is not None:
                ids = image_ids[start : start + len(chunk)]
            if len(ids) != len(chunk):
                raise InputError(f"there are {len(image_ids or ())} image_ids for more images.")
            tables.append(self.predict_batch(ids, [read_image(image, self.specs) for image in chunk]))
            start += len(chunk)
        if image_ids is not None and len(image_ids) != start:
            raise InputError(f"there are {len(image_ids)} image_ids for {start} images.")
        return pd.concat(tables, ignore_index=True) if tables else self.panel.table([], [], {})

    def predict_batch(self, image_ids: Sequence[str], read: Sequence[tuple[str, Sequence[Pixels]]]) -> pd.DataFrame:
        """The table of `predict` for images that are read already: why each cannot be used or "", and its pixels by spec."""
        return self.panel.table(image_ids, [problem for problem, _ in read], self.said(read))

    def said(self, read: Sequence[tuple[str, Sequence[Pixels]]]) -> dict[str, ByHead]:
        """(N, C) probabilities by head of every model; a broken image is black."""
        return self.predictor.said(stacked(read, self.specs))


def stacked(read: Sequence[tuple[str, Sequence[Pixels]]], specs: Sequence[InputSpec]) -> list[Pixels]:
    """(n, H, W, 3) uint8 pixels for each spec of images that are read already; a broken one is black."""
    black = [np.zeros((spec.height, spec.width, 3), dtype=np.uint8) for spec in specs]
    return [np.stack([(images or black)[place] for _, images in read]) for place in range(len(specs))]


def load(folder: str | Path, models: str = FOLDS, rule: str | None = None) -> Ensemble:
    """A finished run, ready to predict in this process; Ray is not needed.

    Args:
        folder: the run's directory.
        models: `folds` for all replicas; `all`, `soup` or `greedy-soup` for one model a member, where they were made.
        rule: import path of the rule of your own that the run votes by, if it does; a run's files are not believed there.

    Raises:
        InputError: the run is not finished, lacks such models, or is damaged.
    """
    return Ensemble(read_panel(absolute(folder), models, rule))
