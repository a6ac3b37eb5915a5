"""`raymask eda`: one page about a data set before anything is trained. Without Ray."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from raymask.config.schema import RunConfig
from raymask.core.columns import label_column
from raymask.core.console import Display
from raymask.core.errors import InputError
from raymask.core.machine import usable_cpus
from raymask.core.paths import absolute, check_writable
from raymask.core.tasks import JOINT
from raymask.data.duplicates import among
from raymask.data.fold_leak import measure_leak
from raymask.data.fold_tables import fold_tables
from raymask.data.near_duplicates import find_near_duplicates
from raymask.data.rejected import reasons
from raymask.data.specs import input_spec
from raymask.data.statistics import ChannelSums
from raymask.data.survey import Survey, small_picture, survey
from raymask.data.test_sets import TestSet
from raymask.io.atomic import write_text
from raymask.report.eda import MARK, QUALITY, SIDE, render_eda
from raymask.report.eda_data import Explored, Part
from raymask.report.eda_findings import findings
from raymask.runs.directory import cache_root
from raymask.runs.outputs import check_output_page
from raymask.workflows.setup import LabelledData, read_labelled, read_test_set, resolve

PAIRS_SHOWN = 24
"""Of either kind of near-duplicates."""


def eda(config: RunConfig, out: str | Path | None = None, display: Display | None = None) -> Path:
    """Writes a page about the training and test images of a config.

    Args:
        config: a run's, as for training.
        out: the page's file (default: `eda-NAME.html` here, after the data).
        display: what shows progress.

    Returns:
        The page.

    Raises:
        InputError: the data or the config are wrong, or no image can be read.
    """
    display = display or Display()
    config = resolve(config)
    page = absolute(out or f"eda-{_name(config)}.html")
    check_output_page(page, "--out", MARK)
    check_writable(page.parent, "--out")
    check_writable(cache_root(config), "folder by --set cache=FOLDER")
    explored = _explored(config, display)
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text(page, render_eda(explored))
    for finding in findings(explored):
        display.warn(finding)
    display.line("eda", f"{len(explored.train)} images of {len(np.unique(explored.groups))} groups: {page}")
    return page


def _name(config: RunConfig) -> str:
    """What the data are called, for the page's file."""
    if config.data.kind == "demo" or not config.data.path:
        return "demo"
    last = re.split(r"[/\\]", config.data.path.rstrip("/\\"))[-1]
    return re.sub(r"[^\w.-]+", "_", Path(last).stem)[:80].strip("._") or "data"


def _explored(config: RunConfig, display: Display) -> Explored:
    limits = {"max_rejected": 1.0, "max_missing_test": 1.0}  # what a run would refuse is said on the page
    labelled = read_labelled(config.model_copy(update={"data": config.data.model_copy(update=limits)}), display)
    settled, space = labelled.config, labelled.source.space
    test, _ = read_test_set(settled, labelled.data, display)
    train, tested, broken = _measured(labelled, test, display)
    joint = train.images[label_column(JOINT)].to_numpy(np.int64)
    groups = pd.factorize(train.images["named_group"], sort=True)[0].astype(np.int64)
    parts = [train, tested] if tested else [train]
    return Explored(
        name=_name(config),
        where=config.data.path or "people drawn for the demo",
        config=settled,
        space=space,
        train=train,
        groups=groups,
        test=tested,
        set_aside=broken[0],
        unreadable_test=broken[1],
        most_rejected=config.data.max_rejected,
        remarks=(*labelled.remarks, *(test.remarks if test else ())),
        copies=among(tested.images, train.images) if tested else frozenset(),
        compared=find_near_duplicates(
            np.concatenate([part.survey.hashes for part in parts]),
            np.concatenate([part.nearly_constant for part in parts]),
            groups,
            joint,
            PAIRS_SHOWN,
        ),
        folds=tuple(fold_tables(train.images, settled.folds, settled.seed, space.joint_size)),
        leak=measure_leak(train.images, train.survey.thumbnails, settled.folds, settled.seed, space),
        statistics=_statistics(train.survey.channels),
        picture=partial(small_picture, side=SIDE, quality=QUALITY),
    )


def _measured(
    labelled: LabelledData, test: TestSet | None, display: Display
) -> tuple[Part, Part | None, tuple[pd.DataFrame, pd.DataFrame]]:
    """The training and test images that can be decoded, and those of either that are set aside: image_id, reason."""
    images = labelled.source.images.assign(named_group=labelled.named_groups)
    listed = pd.DataFrame({"image_id": [], "path": [], "problem": []}, dtype=str) if test is None else test.images
    there = listed[listed["problem"] == ""]
    paths = [*images["path"], *there["path"]]
    with display.counting("eda", "images looked at") as count:
        found = survey(paths, input_spec(labelled.config.recipe), usable_cpus(), count)
    train, broken = _decoded(images, found.of(np.arange(len(images))))
    tested, broken_test = _decoded(there, found.of(np.arange(len(images), len(paths))))
    missing = listed.loc[listed["problem"] != "", ["image_id", "problem"]].set_axis(["image_id", "reason"], axis=1)
    if not len(train):
        raise InputError(
            f"data.path: none of the {len(images)} labelled images of '{labelled.data.path}' can be read{reasons(broken)}; mend "
            "them, or name other data."
        )
    set_aside = pd.concat([labelled.source.rejected, broken], ignore_index=True)
    unreadable = pd.concat([missing, broken_test], ignore_index=True)
    return train, tested if test else None, (set_aside, unreadable)


def _decoded(images: pd.DataFrame, found: Survey) -> tuple[Part, pd.DataFrame]:
    """The images that can be decoded, and the others with the reason."""
    whole = found.problems == ""
    broken = pd.DataFrame({"image_id": images["image_id"].to_numpy()[~whole], "reason": found.problems[~whole]}, dtype=str)
    return Part(images[whole].reset_index(drop=True), found.of(whole)), broken


def _statistics(sums: ChannelSums) -> tuple[float, ...]:
    """Mean and then deviation of each channel; none where a channel has one value everywhere."""
    try:
        return sums.statistics(np.arange(len(sums.values)))
    except InputError:
        return ()
