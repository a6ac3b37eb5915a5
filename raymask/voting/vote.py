"""The vote: views, calibrations, rule and adjustment, decided on out-of-fold predictions and used on new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from raymask.config.vote import VoteConfig
from raymask.core.arrays import Array, mean_of
from raymask.core.errors import InputError, one_of
from raymask.core.tasks import LabelSpace
from raymask.core.types import ByHead, Labels, Probabilities
from raymask.metrics.bootstrap import Interval, Metric, lowered, parse_metric
from raymask.metrics.calibration import calibration_quality, reliability
from raymask.metrics.doubt import entropy
from raymask.transforms.tta import MERGES, ViewPlan, even
from raymask.voting.ballots import voter_names, voters_of
from raymask.voting.calibration import Calibration, cross_fitted, fit_calibration
from raymask.voting.combine import Params
from raymask.voting.fixed_weights import fixed_weights
from raymask.voting.rules import RULES, find_rule
from raymask.voting.selection import (
    LEVELS,
    Calibrations,
    Candidate,
    Choice,
    Fitted,
    OofPredictions,
    all_rows,
    calibrate,
    calibrated,
    candidates,
    choose,
    fit,
    parts_of,
    spaces_of,
)
from raymask.voting.thresholds import ADJUSTMENTS
from raymask.voting.view_selection import OofByView, Views, choose_views, merged

AUTO = "auto"
MAX_IMAGES = 40_000


@dataclass(frozen=True, eq=False)
class Vote:
    """All that turns members' predictions into the ensemble's; they are arrays, or tensors where its own numbers are tensors."""

    space: LabelSpace
    views: ViewPlan
    calibrations: Calibrations
    fitted: Fitted
    result: Calibration
    """Calibration of the combined joint probabilities; a temperature, which changes no label."""

    def __call__(self, members: Mapping[str, ByHead]) -> Probabilities:
        """(N, J) joint probabilities from each member's (N, C) probabilities by head, whose views are merged already."""
        ordered = {name: members[name] for name in self.calibrations}
        voters = voters_of(self.space, calibrated(ordered, self.calibrations))
        joint: Probabilities = self.result.apply(self.fitted.combine(self.space, voters))
        return joint

    def over_rounds(self, rounds: Iterable[Mapping[str, ByHead]]) -> Probabilities:
        """(N, J) mean of the votes of several rounds of the same members, such as the fold models of each fold."""
        joint: Probabilities = mean_of(self(members) for members in rounds)
        return joint

    def with_doubt(self, rounds: Iterable[Mapping[str, ByHead]]) -> tuple[Probabilities, npt.NDArray[np.float64]]:
        """The same beside the (N,) mean over rounds of the entropy of each round's vote."""
        doubts = []

        def votes() -> Iterable[Probabilities]:
            for members in rounds:
                joint = self(members)
                doubts.append(entropy(joint))
                yield joint

        return mean_of(votes()), np.mean(doubts, axis=0)

    def with_arrays(self, convert: Callable[[Array], Array]) -> Vote:
        """The same vote with each of its arrays converted, such as to a tensor."""

        def calibration(given: Calibration) -> Calibration:
            return replace(given, scale=convert(given.scale), bias=convert(given.bias))

        fitted = replace(
            self.fitted,
            params={
                name: {key: convert(value) if isinstance(value, np.ndarray) else value for key, value in params.items()}
                for name, params in self.fitted.params.items()
            },
            factors={name: None if of is None else convert(of) for name, of in self.fitted.factors.items()},
        )
        calibrations = {
            name: {head: calibration(of_head) for head, of_head in by_head.items()} for name, by_head in self.calibrations.items()
        }
        return replace(self, calibrations=calibrations, fitted=fitted, result=calibration(self.result))

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `raymask.voting.reading.vote_from_json` makes the same vote again."""
        candidate, views = self.fitted.candidate, self.views
        heads = {name: list(by_head) for name, by_head in self.calibrations.items()}
        return {
            "rule": candidate.rule,
            "level": candidate.level,
            "adjust": candidate.adjust,
            "voters": {name: voters for name, voters in voter_names(self.space, heads).items() if name in self.fitted.params},
            "params": {name: _plain(params) for name, params in self.fitted.params.items()},
            "factors": {name: None if of is None else of.tolist() for name, of in self.fitted.factors.items()},
            "result": self.result.to_json(),
            "views": views.to_json(),
            "calibrations": {
                name: {head: calibration.to_json() for head, calibration in by_head.items()}
                for name, by_head in self.calibrations.items()
            },
        }


def _plain(params: Params) -> dict[str, Any]:
    return {name: value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value for name, value in params.items()}


@dataclass(frozen=True, eq=False)
class Decision:
    """A vote and what speaks for it."""

    vote: Vote
    metric: Metric
    views: Views | None
    """None where the views were given."""
    choice: Choice
    members: Mapping[str, ByHead]
    """Members' probabilities with the views merged, not calibrated."""
    joint: Probabilities
    """(N, J) cross-fitted result: each image by what was fitted without its part."""
    calibration: dict[str, Any]
    """By member and head: quality and reliability before and after, cross-fitted."""

    @property
    def estimate(self) -> Interval:
        """Score of the chosen rule as it is to be expected on new people: what choosing flatters is taken off."""
        score = next(row.score for row in self.choice.rows if row.candidate == self.choice.chosen)
        return lowered(score, self.choice.optimism)


