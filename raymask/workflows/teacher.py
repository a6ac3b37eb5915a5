"""What a run learns from an earlier one: from its ensemble's say on labelled images, and on those that have no label.

Unlabelled images join the training folds by pseudo-labels (Lee 2013) or by soft targets, and labelled ones take the teacher's
probabilities into their targets (Hinton, Vinyals & Dean 2015). A model of fold k is taught unlabelled images by the teacher's
models of fold k alone, which never saw its validation people; only what the vote has fitted on all out-of-fold predictions
(calibrations, weights, the least confidences of `precision`), a few numbers, knows more.

One leak remains for labelled images: the out-of-fold target of an image of another fold comes from fold models that learned the
labels of fold k's people. So the out-of-fold scores of a run with `truth` below 1 flatter it a little, and people held out from
everything (`folds.reserve`), which no run of the two saw, are its clean measure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from raymask.config.schema import RunConfig, TeacherConfig
from raymask.core.columns import FOLD_NAME, is_label_column, is_value_column, joint_columns, label_column, train_label_column
from raymask.core.errors import InputError, shortened
from raymask.core.tasks import JOINT, UNLABELLED
from raymask.core.types import ByHead, Probabilities
from raymask.data.duplicates import among
from raymask.data.folds import TRAIN_ONLY
from raymask.data.sources import Source
from raymask.inference.voting_runs import VotingRun, by_round, judged_images, voting_runs
from raymask.io.atomic import write_table
from raymask.io.checked import Kind, read_table
from raymask.io.hashing import file_digest, fingerprint, text_digest
from raymask.runs.directory import ANY_FOLD, WHOLE, Run, read_ensemble
from raymask.runs.predictions import check_complete
from raymask.runs.schemas import ENSEMBLE_FORMAT, WrittenMember, WrittenTeacher, read_run_file, write_run_file
from raymask.runs.tables import read_ensemble_predictions, read_targets
from raymask.training.pseudo_labels import PREFIX, labelled_targets, least_confidences, unlabelled_targets
from raymask.voting.reading import read_vote
from raymask.voting.vote import Vote
from raymask.workflows.context import RunContext
from raymask.workflows.predictions import fold_model_predictions


def predictions_by_fold(vote: Vote, rounds: Sequence[Mapping[str, ByHead]], folds: Sequence[int]) -> dict[int, Probabilities]:
    """(N, J) by fold: the vote of that fold's models alone, and for the model of all people that of all rounds.

    Args:
        vote: the teacher's.
        rounds: members' probabilities, of these folds first, and then where members' fold models go round.
        folds: those that all members have models of.
    """
    voted = [vote(members) for members in rounds]
    return {**dict(zip(folds, voted, strict=False)), WHOLE: np.asarray(np.mean(voted, axis=0))}


@dataclass(frozen=True, eq=False)
class Teacher:
    """A run that has voted, and may teach another."""

    config: TeacherConfig
    voting: tuple[VotingRun, ...]
    """The run, or those whose members vote together in it."""
    vote: Vote
    oof: pd.DataFrame
    """The ensemble's out-of-fold predictions."""
    unlabelled: pd.DataFrame | None
    """image_id, path, size, stamp and digest of the test images; None where they do not join."""
    fingerprint: str
    labelled: frozenset[str] = frozenset()
    """Ids of the test images that are labelled images too, and would join the folds that are validated on them."""


@dataclass(frozen=True, eq=False)
class TeacherData:
    """The images of a run that has a teacher."""

    images: pd.DataFrame
    """All that are to be prepared, like those of the source."""
    manifest: pd.DataFrame
    """Those that are trained on, with the teacher's folds."""
    reserve: pd.DataFrame
    """Those that the teacher held out from everything."""


def open_teacher(pupil: Run, config: RunConfig, source: Source, unlabelled: pd.DataFrame | None) -> Teacher:
    """Reads a run's teacher and checks that it can teach this run.

    Args:
        pupil: the run that learns, where predictions are kept that the teacher lacks.
        config: the run's, with a teacher.
        source: the run's images.
        unlabelled: the teacher's test images, where they are to join.

    Raises:
        InputError: there is no such run, it has not voted, or its classes, folds or images are others.
    """
    assert config.teacher is not None
    run = Run(config.teacher.run)
    [of_itself] = voting_runs([run])
    if not (run.ensemble.exists() and run.oof_ensemble.exists()):
        raise InputError(
            f"teacher.run: '{run.root}' has not voted yet; finish it first by `raymask train --recipe {run.config}`."
        )
    known = read_ensemble(run, "vote", "members", "fingerprint")
    if known.format != ENSEMBLE_FORMAT:
        raise InputError(
            f"teacher.run: the vote of '{run.root}' is of another raymask; count it again by `raymask vote {run.root}`."
        )
    voting = _voting(run, known.members, pupil)
    space = voting[0].space
    if [(task.name, task.classes) for task in space.tasks] != [(task.name, task.classes) for task in source.space.tasks]:
        raise InputError(f"teacher.run: '{run.root}' predicts other tasks or classes than this run; it cannot teach it.")
    if of_itself.config.folds != config.folds:
        raise InputError(f"folds: they are those of the teacher; leave them as they are in '{run.config}'.")
    _check_images(voting, source)
    parts = [json.dumps([known.fingerprint, known.vote], sort_keys=True), file_digest(run.oof_ensemble)]
    if unlabelled is not None:
        parts.append(fingerprint(unlabelled[["image_id", "digest"]]))
    oof = read_ensemble_predictions(run.oof_ensemble, space)
    vote = read_vote(run.ensemble, known.vote or {}, space, config.vote.rule)
    labelled = frozenset[str]() if unlabelled is None else among(unlabelled, source.images)
    return Teacher(config.teacher, voting, vote, oof, unlabelled, text_digest(*parts)[:16], labelled)


