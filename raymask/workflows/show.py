"""`raymask show`: draws what a recipe feeds the network, by the stream's own sampler, augmenter and mixer. Without Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from raymask.config.components import Component
from raymask.config.members import Member
from raymask.config.recipe import Recipe
from raymask.config.schema import RunConfig
from raymask.core.console import Display
from raymask.core.paths import absolute, check_writable
from raymask.core.tasks import UNLABELLED, LabelSpace, heads_of
from raymask.core.types import Pixels
from raymask.data.cache import PreparedImages, find_cache, open_cache, problems
from raymask.data.careful import decode_files
from raymask.data.folds import assign_folds, replica_folds, reserve_rows
from raymask.data.rejected import check_rejected
from raymask.data.sampling import Batch, BatchSampler, make_batch
from raymask.data.specs import StreamSpec, input_spec, stream_spec
from raymask.data.stream import open_batch_sampler, stream_augmenter
from raymask.io.atomic import write_table
from raymask.report.contact_sheet import FedBatch, FedImage, write_page, write_sheet
from raymask.runs.directory import cache_of, cache_root
from raymask.runs.outputs import check_output
from raymask.training.learner import LearnerSpec
from raymask.training.mixers import Examples, build_mixer
from raymask.training.targets import LabelTable, label_table
from raymask.training.trial import learner_spec
from raymask.workflows.setup import LabelledData, member_named, read_labelled, resolve

PAGE = "show.html"
LEAST_SHARE = 0.005
"""Of a class in a mixed target that is written."""


def show(
    config: RunConfig, out: str | Path | None = None, member: str | None = None, batches: int = 1, display: Display | None = None
) -> Path:
    """Draws the first batches of one of a recipe's fold models, as they are prepared and as they are fed.

    Args:
        config: the run's, as for training.
        out: folder of the page and the contact sheets (default: `show-NAME` here).
        member: name of a member (default: the first).
        batches: how many batches.
        display: what shows progress.

    Returns:
        The page.

    Raises:
        InputError: the data or the config are wrong, or there is no such member.
    """
    display, folder = display or Display(), absolute(out or f"show-{config.name}")
    check_output(folder, "--out", own=PAGE)
    check_writable(folder, "--out")
    config = resolve(config)
    check_writable(cache_root(config), "folder by --set cache=FOLDER")
    labelled = read_labelled(config, display)
    for remark in [*labelled.remarks, *(["the teacher is left out: shown are the labels of the data"] if config.teacher else [])]:
        display.warn(remark)
    chosen = member_named(labelled.members, member)
    with TemporaryDirectory(prefix="raymask-show-") as scratch:
        shown = list(_shown(labelled, chosen, batches, Path(scratch), display))
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("batch-*.png"):
        old.unlink()
    for number, batch in enumerate(shown):
        write_sheet(batch, folder / f"batch-{number}.png")
    write_page(f"{config.name}: {chosen.name}", _facts(chosen.recipe), shown, folder / PAGE)
    display.line(
        "show", f"{sum(len(batch.images) for batch in shown)} images as they are fed to '{chosen.name}': {folder / PAGE}"
    )
    return folder / PAGE


@dataclass(frozen=True)
class FedModel:
    """The fold model whose batches are shown."""

    spec: LearnerSpec
    heads: dict[str, int]
    """Classes by head."""
    labels: LabelTable
    """Those that it learns from."""


def _shown(labelled: LabelledData, member: Member, batches: int, scratch: Path, display: Display) -> Iterator[FedBatch]:
    """The first batches of the member's first fold model."""
    spec = stream_spec(member.recipe, labelled.config.seed, member.task, labelled.source.space)
    manifest, sampler, prepared = _prepared(labelled, spec, batches, scratch, display)
    fold = replica_folds(manifest["fold"])[0]
    learned = learner_spec(member, fold, label_table(manifest, labelled.source.space), sampler.steps)
    model = FedModel(learned, heads_of(member.task, labelled.source.space), learned.learned_labels()[0])
    for number in range(batches):
        epoch, step = divmod(number, sampler.steps)
        batch = make_batch(prepared, stream_augmenter(spec), sampler, epoch, step)
        images = _images(model, batch, prepared.read(batch.rows), manifest["image_id"].to_numpy()[batch.rows])
        yield FedBatch(f"{model.spec.name}: batch {step} of epoch {epoch}, {len(batch.rows)} images", images)