def decide(oof: OofByView, config: VoteConfig, seed: int) -> Decision:
    """Decides a vote on out-of-fold predictions; what the config fixes is not compared.

    Of more than `MAX_IMAGES` images, those of randomly drawn groups decide.

    Raises:
        InputError: the config names a rule, level, view or member that there is not.
    """
    space, drawn = oof.space, drawn_images(oof.groups, seed)
    metric, known = parse_metric(config.metric, space), subset(oof, drawn)
    folded = OofPredictions(space, {}, known.truth, known.groups, known.folds)
    plan, views = _views(known, config, metric, parts_of(folded, seed), seed)
    folded = replace(folded, members={name: merged(member, known.views, plan) for name, member in known.members.items()})
    fixed = fixed_weights(space, config, folded.members)
    choice = choose(folded, _tried(space, config, folded.members), metric, config.calibrate, seed, fixed)
    calibrations = calibrate(folded, config.calibrate, all_rows(folded))
    fitted = fit(folded, voters_of(space, calibrated(folded.members, calibrations)), choice.chosen, metric, seed, fixed)
    # Fitted on what was cross-fitted, since a result on its own evidence is surer than it will be.
    of_result = "none" if config.calibrate == "none" else "temperature"
    vote = Vote(space, plan, calibrations, fitted, fit_calibration(of_result, choice.joint, folded.truth))
    members, joint = folded.members, cross_fitted(of_result, choice.joint, folded.truth, parts_of(folded, seed))
    if not drawn.all():  # nothing was fitted on the other images, so that the vote itself is honest there
        members = {name: merged(member, oof.views, plan) for name, member in oof.members.items()}
        known_joint, joint = joint, vote(members)
        joint[drawn] = known_joint
    return Decision(vote, metric, views, choice, members, joint, _calibration_table(folded, config.calibrate, seed))


def drawn_images(groups: Labels, seed: int) -> npt.NDArray[np.bool_]:
    """(N,) the images of as many groups, drawn at random, as hold at most `MAX_IMAGES` images; all where there are no more."""
    sizes = np.bincount(groups)
    order = np.random.default_rng(seed).permutation(len(sizes))
    chosen = np.zeros(len(sizes), dtype=bool)
    chosen[order[: max(1, int(np.searchsorted(sizes[order].cumsum(), MAX_IMAGES, side="right")))]] = True
    return np.asarray(chosen[groups])


def subset(oof: OofByView, kept: npt.NDArray[np.bool_]) -> OofByView:
    """The predictions of some images alone."""
    if kept.all():
        return oof
    return replace(
        oof,
        members={
            name: {head: probabilities[:, kept] for head, probabilities in member.items()} for name, member in oof.members.items()
        },
        truth=oof.truth[kept],
        groups=np.unique(oof.groups[kept], return_inverse=True)[1],
        folds=oof.folds[kept],
    )


