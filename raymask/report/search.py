"""A search as a table, a page, and the recipe of its best trial."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raymask.config.search import SearchConfig, with_values
from raymask.config.search_space import Domain, label_of
from raymask.config.yaml_files import dump_yaml
from raymask.core.console import duration
from raymask.report.pages import page_template
from raymask.report.plots import GOOD, INK, LINE, PLOT_STYLE, SOFT, WARM, inline_svg
from raymask.runs.search_schemas import Search, Trial

OF_A_RUN = ("name", "runs", "cache")
"""Keys of a search's recipe that are not for a run by its best."""
SHOWN = 20


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The trials, the best first: finished ones by score, then those stopped early, the furthest first, then failed ones."""
    order = {"finished": 0, "running": 1, "stopped": 2, "failed": 3}

    def rank(trial: Trial) -> tuple[float, ...]:
        epochs = trial.reached if trial.state == "stopped" else 0
        return (order[trial.state], -epochs, -trial.score.score if trial.score else 1.0)

    return sorted(trials, key=rank)


def how_it_ended(trial: Trial) -> str:
    """In a few words."""
    if trial.state == "stopped":
        return f"stopped after {trial.reached} of {trial.epochs} epochs"
    return trial.state


def shown(search: Search) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a table for people."""
    trials = ranked(search.trials)
    columns = ["trial", *(key.removeprefix("recipe.") for key in search.space), search.metric, "95% from", "to", ""]
    rows = [
        [
            str(trial.number),
            *(label_of(trial.values[key]) for key in search.space),
            *((f"{value:.4f}" for value in (trial.score.score, trial.score.low, trial.score.high)) if trial.score else ["-"] * 3),
            "best" if trial.number == search.best else how_it_ended(trial) if trial.state != "finished" else "",
        ]
        for trial in trials[:SHOWN]
    ]
    return columns, rows


def as_table(search: Search) -> pd.DataFrame:
    """One row a trial, for other programs."""
    return pd.DataFrame(
        [
            {
                "trial": trial.number,
                **{key: label_of(trial.values[key]) for key in search.space},
                "state": trial.state,
                "epochs": trial.reached if trial.state == "stopped" else trial.epochs,
                **{key: getattr(trial.score, name, None) for key, name in SCORE_COLUMNS.items()},
                "problem": trial.problem,
            }
            for trial in search.trials
        ]
    )


SCORE_COLUMNS = {"score": "score", "score_low": "low", "score_high": "high"}


def winning_recipe(config: SearchConfig, search: Search) -> str:
    """The recipe of the best trial as YAML that `raymask train --recipe` takes, opening with how it was found."""
    assert search.best is not None
    assert search.estimate is not None
    best = search.trials[search.best]
    values = {key: value for key, value in with_values(config.values, best.values).items() if key not in OF_A_RUN}
    recipe = values.get("recipe")
    if isinstance(recipe, Mapping) and recipe.get("weights"):
        values["recipe"] = {**recipe, "weights": str(config.run.recipe.weights)}
    searched = ", ".join(f"{key.removeprefix('recipe.')} {label_of(value)}" for key, value in best.values.items())
    found = (
        f"Found by `raymask tune` ({config.tune.method}, stopped by {config.tune.stop}) from {config.recipe}: the best of "
        f"{len(search.trials)} trials on {search.images} images of {search.groups} groups, which {len(search.folds)} of "
        f"{config.run.folds.k} folds leave out, after {duration(search.seconds)}. {search.metric} {search.estimate} is expected "
        f"of one fold's models on new people, {search.estimate.optimism:.4f} being taken off for choosing the best. Searched "
        f"were: {searched}."
    )
    return "".join(f"# {line}\n" for line in textwrap.wrap(found, 120)) + dump_yaml(values)


def render_search(config: SearchConfig, search: Search, name: str) -> str:
    """The page of a search."""
    assert search.best is not None
    trials = ranked(search.trials)
    states = [trial.state for trial in trials]
    facts = {
        "expected of the best on new people": f"{search.metric} {search.estimate}",
        "trials": f"{len(trials)}: {states.count('finished')} finished, {states.count('stopped')} stopped early, "
        f"{states.count('failed')} failed",
        "proposed by": config.tune.method,
        "stopped by": config.tune.stop,
        "scored on": f"{search.images} images of {search.groups} groups, by models of {len(search.folds)} folds, out of fold",
        "time": duration(search.seconds),
    }
    finished = [trial for trial in trials if trial.state == "finished"]
    keys = list(search.importances) or list(search.space)
    rows = [
        {
            "number": trial.number,
            "values": [label_of(trial.values[key]) for key in search.space],
            "score": str(trial.score) if trial.score else "",
            "ended": how_it_ended(trial),
            "problem": trial.problem,
            "best": trial.number == search.best,
        }
        for trial in trials
    ]
    return page_template("search.html.j2").render(
        name=name,
        facts=facts,
        keys=[key.removeprefix("recipe.") for key in search.space],
        rows=rows,
        metric=search.metric,
        importances={key.removeprefix("recipe."): share for key, share in search.importances.items()},
        history=plot_history(search.trials, search.metric),
        curves=plot_curves_of_trials(search.trials, search.best),
        parallel=plot_parallel([config.space[key] for key in keys], finished, search.metric),
        slices=[plot_slice(config.space[key], trials, search.metric) for key in keys],
        estimate=search.estimate,
    )


