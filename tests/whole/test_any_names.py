"""Names of tasks and classes of every kind: nothing is lost in the tables that hold them, and the way back is the way there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raymask.config.tasks import TaskConfig
from raymask.core.columns import by_head
from raymask.core.errors import InputError
from raymask.core.spelling import canonical
from raymask.core.tasks import JOINT, LabelSpace, Task
from raymask.export.torch_modules import output_names
from raymask.inference.voting_runs import voting_runs
from raymask.io.atomic import write_table
from raymask.runs.directory import ReplicaId, Run
from raymask.runs.predictions import prediction_table

NAMES = ["path", "size", "fold", "view", "label", "labels", "row", "chunk", "pixels", "pixels_probabilities", "type", "said"]
TAKEN = ["image_id", "problem", "agreement", "joint", "multi", "mean", "path_label", "label_label", "joint_label"]
CLASS = st.sampled_from(["a", "b", "a|b", "a:b", "a/b", "../x", "label", "0", "x" * 3000, 'q"', "<b>", "a, b"]) | st.text(
    max_size=6
)


@st.composite
def spaces(draw: st.DrawFn) -> LabelSpace | None:
    """The label space of a config, or None where it is refused."""
    names = draw(st.lists(st.sampled_from(NAMES + TAKEN), min_size=1, max_size=3, unique=True))
    tasks = []
    for name in names:
        classes = draw(st.lists(CLASS.filter(canonical), min_size=2, max_size=3, unique_by=canonical))
        given_classes = TaskConfig(classes=tuple(classes)).classes
        assert given_classes is not None
        tasks.append(Task(name, name, given_classes))
    try:
        return LabelSpace(tuple(tasks))
    except InputError:
        return None


def test_a_vote_of_runs_whose_names_are_no_paths_is_refused_before_it_is_held(tmp_path: Path) -> None:
    for name in ("x:y", "a\\b", "a\u200bb"):
        with pytest.raises(InputError, match=r"^'.*' cannot name a file below '.*': it may have no '/'"):
            voting_runs([Run(tmp_path / name), Run(tmp_path / "other")])


@given(space=spaces(), member=st.sampled_from(["age", "fold-0", "a|b/age", "a:b/x|y:z", "r/age/fold-1"]))
@settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck))
def test_every_probability_is_found_again_under_its_name(tmp_path: Path, space: LabelSpace | None, member: str) -> None:
    if space is None:
        return
    rng = np.random.default_rng(0)
    joint = rng.dirichlet(np.ones(space.joint_size), 3)
    table = prediction_table(pd.Series(["1", "2", "3"]), pd.Series([""] * 3), joint, space)
    table.insert(2, "agreement", 1.0)
    write_table(tmp_path / "table.parquet", table)
    read = pd.read_parquet(tmp_path / "table.parquet")
    assert read.columns.is_unique
    assert read["image_id"].tolist() == ["1", "2", "3"]
    elected = space.split(joint.argmax(axis=1))
    for task in space.tasks:
        assert read[task.name].tolist() == [task.classes[label] for label in elected[task.name]]
        assert read[f"{task.name}_label"].tolist() == elected[task.name].tolist()
    probabilities = by_head(read[[name for name in read.columns if ":" in name]])
    assert set(probabilities) == {*space.names, JOINT}
    np.testing.assert_array_equal(probabilities[JOINT], joint)
    np.testing.assert_array_equal(probabilities[space.names[0]], space.marginal(joint, space.names[0]))
    replicas = [ReplicaId(member, 0), ReplicaId(member, 1), ReplicaId(f"{member}-x", 0)]
    said = {f"{replica}|{JOINT}:{name}": joint[:, label] * place for place, replica in enumerate(replicas)
            for label, name in enumerate(space.joint_classes)}  # fmt: skip
    for place, replica in enumerate(replicas):
        np.testing.assert_array_equal(by_head(pd.DataFrame(said), str(replica))[JOINT], joint * place)
    outputs = output_names(space.names)
    assert len(set(outputs.values()) | {"pixels"}) == len(space.names) + 1