def _prepared(
    labelled: LabelledData, spec: StreamSpec, batches: int, scratch: Path, display: Display
) -> tuple[pd.DataFrame, BatchSampler, PreparedImages]:
    """The manifest, its batches, and the prepared images of the first of them: of the cache if it is whole, else decoded here.

    An image that is broken is set aside, as in training, so that the others are in other batches.
    """
    source, images, config = labelled.source, labelled.source.images, labelled.config
    cache, whole = find_cache(images, spec.input, cache_of(config, "prepared"))
    broken = problems(cache) if whole else pd.DataFrame({"image_id": [], "reason": []}, dtype=str)
    decoded: dict[str, Pixels] = {}
    while True:
        judged = broken if source.left_out else pd.concat([source.rejected, broken])  # as in training
        check_rejected(judged, len(images) + len(judged) - len(broken), config.data.max_rejected)
        manifest = _manifest(images[~images["image_id"].isin(broken["image_id"])], config)
        write_table(scratch / "manifest.parquet", manifest)
        sampler = open_batch_sampler(spec, scratch / "manifest.parquet")
        if whole:
            return manifest, sampler, open_cache(cache, manifest["image_id"])
        rows = np.unique(np.concatenate([sampler.rows(*divmod(number, sampler.steps)) for number in range(batches)]))
        found = _decode(manifest.iloc[rows], spec, decoded, scratch)
        if not len(found):
            return manifest, sampler, _held(manifest, rows, decoded)
        display.warn(f"{len(found)} images are broken, such as '{found['image_id'].iloc[0]}': {found['reason'].iloc[0]}")
        broken = pd.concat([broken, found], ignore_index=True)


def _manifest(images: pd.DataFrame, config: RunConfig) -> pd.DataFrame:
    """The images that are not held out from everything, with their folds, as a run has them."""
    images = images.reset_index(drop=True)
    images = images[~reserve_rows(images, config.folds, config.seed)].reset_index(drop=True)
    return images.assign(fold=assign_folds(images, config.folds, config.seed))


def _decode(images: pd.DataFrame, spec: StreamSpec, decoded: dict[str, Pixels], scratch: Path) -> pd.DataFrame:
    """Adds the prepared pixels of images that have none yet; returns the broken ones: image_id, reason."""
    new = images[~images["image_id"].isin(list(decoded))]
    found = decode_files(new["path"].tolist(), [spec.input.prepared], scratch / "decoding")
    by_id = dict(zip(new["image_id"], found, strict=True))
    decoded.update({image_id: pixels[0] for image_id, (problem, pixels) in by_id.items() if not problem})
    rejected = [(image_id, problem) for image_id, (problem, _) in by_id.items() if problem]
    return pd.DataFrame(rejected, columns=["image_id", "reason"], dtype=str)


def _held(manifest: pd.DataFrame, rows: npt.NDArray[np.int64], decoded: Mapping[str, Pixels]) -> PreparedImages:
    """Prepared images that are there at some rows alone."""
    offsets = np.full(len(manifest), len(rows))  # beyond the shard's end
    offsets[rows] = np.arange(len(rows))
    pixels = np.stack([decoded[image_id] for image_id in manifest["image_id"].iloc[rows]])
    return PreparedImages((pixels,), np.zeros(len(manifest), np.int64), offsets)


