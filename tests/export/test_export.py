"""Tests of the export: graphs, checkpoints of timm and the bundle say what the run says, and the files tell how to use them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pandas as pd
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from raymask.config.loading import validate
from raymask.config.schema import resolve_members
from raymask.config.tasks import label_space
from raymask.core.errors import InputError, RunError
from raymask.core.tasks import JOINT, LabelSpace, Task, heads_of
from raymask.data.images import read_image
from raymask.export import export as exporting
from raymask.export import programs
from raymask.export.export import GraphFormat, export
from raymask.export.model_card import told_grouping
from raymask.export.torch_modules import EnsembleGraph, VoteGraph
from raymask.inference.definition import read_definition
from raymask.inference.ensemble import load
from raymask.inference.predictor import Predictor, specs_of, stacked
from raymask.io.atomic import write_json, write_table
from raymask.io.checked import read_json
from raymask.metrics.bootstrap import Metric
from raymask.models.classifier import Classifier, build_classifier, save_classifier, to_pixels
from raymask.runs.configs import save_run_config
from raymask.runs.directory import ReplicaId, Run
from raymask.transforms.tta import MERGES, VIEWS, ViewPlan, even, merge_views
from raymask.voting.ballots import voters_of
from raymask.voting.calibration import Calibration
from raymask.voting.grouping import POOLS, Grouping, pooled
from raymask.voting.rules import RULES
from raymask.voting.selection import LEVELS, Candidate, OofPredictions, all_rows, calibrate, calibrated, candidates, fit
from raymask.voting.thresholds import ADJUSTMENTS
from raymask.voting.vote import Vote

pytestmark = pytest.mark.usefixtures("one_thread")

TASKS = {"mask": {"classes": ["worn", "wrong", "none"]}, "gender": {"classes": ["male", "female"]}}
SPACE = LabelSpace((Task("mask", "mask", ("worn", "wrong", "none")), Task("gender", "gender", ("male", "female"))))
THREE = LabelSpace((*SPACE.tasks, Task("age", "age", ("young", "old"))))
BOTH = ViewPlan(("original", "hflip"), (1.0, 2.0), "geometric")
EXPORTABLE = [rule.name for rule in RULES.components.values() if rule.exportable]
SOFT = Candidate("soft", "joint", "none")
HEADS = {
    "mask": ("mask",),
    "gender": ("gender",),
    "mask_b": ("mask",),
    "multi": ("mask", "gender"),
    "joint": (JOINT,),
}
FROZEN = {"freeze": {"part": "backbone"}, "pretrained": True, "head": {"norm": True, "dropout": 0.1}}
MEMBERS = [
    {"task": "mask", "recipe": {**FROZEN, "head": {"dropout": 0.1}}},
    {"task": "gender", "recipe": {"image_size": 40, "head": {"name": "mlp", "hidden": 8}}},
    {"task": "multi", "recipe": FROZEN},
    {"task": "joint", "recipe": FROZEN},
]


def said_at_random(space: LabelSpace, heads: dict[str, Sequence[str]], rows: int, seed: int) -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(seed)
    truth = np.arange(rows) % space.joint_size
    labels = {**space.split(truth), JOINT: truth}
    members: dict[str, dict[str, Any]] = {}
    for name, of_member in heads.items():
        members[name] = {}
        for head in of_member:
            classes = len(space.classes(head))
            raised = np.exp(rng.normal(0, 1, (rows, classes)) + 1.2 * np.eye(classes)[labels[head]])
            members[name][head] = (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)
    return members


def make_vote(
    candidate: Candidate,
    space: LabelSpace = SPACE,
    heads: dict[str, Sequence[str]] = HEADS,
    method: str = "vector",
    views: ViewPlan = BOTH,
) -> Vote:
    members, rows = said_at_random(space, heads, 240, 0), np.arange(240)
    folded = OofPredictions(space, members, rows % space.joint_size, rows // 4, rows // 4 % 4)
    calibrations = calibrate(folded, method, all_rows(folded))
    fitted = fit(folded, voters_of(space, calibrated(members, calibrations)), candidate, Metric(JOINT, "f1"), 0)
    result = Calibration(np.full(space.joint_size, 0.8), np.zeros(space.joint_size))
    return Vote(space, views, calibrations, fitted, result)


def make_decisive(model: Classifier, side: int, seed: int) -> None:
    """Random heads that elect various classes, with the statistics that training would have found."""
    generator = torch.Generator().manual_seed(seed)
    photos = [cv2.resize(picture, (side, side)) for picture in pictures(64, seed)]
    with torch.no_grad():
        features = model.eval().features(to_pixels(np.stack(photos), torch.device("cpu")))
        for head in model.heads.values():
            given = features
            for layer in head:
                if isinstance(layer, nn.BatchNorm1d):
                    layer.running_mean.copy_(given.mean(dim=0))
                    layer.running_var.copy_(given.var(dim=0) + 1e-6)
                elif isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, generator=generator)
                    layer.weight /= (given @ layer.weight.T).std(dim=0)[:, None] + 1e-6
                    layer.bias.copy_(-(given @ layer.weight.T).mean(dim=0))
                given = layer(given)


def make_run(
    root: Path, members: list[dict[str, Any]] = MEMBERS, candidate: Candidate = SOFT, folds: int = 2, photos: int = 3
) -> Run:
    """A run whose models have random weights, and a vote that was fitted on random predictions."""
    recipe = {"backbone": "test_resnet", "pretrained": False, "image_size": 32, "amp": "off"}
    config = validate({"name": root.name, "runs": root.parent, "tasks": TASKS, "members": members, "recipe": recipe})
    run, space = Run(root), label_space(config.tasks)
    heads = {member.name: list(heads_of(member.task, space)) for member in resolve_members(config)}
    save_run_config(run, config)
    for number, member in enumerate(resolve_members(config)):
        for fold in range(folds):
            frozen = member.recipe.frozen
            torch.manual_seed(0 if frozen else 100 * number + fold)
            statistics = (0.4, 0.5, 0.6, 0.1, 0.2 + fold / 10, 0.3) if member.recipe.normalize == "dataset" else None
            model = build_classifier(member.recipe, heads_of(member.task, space), None, statistics)
            make_decisive(model, member.recipe.image_size, 100 * number + fold)
            replica = ReplicaId(member.name, fold)
            run.replica(replica).mkdir(parents=True)
            save_classifier(model, run.weights(replica))
            classes = {head: list(space.classes(head)) for head in heads[member.name]}
            meta = {"recipe": member.recipe.model_dump(mode="json"), "classes": classes}
            if member.recipe.normalize == "dataset":
                meta["statistics"] = list(model.statistics)
            write_json(run.meta(replica), meta)
    vote = make_vote(candidate, space, heads)
    joint = {target: {"f1": 0.5, "accuracy": 0.6} for target in (*space.names, JOINT)}
    interval = {"score": 0.5, "se": 0.01, "low": 0.48, "high": 0.52}
    write_json(
        run.ensemble,
        {
            "images": 60,
            "groups": 20,
            "members": {name: {"run": str(root), "member": name} for name in heads},
            "prior": (np.arange(1, 7) / 21).tolist(),
            "metric": "joint.f1",
            "vote": vote.to_json(),
            "by_group": {"tasks": ["gender"], "pool": "mean"},
            "estimate": {**interval, "optimism": 0.01},
            "oof": {"ensemble": joint, **dict.fromkeys(heads, joint)},
            "reserve": {"images": 10, "groups": 5, **interval, "score": 0.4567, "scores": {}},
        },
    )
    paths = [root / "photos" / f"{number}.png" for number in range(photos)]
    for path, image in zip(paths, pictures(photos, 7), strict=True):
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    write_table(run.manifest, pd.DataFrame({"image_id": list(map(str, paths)), "path": list(map(str, paths))}))
    return run


def pictures(count: int, seed: int) -> list[np.ndarray]:
    """Each (48, 44, 3) uint8, of four blocks, so that even models of random weights tell them apart."""
    blocks = np.random.default_rng(seed).integers(0, 256, (count, 2, 2, 3), dtype=np.uint8)
    return list(blocks.repeat(24, axis=1).repeat(22, axis=2))


def pixels_of(image: np.ndarray, specs: Sequence[Any]) -> list[np.ndarray]:
    problem, pixels = read_image(image, specs)
    assert not problem
    return pixels


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs") / "four", candidate=Candidate("weighted", "task", "thresholds"))


@pytest.fixture(scope="module")
def out(run: Run) -> Path:
    return export(run.root, run.root.parent / "exported")


class TestVoteGraph:
    @pytest.mark.parametrize("adjust", ["none", "thresholds"])
    @pytest.mark.parametrize("candidate", candidates(SPACE, EXPORTABLE, LEVELS, ["none"]), ids=str)
    def test_every_rule_equals_the_vote(self, candidate: Candidate, adjust: str) -> None:
        vote = make_vote(Candidate(candidate.rule, candidate.level, adjust))
        assert_equal(vote, said_at_random(SPACE, HEADS, 50, 1))

    @pytest.mark.parametrize("heads", [{"joint": (JOINT,)}, {"multi": THREE.names, "age": ("age",)}])
    @pytest.mark.parametrize("level", LEVELS)
    def test_whoever_the_voters_are(self, heads: dict[str, Sequence[str]], level: str) -> None:
        vote = make_vote(Candidate("weighted", level, "prior"), THREE, heads, method="none")
        assert_equal(vote, said_at_random(THREE, heads, 20, 1))

    def test_ties_are_settled_alike(self) -> None:
        members = {name: dict(heads) for name, heads in said_at_random(SPACE, HEADS, 20, 1).items()}
        members["mask"]["mask"][:] = 1 / 3
        members["mask_b"]["mask"][:] = [0, 0.5, 0.5]
        members["joint"][JOINT][:] = [0, 0, 1, 0, 0, 0]
        for rule in ("hard", "rank", "weighted_hard"):
            assert_equal(make_vote(Candidate(rule, "task", "none"), method="none"), members)

    def test_all_rules_but_the_boosted_have_a_graph(self) -> None:
        assert set(RULES.names) - set(EXPORTABLE) == {"boosted"}
        assert set(ADJUSTMENTS.names) == {"none", "prior", "thresholds"}


def assert_equal(vote: Vote, members: dict[str, dict[str, Any]]) -> None:
    given = {name: {head: torch.as_tensor(of_head) for head, of_head in heads.items()} for name, heads in members.items()}
    np.testing.assert_allclose(VoteGraph(vote)(given).numpy(), vote(members), atol=1e-9)


class TestViews:
    @pytest.mark.parametrize("merge", MERGES.names)
    def test_merges_of_tensors_are_those_of_arrays(self, merge: str) -> None:
        said = np.random.default_rng(0).dirichlet(np.ones(4), (3, 10)).astype(np.float32)
        said[0, 0] = [1, 0, 0, 0]
        weights = (1.0, 0.0, 3.0)
        merged = merge_views(torch.as_tensor(said), weights, merge)
        np.testing.assert_allclose(merged.numpy(), merge_views(said, weights, merge), rtol=1e-9)

    def test_the_graph_under_all_views_is_the_predictor_on_unrounded_pixels(self, run: Run) -> None:
        definition = read_definition(run.root)
        specs = specs_of(definition.models)
        predictor = Predictor(definition.models, even(list(VIEWS), "mean"), specs, exact=True)
        rng = np.random.default_rng(0)
        pixels = [rng.uniform(0, 255, (2, spec.height, spec.width, 3)).astype(np.float32) for spec in specs]
        said = predictor.probabilities(pixels)
        graph = EnsembleGraph(definition, predictor).eval()
        with torch.no_grad():
            given = graph(*(torch.from_numpy(of_spec).permute(0, 3, 1, 2) for of_spec in pixels))
        np.testing.assert_allclose(given["joint"].numpy(), definition.count(said), atol=1e-5)
        np.testing.assert_array_equal(given["labels"].numpy(), definition.count(said).argmax(axis=1))

    def test_every_view_can_be_exported(self) -> None:
        import onnxruntime

        class All(nn.Module):
            def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
                return {f"v{number}": view(pixels) + 0 for number, view in enumerate(VIEWS.values())}

        two, three = torch.rand(2, 3, 24, 20) * 255, torch.rand(3, 3, 24, 20) * 255
        with programs._exporting("views"):
            program = torch.export.export(All(), (two,), dynamic_shapes=({0: torch.export.Dim("batch")},))
            onnx = programs._to_onnx(program, ["pixels"], [f"v{number}" for number in range(len(VIEWS))], 20)
        session = onnxruntime.InferenceSession(onnx.model_proto.SerializeToString())
        for name, view, given in zip(VIEWS, VIEWS.values(), session.run(None, {"pixels": three.numpy()}), strict=True):
            np.testing.assert_allclose(given, view(three).numpy(), atol=0.02, err_msg=name)


def executed(code: list[str], joint: Any) -> Any:
    """What some lines make of the joint probabilities of a group's images."""
    names = {"np": np, "joint": joint}
    exec("\n".join(code), names)
    return names["joint"]


