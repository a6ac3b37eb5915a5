"""`raymask pseudo` and `raymask distil`: a run that learns from an earlier one, and whether that pays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raymask.config.merging import deep_merge
from raymask.config.schema import RunConfig
from raymask.core.console import Display
from raymask.core.errors import InputError, one_of
from raymask.core.paths import absolute
from raymask.core.tasks import JOINT, MULTI
from raymask.runs.configs import settled_config
from raymask.runs.directory import Run, read_ensemble
from raymask.runs.schemas import RunComparison
from raymask.workflows.compare_runs import compare_runs, show
from raymask.workflows.context import Result, run_context
from raymask.workflows.refit import refit
from raymask.workflows.train import run


def pseudo(folder: Path, name: str | None = None, settings: Sequence[str] = (), display: Display | None = None) -> Result:
    """Trains a run anew with the test images that its ensemble is sure of, and says whether that paid.

    Pseudo-labels (Lee 2013) of fold k are voted by that fold's models alone, so that out-of-fold scores stay honest. The new
    run is the one to use when it scores better than the old one by more than a standard error, paired by group; see `gain.json`.

    Args:
        folder: directory of the run that teaches.
        name: of the new run beside it (default: RUN-pseudo).
        settings: `key.path=value`, in place of what the teaching run's config says.
        display: what is said of it.

    Raises:
        InputError: the directory holds no run that has voted and has test images, or it is sure of none of them.
        RunError: a part failed for good; started again, it goes on with what is unfinished.
    """
    display = display or Display()
    parent = Run(absolute(folder))
    members = read_ensemble(parent).members if parent.ensemble.exists() else {}
    if len({member.run for member in members.values()}) > 1:
        raise InputError(f"'{parent.root}' is a vote of several runs; name the one to train anew, or take `raymask distil`.")
    teacher = {"truth": 1.0, "unlabelled": "hard", "precision": 0.95}
    config = _pupil(parent, name or f"{parent.name}-pseudo", {"teacher": teacher}, settings)
    result = run(config, display)
    comparison = _compared(parent, result.run, config, display)
    kept, of = ("kept", result.run) if comparison.kept else ("dropped", parent)
    why = "more" if comparison.kept else "no more"
    display.line(
        "pseudo", f"{kept}: use '{of.root}', since the gain is {why} than its standard error of {comparison.gain.se:.4f}"
    )
    return result


def distil(
    folder: Path,
    task: str = MULTI,
    name: str | None = None,
    settings: Sequence[str] = (),
    display: Display | None = None,
) -> Result:
    """Trains one small model on what a run's ensemble says, and says what that costs (distillation, Hinton et al. 2015).

    The student's folds are trained and scored as any run's; then its model of all people is, the one to deploy, which lies in
    `members/TASK/all`. Labelled images are taught the ensemble's out-of-fold probabilities, mixed with the truth. These come from
    models that learned the labels of other folds' people, among them those that a student's fold model is validated on, so that
    the out-of-fold cost is a little flattered. People held out from everything (`folds.reserve`) are the clean measure; where the
    run has them, the student's folds and its model of all people are scored on them too.

    Args:
        folder: directory of the run that teaches.
        task: `multi` or `joint`.
        name: of the new run beside it (default: RUN-student).
        settings: `key.path=value`, in place of what the teaching run's config says, such as `recipe.backbone=...`.
        display: what is said of it.

    Raises:
        InputError: the directory holds no run that has voted, or the task is another.
        RunError: a part failed for good; started again, it goes on with what is unfinished.
    """
    if task not in (MULTI, JOINT):
        raise InputError(f"--task is '{task}'; it may be {one_of((MULTI, JOINT), task)}.")
    display = display or Display()
    parent = Run(absolute(folder))
    over = {
        "members": [{"task": task}],
        "vote": {"weights": None},
        "teacher": {"truth": 0.3, "unlabelled": "soft" if parent.predictions.exists() else "none", "precision": 0.0},
    }
    config = _pupil(parent, name or f"{parent.name}-student", over, settings)
    result = run(config, display)
    [whole] = refit(result.run.root, (), display, config.vote.rule)
    comparison = _compared(parent, result.run, config, display)
    cost = f"costs {-comparison.gain.score:.4f}" if comparison.gain.score < 0 else "costs nothing"
    display.line("distil", f"one model in place of the ensemble {cost}: deploy {result.run.weights(whole)}")
    return result


def _pupil(parent: Run, name: str, over: Mapping[str, Any], settings: Sequence[str]) -> RunConfig:
    """The config of a run beside its teacher, which is its teacher's but for what is `over` it."""
    values = deep_merge(over, {"runs": parent.root.parent, "name": name, "teacher": {"run": parent.root}})
    return settled_config(parent, settings, values)


def _compared(parent: Run, pupil: Run, config: RunConfig, display: Display) -> RunComparison:
    with run_context(pupil, config, display) as context:
        comparison = compare_runs(context, parent)
    show(comparison, parent, pupil, display)
    return comparison