def _images(model: FedModel, batch: Batch, prepared: Pixels, image_ids: npt.NDArray[Any]) -> list[FedImage]:
    """The images of a batch: those that the model learns from first, and mixed as it mixes them."""
    learned = np.flatnonzero(model.labels.learned(model.spec.fold)[batch.rows])
    fed, mixed = _mixed(model, batch, learned)
    fed_of, target_of = dict(zip(learned.tolist(), fed, strict=True)), dict(zip(learned.tolist(), mixed, strict=True))
    images = []
    for place in [*learned.tolist(), *sorted({*range(len(batch.rows))} - {*learned.tolist()})]:
        labels = _in_words({head: table[batch.rows[place]] for head, table in model.labels.train.items()}, model)
        target = target_of.get(place, "")
        images.append(
            FedImage(
                image_id=str(image_ids[place]),
                prepared=prepared[place],
                fed=fed_of.get(place, batch.images[place]),
                labels=labels,
                target="" if target == labels else target,
                left_out="" if place in fed_of else f"not learned from by {model.spec.name}",
            )
        )
    return images


def _mixed(model: FedModel, batch: Batch, learned: npt.NDArray[np.int64]) -> tuple[list[Pixels], list[str]]:
    """The pixels and the targets, in words, that the model learns from, mixed by what its learner draws at this step.

    A mix is the same under any normalisation, so that pixels need none here. Features of a frozen backbone are mixed in place of
    its pixels, which are left as they are.
    """
    if not len(learned):
        return [], []
    torch.manual_seed(int(np.random.SeedSequence([model.spec.seed, batch.epoch, batch.step]).generate_state(1)[0]))
    inputs = torch.from_numpy(batch.images[learned]).permute(0, 3, 1, 2).float()
    rows = batch.rows[learned]
    targets = {head: torch.tensor(model.labels.train[head][rows]) for head in model.heads}
    mix = model.spec.recipe.mix
    rare = torch.from_numpy(model.labels.rare_rows(mix.rare)[rows])
    mixed = build_mixer(mix, model.heads)(Examples(inputs, targets), rare, batch.epoch)
    pixels = mixed.inputs.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    fed = batch.images[learned] if model.spec.recipe.frozen else pixels
    return list(fed), [
        _in_words({head: target[place].numpy() for head, target in mixed.targets.items()}, model) for place in range(len(learned))
    ]


def _in_words(target: Mapping[str, npt.NDArray[Any]], model: FedModel) -> str:
    """What is learned, head by head: `worn · 0.5 <30 + 0.5 >=60`."""
    return " · ".join(_label_in_words(np.asarray(target[head]), head, model.labels.space) for head in model.heads)


def _label_in_words(target: npt.NDArray[Any], head: str, space: LabelSpace) -> str:
    names = space.classes(head)
    if target.ndim == 0:
        return "no label" if target == UNLABELLED else names[int(target)]
    shares = [
        (float(target[label]), names[label]) for label in np.argsort(-target, kind="stable") if target[label] >= LEAST_SHARE
    ]
    return shares[0][1] if shares[0][0] > 1 - LEAST_SHARE else " + ".join(f"{share:.2g} {name}" for share, name in shares)


def _facts(recipe: Recipe) -> dict[str, str]:
    """What decides the pixels and targets, by name."""
    spec = input_spec(recipe)
    box = f"a centred box of {spec.crop:g} pixels" if spec.crop > 1 else f"{spec.crop:.0%} of the largest centred box"
    window = f"; the network sees {spec.size[0]}×{spec.size[1]} of it" if spec.window else ""
    normalize = recipe.normalize if isinstance(recipe.normalize, str) else json.dumps(recipe.normalize.model_dump(mode="json"))
    return {
        "Backbone": recipe.backbone + (", frozen: its features are mixed, not pixels" if recipe.frozen else ""),
        "Prepared": f"{spec.height}×{spec.width}, of {box}{window}",
        "Augmentation": recipe.augment if isinstance(recipe.augment, str) else json.dumps(recipe.augment),
        "Sampler": _group(recipe.sampler),
        "Mix": _group(recipe.mix),
        "Normalisation": normalize,
    }


def _group(component: Component) -> str:
    """A group of a recipe: its name, and what else is not as it is by default."""
    values = component.model_dump(mode="json", exclude_defaults=True)
    return json.dumps({"name": component.name, **values}) if {*values} - {"name"} else component.name
