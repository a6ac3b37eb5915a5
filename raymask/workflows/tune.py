"""`raymask tune`: searches keys of a recipe by trials that share packs and end early, and writes the best as a recipe."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from raymask.config.members import Member
from raymask.config.schema import resolve_members
from raymask.config.search import VIEW, SearchConfig
from raymask.config.search_space import label_of
from raymask.core.console import Display
from raymask.core.errors import InputError, RunError, legible
from raymask.core.paths import absolute, check_writable
from raymask.core.types import Labels
from raymask.data.folds import replica_folds
from raymask.data.specs import input_spec
from raymask.inference.voting_runs import truth_of
from raymask.io.atomic import write_table, write_text
from raymask.io.checked import damaged
from raymask.metrics import bootstrap
from raymask.metrics.bootstrap import compare, interval, parse_metric
from raymask.report.search import as_table, render_search, shown, winning_recipe
from raymask.runs.directory import ReplicaId, Run, cache_root
from raymask.runs.folders import SearchFiles
from raymask.runs.outputs import is_run
from raymask.runs.predictions import collect_oof, oof_by_view
from raymask.runs.schemas import Estimate, Interval, read_run_file, write_run_file
from raymask.runs.search_schemas import CurvePoint, Search, Stopped, Trial
from raymask.search.proposals import grid_size, importances, propose
from raymask.search.stopping import Judge, rungs
from raymask.training.backbones import check_backbones
from raymask.voting.ballots import joint_ballots
from raymask.voting.selection import selection_optimism
from raymask.workflows.context import RunContext, run_context
from raymask.workflows.fold_models import Watch, train_fold_models
from raymask.workflows.images import TrainingImages, prepare_images
from raymask.workflows.setup import PreparedRun, prepare_run, record_run, resolve

DEFAULT_TRIALS, BATCH_OF_TPE = 32, 8


def tune(search: SearchConfig, display: Display | None = None) -> Search:
    """Searches keys of a recipe, and writes the best one; see `raymask.config.search`.

    Each trial is trained for some folds and scored on the people whom these leave out. Trials of equal streams are trained
    together in packs. Started again, a search goes on where it was; it may be given more trials or minutes.

    Returns:
        What `search.json` holds.

    Raises:
        InputError: the data or the config are wrong, or no trial could be trained.
        RunError: a part failed for good.
    """
    display, folder = display or Display(), absolute(search.run.runs) / search.run.name
    check_writable(folder, "--runs")
    check_writable(cache_root(search.run.model_copy(update={"runs": folder.parent})), "folder by --set cache=FOLDER")
    if backbones := search.space.get("recipe.backbone"):
        check_backbones(search.run.recipe.model_copy(update={"backbone": str(name)}) for name in backbones.choices)
    files = SearchFiles(folder)
    if is_run(Run(folder)) and not files.search.exists():
        raise InputError(f"'{folder}' is a run that trains no trials; give the search another --name.")
    with run_context(Run(folder), resolve(search.run), display) as context:
        context.session.begin()
        prepared = prepare_run(context, with_test=False)
        record = _opened(files, search, prepared)
        record_run(prepared)
        write_run_file(files.search, record)
        images = prepare_images(prepared)
        folds = replica_folds(images.manifest["fold"])[: search.tune.folds]
        if prepared.config.folds.column and len(folds) < search.tune.folds:
            raise InputError(f"tune.folds is {search.tune.folds}, but there are {len(folds)} folds (folds.column).")
        state = _State(search, prepared, images, folds, record, context)
        while wanted := _next_round(state):
            _train_round(state, wanted)
        _conclude(state)
    return record


@dataclass
class _State:
    """A search under way."""

    search: SearchConfig
    prepared: PreparedRun
    images: TrainingImages
    folds: Sequence[int]
    record: Search
    context: RunContext
    began: float = field(default_factory=time.monotonic)
    spent_before: float = field(init=False)

    def __post_init__(self) -> None:
        self.spent_before = self.record.seconds

    @property
    def files(self) -> SearchFiles:
        return SearchFiles(self.context.run.root)

    @property
    def late(self) -> bool:
        """Whether the minutes of the search are over."""
        minutes = self.search.tune.minutes
        return minutes is not None and self.spent >= 60 * minutes

    @property
    def spent(self) -> float:
        return self.spent_before + time.monotonic() - self.began

    def save(self) -> None:
        self.record.seconds = self.spent
        write_run_file(self.files.search, self.record)


def _opened(files: SearchFiles, search: SearchConfig, prepared: PreparedRun) -> Search:
    """The search as it was left, or a new one.

    Raises:
        InputError: it searched something else.
    """
    metric = str(parse_metric(prepared.config.vote.metric, prepared.space))
    space = {key: _described(search, key) for key in search.space}
    new = Search(format=1, space=space, folds=list(range(search.tune.folds)), metric=metric)
    if not files.search.exists():
        return new
    known = read_run_file(files.search, Search)
    for what, before, now in (
        ("search", known.space, new.space),
        ("tune.folds", len(known.folds), len(new.folds)),
        ("vote.metric", known.metric, new.metric),
    ):
        if before != now:
            raise InputError(
                f"'{files.root}' is a search by another {what}, {label_of(before)} where it is {label_of(now)} now; give this "
                "one another --name, or delete that folder."
            )
    for number, trial in enumerate(known.trials):
        same = trial.number == number and set(trial.values) == set(search.space)
        if not (same and all(search.space[key].holds(value) for key, value in trial.values.items())):
            raise damaged(files.search, f"its trial {number} has values that are not searched")
    return known


def _described(search: SearchConfig, key: str) -> str:
    domain = search.space[key]
    if domain.kind == "choice":
        return f"choice of {label_of(list(domain.choices))}"
    step = f" by {domain.step:g}" if domain.step else ""
    return f"{domain.kind} from {label_of(domain.low)} to {label_of(domain.high)}{step}"


def _next_round(state: _State) -> list[Trial]:
    """The trials to be trained now: those that were cut off, or new ones; none when the search is over."""
    search, record, how = state.search, state.record, state.search.tune
    if cut_off := [trial for trial in record.trials if trial.state == "running"]:
        return cut_off
    most = grid_size(search.space) if how.method == "grid" else how.trials or DEFAULT_TRIALS
    left = min(most, how.trials or most) - len(record.trials)
    together = how.batch or (BATCH_OF_TPE if how.method == "tpe" else left)
    if left <= 0 or state.late:
        return []
    proposed = propose(search.space, how.method, record.trials, min(left, together), search.run.seed)
    record.trials += [Trial(number=len(record.trials) + place, values=values) for place, values in enumerate(proposed)]
    state.save()
    return record.trials[len(record.trials) - len(proposed) :]


def _train_round(state: _State, trials: Sequence[Trial]) -> None:
    """Trains trials to their ends, and takes down how they did."""
    members: dict[int, list[Member]] = {}
    for trial in trials:
        try:
            members[trial.number] = _members_of(state, trial)
            trial.epochs = max(member.recipe.schedule.epochs for member in members[trial.number])
        except InputError as error:
            _fail(trial, str(error))
    running = [trial for trial in trials if trial.state == "running"]
    together = [member for of_trial in members.values() for member in of_trial]
    prepared = replace(state.prepared, members=together)
    if {input_spec(member.recipe).prepared for member in together} - set(state.images.caches):
        prepared_images = prepare_images(prepared)
        state.images = replace(state.images, caches={**state.images.caches, **prepared_images.caches})
    watch = _watch(state, running, members)
    numbers = f"trials {trials[0].number} to {trials[-1].number}" if len(trials) > 1 else f"trial {trials[0].number}"
    state.context.display.line("tune", f"{numbers}, {state.search.tune.method}")
    refusals = train_fold_models(prepared, "tune", together, state.folds, state.images, watch) if together else []
    for trial in running:
        _take_down(state, trial, members[trial.number], refusals)
    state.save()


def _members_of(state: _State, trial: Trial) -> list[Member]:
    """The members of a trial, which start and are fed like those of any other, named after it; all have the search's folds."""
    config = state.search.trial(trial.values)
    config = config.model_copy(update={"tasks": state.prepared.config.tasks, "folds": state.prepared.config.folds})
    members = resolve_members(config)
    name = f"trial-{trial.number:03}"
    return [
        member.model_copy(update={"name": name if len(members) == 1 else f"{name}-{member.name}", "folds": None})
        for member in members
    ]


