"""Whole runs of the recipe book: the seeds' systems, and a run whose heads are ordered and whose images are mixed."""

from __future__ import annotations

import io
import socket
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from tiny import PLAIN_VOTE, RECIPE, run_and_read, tiny_config, with_cache

import raymask
from raymask.cluster.connection import connect
from raymask.config.compute import ComputeConfig
from raymask.config.loading import load_config
from raymask.config.schema import resolve_members
from raymask.core.console import Display
from raymask.export.export import GraphFormat, export
from raymask.inference.definition import read_definition
from raymask.io.checked import read_json
from raymask.runs.configs import load_run_config
from raymask.runs.directory import GREEDY_SOUP, SOUP, ReplicaId, Run
from raymask.serving.deployment import Settings, serving
from raymask.workflows.predict import predict
from raymask.workflows.soup import soup

pytestmark = pytest.mark.usefixtures("ray_session")

SYSTEMS = ("vgg19", "effnet_b4", "effnet_b4_specialists", "effnet_b4_multihead", "effnet_b0_branches", "winner")
SMALL: dict[str, Any] = {
    "pretrained": False,
    "image_size": 32,
    "batch_size": 56,
    "schedule": {"epochs": 1},
    "amp": "off",
}
CROPPED = {"prepare_size": 40, "augment": [{"RandomCrop": {"height": 32, "width": 32}}, {"HorizontalFlip": {"p": 0.5}}]}


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_seeds_system_is_built_trained_and_voted(system: str, photos: Path, tmp_path: Path) -> None:
    """With its own backbones, heads and losses; images are smaller here, and steps fewer."""
    over: dict[str, Any] = {
        "name": system,
        "runs": tmp_path,
        "data": {"path": str(photos / "train")},
        "recipe": {**SMALL, **(CROPPED if system.startswith("effnet") else {})},
        "folds": {"scheme": "holdout", "k": 4},
        "vote": PLAIN_VOTE,
        "views": ["original"],
    }
    if system == "winner":  # whose weights are found out of fold
        del over["vote"]
    config = load_config(system, overrides=over)
    done, _ = run_and_read(config)
    metas = [read_json(file) for file in done.root.rglob("meta.json")]
    recipes = {member.name: member.recipe.model_dump(mode="json") for member in resolve_members(load_run_config(done))}
    assert {meta["member"]: meta["recipe"] for meta in metas} == recipes
    rules = [row["rule"] for row in read_json(done.ensemble)["rules"] if row["chosen"]]
    assert rules == [config.vote.rule]
    image = next((photos / "train" / "images").rglob("*.jpg"))
    predicted = raymask.load(done.root).predict([str(image)])
    assert predicted["problem"].tolist() == [""]
    assert 0 <= predicted["joint"].iloc[0] < 18


STOPPED = {"stop": {"patience": 1, "share": 0.25}}
MIX = {"name": "half_cutmix", "rare": {"age": [">=60"]}}
ORDERED = [
    {"task": "multi", "name": "bins", "recipe": {"ordinal": {"name": "bins"}, "mix": MIX, "loss": {"name": "focal"}}},
    {"task": "age", "name": "corn", "recipe": {"ordinal": {"name": "corn"}, "mix": {"name": "mixup"}, **CROPPED, **STOPPED}},
    {"task": "multi", "name": "regression", "recipe": {"ordinal": {"name": "regression"}, "mix": {"name": "cutmix"}}},
    {
        "task": "joint",
        "name": "adjusted",
        "recipe": {"loss": {"name": "logit_adjusted"}, "head": {"name": "conv", "hidden": 8}, "normalize": "dataset"},
    },
]


@pytest.fixture(scope="module")
def ordered(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A voted run of ordered heads and images that are mixed, cropped or normalised by their own mean; some people held out."""
    config = tiny_config(
        tmp_path_factory.mktemp("runs"),
        photos,
        recipe=RECIPE,
        members=ORDERED,
        folds={"k": 2, "reserve": 0.25},
        views=["original"],
        tasks={"age": {"leave_out": [58, 59]}},
    )
    return run_and_read(config)[0]


def quiet() -> Display:
    return Display(Console(file=io.StringIO()))


@pytest.fixture(scope="module")
def in_process(ordered: Run, photos: Path) -> pd.DataFrame:
    """What the run says of its test images in this process."""
    images = sorted((photos / "eval" / "images").glob("*.jpg"))
    return raymask.load(ordered.root).predict(images, [image.name for image in images])


def equal(table: pd.DataFrame, expected: pd.DataFrame) -> None:
    columns = [name for name in expected.columns if ":" in name]
    here = table.set_index("image_id").loc[expected["image_id"], columns].to_numpy(float)
    np.testing.assert_allclose(here, expected[columns].to_numpy(float), atol=1e-4)


def test_ordered_heads_vote_with_all_others(ordered: Run) -> None:
    scores = read_json(ordered.ensemble)["oof"]
    assert {"bins", "corn", "regression", "adjusted", "ensemble"} <= scores.keys()
    assert read_json(ordered.meta(ReplicaId("bins", 0)))["scales"].keys() == {"age"}
    oof = pd.read_parquet(ordered.oof("corn"))
    np.testing.assert_allclose(oof[[name for name in oof if str(name).startswith("age:")]].sum(axis=1), 1, atol=1e-4)


def test_the_test_set_and_bulk_predictions_are_those_of_this_process(
    ordered: Run, in_process: pd.DataFrame, photos: Path, tmp_path: Path
) -> None:
    equal(pd.read_parquet(ordered.predictions), in_process)
    folder = predict(ordered.root, str(photos / "eval" / "images"), tmp_path / "out", display=quiet())
    bulk = pd.concat([pd.read_parquet(file) for file in sorted(folder.glob("part-*.parquet"))] or [pd.read_parquet(folder)])
    equal(bulk.assign(image_id=bulk["image_id"].str.rpartition("/")[2]), in_process)


def test_the_export_says_the_same(ordered: Run, in_process: pd.DataFrame, photos: Path, tmp_path: Path) -> None:
    bundle = export(ordered.root, tmp_path / "bundle", graphs=GraphFormat("onnx"), display=quiet())
    images = sorted((photos / "eval" / "images").glob("*.jpg"))
    equal(raymask.load(bundle).predict(images, [image.name for image in images]), in_process)


def free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


def test_the_server_says_the_same(ordered: Run, in_process: pd.DataFrame, photos: Path) -> None:
    settings = Settings(port=free_port(), replicas=1)
    image = in_process["image_id"].iloc[0]
    content = (photos / "eval" / "images" / image).read_bytes()
    with (
        connect(ComputeConfig()) as cluster,
        serving(ordered.root, read_definition(ordered.root), settings, cluster),
    ):
        answer = httpx.post(f"{settings.url}/predict", files={"image": (image, content)}, timeout=60).json()
    [prediction] = answer["predictions"]
    row = in_process.iloc[0]
    for task in ("mask", "gender", "age"):
        assert prediction["labels"][task] == row[task]


def test_soups_keep_the_scale_of_the_numbers(ordered: Run, photos: Path, tmp_path: Path) -> None:
    copy = with_cache(ordered, tmp_path)
    soup(copy.root, ("bins", "regression"), quiet())
    for member in ("bins", "regression"):
        for number in (SOUP, GREEDY_SOUP):
            meta = read_json(copy.meta(ReplicaId(member, number)))
            assert meta["scales"] == read_json(ordered.meta(ReplicaId(member, 0)))["scales"]
            assert 0 <= meta["reserve"]["age"]["f1"] <= 1
