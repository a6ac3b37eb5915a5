"""What a run that learned from another is better or worse by, on the same images and the same resamples of their groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from raymask.core.columns import by_head, joint_columns, label_column
from raymask.core.console import Display
from raymask.core.tasks import JOINT, LabelSpace
from raymask.core.types import Labels
from raymask.inference.voting_runs import VotingRun, model_digests, reserved_images, validated_images, voting_runs
from raymask.io.checked import DamagedFileError
from raymask.metrics.bootstrap import Metric, compare, group_numbers, interval, parse_metric
from raymask.runs.directory import ANY_FOLD, WHOLE, ReplicaId, Run, read_ensemble
from raymask.runs.schemas import HeldOut, Interval, Reserve, RunComparison, read_run_file, write_run_file
from raymask.runs.tables import read_ensemble_predictions, read_targets
from raymask.voting.reading import read_vote
from raymask.voting.vote import Vote
from raymask.workflows.context import RunContext
from raymask.workflows.predictions import predict_by_models


def gained(
    space: LabelSpace, metric: Metric, truth: Labels, before: Labels, after: Labels, groups: Labels, seed: int
) -> dict[str, Any]:
    """Scores of two predictions of the same images, and their difference on the same resamples of groups.

    Args:
        space: the label space.
        metric: the score.
        truth: (N,) joint labels.
        before: (N,) joint labels that the teacher elects.
        after: (N,) those of the run that learned from it.
        groups: (N,) numbers of groups from 0 on.
        seed: of the resamples.

    Returns:
        `metric`, `before`, `after`, `gain` (score, se, low and high), `images` and `groups`.
    """
    scores, resampled = compare(metric, space, truth, [before, after], groups, seed)
    return {
        "metric": str(metric),
        "before": float(scores[0]),
        "after": float(scores[1]),
        "gain": interval(float(scores[1] - scores[0]), resampled[1] - resampled[0]),
        "images": len(truth),
        "groups": int(groups.max()) + 1,
    }


def taught_by_class(targets: pd.DataFrame, space: LabelSpace) -> dict[str, dict[str, int]]:
    """Unlabelled images by the part that learns from them (`fold-K`, or `all`) and the class that they are taught as."""
    taught = targets[targets["fold"] != ANY_FOLD]
    elected = taught[joint_columns(space)].to_numpy().argmax(axis=1)
    counts: dict[str, dict[str, int]] = {}
    for fold in sorted(taught["fold"].unique(), key=lambda fold: (fold < 0, fold)):
        of_class = np.bincount(elected[taught["fold"] == fold], minlength=space.joint_size)
        counts[ReplicaId("", int(fold)).part] = dict(zip(space.joint_classes, of_class.tolist(), strict=True))
    return counts


def compare_runs(context: RunContext, before: Run) -> RunComparison:
    """Compares a run to its teacher, and keeps that in its `gain.json`; what is compared already is read there.

    Both are judged by their ensembles' cross-fitted out-of-fold predictions. Where people are held out from everything, the
    ensembles' scores on them stand beside, and that of the run's model of all people if its only member has one.

    Args:
        context: of the run that learned from another.
        before: the teacher's run.
    """
    after = context.run
    known, taught = (read_ensemble(run, "vote", "fingerprint", "metric") for run in (before, after))
    [voting_run] = voting_runs([after])
    member = next(iter(voting_run.names.values()))
    whole = ReplicaId(member, WHOLE) if len(voting_run.names) == 1 and after.finished(ReplicaId(member, WHOLE)) else None
    made_of = {
        "before": known.fingerprint,
        "after": taught.fingerprint,
        "whole": model_digests(voting_run, [whole]) if whole else None,
    }
    if (compared := _known(after)) and compared.made_of == made_of:
        return compared
    metric, images = parse_metric(taught.metric, voting_run.space), validated_images(voting_run)
    elected = [
        read_ensemble_predictions(run.oof_ensemble, voting_run.space).set_index("image_id")[JOINT] for run in (before, after)
    ]
    images = images[images["image_id"].isin(elected[0].index.intersection(elected[1].index))]
    labels = [of_run.loc[images["image_id"]].to_numpy(np.int64) for of_run in elected]
    truth, groups = images[label_column(JOINT)].to_numpy(np.int64), group_numbers(images["group"])
    reserve = None
    if taught.reserve:
        vote = read_vote(after.ensemble, taught.vote or {}, voting_run.space, context.config.vote.rule)
        same_metric = known.metric == taught.metric
        reserve = HeldOut(
            images=taught.reserve.images,
            groups=taught.reserve.groups,
            before=_interval_of(known.reserve) if same_metric else None,
            after=_interval_of(taught.reserve),
            whole=score_whole(context, voting_run, whole, vote, metric) if whole else None,
        )
    scores = gained(voting_run.space, metric, truth, labels[0], labels[1], groups, context.config.seed)
    result = RunComparison(
        **scores,
        kept=scores["gain"]["score"] > scores["gain"]["se"],
        pseudo_labelled=taught_by_class(read_targets(after, voting_run.space), voting_run.space),
        **({"reserve": reserve} if reserve else {}),
        made_of=made_of,
    )
    write_run_file(after.gain, result)
    return result


def _known(run: Run) -> RunComparison | None:
    """The comparison that was written; None where there is none that can be read, and it is made again."""
    try:
        return read_run_file(run.gain, RunComparison)
    except DamagedFileError:
        return None


def _interval_of(reserve: Reserve | None) -> Interval | None:
    return reserve and Interval(score=reserve.score, se=reserve.se, low=reserve.low, high=reserve.high)


def score_whole(context: RunContext, voting_run: VotingRun, whole: ReplicaId, vote: Vote, metric: Metric) -> Interval:
    """Scores an only member's model of all people on those held out, by its folds' views and calibration."""
    held_out = reserved_images(voting_run.run)
    predicted = predict_by_models(context, voting_run, held_out, [whole], vote.views, "reserve images")
    joint = vote({name: by_head(predicted, str(whole)) for name in voting_run.names})
    truth, groups = held_out[label_column(JOINT)].to_numpy(np.int64), group_numbers(held_out["group"])
    scores, resampled = compare(metric, voting_run.space, truth, [joint.argmax(axis=1)], groups, context.config.seed)
    return Interval(**interval(float(scores[0]), resampled[0]))


def show(result: RunComparison, before: Run, after: Run, display: Display) -> None:
    """The comparison as a small table."""
    gain, reserve = result.gain, result.reserve
    rows = [
        [before.name, f"{result.before:.4f}"],
        [after.name, f"{result.after:.4f}"],
        ["difference", f"{gain.score:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"],
    ]
    if reserve:
        whole = f"{after.name}, its model of all people"
        scores = ((before.name, reserve.before), (after.name, reserve.after), (whole, reserve.whole))
        rows += [[f"{name}, held-out groups", str(score)] for name, score in scores if score]
    display.table(f"{result.metric} out of fold, {result.groups} groups", ["", "score (95% interval)"], rows)
