"""Tests of a finished run's sets and doubts in what it predicts: as they were decided, by group, and of an older run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made import VOTE, make_run

import raymask
from raymask.data.images import read_image
from raymask.inference.ensemble import Ensemble
from raymask.io.atomic import write_json
from raymask.io.checked import read_json
from raymask.serving.schemas import predictions_of, voted_together

SETS = ["mask_set", "gender_set", "age_set", "joint_set"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def ensemble(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    root = tmp_path_factory.mktemp("runs") / "made"
    return raymask.load(make_run(root, photos, vote={**VOTE, "groups": ["gender"], "coverage": 0.6}).root)


@pytest.fixture(scope="module")
def files(photos: Path) -> list[Path]:
    return sorted((photos / "eval" / "images").iterdir())[:6]


def test_sets_hold_the_classes_that_reach_what_was_decided(ensemble: Ensemble, files: list[Path]) -> None:
    table, sets = ensemble.predict(files), ensemble.definition.sets
    assert sets is not None
    assert [name for name in map(str, table) if name.endswith("_set")] == SETS
    for task, classes in ensemble.tasks.items():
        for row in table.to_dict("records"):
            expected = [
                name
                for name, least in zip(classes, sets.least[task], strict=True)
                if row[f"{task}:{name}"] >= least or row[task] == name
            ]
            assert row[f"{task}_set"] == "|".join(expected)


def test_unusual_is_the_place_of_the_mean_entropy_of_the_folds_votes(ensemble: Ensemble, files: list[Path]) -> None:
    definition = ensemble.definition
    read = [read_image(file, ensemble.specs) for file in files]
    probabilities = ensemble.probabilities(read)
    votes = [definition.vote({name: probabilities[model] for name, model in models.items()}) for models in definition.rounds]
    doubt = np.mean([-(vote * np.log(vote)).sum(axis=1) for vote in votes], axis=0)
    assert definition.doubt is not None
    expected = [(definition.doubt.quantiles < one).mean() for one in doubt]
    np.testing.assert_allclose(ensemble.predict(files)["unusual"], expected, atol=1e-3)


def test_images_of_a_group_have_sets_of_the_grouped_vote_and_images_alone_keep_theirs(
    ensemble: Ensemble, files: list[Path]
) -> None:
    alone, together = ensemble.predict(files), ensemble.predict(files, groups=["p", "p", "p", "q", None, ""])
    sets = ensemble.definition.sets_by_group
    assert sets is not None
    joint = together[[name for name in map(str, together) if name.startswith("joint:")]].to_numpy()
    for target, texts in sets.texts(joint).items():
        assert together[f"{target}_set"][:3].tolist() == texts[:3].tolist()
    pd.testing.assert_frame_equal(together[3:], alone[3:])
    assert together["unusual"].tolist() == alone["unusual"].tolist()


def test_an_image_that_cannot_be_read_may_be_all_and_is_as_unusual_as_can_be(ensemble: Ensemble, files: list[Path]) -> None:
    table = ensemble.predict([files[0], b"no image"])
    assert table["mask_set"][1] == "worn|incorrect|none"
    assert table["unusual"][1] == 1


def test_the_server_says_the_same(ensemble: Ensemble, files: list[Path]) -> None:
    probabilities = ensemble.probabilities([read_image(file, ensemble.specs) for file in files])
    definition, table = ensemble.definition, ensemble.predict(files)
    joint = definition.count(probabilities)
    said = predictions_of(definition, probabilities, joint)
    for one, row in zip(said, table.to_dict("records"), strict=True):
        assert one.sets is not None
        assert {f"{target}_set": "|".join(classes) for target, classes in one.sets.items()} == {name: row[name] for name in SETS}
        assert one.unusual == pytest.approx(row["unusual"], abs=1e-6)
    grouped = ensemble.predict(files, groups=["p"] * len(files))
    for one, text in zip(voted_together(definition, said, joint), grouped["gender_set"], strict=True):
        assert one.sets is not None
        assert "|".join(one.sets["gender"]) == text
    [single] = voted_together(definition, said[:1], joint[:1])
    assert single.sets == said[0].sets


def test_an_older_run_predicts_as_before(photos: Path, tmp_path: Path, files: list[Path]) -> None:
    run = make_run(tmp_path / "old", photos)
    new = raymask.load(run.root).predict(files)
    written = read_json(run.ensemble)
    write_json(run.ensemble, {key: value for key, value in written.items() if key not in ("sets", "doubt")})
    old = raymask.load(run.root).predict(files)
    assert set(new) - set(old) == {"unusual", *SETS}
    pd.testing.assert_frame_equal(old, new[list(old)])


def test_no_coverage_is_no_sets(photos: Path, tmp_path: Path, files: list[Path]) -> None:
    table = raymask.load(make_run(tmp_path / "none", photos, vote={**VOTE, "coverage": None}).root).predict(files)
    assert not set(SETS) & set(table)
    assert "unusual" in table
