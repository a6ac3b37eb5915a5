"""What is done with a finished run: another vote, fewer models, a run that learns from it, predictions of any images."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from raymask.config import RunConfig
from raymask.config_files import deep_merge
from raymask.display import Display
from raymask.errors import BEGINS_ANEW, InputError, one_of
from raymask.outputs import check_output
from raymask.paths import absolute, check_writable
from raymask.pipeline import Result, ray_errors, run
from raymask.run_files import write_table
from raymask.session import RaySession
from raymask.store import ReplicaId, Run, read_ensemble, save_run_config, settled_config
from raymask.tasks import JOINT, MULTI


def refit(folder: Path, members: Sequence[str] = (), display: Display | None = None, rule: str | None = None) -> list[ReplicaId]:
    """Trains members of a finished run on the people of all its folds; their models lie in `members/MEMBER/all`.

    Args:
        folder: directory of the run.
        members: names of members; none for all of them.
        display: what is said of it.
        rule: import path of the rule of your own that the run votes by, if it does; a run's files are not believed there.

    Raises:
        InputError: the directory holds no run whose folds are trained, or the run has no such member.
        RunError: a part failed for good; started again, it goes on with what is unfinished.
    """
    display = display or Display()
    root = absolute(folder)
    config = _config_where_it_lies(root, rule)
    check_writable(root, "run, such as a copy of it")
    with ray_errors(root), ExitStack() as stack:
        session = RaySession(stack, config.compute, display)
        from raymask import singles
        from raymask.opening import open_run
        from raymask.refit import refit_members

        opened = open_run(config, display)
        refitted = refit_members(opened, members, session, display)
        if reason := singles.uncompared(opened):
            display.line("refit", reason)
        else:
            singles.compare_singles(*singles.voted(opened, session, display), session, display)
    models = [[str(replica), str(opened.run.weights(replica))] for replica in refitted]
    display.table("Models of all people", ["", ""], models)
    return refitted


def _config_where_it_lies(root: Path, rule: str | None) -> RunConfig:
    """The config of a run whose directory may have been moved, with the rule that the caller gives."""
    config = settled_config(Run(root), (), {"vote": {"rule": rule}} if rule else None)
    return config.model_copy(update={"runs": root.parent, "name": root.name})


def soup(folder: Path, members: Sequence[str] = (), display: Display | None = None, rule: str | None = None) -> list[ReplicaId]:
    """Averages the folds' models of a finished run to one a member; they lie in `members/MEMBER/soup` and `greedy-soup`.

    Args:
        folder: directory of the run, from which people are held out (`folds.reserve`).
        members: names of members; none for all of them.
        display: what is said of it.
        rule: import path of the rule of your own that the run votes by, if it does; a run's files are not believed there.

    Raises:
        InputError: the directory holds no run whose folds are trained, no one is held out, or the run has no such member.
        RunError: a part failed for good; started again, it goes on with what is unfinished.
    """
    display = display or Display()
    root = absolute(folder)
    config = _config_where_it_lies(root, rule)
    check_writable(root, "run, such as a copy of it")
    with ray_errors(root), ExitStack() as stack:
        session = RaySession(stack, config.compute, display)
        from raymask import singles
        from raymask.opening import open_run

        opened = open_run(config, display)
        chosen = singles.souped_members(opened, members)
        one, vote = singles.voted(opened, session, display)
        soups = singles.make_soups(opened, chosen, vote.views, session, display)
        singles.compare_singles(one, vote, session, display)
    models = [[str(replica), str(opened.run.weights(replica))] for replica in soups]
    display.table("Soups", ["", ""], models)
    return soups


def vote(
    folders: Sequence[Path],
    into: Path | None = None,
    settings: Sequence[str] = (),
    predict: bool = False,
    display: Display | None = None,
) -> Result:
    """Decides the vote anew, from out-of-fold predictions alone, of the members of one run or of several together.

    Args:
        folders: directories of the runs.
        into: where the result is written; needed with several runs, and with one it is its own directory by default.
        settings: `vote.key=value` or `seed=value`, in place of what the first run's config says.
        predict: whether test images are predicted where the decided views need it; else what is there is used.
        display: what is said of it.

    Raises:
        InputError: a run is not trained, the runs do not fit together, or a prediction is missing.
    """
    from raymask import election, stages
    from raymask.opening import drawn_data, read_test_set
    from raymask.run_tables import read_manifest

    display, began = display or Display(), time.monotonic()
    runs = [Run(absolute(folder)) for folder in folders]
    if into is None and len(runs) > 1:
        raise InputError("several runs vote into a folder of their own; name it by --into.")
    target = Run(absolute(into)) if into else runs[0]
    if [run.root for run in runs] != [target.root]:
        check_output(target.root, "--into", own="ensemble.json", begun=("oof",))
    config = settled_config(runs[0], settings, {"runs": target.root.parent, "name": target.name})
    check_writable(target.root, "--into")
    voting = election.electorates(runs)
    with ray_errors(target.root, BEGINS_ANEW), ExitStack() as stack:
        session = RaySession(stack, config.compute, display) if predict else None
        decided, scores = election.elect(voting, config.vote, target, config.seed, display)
        test, _ = read_test_set(config, drawn_data(config, display), voting[0].space, display)
        election.predict_test(voting, decided, test, target, session, display)
        election.score_reserve(voting, decided, target, config.seed, session, display)
    save_run_config(target, config)
    if target.root != runs[0].root:
        write_table(target.manifest, read_manifest(runs[0], voting[0].space))
    stages.summarise(target, voting[0].space, scores, time.monotonic() - began, display)
    return Result(target, scores)


def pseudo(folder: Path, name: str | None = None, settings: Sequence[str] = (), display: Display | None = None) -> Result:
    """Trains a run anew with the test images that its ensemble is sure of, and says whether that paid.

    Pseudo-labels (Lee 2013) of fold k are voted by that fold's replicas alone, so that out-of-fold scores stay honest. The new
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
    members = read_ensemble(parent).get("members", {}) if parent.ensemble.exists() else {}
    if len({where.get("run") for where in members.values()}) > 1:
        raise InputError(f"'{parent.root}' is a vote of several runs; name the one to train anew, or take `raymask distil`.")
    teacher = {"truth": 1.0, "unlabelled": "hard", "precision": 0.95}
    config = _pupil(parent, name or f"{parent.name}-pseudo", {"teacher": teacher}, settings)
    result = run(config, display)
    told = _compared(parent, result.run, config, display)
    kept, of = ("kept", result.run) if told["kept"] else ("dropped", parent)
    why = "more" if told["kept"] else "no more"
    display.line(
        "pseudo", f"{kept}: use '{of.root}', since the gain is {why} than its standard error of {told['gain']['se']:.4f}"
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
    replicas that learned the labels of other folds' people, among them those that a student's replica is validated on, so that
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
    told = _compared(parent, result.run, config, display)
    cost = "costs {:.4f}".format(-told["gain"]["score"]) if told["gain"]["score"] < 0 else "costs nothing"
    display.line("distil", f"one model in place of the ensemble {cost}: deploy {result.run.weights(whole)}")
    return result


def _pupil(parent: Run, name: str, over: Mapping[str, Any], settings: Sequence[str]) -> RunConfig:
    """The config of a run beside its teacher, which is its teacher's but for what is `over` it."""
    values = deep_merge(over, {"runs": parent.root.parent, "name": name, "teacher": {"run": parent.root}})
    return settled_config(parent, settings, values)


def _compared(parent: Run, pupil: Run, config: RunConfig, display: Display) -> dict[str, Any]:
    with ray_errors(pupil.root), ExitStack() as stack:
        from raymask import gain

        told = gain.compare_runs(
            parent, pupil, config.seed, config.vote.rule, RaySession(stack, config.compute, display), display
        )
        gain.show(told, parent, pupil, display)
    return told


def predict(
    folder: Path,
    images: str,
    out: Path,
    models: str = "folds",
    image_column: str | None = None,
    id_column: str | None = None,
    image_root: str | None = None,
    settings: Sequence[str] = (),
    display: Display | None = None,
    rule: str | None = None,
) -> Path:
    """Predicts any number of images by a finished run, and returns the folder of Parquet files; cut off, it goes on.

    Args:
        folder: directory of the run.
        images: a folder or a table (CSV, TSV, Parquet) of images, local or by URL.
        out: folder of the predictions.
        models: `folds` for all replicas; `all`, `soup` or `greedy-soup` for one model a member.
        image_column: column of a table that holds the images' paths.
        id_column: column of a table that holds the images' ids.
        image_root: folder that a table's relative paths start from (default: the table's own).
        settings: `compute.key=value`, in place of what the run's config says.
        display: what is said of it.
        rule: import path of the rule of your own that the run votes by, if it does; a run's files are not believed there.

    Raises:
        InputError: the run is not finished, the images are not there, or `out` holds other predictions.
        RunError: a part failed for good; started again, it goes on with what is unfinished.
    """
    display, root, target = display or Display(), absolute(folder), absolute(out)
    check_output(target, "--out", own="job.json", begun=("images.parquet",))
    config = settled_config(Run(root), settings, {"vote": {"rule": rule}} if rule else None)
    config = config.model_copy(update={"runs": root.parent})
    check_writable(target, "--out")
    with ray_errors(target), ExitStack() as stack:
        session = RaySession(stack, config.compute, display)
        session.begin()
        from raymask.prediction import predict_images

        return predict_images(root, config, images, target, models, image_column, id_column, image_root, session, display)