def _models_of(state: _State, members: Sequence[Member]) -> list[ReplicaId]:
    return [ReplicaId(member.name, fold) for member in members for fold in state.folds]


def _watch(state: _State, trials: Sequence[Trial], members: Mapping[int, Sequence[Member]]) -> Watch:
    """What follows the training of trials, and ends those that promise little, or all but the best when the time is over."""
    how, run = state.search.tune, state.context.run
    models = {trial.number: _models_of(state, members[trial.number]) for trial in trials}
    names = {number: map(str, of_trial) for number, of_trial in models.items()}
    judged_at = {trial.number: rungs(how.stop, trial.epochs, how.grace, how.reduction) for trial in trials}
    curves = {trial.number: trial.f1_by_epoch for trial in state.record.trials}
    judge = Judge(how.stop, how.reduction, names, judged_at, curves)
    any_finished = any(trial.state == "finished" for trial in state.record.trials)

    def take(report: dict[str, Any]) -> None:
        scores = {name: (metrics["epoch"], metrics["f1"]) for name, metrics in report.get("replicas", {}).items()}
        grown, ended = judge.take(scores)
        if state.late:
            ended = [number for number in grown if any_finished or number != judge.leader()]
        for number in ended:
            for model in models[number]:
                write_run_file(run.files_of(model).stopped, Stopped(format=1, epoch=max(judge.curves[number])))
        for number in grown:
            state.record.trials[number].curve = [CurvePoint(epoch=epoch, f1=f1) for epoch, f1 in judge.curves[number].items()]
        if grown:
            state.save()

    every_epoch = range(1, max((trial.epochs for trial in trials), default=1)) if how.minutes else ()
    return Watch(frozenset(every_epoch).union(*judged_at.values()), take)