def _views(oof: OofByView, config: VoteConfig, metric: Metric, parts: Labels, seed: int) -> tuple[ViewPlan, Views | None]:
    merges = MERGES.names if config.merge == AUTO else (config.merge,)
    if config.views == AUTO:
        views = choose_views(oof, parts, metric, seed, merges)
        return views.chosen, views
    names = oof.views if config.views == "all" else config.views
    for name in names:
        if name not in oof.views:
            raise InputError(
                f"vote.views: there are no out-of-fold predictions under the view '{name}'; it may be {one_of(oof.views, name)}."
            )
    return even(names, merges[0]), None


def _tried(space: LabelSpace, config: VoteConfig, members: Mapping[str, ByHead]) -> list[Candidate]:
    rules = ["weighted"] if config.weights else list(RULES.names) if config.rule == AUTO else [config.rule]
    levels = ["task"] if config.weights and len(space.names) > 1 else LEVELS if config.level == AUTO else [config.level]
    adjustments = list(ADJUSTMENTS.names) if config.adjust == AUTO else [config.adjust]
    tried = candidates(space, rules, levels, adjustments)
    if not tried:
        known = " or ".join(find_rule(config.rule).levels)
        raise InputError(f"vote.level is '{config.level}', but the rule '{config.rule}' votes by {known} alone.")
    if config.rule != AUTO or config.weights:
        return tried
    names = voter_names(space, {name: list(heads) for name, heads in members.items()})
    several = {level: any(len(names[target]) > 1 for target in spaces_of(space, level)) for level in LEVELS}
    return [
        candidate
        for candidate in tried
        if several[candidate.level] or candidate.rule == RULES.names[0] or find_rule(candidate.rule).stacks
    ]  # of one voter all rules but the stacking ones give its own probabilities


def _calibration_table(folded: OofPredictions, method: str, seed: int) -> dict[str, Any]:
    parts = parts_of(folded, seed)
    table: dict[str, Any] = {}
    for name, heads in folded.members.items():
        table[name] = {}
        for head, before in heads.items():
            labels = folded.labels(head)
            after = cross_fitted(method, before, labels, parts)
            table[name][head] = {
                when: {**calibration_quality(probabilities, labels), "reliability": _bins(probabilities, labels)}
                for when, probabilities in (("before", before), ("after", after))
            }
    return table


def _bins(probabilities: npt.ArrayLike, labels: Labels) -> list[dict[str, float]]:
    probs = np.asarray(probabilities)
    bins = reliability(probs.max(axis=1), probs.argmax(axis=1) == labels)
    return [{str(name): float(value) for name, value in row.items()} for row in bins[bins["images"] > 0].to_dict("records")]


def estimate_caveat(folds: int, judged: int = 0, validated: int = 0) -> str:
    """Sentences on what an expected score is of, where several folds' models vote on a new image or members have fewer folds.

    Args:
        folds: of the member that has the most.
        judged: images that all members have predicted out of fold.
        validated: those that any fold leaves out.
    """
    of_some = f"The vote is decided on the {judged} of {validated} images that all members have predicted out of fold."
    return " ".join(filter(None, [_of_one_fold(folds), of_some if judged < validated else ""]))


def _of_one_fold(folds: int) -> str:
    if folds == 1:
        return ""
    return (
        "This is the score of one fold's models an image, which is all that out-of-fold predictions tell; on new images the "
        f"models of {folds} folds vote together, which usually does better."
    )


def summary(decision: Decision) -> dict[str, Any]:
    """What `ensemble.json` keeps of a decision beside scores: the vote itself and all tables."""
    choice, views = decision.choice, decision.views
    return {
        "metric": str(decision.metric),
        "vote": decision.vote.to_json(),
        "estimate": {**decision.estimate, "optimism": choice.optimism},
        "rules": [
            {
                "rule": row.candidate.rule,
                "level": row.candidate.level,
                "adjust": row.candidate.adjust,
                **row.score,
                "behind": row.behind,
                "behind_se": row.behind_se,
                "seconds": round(row.seconds, 3),
                "chosen": row.candidate == choice.chosen,
            }
            for row in choice.rows
        ],
        "views": [
            {"views": str(row.plan), **row.score, "gain": row.gain, "chosen": row.plan == views.chosen} for row in views.rows
        ]
        if views
        else [],
        "calibration": decision.calibration,
    }
