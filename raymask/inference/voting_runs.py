"""The runs that vote together, and the probabilities of their fold models by round of the vote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from raymask.config.schema import RunConfig, resolve_members
from raymask.config.tasks import label_space
from raymask.core.columns import by_head, label_column, task_columns
from raymask.core.errors import InputError
from raymask.core.tasks import JOINT, LabelSpace
from raymask.core.types import ByHead
from raymask.data.folds import replica_folds
from raymask.io.checked import check_file_name
from raymask.metrics.bootstrap import group_numbers
from raymask.runs.configs import load_run_config
from raymask.runs.digests import remembered_digests, with_digests
from raymask.runs.directory import ReplicaId, Run
from raymask.runs.tables import read_folds, read_manifest, read_reserve
from raymask.voting.selection import OofPredictions


@dataclass(frozen=True, eq=False)
class VotingRun:
    """A run whose members have a vote."""

    run: Run
    config: RunConfig
    space: LabelSpace
    folds: Mapping[str, tuple[int, ...]]
    """Folds that each member has models of, by its name in its run."""
    names: Mapping[str, str]
    """Each member's name in its run, by its name in the vote."""
    keep: Run
    """Where predictions that it lacks are written: the run itself, or a folder of the run that it votes in."""

    @property
    def fold_models(self) -> list[ReplicaId]:
        """Every member's model of every fold."""
        return [ReplicaId(member, fold) for member in self.names.values() for fold in self.folds[member]]

    @property
    def common_folds(self) -> tuple[int, ...]:
        """Folds that all members have models of; others may have more, but each has the first ones."""
        return min(self.folds.values(), key=len)

    @property
    def rounds(self) -> int:
        """Folds of the member that has the most."""
        return max(map(len, self.folds.values()))

    def oof(self, member: str) -> Path:
        """The out-of-fold predictions of a member, by its name in its run."""
        kept = self.keep.oof(member)
        return kept if kept.exists() else self.run.oof(member)


def voting_runs(runs: Sequence[Run], into: Run | None = None) -> list[VotingRun]:
    """The runs whose members vote together; with several runs a member is named `RUN/MEMBER`.

    Args:
        runs: the runs.
        into: the run that they vote in, where that is another; nothing is written into a run that votes elsewhere.

    Raises:
        InputError: a folder holds no run, a run has no folds yet, or two runs do not predict the same classes.
    """
    voting: list[VotingRun] = []
    for run in runs:
        if len(runs) > 1:  # the folder's name begins its members' names, and so paths in an export
            check_file_name(run.name, run.root.parent)
        config = load_run_config(run)
        if not run.manifest.exists():
            raise InputError(f"'{run.root}' is not trained yet: it has no {run.manifest.name}.")
        folds = replica_folds(read_folds(run))
        prefix = f"{run.name}/" if len(runs) > 1 else ""
        members = resolve_members(config)
        names = {f"{prefix}{member.name}": member.name for member in members}
        of_members = {member.name: member.folds_of(folds) for member in members}
        keep = run if into is None or into.root == run.root else into.of_voter(run)
        voting.append(VotingRun(run, config, label_space(config.tasks), of_members, names, keep))
    first = voting[0]
    for other in voting[1:]:
        if _classes(other.space) != _classes(first.space):
            raise InputError(f"'{other.run.root}' and '{first.run.root}' predict other tasks or classes, so they cannot vote.")
    if len({name for each in voting for name in each.names}) < sum(len(each.names) for each in voting):
        raise InputError("two of the runs have one name, so their members cannot be told apart; rename one of the folders.")
    return voting


def _classes(space: LabelSpace) -> dict[str, tuple[str, ...]]:
    return {task.name: task.classes for task in space.tasks}


def validated_images(voting_run: VotingRun) -> pd.DataFrame:
    """The manifest's labelled images that some fold validates on."""
    manifest = read_manifest(voting_run.run, voting_run.space)
    return manifest[manifest["fold"] >= 0].reset_index(drop=True)


def judged_images(runs: Sequence[VotingRun]) -> pd.DataFrame:
    """Those of the first run's validated images that every member of all runs has predicted out of fold.

    Raises:
        InputError: there are none.
    """
    images = validated_images(runs[0])
    for voting_run in runs:
        unseen = unpredicted(validated_images(voting_run), voting_run.common_folds)
        images = images[~images["image_id"].isin(unseen)]
    if images.empty:
        raise InputError("no image is predicted out of fold by all members; their folds have none in common.")
    return images.reset_index(drop=True)


def unpredicted(validated: pd.DataFrame, folds: Sequence[int]) -> pd.Series:
    """image_id of those of a run's validated images that lie in none of these folds."""
    ids: pd.Series = validated["image_id"][~validated["fold"].isin(folds)]
    return ids


def truth_of(space: LabelSpace, images: pd.DataFrame) -> OofPredictions:
    """What is known of images beside any member's predictions: their labels, groups and folds.

    Args:
        space: the label space.
        images: joint label, group and fold of each.
    """
    truth, folds = images[label_column(JOINT)].to_numpy(np.int64), images["fold"].to_numpy(np.int64)
    return OofPredictions(space, {}, truth, group_numbers(images["group"]), folds)


def reserved_images(run: Run) -> pd.DataFrame:
    """The images of the people held out from everything, in the order of their predictions."""
    images = read_reserve(run).sort_values("image_id", kind="stable", ignore_index=True)
    return images if "digest" in images else with_digests(images, load_run_config(run))  # of an older raymask


def model_digests(voting_run: VotingRun, models: Sequence[ReplicaId]) -> dict[str, str]:
    """Digests of the weights of a run's models, by name."""
    files = [str(voting_run.run.weights(model)) for model in models]
    return dict(zip(map(str, models), remembered_digests(files, voting_run.config), strict=True))


def columns_of(voting_run: VotingRun, models: Sequence[ReplicaId]) -> list[str]:
    """Columns of these models' probabilities."""
    tasks = {member.name: member.task for member in resolve_members(voting_run.config)}
    return [column for model in models for column in task_columns(tasks[model.member], voting_run.space, str(model))]


def by_round(runs: Sequence[VotingRun], predicted: Sequence[pd.DataFrame]) -> list[dict[str, ByHead]]:
    """Members' probabilities by fold; where a member has fewer folds than another, its fold models go round."""
    rounds = max(voting_run.rounds for voting_run in runs)
    return [
        {
            name: by_head(table, str(ReplicaId(of_run, voting_run.folds[of_run][number % len(voting_run.folds[of_run])])))
            for voting_run, table in zip(runs, predicted, strict=True)
            for name, of_run in voting_run.names.items()
        }
        for number in range(rounds)
    ]
