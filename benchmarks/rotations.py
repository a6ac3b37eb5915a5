"""Whether the expected score keeps its word: people are held out in turn, all is decided without them, and then they are scored.

    python benchmarks/rotations.py --data DIR --weights mobilenetv2_100=m.pth tf_efficientnet_lite0=e.pth --seeds 4 --parts 5

Each rotation holds one part of the people out, trains heads on features of frozen backbones (`multi` and `joint` of each) for
the folds of the others, decides the vote on their out-of-fold predictions, and scores it on those held out. Beside the chosen
rule stand the best one, the mean of all that are near the best, and the best single member. The features are computed once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from benchmarks.common import WORK, show, write_results
from raymask.config.data import FoldsConfig
from raymask.config.loading import load_config
from raymask.config.members import Member
from raymask.config.schema import resolve_members
from raymask.config.tasks import label_space
from raymask.config.vote import VoteConfig
from raymask.core.columns import label_column, true_labels
from raymask.core.console import Display
from raymask.core.tasks import JOINT, LabelSpace, heads_of
from raymask.core.types import ByHead, Labels
from raymask.data.features import FeatureBank, open_bank
from raymask.data.folds import assign_folds, stratified_group_folds
from raymask.data.sampling import BatchSampler
from raymask.data.specs import bank_spec, stream_spec
from raymask.metrics.bootstrap import compare, group_numbers, interval
from raymask.models.classifier import build_classifier
from raymask.runs.configs import load_run_config
from raymask.runs.directory import Run
from raymask.runs.tables import read_manifest
from raymask.training.inputs import FeatureFeed
from raymask.training.learner import Learner
from raymask.training.loop import train_pack
from raymask.training.targets import LabelTable, label_table
from raymask.training.trial import derive_seed, learner_spec
from raymask.voting.ballots import voters_of
from raymask.voting.selection import Candidate, OofPredictions, all_rows, calibrate, calibrated, fit
from raymask.voting.view_selection import OofByView, merged
from raymask.voting.vote import Decision, decide
from raymask.workflows.train import train_and_vote

VIEWS = ("original", "hflip")
DEVICE = torch.device("cpu")
GOOD_ONES = 8
"""Most candidates whose mean is taken."""


def base_run(given: argparse.Namespace) -> Run:
    """A short run on all people, which leaves the features of each backbone behind."""
    members = [
        {"task": task, "name": f"{task}-{backbone}", "recipe": {"backbone": backbone, "weights": str(Path(file).absolute())}}
        for backbone, file in (pair.split("=", 1) for pair in given.weights)
        for task in ("multi", JOINT)
    ]
    over = {
        "name": "rotations",
        "runs": WORK / "runs",
        "data": {"path": given.data},
        "members": members,
        "views": VIEWS,
        "folds": {"k": 2},
        "recipe": {"image_size": given.size, "batch_size": 256, "freeze": {"passes": 2}, "schedule": {"epochs": 2}},
    }
    return train_and_vote(load_config("probe", given.set, over), Display()).prepared.run


def banks_of(run: Run, members: Sequence[Member], space: LabelSpace) -> dict[str, FeatureBank]:
    """The features that each member learns from, found in the cache by what they are of."""
    folder = run.root.parent / ".cache" / "features"
    found = {}
    for member in members:
        stream = stream_spec(member.recipe, 0, member.task, space)
        matching = [bank for bank in folder.iterdir() if bank.name.startswith(member.recipe.backbone + "-")]
        [newest] = sorted(matching, key=lambda bank: bank.stat().st_mtime)[-1:]
        found[member.name] = open_bank(newest, bank_spec(member.recipe, stream, VIEWS))
    return found


def trained(
    members: Sequence[Member], banks: Mapping[str, FeatureBank], labels: LabelTable, epochs: int, held_out: Labels
) -> tuple[dict[str, ByHead], list[dict[str, ByHead]]]:
    """Members' out-of-fold predictions by view, in the manifest's order, and those of the people held out, by fold.

    Args:
        members: whose heads are trained, one pack a member.
        banks: their features.
        labels: of all images, where those held out are in no fold.
        epochs: of the training.
        held_out: rows of the people held out.
    """
    folds = sorted(set(labels.fold[labels.fold >= 0].tolist()))
    oof: dict[str, ByHead] = {}
    rounds: list[dict[str, ByHead]] = [{} for _ in folds]
    for given in members:
        recipe = given.recipe.model_copy(update={"schedule": given.recipe.schedule.model_copy(update={"epochs": epochs})})
        member = given.model_copy(update={"recipe": recipe})
        sampler = BatchSampler(stream_spec(recipe, member.seed, member.task, labels.space), labels.fold)
        feed = FeatureFeed(banks[member.name], sampler, epochs, DEVICE)
        learners = []
        for fold in folds:
            torch.manual_seed(derive_seed(member.seed, member.task))
            model = build_classifier(recipe, heads_of(member.task, labels.space))
            learners.append(Learner(learner_spec(member, fold, labels, sampler.steps, sampler.order), model, DEVICE))
        train_pack(learners, feed, lambda report: None)
        by_view: dict[str, list[npt.NDArray[np.float32]]] = {}
        for view in VIEWS:
            whole = {head: np.zeros((len(labels.fold), count), np.float32) for head, count in learners[0].heads.items()}
            for learner in learners:
                for head, probabilities in learner.predict_own_fold(view, feed).items():
                    whole[head][learner.own_rows] = probabilities
            for head, of_head in whole.items():
                by_view.setdefault(head, []).append(of_head)
        oof[member.name] = {head: np.stack(views) for head, views in by_view.items()}
        for round_, learner in zip(rounds, learners, strict=True):
            views_of = [learner.predict(held_out, view, feed) for view in VIEWS]
            round_[member.name] = {head: np.stack([of_view[head] for of_view in views_of]) for head in views_of[0]}
    return oof, rounds


def rotation(given: argparse.Namespace, run: Run, seed: int, part: int) -> dict[str, Any]:
    """One reserve: what was expected of the ensemble, and what was found."""
    config = load_run_config(run)
    space = label_space(config.tasks)
    manifest = read_manifest(run, space)
    members = [member.model_copy(update={"seed": seed}) for member in resolve_members(config)]
    truth, groups = manifest[label_column(JOINT)].to_numpy(np.int64), group_numbers(manifest["group"])
    reserved = stratified_group_folds(truth, groups, given.parts, seed) == part
    folds = np.full(len(manifest), -1, np.int64)
    folds[~reserved] = assign_folds(manifest[~reserved].reset_index(drop=True), FoldsConfig(k=5), seed)
    labels = label_table(manifest.assign(fold=folds), space)
    labels = replace(labels, trains=labels.trains & ~reserved if labels.trains is not None else ~reserved)
    oof, rounds = trained(members, banks_of(run, members, space), labels, given.epochs, np.flatnonzero(reserved))
    known = OofByView(
        space=space,
        members={name: {head: of_head[:, ~reserved] for head, of_head in heads.items()} for name, heads in oof.items()},
        views=VIEWS,
        truth=truth[~reserved],
        groups=np.unique(groups[~reserved], return_inverse=True)[1],
        folds=folds[~reserved],
    )
    decision = decide(known, VoteConfig(), seed)
    return {"seed": seed, "part": part, **judged(decision, known, rounds, manifest[reserved], seed)}


def judged(
    decision: Decision, known: OofByView, rounds: Sequence[Mapping[str, ByHead]], held_out: pd.DataFrame, seed: int
) -> dict[str, Any]:
    """What a decision scores on the people held out, beside other choices."""
    space = known.space
    truth, groups = true_labels(held_out, space)[JOINT], group_numbers(held_out["group"])
    plan = decision.vote.views
    seen = [{name: merged(member, VIEWS, plan) for name, member in of_round.items()} for of_round in rounds]
    folded = OofPredictions(space, decision.members, known.truth, known.groups, known.folds)
    calibrations = calibrate(folded, "temperature", all_rows(folded))
    own = voters_of(space, calibrated(folded.members, calibrations))

    def by(candidate: Candidate) -> npt.NDArray[np.float64]:
        fitted = fit(folded, own, candidate, decision.metric, seed)
        voted = [fitted.combine(space, voters_of(space, calibrated(of_round, calibrations))) for of_round in seen]
        return np.asarray(np.mean(voted, axis=0))

    rows = decision.choice.rows
    good = [row.candidate for row in rows if row.behind <= row.behind_se][:GOOD_ONES]
    single = best_member(decision, known, space)
    alone = [members_joint(space, of_round[single]) for of_round in seen]
    predicted = {
        "ensemble": decision.vote.over_rounds(seen),
        "best rule": by(rows[0].candidate),
        "mean of the good ones": np.mean([by(candidate) for candidate in good], axis=0),
        "best member": np.mean(alone, axis=0),
    }
    labels = [np.asarray(of_one).argmax(axis=1) for of_one in predicted.values()]
    one_fold = [np.asarray(decision.vote(of_round)).argmax(axis=1) for of_round in seen]
    found, drawn = compare(decision.metric, space, truth, [*labels, *one_fold], groups, seed)
    scores = dict(zip(predicted, found.tolist(), strict=False))
    return {
        "expected": decision.estimate,
        "optimism": decision.choice.optimism,
        "chosen": str(decision.choice.chosen),
        "found": interval(float(found[0]), drawn[0]),
        "scores": scores,
        "one fold's models": float(found[len(predicted) :].mean()),
        "gain of all folds, without labels": gain_without_labels(
            [decision.vote(of_round) for of_round in seen], decision, known, seed
        ),
    }


def gain_without_labels(votes: Sequence[npt.ArrayLike], decision: Decision, known: OofByView, seed: int) -> float:
    """What all folds' models together score more than one fold's on new images, if labels are as their mean says.

    Args:
        votes: (N, J) joint probabilities by fold.
        decision: whose metric is the score.
        known: whose label space it is.
        seed: of the labels that are drawn.
    """
    by_fold = np.stack([np.asarray(of_fold, np.float64) for of_fold in votes])
    mean = by_fold.mean(axis=0)
    mean /= mean.sum(axis=1, keepdims=True)
    draws = np.random.default_rng(seed).random((20, len(mean), 1))
    predicted = [mean.argmax(axis=1), *by_fold.argmax(axis=2)]
    gains = []
    for drawn in draws:
        truth = np.minimum((mean.cumsum(axis=1) < drawn).sum(axis=1), mean.shape[1] - 1)
        scores, _ = compare(decision.metric, known.space, truth, predicted, np.arange(len(truth)) // 7, 0)
        gains.append(scores[0] - scores[1:].mean())
    return float(np.mean(gains))


def members_joint(space: LabelSpace, member: ByHead) -> npt.NDArray[np.float64]:
    """(N, J) joint probabilities of a `multi` or `joint` member."""
    return np.asarray(member[JOINT] if JOINT in member else space.product(member), np.float64)


def best_member(decision: Decision, known: OofByView, space: LabelSpace) -> str:
    """The member with the highest score out of fold."""
    labels = [members_joint(space, member).argmax(axis=1) for member in decision.members.values()]
    found, _ = compare(decision.metric, space, known.truth, labels, known.groups, 0)
    return list(decision.members)[int(found.argmax())]


def summary(done: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Coverage and misses over all rotations."""
    expected = np.array([[of["expected"][key] for key in ("score", "low", "high", "se")] for of in done])
    found = np.array([[of["found"]["score"], of["found"]["se"]] for of in done])
    miss = expected[:, 0] - found[:, 0]
    error = np.hypot(expected[:, 3], found[:, 1])
    names = list(done[0]["scores"])
    gains = {name: [of["scores"]["ensemble"] - of["scores"][name] for of in done] for name in names[1:]}
    return {
        "rotations": len(done),
        "covered": float(np.mean((expected[:, 1] <= found[:, 0]) & (found[:, 0] <= expected[:, 2]))),
        "covered, with the error of the people held out": float(np.mean(np.abs(miss) <= 1.96 * error)),
        "mean signed miss": float(miss.mean()),
        "its standard error": float(miss.std(ddof=1) / np.sqrt(len(miss))),
        "the same, found without labels": float(np.mean([of["gain of all folds, without labels"] for of in done])),
        "mean gain of all folds over one": float(np.mean([of["scores"]["ensemble"] - of["one fold's models"] for of in done])),
        **{
            f"gain over the {name}": (float(np.mean(of_name)), float(np.std(of_name, ddof=1) / np.sqrt(len(done))))
            for name, of_name in gains.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", nargs="+", required=True, metavar="BACKBONE=FILE")
    parser.add_argument("--parts", type=int, default=5, help="parts that the people are held out in")
    parser.add_argument("--seeds", type=int, default=4, help="times that all parts are held out")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    torch.set_num_threads(1)
    run = base_run(given)
    done = []
    for seed in range(given.seeds):
        for part in range(given.parts):
            began = time.monotonic()
            done.append(rotation(given, run, seed, part))
            expected, found = done[-1]["expected"], done[-1]["found"]
            shown = f"{expected['score']:.4f} ({expected['low']:.4f} to {expected['high']:.4f})"
            took = f"{time.monotonic() - began:.0f} s"
            print(f"seed {seed} part {part}: expected {shown}, found {found['score']:.4f}, {took}", flush=True)
            write_results("rotations", {**vars(given), "rotations": done})
    told = summary(done)
    show("Rotations", ("", ""), [(name, str(value)) for name, value in told.items()])
    write_results("rotations", {**vars(given), "rotations": done, "summary": told})


if __name__ == "__main__":
    main()