def _voting(run: Run, members: Mapping[str, WrittenMember], pupil: Run) -> tuple[VotingRun, ...]:
    """Who votes in a run's directory: its own members, also when it was moved, or those of several runs."""
    roots = list(dict.fromkeys(member.run or str(run.root) for member in members.values()))
    alone = len(roots) == 1 and run.members.is_dir()
    voting = voting_runs([run] if alone else [Run(Path(root)) for root in roots], pupil)
    first = _fold_of(voting[0].run)
    for other in voting[1:]:
        if not _fold_of(other.run).equals(first):
            raise InputError(
                f"teacher.run: the runs that vote in '{run.root}' have different folds, so that a fold's models know people "
                "that another's are validated on; teach by one of them, or train them on the same folds."
            )
    return tuple(voting)


def _fold_of(run: Run) -> pd.Series:
    """The folds of a run's labelled images, by image_id."""
    manifest = read_table(run.manifest, {"image_id": "text", "fold": "whole", label_column(JOINT): "whole"}, only=True)
    return manifest[manifest[label_column(JOINT)] != UNLABELLED].set_index("image_id")["fold"]


def _check_images(voting: Sequence[VotingRun], source: Source) -> None:
    run = voting[0].run
    columns: dict[str, Kind] = {"image_id": "text", "group": "text", label_column(JOINT): "whole"}
    theirs = pd.concat([read_table(file, columns) for file in (run.manifest, run.reserve) if file.exists()])
    theirs = theirs[[*columns, *(["digest"] if "digest" in theirs else [])]]
    theirs = theirs[theirs[label_column(JOINT)] != UNLABELLED].set_index("image_id").sort_index()
    ours = source.images[list(theirs.reset_index())].set_index("image_id")
    gone = theirs.index.difference(ours.index).tolist()
    set_aside = read_table(run.rejected, {"image_id": "text"})["image_id"].tolist() if run.rejected.exists() else []
    new = ours.index.difference(theirs.index.union(set_aside)).tolist()
    changed = [] if gone else theirs.index[(theirs != ours.loc[theirs.index]).any(axis=1)].tolist()
    if other := [*gone, *new, *changed]:
        raise InputError(
            f"teacher.run: '{run.root}' was trained on other images or labels than those of data.path, such as "
            f"{shortened(other, 3)}; train it anew on these, or learn from another run."
        )


def check_teacher(run: Run, teacher: Teacher) -> None:
    """Refuses a teacher that says something else than when a run began to learn from it.

    Raises:
        InputError: so it is.
    """
    if run.targets.exists() and read_run_file(run.teacher, WrittenTeacher).fingerprint != teacher.fingerprint:
        raise InputError(
            f"'{run.root}' learns from '{teacher.config.run}', whose vote, predictions or test images have changed since; give "
            "this run another --name, or delete that folder."
        )


def learn(context: RunContext, teacher: Teacher, source: Source) -> TeacherData:
    """Writes what the teacher teaches to `targets.parquet`, unless it is there, and returns the images of the run.

    Raises:
        InputError: the teacher is sure of nothing, or an image's id is there twice.
    """
    run, labelled = context.run, _labelled(teacher, source.images)
    if not run.targets.exists():
        targets = _targets(context, teacher, labelled)
        if targets.empty:
            raise InputError(
                f"teacher.precision is {teacher.config.precision:g}, but '{teacher.config.run}' is that sure of no unlabelled "
                "image, so that there is nothing to learn; lower it, or stay with that run."
            )
        write_run_file(run.teacher, WrittenTeacher(run=str(teacher.config.run), fingerprint=teacher.fingerprint))
        write_table(run.targets, targets)
    added = _unlabelled_rows(teacher, read_targets(run, teacher.vote.space), source.images)
    images = pd.concat([source.images, added.drop(columns="fold")], ignore_index=True)
    manifest = pd.concat([labelled, added], ignore_index=True)
    if twice := images["image_id"][images["image_id"].duplicated()].tolist():
        raise InputError(
            f"'{PREFIX}' goes before the ids of unlabelled images, but others have these already: {shortened(twice)}."
        )
    held_out = teacher.voting[0].run.reserve
    reserved = set(read_table(held_out, {"image_id": "text"}, only=True)["image_id"]) if held_out.exists() else set()
    reserve = source.images[source.images["image_id"].isin(reserved)].reset_index(drop=True)
    return TeacherData(_by_id(images), _by_id(manifest), reserve)


