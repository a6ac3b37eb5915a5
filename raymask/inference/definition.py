"""The models of a run and the vote that joins them, read from its directory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from raymask.config.tasks import label_space
from raymask.core.errors import InputError, one_of
from raymask.core.tasks import JOINT, LabelSpace
from raymask.core.types import ByHead, Probabilities
from raymask.io.checked import check_weights, damaged
from raymask.metrics.doubt import DoubtReference
from raymask.metrics.prediction_sets import PredictionSets
from raymask.runs.configs import load_run_config
from raymask.runs.directory import PART_NAMES, ReplicaId, Run, read_ensemble
from raymask.runs.folders import ModelFiles
from raymask.runs.models import check_model, read_model
from raymask.runs.predictions import prediction_table
from raymask.runs.schemas import WrittenMember
from raymask.runs.uncertainty_schemas import read_doubt, read_sets, sets_alone, sets_by_group
from raymask.voting.grouping import ALONE, Grouping
from raymask.voting.reading import read_grouping, read_vote
from raymask.voting.vote import Vote

FOLDS = "folds"
Models = Mapping[str, Path]
"""Folders of trained models, each with meta.json and model.safetensors, by `MEMBER/PART`."""


@dataclass(frozen=True, eq=False)
class EnsembleDefinition:
    """Who votes and how: a finished run, or members of several, as `ensemble.json` says."""

    vote: Vote
    space: LabelSpace
    prior: Probabilities
    """(J,) frequencies of the joint classes in training: what a broken image gets."""
    models: Models
    rounds: tuple[Mapping[str, str], ...]
    """For each round of voting the model of every member, by the member's name in the vote."""
    grouping: Grouping = ALONE
    """Which tasks are voted over all images of a group, where images come with groups."""
    sets: PredictionSets | None = None
    """Which classes an image may be of that is voted on alone; None where an older raymask made the run, or it wants none."""
    sets_by_group: PredictionSets | None = None
    """The same of images that are voted on by group."""
    doubt: DoubtReference | None = None
    """How much the vote doubts of training images, beside which a new image's is told."""

    def count(self, probabilities: Mapping[str, ByHead]) -> Probabilities:
        """(N, J) joint probabilities: the mean over rounds of the vote of a round's models.

        Args:
            probabilities: (N, C) probabilities by head of every model.
        """
        return self.vote.over_rounds(self._by_round(probabilities))

    def unusual(self, probabilities: Mapping[str, ByHead]) -> npt.NDArray[np.float32] | None:
        """(N,) share of the training images that the vote doubted less of, from 0 to 1; None where that is not known."""
        return self.doubt.places(self.vote.with_doubt(self._by_round(probabilities))[1]) if self.doubt else None

    def _by_round(self, probabilities: Mapping[str, ByHead]) -> Iterator[dict[str, ByHead]]:
        return ({member: probabilities[model] for member, model in models.items()} for models in self.rounds)

    def agreement(self, probabilities: Mapping[str, ByHead], joint: Probabilities) -> npt.NDArray[np.float32]:
        """(N,) share of all models' heads that elect what the ensemble elects."""
        elected = joint.argmax(axis=1)
        labels = {**self.space.split(elected), JOINT: elected}
        same = [
            probabilities[model][head].argmax(axis=1) == labels[head] for model in self.models for head in probabilities[model]
        ]
        return np.asarray(np.mean(same, axis=0), dtype=np.float32)

    def member_probabilities(self, probabilities: Mapping[str, ByHead]) -> dict[str, ByHead]:
        """(N, C) by head of every member: the mean over its models."""
        return {
            member: {
                head: np.mean([probabilities[models[member]][head] for models in self.rounds], axis=0)
                for head in probabilities[self.rounds[0][member]]
            }
            for member in self.rounds[0]
        }

    def table(self, image_ids: Sequence[str], problems: Sequence[str], probabilities: Mapping[str, ByHead]) -> pd.DataFrame:
        """One row an image by itself, see `prediction_table`, agreement and unusual; the prior where there is a problem."""
        none = np.zeros(0, dtype=np.float32)
        joint = self.count(probabilities) if len(image_ids) else np.zeros((0, self.space.joint_size))
        agreement = self.agreement(probabilities, joint) if len(image_ids) else none
        unusual = self.unusual(probabilities) if len(image_ids) else none
        broken = np.array([problem != "" for problem in problems], dtype=bool)
        joint[broken], agreement[broken] = self.prior, 0.0
        ids, why = pd.Series(list(image_ids), dtype=str), pd.Series(list(problems), dtype=str)
        table = prediction_table(ids, why, joint, self.space, self.sets)
        table.insert(2, "agreement", agreement)
        if self.doubt and unusual is not None:
            table.insert(3, "unusual", np.where(broken, np.float32(1), unusual))
        return table