def _take_down(state: _State, trial: Trial, members: Sequence[Member], refusals: Sequence[str]) -> None:
    """How a trial ended."""
    run, models = state.context.run, _models_of(state, members)
    if all(map(run.ended, models)):
        trial.state = "stopped" if any(map(run.stopped, models)) else "finished"
        if all(run.replica_oof(model).exists() for model in models):
            trial.score = _score(state, _elected(state, members))
    else:
        own = [sentence for sentence in refusals if any(str(model) in sentence for model in models)]
        _fail(trial, next(iter([*own, *refusals]), "its models were not trained"))
    for model in models:
        run.weights(model).unlink(missing_ok=True)  # what the best is worth, its recipe says; it is trained anew, on all folds


def _validated(state: _State) -> pd.DataFrame:
    """The images that the folds of the search leave out."""
    manifest = state.images.manifest
    return manifest[manifest["fold"].isin(state.folds)].reset_index(drop=True)


def _elected(state: _State, members: Sequence[Member]) -> Labels:
    """(N,) joint labels that a trial's members elect together, by the mean of their joint probabilities, out of fold."""
    ids, run = _validated(state)["image_id"], state.context.run
    by_head = {}
    for member in members:
        collect_oof(run, member.name, state.folds, ids)
        views = oof_by_view(run.oof(member.name), member.name, [VIEW], ids)
        by_head[member.name] = {head: of_head[0] for head, of_head in views.items()}
    ballots = joint_ballots(state.prepared.space, by_head).values()
    return np.asarray(np.mean([np.asarray(ballot) for ballot in ballots], axis=0).argmax(axis=1), dtype=np.int64)


def _score(state: _State, elected: Labels) -> Interval:
    """The score of (N,) joint labels."""
    known = truth_of(state.prepared.space, _validated(state))
    metric = parse_metric(state.record.metric, known.space)
    found, resampled = compare(metric, known.space, known.truth, [elected], known.groups, state.search.run.seed)
    return Interval(**interval(float(found[0]), resampled[0]))


def _conclude(state: _State) -> None:
    """Chooses the best trial, and writes the table, the page and the recipe."""
    record, search, files, display = state.record, state.search, state.files, state.context.display
    finished = [trial for trial in record.trials if trial.state == "finished"]
    if not finished:
        failed = next((trial for trial in record.trials if trial.problem), None)
        why = f", such as trial {failed.number}: {failed.problem}" if failed else "; give it more tune.minutes."
        raise (InputError if failed else RunError)(f"no trial of the search came to its end{why}")
    images = _validated(state)
    record.images, record.groups = len(images), int(images["group"].nunique())
    best = max(finished, key=lambda trial: trial.score.score if trial.score else -1.0)
    record.best, record.estimate = best.number, _estimate(state, [trial for trial in record.trials if trial.score], best)
    record.importances = importances(search.space, record.trials, search.run.seed)
    state.save()
    write_table(files.table, as_table(record))
    write_text(files.best, winning_recipe(search, record))
    write_text(files.page, render_search(search, record, state.context.run.name))
    display.table(f"{len(record.trials)} trials by {record.metric}, the best first", *shown(record))
    display.table("Files", ["", ""], [[file.name, str(file)] for file in (files.page, files.table, files.best)])
    display.line("tune", f"{record.metric} of {record.estimate} is expected of the best; `raymask train --recipe {files.best}`")


def _estimate(state: _State, scored: Sequence[Trial], best: Trial) -> Estimate:
    """What is to be expected of the best trial on new people: what choosing it among the others flatters is taken off.

    Those that ended early were chosen among too, by what they predicted then.
    """
    elected = [_elected(state, _members_of(state, trial)) for trial in scored]
    known = truth_of(state.prepared.space, _validated(state))
    metric, alike = parse_metric(state.record.metric, known.space), np.zeros(len(scored))
    seed, chosen = state.search.run.seed, scored.index(best)
    optimism = selection_optimism(known, metric, elected, chosen, np.zeros((len(scored), len(scored))), alike, seed)
    assert best.score is not None
    score = best.score
    found = bootstrap.Interval(score=score.score, se=score.se, low=score.low, high=score.high)
    return Estimate(**bootstrap.lowered(found, optimism), optimism=optimism)


def _fail(trial: Trial, problem: str) -> None:
    trial.state, trial.problem = "failed", legible(problem)
