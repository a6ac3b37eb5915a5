"""Which values the next trials of a search have, and which keys mattered: by Optuna, from the table of trials alone."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from raymask.config.search_space import Domain, label_of
from raymask.runs.search_schemas import Trial

STATES = {
    "running": TrialState.RUNNING,
    "finished": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
RANDOM_FIRST = 10
"""Trials that `tpe` draws at random before it knows enough."""

FEWEST = 8
"""Finished trials that say which key matters."""

Space = Mapping[str, Domain]


def propose(
    space: Space, method: Literal["tpe", "random", "grid"], known: Sequence[Trial], count: int, seed: int
) -> list[dict[str, Any]]:
    """Values of the next trials, which depend on nothing but the arguments.

    Args:
        space: what is searched, by key.
        method: `grid` gives each point once, in an order that is drawn; `random` draws; `tpe` draws near what scored well:
            the multivariate tree-structured Parzen estimator, Bergstra et al. 2011, Falkner et al. 2018.
        known: all trials until now, in the order of their numbers.
        count: how many are wanted; a grid may have fewer left.
        seed: decides what is drawn.
    """
    if method == "grid":
        points = list(itertools.product(*(domain.grid() for domain in space.values())))
        order = np.random.default_rng(seed).permutation(len(points))
        return [dict(zip(space, points[number], strict=True)) for number in order[len(known) : len(known) + count].tolist()]
    study, wanted = _study(space, known), []
    distributions = {key: _distribution(domain) for key, domain in space.items()}
    for number in range(len(known), len(known) + count):
        study.sampler = _sampler(method, int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
        with _quiet():
            asked = study.ask(distributions)
        wanted.append({key: _value(domain, asked.params[key]) for key, domain in space.items()})
    return wanted


def grid_size(space: Space) -> int:
    """Number of the points of a grid."""
    return int(np.prod([len(domain.grid()) for domain in space.values()]))


def importances(space: Space, known: Sequence[Trial], seed: int) -> dict[str, float]:
    """The share of each key in what scores differ by, the greatest first; none where too few trials are finished.

    Args:
        space: what was searched.
        known: all trials.
        seed: of the trees.

    Source: functional ANOVA over random forests, Hutter et al. 2014.
    """
    finished = [trial for trial in known if trial.state == "finished"]
    varied = {key for key in space if len({label_of(trial.values[key]) for trial in finished}) > 1}
    if len(finished) < FEWEST or not varied or len({trial.score.score for trial in finished if trial.score}) < 2:
        return {}
    with _quiet():
        found = optuna.importance.get_param_importances(
            _study(space, finished), evaluator=optuna.importance.FanovaImportanceEvaluator(seed=seed)
        )
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _study(space: Space, known: Sequence[Trial]) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    distributions = {key: _distribution(domain) for key, domain in space.items()}
    with _quiet():
        for trial in known:
            params = {key: _parameter(domain, trial.values[key]) for key, domain in space.items()}
            study.add_trial(
                optuna.trial.create_trial(
                    state=STATES[trial.state],
                    value=trial.score.score if trial.state == "finished" and trial.score else None,
                    params=params,
                    distributions=distributions,
                    intermediate_values=trial.f1_by_epoch,
                )
            )
    return study


def _sampler(method: str, seed: int) -> optuna.samplers.BaseSampler:
    if method == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with _quiet():
        return optuna.samplers.TPESampler(n_startup_trials=RANDOM_FIRST, multivariate=True, constant_liar=True, seed=seed)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's warnings that a part of it may change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _distribution(domain: Domain) -> BaseDistribution:
    if domain.kind == "choice":
        return CategoricalDistribution(domain.labels)
    log = domain.kind == "log"
    if domain.whole:
        return IntDistribution(int(domain.low), int(domain.high), log=log, step=int(domain.step or 1))
    return FloatDistribution(domain.low, domain.high, log=log, step=domain.step)


def _parameter(domain: Domain, value: Any) -> Any:
    return label_of(value) if domain.kind == "choice" else value


def _value(domain: Domain, parameter: Any) -> Any:
    if domain.kind == "choice":
        return domain.choices[domain.labels.index(parameter)]
    return domain.legible(parameter)