def weights_bytes(models: Models) -> int:
    """Bytes of models' weights on disk."""
    return sum(ModelFiles(folder).weights.stat().st_size for folder in models.values())


def check_models(models: Models) -> None:
    """Refuses models whose files are damaged, in the process that started it all rather than in an actor.

    Raises:
        DamagedFileError: names the file.
    """
    for folder in models.values():
        meta = read_model(folder)
        check_weights(meta.weights, meta.sha256)


def read_definition(folder: Path, part: str = FOLDS, rule: str | None = None) -> EnsembleDefinition:
    """The vote and the models of a finished run's directory, or of an exported one.

    Args:
        folder: a directory with config.yaml and ensemble.json.
        part: which models vote: `folds` for each fold's models, or one of `PART_NAMES` for one model a member.
        rule: import path of the rule of the caller's own that the run may vote by.

    Raises:
        InputError: the run is not finished, lacks such models, is damaged, or votes by a rule that the caller does not give.
    """
    run = Run(folder)
    config = load_run_config(run)
    if not run.ensemble.exists():
        raise InputError(f"'{folder}' has no vote yet: finish it by `raymask train --recipe {run.config}`.")
    written, space = read_ensemble(run, "vote", "members", "prior"), label_space(config.tasks)
    if part not in (FOLDS, *PART_NAMES.values()):
        raise InputError(f"there are no models '{part}'; it may be {one_of([FOLDS, *PART_NAMES.values()], part)}.")
    vote, prior = read_vote(run.ensemble, written.vote or {}, space, rule), np.asarray(written.prior)
    if set(written.members) != set(vote.calibrations):
        raise damaged(run.ensemble, "its vote is by other members than it lists")
    if prior.shape != (space.joint_size,) or not np.isclose(prior.sum(), 1) or (prior < 0).any():
        raise damaged(run.ensemble, "its `prior` is no share of each joint class")
    of_member = {name: _parts(run, name, where, part) for name, where in written.members.items()}
    number = max(map(len, of_member.values()))
    rounds = [{name: list(parts)[index % len(parts)] for name, parts in of_member.items()} for index in range(number)]
    models = {model: path for parts in of_member.values() for model, path in parts.items()}
    for name, path in models.items():
        check_model(read_model(path), space, vote.calibrations[name.rpartition("/")[0]])
    grouping, sets = read_grouping(run.ensemble, written.by_group, space), read_sets(run.ensemble, written.sets, space)
    definition = EnsembleDefinition(vote, space, prior, models, tuple(rounds), grouping)
    if part != FOLDS:  # sets and doubts are those of models that were tried out of fold
        return definition
    doubt = read_doubt(run.ensemble, written.doubt)
    return replace(definition, sets=sets_alone(sets, space), sets_by_group=sets_by_group(sets, space), doubt=doubt)


def _parts(run: Run, name: str, written: WrittenMember, part: str) -> dict[str, Path]:
    """Folders of a member's models; those of another run are looked for there."""
    member = written.member
    home = run if run.folder_of(member).is_dir() or written.run is None else Run(Path(written.run))
    if part != FOLDS:
        number = next(fold for fold, known in PART_NAMES.items() if known == part)
        found = [ReplicaId(member, number)]
    else:
        found = home.fold_models(member)
    missing = [replica for replica in found if not home.finished(replica)]
    if missing or not found:
        raise InputError(f"'{home.root}' has no finished model {missing[0] if missing else name + '/fold-*'}.")
    return {f"{name}/{replica.part}": home.replica(replica) for replica in found}
