"""What of a data set deserves a look before anything is trained, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from raymask.core.columns import label_column
from raymask.core.errors import shortened
from raymask.core.tasks import JOINT
from raymask.data.folds import rare_classes
from raymask.data.rejected import reasons
from raymask.report.eda_data import Explored, Part

FEW_GROUPS = 10
LARGE_FACTOR = 4.0
"""Between the longer sides of the largest and the smallest images that is worth a word."""
UNEVEN_FACTOR = 20
"""Between the largest and the smallest class."""
BRIGHTER = 0.5
"""Deviations of the training images' brightness by which the test images' mean may differ."""
USUAL = 0.95
"""Share of images of one size from which on another size is worth a word."""
WORTHWHILE_GAP = 0.05
"""Of macro-F1."""
ENOUGH_IMAGES = 100
"""For a gap to be more than chance."""


def findings(explored: Explored) -> list[str]:
    """The sentences, the gravest first."""
    parts = (_on_files, _on_duplicates, _on_folds, _on_classes, _on_pixels, _on_test)
    return [sentence for part in parts for sentence in part(explored)] + list(explored.remarks)


def _on_files(explored: Explored) -> Iterator[str]:
    rejected = explored.set_aside
    if len(rejected):
        found = len(explored.train) + len(rejected)
        refused = ""
        if len(rejected) > explored.most_rejected * found:
            refused = f"; that is more than data.max_rejected ({explored.most_rejected:g}) allows, so that a run would be refused"
        yield f"{len(rejected)} of {found} training image(s) are set aside{reasons(rejected)}{refused}."
    if len(explored.unreadable_test):
        yield f"{len(explored.unreadable_test)} test image(s) cannot be read{reasons(explored.unreadable_test)}."


def _on_duplicates(explored: Explored) -> Iterator[str]:
    across, tested = explored.compared.across_groups, explored.compared.with_test
    groups = np.unique(explored.groups[across.rows[: len(explored.groups)]])
    if across.pairs:
        what = "groups" if explored.grouped else "images"
        way_out = "if they show the same, give them one group" if explored.grouped else "if they belong together, name groups"
        yield (
            f"{across.pairs} pair(s) of images of different groups look alike, of {len(groups)} {what}: validation would see "
            f"what training saw; {way_out} (data.group_column)."
        )
    if across.unlike:
        yield f"{across.unlike} pair(s) of images that look alike have different labels; one of the two may be wrong."
    if explored.copies:
        yield f"{len(explored.copies)} test image(s) are training images byte for byte, such as '{min(explored.copies)}'."
    images = int(tested.rows[len(explored.groups) :].sum())
    if images:
        yield f"{images} test image(s) look like a training image; a score on them says less about new ones."


def _on_folds(explored: Explored) -> Iterator[str]:
    chosen = explored.config.folds.scheme
    for table in explored.folds:
        if table.scheme == chosen and table.problem:
            yield f"A run with these folds would be refused: {table.problem}"
        if table.scheme == chosen and table.split_groups:
            yield (
                f"folds.scheme={chosen} puts {table.split_groups} groups in several folds: validation would see people that "
                "training saw; folds.scheme=stratified_group does not."
            )
    worst = max(explored.leak.scores, key=lambda believed: believed.gap, default=None)
    if worst and worst.gap > WORTHWHILE_GAP and explored.leak.images >= ENOUGH_IMAGES:
        yield (
            f"Folds by image would flatter: a nearest neighbour scores {worst.f1_by_image:.2f} by them and "
            f"{worst.f1_by_group:.2f} on new groups (macro-F1 of {worst.target})."
        )


def _on_classes(explored: Explored) -> Iterator[str]:
    images, k = explored.train.images, explored.config.folds.k
    for target in (*explored.space.names, JOINT):
        counts = np.bincount(explored.labels[target], minlength=len(explored.space.classes(target)))
        names = explored.space.classes(target)
        if target != JOINT and (empty := [name for name, count in zip(names, counts, strict=True) if not count]):
            yield f"{target}: no image is of the classes {shortened(empty)}."
        present = counts[counts > 0]
        if target != JOINT and len(present) > 1 and present.max() >= UNEVEN_FACTOR * present.min():
            large, small = names[int(counts.argmax())], names[int(np.where(counts > 0, counts, counts.max() + 1).argmin())]
            yield f"{target}: '{large}' has {present.max() / present.min():.0f} times as many images as '{small}'."
    nunique = images.groupby(label_column(JOINT))["group"].nunique()
    per_class = dict(zip(nunique.index.tolist(), nunique.tolist(), strict=True))
    missing = explored.space.joint_size - len(per_class)
    if missing:
        yield f"{missing} of {explored.space.joint_size} joint classes have no image."
    rare = [name for name in rare_classes(images, explored.space.joint_classes, k) if not name.endswith(" (0)")]
    if rare:
        yield f"Some folds validate without these joint classes, which have fewer groups than the {k} folds: {shortened(rare)}."
    few = [f"{explored.space.joint_classes[label]} ({count})" for label, count in per_class.items() if k <= count < FEW_GROUPS]
    if few:
        yield f"These joint classes have fewer than {FEW_GROUPS} groups, so that their scores say little: {shortened(few)}."


def _on_pixels(explored: Explored) -> Iterator[str]:
    for what, part in (("training", explored.train), ("test", explored.test)):
        if part is None or not len(part):
            continue
        longer = np.maximum(part.survey.heights, part.survey.widths)
        if longer.max() >= LARGE_FACTOR * longer.min():
            yield f"The longer sides of {what} images are of {longer.min()} to {longer.max()} pixels."
        constant = part.nearly_constant
        if constant.any():
            names = part.images["image_id"][constant].tolist()
            yield f"There is next to nothing on {len(names)} {what} image(s): {shortened(names, 3)}."
    if not explored.statistics:
        yield "In some channel all images have one value, so that recipe.normalize=dataset would be refused."


def _on_test(explored: Explored) -> Iterator[str]:
    if explored.test is None or not len(explored.test):
        return
    ours, theirs = _brightness(explored.train), _brightness(explored.test)
    deviation = max(float(ours.std(ddof=0)), 1.0)
    by = (theirs.mean() - ours.mean()) / deviation
    if abs(by) > BRIGHTER:
        yield (
            f"Test images are {'brighter' if by > 0 else 'darker'} than training images: {theirs.mean():.0f} against "
            f"{ours.mean():.0f} of 255, which is {abs(by):.1f} deviations."
        )
    sizes, others = _sizes(explored.train), _sizes(explored.test)
    usual, strange = sizes.mode()[0], others[~others.isin(sizes)]
    if (sizes == usual).mean() > USUAL and len(strange) > (1 - USUAL) * len(others):
        yield (
            f"{len(strange)} of {len(others)} test images have sizes that no training image has, such as {strange.mode()[0]}, "
            f"while those are {usual}: they may have been cut or scaled in another way."
        )


def _brightness(part: Part) -> pd.Series:
    return pd.Series(part.survey.brightness)


def _sizes(part: Part) -> pd.Series:
    survey = part.survey
    return pd.Series([f"{width}×{height}" for width, height in zip(survey.widths, survey.heights, strict=True)], dtype=str)
