"""The export of models with equal frozen stages."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pandas as pd
import pytest
from made import make_cut_run

from raymask.export.export import export
from raymask.inference.ensemble import load
from raymask.io.checked import read_json

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_graph_holds_and_computes_the_frozen_stages_once_a_view(photos: Path, tmp_path: Path) -> None:
    run = make_cut_run(tmp_path / "cut", photos)
    out = export(run.root, tmp_path / "exported")
    ensemble = load(run.root)
    models, views = ensemble.predictor.models, ensemble.definition.vote.views.names
    graph = onnx.load(out / "ensemble.onnx").graph
    convolutions = Counter(node.input[1].partition("backbone.")[2] for node in graph.node if node.op_type == "Conv")
    assert (len(models), len(views)) == (4, 2)
    assert {count for name, count in convolutions.items() if name.startswith(("conv1", "layer1", "layer2"))} == {len(views)}
    assert {count for name, count in convolutions.items() if name.startswith("layer3")} == {len(views) * len(models)}
    weights = Counter(tensor.name.partition("backbone.")[2] for tensor in graph.initializer)
    assert {count for name, count in weights.items() if name.startswith("layer2") and "conv" in name} == {1}
    differences = read_json(out / "check.json")["differences"]
    assert {"ensemble.onnx", "ensemble.pt2"} <= set(differences)
    assert max(differences.values()) < 1e-4
    files = sorted(map(str, (photos / "eval" / "images").iterdir()))[:3]
    pd.testing.assert_frame_equal(load(out).predict(files), ensemble.predict(files))