def plot_history(trials: Sequence[Trial], metric: str) -> Markup:
    """The score of each finished trial, and the best until then."""
    finished = [trial for trial in trials if trial.state == "finished"]
    numbers, scores = [trial.number for trial in finished], [_score(trial) for trial in finished]
    with matplotlib.rc_context(PLOT_STYLE):
        figure, axes = _figure(6.4, 3.0)
        axes.plot(numbers, scores, "o", color=SOFT, markersize=4, clip_on=False)
        axes.step(numbers, np.maximum.accumulate(scores), where="post", color=GOOD, linewidth=1.6)
        axes.set(xlabel="trial", title=metric)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        return inline_svg(figure, "Score by trial")


def plot_curves_of_trials(trials: Sequence[Trial], best: int) -> Markup:
    """The mean F1 of each trial's models after the epochs that are known."""
    with matplotlib.rc_context(PLOT_STYLE):
        figure, axes = _figure(6.4, 3.0)
        for trial in sorted(trials, key=lambda trial: trial.number == best):
            if not trial.curve:
                continue
            epochs, scores = list(trial.f1_by_epoch), list(trial.f1_by_epoch.values())
            colour = GOOD if trial.number == best else WARM if trial.state == "stopped" else SOFT
            width = 2.2 if trial.number == best else 1.0
            axes.plot(epochs, scores, "-", color=colour, linewidth=width, alpha=1 if trial.number == best else 0.6)
            axes.plot(epochs[-1:], scores[-1:], "o", color=colour, markersize=3)
        axes.set(xlabel="finished epochs", title="Mean F1 of a trial's models")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        return inline_svg(figure, "Mean F1 by epoch of each trial")


def plot_parallel(domains: Sequence[Domain], finished: Sequence[Trial], metric: str) -> Markup:
    """Each finished trial as a line through its values and its score, the better the darker."""
    places = np.arange(len(domains) + 1)
    scores = np.array([_score(trial) for trial in finished])
    low, high = scores.min(), max(scores.max(), scores.min() + 1e-9)
    with matplotlib.rc_context(PLOT_STYLE):
        figure, axes = _figure(6.8, 3.2)
        figure.subplots_adjust(left=0.14, bottom=0.24, top=0.98)
        for trial, score in sorted(zip(finished, scores, strict=True), key=lambda pair: pair[1]):
            share = (score - low) / (high - low)
            heights = [*(_place(domain, trial.values[domain.key]) for domain in domains), share]
            top = score == scores.max()
            axes.plot(places, heights, color=GOOD, alpha=1 if top else 0.15 + 0.45 * share, linewidth=2 if top else 1)
        for place, domain in enumerate(domains):
            axes.axvline(place, color=LINE, linewidth=1)
            for height, text in _ticks(domain):
                axes.annotate(text, (place, height), (3, 2), textcoords="offset points", color=SOFT, fontsize=7)
        for height, score in ((0, low), (1, high)):
            axes.annotate(f"{score:.3f}", (places[-1], height), (3, 2), textcoords="offset points", color=INK, fontsize=7)
        axes.set(yticks=[], xticks=places, ylim=(-0.05, 1.1), xlim=(-0.1, len(domains) + 0.3))
        axes.set_xticklabels([*(_short(domain) for domain in domains), metric], rotation=20, ha="right")
        axes.grid(visible=False)
        return inline_svg(figure, "Values and score of each finished trial")


def plot_slice(domain: Domain, trials: Sequence[Trial], metric: str) -> Markup:
    """The scores of trials by one key's values."""
    with matplotlib.rc_context(PLOT_STYLE):
        figure, axes = _figure(3.2, 2.4)
        figure.subplots_adjust(left=0.16, bottom=0.22, top=0.88)
        for state, colour in (("stopped", WARM), ("finished", GOOD)):
            of_state = [trial for trial in trials if trial.state == state and trial.score]
            places = [_on_axis(domain, trial.values[domain.key]) for trial in of_state]
            axes.plot(places, [_score(trial) for trial in of_state], "o", color=colour, alpha=0.7, markersize=4, clip_on=False)
        if domain.kind == "choice":
            labels = [textwrap.shorten(label, 18) for label in domain.labels]
            axes.set_xticks(range(len(labels)), labels, rotation=15, ha="right")
            axes.set_xlim(-0.5, len(labels) - 0.5)
        else:
            axes.set_xscale("log" if domain.kind == "log" else "linear")
            axes.set_xlim(domain.low, domain.high)
        axes.set(title=_short(domain), ylabel=metric)
        return inline_svg(figure, f"Score by {domain.key}")


def _on_axis(domain: Domain, value: Any) -> float:
    return float(domain.labels.index(label_of(value)) if domain.kind == "choice" else value)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(left=0.09, right=0.97, top=0.9, bottom=0.17)
    return figure, figure.subplots()


def _score(trial: Trial) -> float:
    assert trial.score is not None
    return trial.score.score


def _short(domain: Domain) -> str:
    return domain.key.removeprefix("recipe.")


def _place(domain: Domain, value: Any) -> float:
    """Where a value lies on its axis, from 0 to 1."""
    if domain.kind == "choice":
        return domain.labels.index(label_of(value)) / max(1, len(domain.choices) - 1)
    if domain.kind == "log":
        return float(np.log(value / domain.low) / np.log(domain.high / domain.low))
    return float((value - domain.low) / (domain.high - domain.low))


def _ticks(domain: Domain) -> list[tuple[float, str]]:
    if domain.kind == "choice":
        return [(_place(domain, value), textwrap.shorten(label_of(value), 16)) for value in domain.choices]
    return [(0.0, f"{domain.low:g}"), (1.0, f"{domain.high:g}")]
