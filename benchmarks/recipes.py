"""What each choice of a recipe is worth: one at a time against the default, out of fold, on the same folds and stream.

python benchmarks/recipes.py probe --data DIR --weights mobilenetv2_100=mobilenetv2_100.pth
python benchmarks/recipes.py tune --data DIR --weights mobilenetv2_100=mobilenetv2_100.pth --share 0.4 --size 64

`probe` trains heads on the features of a frozen backbone; `tune` fine-tunes the whole network. Every choice is a member of one
run, so that choices with equal streams share packs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import WORK, show
from raymask.config.loading import load_config
from raymask.config.merging import deep_merge
from raymask.config.schema import RunConfig, resolve_members
from raymask.config.tasks import label_space
from raymask.core.console import Display
from raymask.core.paths import absolute
from raymask.core.tasks import JOINT, heads_of
from raymask.data.cache import PreparedImages
from raymask.data.features import FeatureBank
from raymask.data.folds import replica_folds
from raymask.data.sampling import BatchSampler
from raymask.data.specs import InputSpec, StreamSpec
from raymask.inference.voting_runs import validated_images, voting_runs
from raymask.metrics.bootstrap import Metric, compare, interval
from raymask.models.classifier import build_classifier
from raymask.runs.configs import load_run_config
from raymask.runs.directory import ReplicaId, Run
from raymask.runs.models import read_model
from raymask.runs.tables import read_manifest
from raymask.runs.timings import timed
from raymask.training.inputs import FeatureFeed, Feed, Inputs, PixelFeed
from raymask.training.learner import Learner
from raymask.training.targets import label_table
from raymask.training.trial import learner_spec
from raymask.voting.view_selection import OofByView
from raymask.workflows.context import run_context
from raymask.workflows.fold_models import train_fold_models
from raymask.workflows.images import prepare_images
from raymask.workflows.oof import collect_members, read_evidence
from raymask.workflows.setup import prepare_run, record_run, resolve

Choices = dict[str, dict[str, Any]]
DEFAULT, DEVICE = "default", torch.device("cuda" if torch.cuda.is_available() else "cpu")
NO_BANK, NO_IMAGES = FeatureBank((), {}), PreparedImages((), np.zeros(0, np.int64), np.zeros(0, np.int64))
NO_SAMPLER = BatchSampler(StreamSpec(InputSpec(8, 8, 1.0), "[]", 2, 1, seed=0), np.zeros(2, np.int64))

LOSSES: Choices = {
    "label smoothing 0.1": {"loss": {"label_smoothing": 0.1}},
    "class weights ^0.5": {"loss": {"class_weight_power": 0.5}},
    "class weights ^1": {"loss": {"class_weight_power": 1.0}},
    "effective number 0.999": {"loss": {"effective_number": 0.999}},
    "focal": {"loss": {"name": "focal"}},
    "logit adjusted, tau 1": {"loss": {"name": "logit_adjusted"}},
    "logit adjusted, tau 0.5": {"loss": {"name": "logit_adjusted", "tau": 0.5}},
    "balanced softmax": {"loss": {"name": "balanced_softmax"}},
    "LDAM-DRW": {"loss": {"name": "ldam_drw"}},
    "soft macro-F1": {"loss": {"name": "soft_f1"}},
    "BCE": {"loss": {"name": "bce"}},
    "asymmetric": {"loss": {"name": "asymmetric"}},
}
ORDINAL: Choices = {
    "age as bins": {"ordinal": {"name": "bins"}},
    "age as bins, by mass": {"ordinal": {"name": "bins", "decode": "mass"}},
    "age as bins, no expectation": {"ordinal": {"name": "bins", "expectation": 0.0, "decode": "mass"}},
    "age by CORN": {"ordinal": {"name": "corn"}},
    "age by regression": {"ordinal": {"name": "regression"}},
    "age as bins, weighted ^0.5": {"ordinal": {"name": "bins"}, "loss": {"class_weight_power": 0.5}},
}
SAMPLERS: Choices = {
    "balanced by age": {"sampler": {"name": "balanced", "by": "age"}},
    "balanced by joint": {"sampler": {"name": "balanced", "by": "joint"}},
    "half balanced by joint": {"sampler": {"name": "balanced", "by": "joint", "power": 0.5}},
    "dynamic by joint": {"sampler": {"name": "dynamic", "by": "joint"}},
    ">=60 three times": {"sampler": {"name": "repeat", "by": "age", "factors": {">=60": 3}}},
    "one photo a person": {"sampler": {"name": "one_per_group"}},
}
HEADS: Choices = {
    "MLP 256": {"head": {"name": "mlp", "hidden": 256}},
    "MLP 2 × 256": {"head": {"name": "mlp", "hidden": 256, "depth": 2}},
    "dropout 0.5": {"head": {"dropout": 0.5}},
    "multi-sample dropout": {"head": {"dropout": 0.5, "samples": 5}},
}
OPTIMISATION: Choices = {
    "SGD with momentum": {"optim": {"name": "sgd", "lr": 0.03, "weight_decay": 1e-4, "arguments": {"momentum": 0.9}}},
    "Lion": {"optim": {"name": "lion", "lr": 2e-4}},
    "AdamP": {"optim": {"name": "adamp"}},
    "Muon": {"optim": {"name": "muon"}},
    "constant": {"schedule": {"name": "constant"}},
    "step": {"schedule": {"name": "step", "every": 2, "factor": 0.3}},
    "one cycle": {"schedule": {"name": "one_cycle"}},
    "plateau": {"schedule": {"name": "plateau"}},
    "accumulate 4": {"optim": {"accumulate": 4}},
}
FINE_TUNING: Choices = {
    "EMA": {"optim": {"ema": 0.98}},
    "average of the last 2": {"schedule": {"average_last": 2}},
    "early stopping": {"stop": {"patience": 2}},
    "layer decay 0.8": {"optim": {"layer_decay": 0.8}},
    "freeze 3 stages": {"freeze": {"stages": 3}},
    "head first": {"freeze": {"part": "backbone", "unfreeze_at": 1}},
    "drop path 0.1": {"drop_path": 0.1},
}
DEPTHS: Choices = {f"freeze {stages} stages": {"freeze": {"stages": stages}} for stages in (1, 2, 3, 4, 5, 6)}
MIXING: Choices = {
    "MixUp": {"mix": {"name": "mixup", "alpha": 0.2}},
    "CutMix": {"mix": {"name": "cutmix", "probability": 0.5}},
    "half-face CutMix": {"mix": {"name": "half_cutmix", "probability": 0.5}},
    "half-face CutMix, rare half": {"mix": {"name": "half_cutmix", "probability": 0.5, "rare": {"age": [">=60"]}}},
    "half-face CutMix, first half": {"mix": {"name": "half_cutmix", "probability": 0.5, "until": 2}},
}
AUGMENT: Choices = {
    f"augment {name}": {"augment": name}
    for name in ("none", "medium", "heavy", "competition", "cutout", "distort", "randaugment", "trivialaugment")
}
INPUT: Choices = {
    "normalize dataset": {"normalize": "dataset"},
    "crop 0.8": {"crop": 0.8},
    "conv branches": {"head": {"name": "conv", "hidden": 64}},
}
GROUPS: dict[str, dict[str, Choices]] = {
    "probe": {
        "losses": LOSSES,
        "ordinal": ORDINAL,
        "samplers": SAMPLERS,
        "heads": HEADS,
        "optimisation": OPTIMISATION,
        "mixing": {"MixUp of features": {"mix": {"name": "mixup", "alpha": 0.4}}},
    },
    "tune": {
        "losses": LOSSES,
        "ordinal": ORDINAL,
        "samplers": SAMPLERS,
        "optimisation": {**OPTIMISATION, **FINE_TUNING},
        "depths": DEPTHS,
        "mixing": MIXING,
        "augment": AUGMENT,
        "input": INPUT,
    },
}
PROBE = {
    "image_size": 96,
    "freeze": {"part": "backbone", "passes": 2},
    "head": {"norm": True, "dropout": 0.3},
    "loss": {"class_weight_power": 0.0},
    "optim": {"lr": 3e-3, "weight_decay": 0.5},
    "schedule": {"epochs": 12},
    "batch_size": 256,
}
TUNE = {
    "augment": "light",
    "head": {"dropout": 0.2},
    "loss": {"label_smoothing": 0.0},
    "optim": {"lr": 2e-3, "backbone_lr_scale": 0.5, "weight_decay": 0.05, "clip_grad": 1.0, "ema": 0.0},
    "schedule": {"epochs": 4},
    "batch_size": 48,
}


def member_name(choice: str) -> str:
    """A choice as a folder's name.

    Example:
        >>> member_name("age as bins, by mass")
        'age-as-bins-by-mass'
    """
    kept = "".join(letter if letter.isalnum() or letter in ".-" else " " for letter in choice)
    return "-".join(kept.split()) or "x"


def config_of(given: argparse.Namespace, backbone: str, weights: str, seed: int, choices: Choices) -> RunConfig:
    """One run whose members are the choices, each beside the default."""
    base = PROBE if given.mode == "probe" else {**TUNE, "image_size": given.size}
    if given.epochs:
        base = deep_merge(base, {"schedule": {"epochs": given.epochs}})
    if given.batch_size:
        base = deep_merge(base, {"batch_size": given.batch_size})
    base = deep_merge(base, {"backbone": backbone, "weights": str(Path(weights).absolute()), "pretrained": True})
    members: list[dict[str, Any]] = [{"task": "multi", "name": DEFAULT}]
    members += [{"task": "multi", "name": member_name(name), "recipe": recipe} for name, recipe in choices.items()]
    over = {
        "name": f"{given.mode}-{backbone}-{seed}",
        "runs": str(WORK / "recipes"),
        "seed": seed,
        "data": {"path": str(Path(given.data).absolute()), **({} if given.share == 1 else {"share": given.share})},
        "folds": {"k": given.folds},
        "views": ["original"],
        "recipe": base,
        "members": members,
    }
    return load_config("probe" if given.mode == "probe" else "baseline", given.settings, over)


def out_of_fold(config: RunConfig, choices: Choices) -> list[dict[str, Any]]:
    """Trains all members, and scores each: macro-F1 by target, and the joint one's difference to the default's by person."""
    config = resolve(config)
    with run_context(Run(absolute(config.runs) / config.name), config, Display()) as context:
        prepared = prepare_run(context)
        record_run(prepared)
        images = prepare_images(prepared)
        folds = replica_folds(images.manifest["fold"])
        with timed(prepared.run, "all"):
            train_fold_models(prepared, "train", prepared.members, folds, images)
        voting = voting_runs([prepared.run])
        judged = validated_images(voting[0])
        collect_members(context, voting, judged["image_id"])
    return scored(read_evidence(voting, judged), choices, prepared.run)


def scored(evidence: OofByView, choices: Choices, run: Run) -> list[dict[str, Any]]:
    """The scores of all members' out-of-fold predictions."""
    space, names = evidence.space, {member_name(choice): choice for choice in choices}
    joint = {
        member: space.join({task: np.asarray(heads[task][0]).argmax(axis=1) for task in space.names})
        for member, heads in evidence.members.items()
    }
    of_task = {
        target: compare(Metric(target, "f1"), space, evidence.truth, list(joint.values()), evidence.groups, seed=0)
        for target in (*space.names, JOINT)
    }
    scores, resampled = of_task[JOINT]
    folds = sorted(set(evidence.folds.tolist()))
    seconds = step_seconds(run)
    return [
        {
            "choice": names.get(member, member),
            **{target: float(of_members[number]) for target, (of_members, _) in of_task.items()},
            "step_seconds": seconds[member],
            "gain": interval(float(scores[number] - scores[0]), resampled[number] - resampled[0]),
            "folds": [read_model(run.replica(ReplicaId(member, fold))).scores["f1"] for fold in folds],
        }
        for number, member in enumerate(joint)
    ]