def _by_id(images: pd.DataFrame) -> pd.DataFrame:
    return images.sort_values("image_id", kind="stable").reset_index(drop=True)


def _labelled(teacher: Teacher, images: pd.DataFrame) -> pd.DataFrame:
    """The images of the teacher's folds, with these."""
    fold = images["image_id"].map(_fold_of(teacher.voting[0].run))
    known = fold.notna()
    return images[known].assign(fold=fold[known].astype(np.int64)).reset_index(drop=True)


def _targets(context: RunContext, teacher: Teacher, labelled: pd.DataFrame) -> pd.DataFrame:
    config, space, display = teacher.config, teacher.vote.space, context.display
    judged = judged_images(teacher.voting)
    judged = labelled[labelled["image_id"].isin(judged["image_id"])]
    ids = judged["image_id"].tolist()
    check_complete(f"the out-of-fold predictions of '{config.run}'", teacher.oof["image_id"].tolist(), ids)
    probabilities = teacher.oof.set_index("image_id").loc[ids, joint_columns(space)].to_numpy(np.float64)
    tables = [labelled_targets(ids, judged[train_label_column(JOINT)].to_numpy(np.int64), probabilities, config.truth, space)]
    if config.truth < 1:
        display.line("teacher", f"labels count {config.truth:g}, what '{config.run.name}' said of them out of fold the rest")
    if teacher.unlabelled is not None:
        least = least_confidences(probabilities, judged[label_column(JOINT)].to_numpy(np.int64), config.precision)
        image_ids, by_fold = _unlabelled_predictions(context, teacher)
        taught = unlabelled_targets(image_ids, by_fold, least, config.unlabelled == "hard", space)
        counts = taught["fold"].value_counts().reindex(list(by_fold), fill_value=0)
        display.line(
            "teacher",
            f"{taught['image_id'].nunique()} of {len(teacher.unlabelled)} unlabelled images join the training folds, "
            f"{counts.min()} to {counts.max()} of them a fold",
        )
        tables.append(taught)
    return pd.concat(tables, ignore_index=True)


def _unlabelled_predictions(context: RunContext, teacher: Teacher) -> tuple[list[str], dict[int, Probabilities]]:
    """Prefixed ids of the unlabelled images that can be read, and what the teacher says of them by fold."""
    assert teacher.unlabelled is not None
    if teacher.labelled:
        context.display.warn(f"{len(teacher.labelled)} unlabelled images are labelled images too, and do not join")
    images, views = teacher.unlabelled[["image_id", "path", "digest"]], teacher.vote.views
    predicted = [fold_model_predictions(context, run, images, "test", views) for run in teacher.voting]
    joining = [(table["problem"] == "") & ~table["image_id"].isin(teacher.labelled) for table in predicted]
    readable = [table[here].reset_index(drop=True) for table, here in zip(predicted, joining, strict=True)]
    ids = readable[0]["image_id"].tolist()
    for table in readable:
        check_complete("the predictions of the test set", table["image_id"].tolist(), ids)
    common = min((voting_run.common_folds for voting_run in teacher.voting), key=len)
    if len(common) < max(voting_run.rounds for voting_run in teacher.voting):
        context.display.warn(
            f"{len(common)} fold(s) are common to all members of '{teacher.config.run}'; models of others learn no unlabelled "
            "images"
        )
    probabilities = predictions_by_fold(teacher.vote, by_round(teacher.voting, readable), common)
    return [f"{PREFIX}{image_id}" for image_id in ids], probabilities


def _unlabelled_rows(teacher: Teacher, targets: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """The unlabelled images that have a target, as rows of a manifest like that of `images`; each is a group of its own."""
    if teacher.unlabelled is None:
        return images.head(0).assign(fold=np.empty(0, np.int64))
    rows = teacher.unlabelled.assign(image_id=PREFIX + teacher.unlabelled["image_id"])
    rows = rows[rows["image_id"].isin(set(targets["image_id"][targets["fold"] != ANY_FOLD]))]
    labels = [name for name in images.columns if is_label_column(name)]
    numbers = [name for name in images.columns if is_value_column(name)]
    unknown = dict.fromkeys(labels, UNLABELLED) | dict.fromkeys(numbers, math.nan) | {FOLD_NAME: ""}
    rows = rows.assign(group=rows["image_id"], fold=TRAIN_ONLY, **unknown)
    return rows[[*images.columns, "fold"]]
