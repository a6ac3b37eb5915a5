"""Models with equal frozen stages: an image passes through these once for all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made import make_cut_run

from raymask.data.images import read_image
from raymask.inference.definition import read_definition
from raymask.inference.predictor import Predictor, specs_of
from raymask.models.classifier import load_classifier, to_pixels
from raymask.models.trunks import CutBackbone
from raymask.runs.directory import Run
from raymask.runs.models import read_model
from raymask.transforms.tta import VIEWS

pytestmark = pytest.mark.usefixtures("one_thread")

TRUNK = CutBackbone.trunk


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_cut_run(tmp_path_factory.mktemp("runs") / "cut", photos)


def test_they_say_what_each_says_alone_and_see_each_view_once(run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    definition = read_definition(run.root)
    predictor = Predictor(definition.models, definition.vote.views, specs_of(definition.models))
    seen: list[int] = []

    def trunk(cut: CutBackbone, given: torch.Tensor) -> torch.Tensor:
        seen.append(len(given))
        return TRUNK(cut, given)

    monkeypatch.setattr(CutBackbone, "trunk", trunk)
    files = sorted((photos / "eval" / "images").iterdir())[:3]
    images = np.stack([read_image(str(file), specs_of(definition.models))[1][0] for file in files])
    found = predictor.probabilities([images])
    assert seen == [len(files) * len(definition.vote.views.names)]
    first = predictor.models[0].backbone
    assert all(model.backbone.layer2 is first.layer2 for model in predictor.models), "memory holds the frozen stages once"
    assert len({id(model.backbone.layer3) for model in predictor.models}) == 4
    for name, folder in definition.models.items():
        meta = read_model(folder)
        model, pixels = load_classifier(meta.recipe, meta.heads, meta.weights), to_pixels(images, torch.device("cpu")).float()
        with torch.inference_mode():
            views = [model(VIEWS[view](pixels)) for view in definition.vote.views.names]
        for head, of_head in found[name].items():
            expected = torch.stack([logits[head].softmax(1) for logits in views]).mean(0)
            np.testing.assert_allclose(of_head, expected, atol=1e-5)