class TestExport:
    def test_graphs_of_all_models_and_of_the_ensemble_agree_with_raymask(self, run: Run, out: Path) -> None:
        checked = read_json(out / "check.json")
        names = [f"models/{model}" for model in read_definition(run.root).models] + ["ensemble"]
        graphs = {f"{name}{suffix}" for name in names for suffix in (".onnx", ".pt2")}
        assert {name for name in checked["differences"] if not name.startswith("timm/")} == graphs
        assert max(checked["differences"].values()) < 1e-4
        assert checked["images"] == {"random": 3, "real": 3}
        assert all((out / name).is_file() for name in checked["differences"])

    def test_onnx_says_what_the_run_says_of_any_number_of_images(self, run: Run, out: Path) -> None:
        import onnxruntime

        ensemble, told, images = load(run.root), read_json(out / "preprocessing.json"), pictures(9, 1)
        table = ensemble.predict(images)
        assert table["joint"].nunique() > 1
        session = onnxruntime.InferenceSession(str(out / "ensemble.onnx"))
        assert [put.name for put in session.get_inputs()] == list(told["inputs"]) == ["pixels_32x32", "pixels_40x40"]
        read = [pixels_of(image, ensemble.specs) for image in images]
        fed = {
            name: np.stack([pixels[place] for pixels in read]).transpose(0, 3, 1, 2).astype(np.float32)
            for place, name in enumerate(told["inputs"])
        }
        joint, labels = session.run(None, fed)
        columns = [f"joint:{one['name']}" for one in told["joint"]]
        np.testing.assert_allclose(joint, table[columns].to_numpy(), atol=1e-4)
        assert labels.tolist() == table["joint"].tolist()
        assert [told["joint"][label]["gender"] for label in labels] == table["gender"].tolist()

    def test_a_frozen_backbone_is_in_the_ensemble_once(self, out: Path) -> None:
        import onnx

        weights = [tensor.name for tensor in onnx.load(out / "ensemble.onnx").graph.initializer]
        assert len({name.split(".")[1] for name in weights if ".backbone." in name}) == 2 + 1

    def test_the_folder_is_loaded_like_the_run(self, run: Run, out: Path) -> None:
        images = pictures(5, 2)
        pd.testing.assert_frame_equal(load(out).predict(images), load(run.root).predict(images))
        assert "run" not in read_json(out / "ensemble.json")["members"]["mask"]

    def test_checkpoints_load_strictly_in_timm_and_give_the_heads_probabilities(self, run: Run, out: Path) -> None:
        told = read_json(out / "preprocessing.json")
        files = [f"mask-fold-{fold}" for fold in (0, 1)] + [f"joint-fold-{fold}" for fold in (0, 1)]
        files += [f"multi-fold-{fold}-{head}" for fold in (0, 1) for head in ("mask", "gender")]
        assert set(told["timm"]) == {f"timm/{name}.safetensors" for name in files}
        ensemble, images = load(run.root), pictures(4, 3)
        read = [pixels_of(image, ensemble.specs) for image in images]
        said = ensemble.predictor.probabilities(stacked([("", pixels) for pixels in read], ensemble.specs), even(["original"]))
        pixels = torch.as_tensor(np.stack([of_image[0] for of_image in read])).permute(0, 3, 1, 2)
        for name, model, head in (("multi-fold-1-gender", "multi/fold-1", "gender"), ("mask-fold-0", "mask/fold-0", "mask")):
            one = told["timm"][f"timm/{name}.safetensors"]
            made = timm.create_model(one["model_name"], num_classes=one["num_classes"]).eval()
            made.load_state_dict(load_file(out / f"timm/{name}.safetensors"), strict=True)
            mean, std = (torch.tensor(one[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
            with torch.no_grad():
                given = made((pixels / 255 - mean) / std).softmax(dim=1)
            np.testing.assert_allclose(given.numpy(), said[model][head], atol=1e-5)
        assert any("'gender'" in sentence and "hidden layer" in sentence for sentence in told["left_out"])

    def test_the_model_card_has_front_matter_scores_and_code(self, out: Path) -> None:
        card = (out / "README.md").read_text()
        front = yaml.safe_load(card.split("---\n")[1])
        assert "license" not in front
        assert front["pipeline_tag"] == "image-classification"
        for text in (
            "0.5000 (0.4800 to 0.5200)",
            "0.4567",
            "raymask.load",
            "60 labelled images",
            "| mask | worn |",
            "hidden layer",
        ):
            assert text in card
        assert str(out.parent) not in card

    def test_it_says_how_images_of_a_group_are_voted_on(self, run: Run, out: Path) -> None:
        """The code that stands there, on the graphs' answers, is what raymask says of the same group."""
        assert load(out).groups_voted == ("gender",)
        told = read_json(out / "preprocessing.json")["vote"]["by_group"]
        assert told["tasks"] == ["gender"]
        assert "\n".join(told["code"]) in (out / "README.md").read_text()
        images = pictures(5, 2)
        alone, voted = load(out).predict(images), load(run.root).predict(images, groups=["p"] * 5)
        columns = [name for name in alone if name.startswith("joint:")]
        assert not np.allclose(voted[columns], alone[columns], atol=1e-4)
        np.testing.assert_allclose(executed(told["code"], alone[columns].to_numpy(np.float32)), voted[columns], atol=1e-6)

    @pytest.mark.parametrize("pool", POOLS.names)
    @pytest.mark.parametrize("tasks", [("mask",), ("gender", "age"), ("mask", "gender", "age")])
    def test_the_code_for_groups_is_right_whichever_tasks_are_voted_so(self, tasks: tuple[str, ...], pool: str) -> None:
        joint = np.random.default_rng(0).dirichlet(np.ones(THREE.joint_size), 4)
        grouping = Grouping(tasks, pool)
        told = told_grouping(grouping, THREE)
        assert told is not None
        expected = pooled(THREE, joint, np.zeros(4, dtype=np.int64), grouping)
        np.testing.assert_allclose(executed(told["code"], joint), expected, rtol=1e-9)
        assert told_grouping(Grouping(), THREE) is None

    def test_there_is_no_draft_left(self, out: Path) -> None:
        assert not [path for path in out.parent.iterdir() if path.name.startswith(".")]


class TestFed:
    """An export whose models see a window of images that are cut in pixels, and normalise by the images of their folds."""

    MEMBERS: ClassVar = [{"task": "multi", "recipe": {"prepare_size": [36, 34], "crop": 40, "normalize": "dataset"}}]

    @pytest.fixture(scope="class")
    @classmethod
    def fed(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
        run = make_run(tmp_path_factory.mktemp("runs") / "fed", cls.MEMBERS, folds=1)
        return run, export(run.root, run.root.parent / "exported", graphs=GraphFormat("onnx"))

    def test_the_graph_normalises_as_each_model_does(self, tmp_path: Path) -> None:
        definition = read_definition(make_run(tmp_path / "two", self.MEMBERS).root)
        specs = specs_of(definition.models)
        predictor = Predictor(definition.models, BOTH, specs, exact=True)
        assert len({model.statistics for model in predictor.models}) == 2
        pixels = [np.random.default_rng(0).uniform(0, 255, (2, *spec.size, 3)).astype(np.float32) for spec in specs]
        graph = EnsembleGraph(definition, predictor).eval()
        with torch.no_grad():
            given = graph(*(torch.from_numpy(of_spec).permute(0, 3, 1, 2) for of_spec in pixels))
        np.testing.assert_allclose(given["joint"].numpy(), definition.count(predictor.probabilities(pixels)), atol=1e-5)

    def test_the_export_says_what_the_run_says(self, fed: tuple[Run, Path]) -> None:
        assert read_json(fed[1] / "check.json")["images"]["real"] == 3
        told = read_json(fed[1] / "preprocessing.json")["timm"]
        assert told["timm/multi-fold-0-mask.safetensors"]["std"] == pytest.approx([0.1, 0.2, 0.3])
        pd.testing.assert_frame_equal(load(fed[1]).predict(pictures(5, 2)), load(fed[0].root).predict(pictures(5, 2)))

    def test_what_to_feed_is_told_in_full(self, fed: tuple[Run, Path]) -> None:
        told = read_json(fed[1] / "preprocessing.json")
        prepare = {"height": 36, "width": 34}
        assert told["inputs"] == {
            "pixels_32x32": {"height": 32, "width": 32, "crop": 40, "prepare": prepare, "type": "float32", "layout": "NCHW"}
        }
        assert "whose shorter side has `crop` pixels" in told["steps"][1]
        assert "Where an input has `prepare`" in told["steps"][3]

    def test_the_cards_code_says_what_raymask_says(
        self, fed: tuple[Run, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        code = (fed[1] / "README.md").read_text().partition("With onnxruntime:\n\n```python\n")[2].partition("```")[0]
        monkeypatch.chdir(fed[1])
        for number, image in enumerate(pictures(4, 4)):
            photo = tmp_path / f"{number}.png"
            Image.fromarray(image).save(photo)
            said: dict[str, Any] = {}
            exec(code.replace("photo.jpg", str(photo)), said)
            table = load(fed[0].root).predict([str(photo)])
            joint = table[[column for column in table if column.startswith("joint:")]].to_numpy()
            np.testing.assert_allclose(said["joint"], joint, atol=1e-4)


class TestParts:
    @pytest.fixture(scope="class")
    @classmethod
    def small(cls, tmp_path_factory: pytest.TempPathFactory) -> Run:
        boosted = Candidate("boosted", "task", "none")
        return make_run(tmp_path_factory.mktemp("runs") / "small", [{"task": "multi"}], boosted, folds=1, photos=0)

    def test_boosted_trees_have_no_graph_and_that_is_said(self, small: Run, tmp_path: Path, capsys: Any) -> None:
        out = export(small.root, tmp_path / "out", graphs=GraphFormat("torch"))
        told = read_json(out / "preprocessing.json")
        assert told["ensemble"] is None
        assert "must be counted by raymask" in told["left_out"][0]
        assert "must be counted by raymask" in " ".join(capsys.readouterr().out.split())
        assert not list(out.rglob("*.onnx"))
        assert [str(path.relative_to(out)) for path in out.rglob("*.pt2")] == ["models/multi/fold-0.pt2"]
        assert load(out).predict(pictures(2, 0))["joint"].tolist() == load(small.root).predict(pictures(2, 0))["joint"].tolist()
        assert json.loads((out / "check.json").read_text())["images"] == {"random": 3, "real": 0}

    def test_members_alone_come_without_a_vote(self, run: Run, tmp_path: Path) -> None:
        out = export(run.root, tmp_path / "out", members=["mask"], graphs=GraphFormat("torch"))
        told = read_json(out / "preprocessing.json")
        assert set(told["models"]) == {"mask/fold-0", "mask/fold-1"}
        assert list(told["inputs"]) == ["pixels_32x32"]
        assert "some members alone" in told["left_out"][0]
        assert not (out / "ensemble.json").exists()
        assert "raymask.load" not in (out / "README.md").read_text()

    def test_a_graph_that_says_something_else_is_refused(
        self, small: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def runner(file: Path) -> Any:
            return lambda inputs: {"mask": np.full((len(inputs["pixels"]), 3), 1 / 3), "gender": np.full((1, 2), 0.5)}

        monkeypatch.setitem(programs.RUNNERS, "torch", runner)
        with pytest.raises(RunError, match=r"'multi/fold-0'.*differ"):
            export(small.root, tmp_path / "out", graphs=GraphFormat("torch"))
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("wanted", "message"),
        [
            ({"members": ["maks"]}, "no member 'maks'"),
            ({"graphs": GraphFormat("tflite")}, "no format 'tflite'"),
            ({"graphs": GraphFormat(opset=9)}, "opset 9"),
            ({"models": "soup"}, "no finished model multi/soup"),
        ],
    )
    def test_what_there_is_not_is_refused(self, small: Run, tmp_path: Path, wanted: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            export(small.root, tmp_path / "out", **wanted)

    def test_a_folder_that_holds_something_is_left_alone(self, small: Run, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match=r"holds other files, such as .file.; name a folder that is new or empty"):
            export(small.root, tmp_path)

    def test_missing_packages_are_named(self, small: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exporting, "NEEDED", ("onnx", "no_such_package"))
        with pytest.raises(InputError, match=r"needs no_such_package: pip install raymask\[export\]"):
            export(small.root, tmp_path / "out")
