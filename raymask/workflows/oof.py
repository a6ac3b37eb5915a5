"""Members' out-of-fold predictions: collected from their fold models' files, checked, and made the evidence of a vote."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from raymask.config.schema import resolve_members
from raymask.core.columns import label_column, task_columns
from raymask.core.console import Display
from raymask.core.tasks import JOINT
from raymask.inference.voting_runs import VotingRun, unpredicted, validated_images
from raymask.io.checked import DamagedFileError, damaged
from raymask.metrics.bootstrap import group_numbers
from raymask.runs.directory import ReplicaId
from raymask.runs.predictions import check_complete, collect_oof, oof_by_view, read_oof
from raymask.voting.view_selection import OofByView
from raymask.workflows.context import RunContext
from raymask.workflows.setup import unfinished


def collect_members(context: RunContext, runs: Sequence[VotingRun], image_ids: pd.Series) -> None:
    """Writes every member's out-of-fold predictions to one file, unless they are there.

    Raises:
        InputError: a run is not trained to its end, or an image has no prediction.
    """
    for voting_run in runs:
        validated = validated_images(voting_run)[["image_id", "fold"]]
        for member in voting_run.names.values():
            unseen = unpredicted(validated, voting_run.folds[member])
            _collect(voting_run, member, image_ids[~image_ids.isin(unseen)], context.display)


def _collect(voting_run: VotingRun, member: str, image_ids: pd.Series, display: Display) -> None:
    """Collects a member's predictions of the images in its own folds."""
    run, keep, folds = voting_run.run, voting_run.keep, voting_run.folds[member]
    try:
        if keep.oof(member).exists():
            _check_heads(voting_run, member)
    except DamagedFileError as error:
        display.warn(f"{error.fault}; it is collected again")
        keep.oof(member).unlink()
    lacking = unfinished(run, [ReplicaId(member, fold) for fold in folds])
    if lacking and not voting_run.oof(member).exists():
        raise lacking
    try:
        collect_oof(run, member, folds, image_ids, keep)
    except DamagedFileError as error:
        if not voting_run.oof(member).exists():
            raise
        display.warn(f"{error.fault}; what was collected of it before is used")
    collected = _check_heads(voting_run, member)
    for view, of_view in collected.groupby("view"):
        check_complete(f"the out-of-fold predictions of '{member}' ({view})", of_view["image_id"].tolist(), image_ids.tolist())


def _check_heads(voting_run: VotingRun, member: str) -> pd.DataFrame:
    """A member's out-of-fold predictions; refuses those of other classes than those of its task."""
    task = next(known.task for known in resolve_members(voting_run.config) if known.name == member)
    wanted = {"image_id", "view", "fold", *task_columns(task, voting_run.space)}
    table = read_oof(voting_run.oof(member))
    if set(table) != wanted:
        raise damaged(voting_run.oof(member), "it holds predictions of other classes than those of the run's config")
    return table


def read_evidence(runs: Sequence[VotingRun], images: pd.DataFrame) -> OofByView:
    """What a vote is decided on.

    Args:
        runs: whose members' predictions are collected.
        images: image_id, group, fold and joint label of those that all members have predicted.
    """
    views = [view for view in runs[0].config.views if all(view in voting_run.config.views for voting_run in runs)]
    members = {
        name: oof_by_view(voting_run.oof(of_run), of_run, views, images["image_id"])
        for voting_run in runs
        for name, of_run in voting_run.names.items()
    }
    return OofByView(
        space=runs[0].space,
        members=members,
        views=tuple(views),
        truth=images[label_column(JOINT)].to_numpy(np.int64),
        groups=group_numbers(images["group"]),
        folds=images["fold"].to_numpy(np.int64),
    )