def step_seconds(run: Run, rounds: int = 5, steps: int = 3) -> dict[str, float]:
    """Seconds that a step of each member's training takes in this process, on made-up inputs: medians of interleaved rounds."""
    config = load_run_config(run)
    space = label_space(config.tasks)
    labels, rng = label_table(read_manifest(run, space), space), np.random.default_rng(0)
    works: dict[str, tuple[Learner, Feed, Inputs]] = {}
    for member in resolve_members(config):
        recipe, heads = member.recipe, heads_of(member.task, space)
        model = build_classifier(recipe, heads, labels.scales(heads))
        learner = Learner(learner_spec(member, 0, labels, 10**6), model, DEVICE)
        rows = rng.integers(0, len(labels.fold), recipe.batch_size)
        given = (model.backbone.num_features,) if recipe.frozen else (3, *recipe.height_width)
        drawn = rng.integers(0, 256, (len(rows), *given)).astype(np.float32 if recipe.frozen else np.uint8)
        tensor = torch.from_numpy(drawn).to(DEVICE)
        feed: Feed = FeatureFeed(NO_BANK, NO_SAMPLER, 0, DEVICE) if recipe.frozen else PixelFeed([], NO_IMAGES, DEVICE)
        works[member.name] = (learner, feed, Inputs(tensor, rows, 0, 0))
    seconds: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds * steps):
        for name, (learner, of_member, inputs) in works.items():
            began = time.perf_counter()
            learner.learn(replace(inputs, step=number), of_member)
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - began)
    return {name: float(np.median(of_rounds)) for name, of_rounds in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=list(GROUPS))
    parser.add_argument("--data", required=True, help="training data in the competition's layout")
    parser.add_argument("--weights", action="append", required=True, metavar="BACKBONE=FILE")
    parser.add_argument("--groups", nargs="*", default=None, help="which groups of choices (default: all)")
    parser.add_argument("--only", nargs="*", default=None, help="which of these groups' choices (default: all)")
    parser.add_argument("--share", type=float, default=1.0, help="share of the people")
    parser.add_argument("--size", type=int, default=64, help="pixels, for tune")
    parser.add_argument("--epochs", type=int, default=None, help="in place of 12 of probe and 4 of tune")
    parser.add_argument("--batch-size", type=int, default=None, help="in place of 256 of probe and 48 of tune")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE", help="such as compute.gpus=1")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--out", type=Path, default=WORK / "recipes.jsonl")
    given = parser.parse_args()
    groups = GROUPS[given.mode]
    choices = {name: recipe for group in given.groups or groups for name, recipe in groups[group].items()}
    choices = {name: recipe for name, recipe in choices.items() if given.only is None or name in given.only}
    for seed in given.seeds:
        for each in given.weights:
            backbone, _, weights = each.partition("=")
            began = time.perf_counter()
            rows = out_of_fold(config_of(given, backbone, weights, seed, choices), choices)
            seconds = time.perf_counter() - began
            given.out.parent.mkdir(parents=True, exist_ok=True)
            with given.out.open("a") as file:
                for row in rows:
                    file.write(
                        json.dumps({"mode": given.mode, "backbone": backbone, "seed": seed, "seconds": seconds, **row}) + "\n"
                    )
            show(
                f"{given.mode}, {backbone}, seed {seed}: out-of-fold macro-F1, {seconds:.0f} s",
                ["choice", "joint", "gain", "low", "high", "age"],
                [
                    [r["choice"], r["joint"], r["gain"]["score"], r["gain"]["low"], r["gain"]["high"], r.get("age", 0.0)]
                    for r in rows
                ],
            )


if __name__ == "__main__":
    main()
