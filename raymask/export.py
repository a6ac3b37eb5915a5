"""A finished run as files that need no raymask: ONNX and torch graphs, checkpoints for timm, how to feed them, a model card.

The same folder holds the vote and the weights as a run does, so that `raymask.load` and `raymask predict` take it for one.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from raymask import __version__
from raymask.card import input_names, model_card, preprocessing
from raymask.config import Recipe
from raymask.data.decode import InputSpec, decode_file
from raymask.display import Display
from raymask.ensemble import ByHead
from raymask.errors import InputError, RunError, one_of
from raymask.graphs import COMBINE, EnsembleGraph, ModelGraph, output_names
from raymask.inference import FOLDS, Models, Panel, Predictor, heads_of_model, read_panel, recipe_of, specs_of
from raymask.models import Classifier
from raymask.plan import input_spec
from raymask.store import Run, load_run_config, read_json, replacing, save_run_config, write_json, write_text
from raymask.viewing import ViewPlan, even

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.onnx import ONNXProgram

FORMATS = {"onnx": ("onnx",), "torch": ("torch",), "both": ("onnx", "torch")}
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
NEEDED = ("onnx", "onnxscript", "onnxruntime")
OPSET, LEAST_OPSET, MOST_OPSET = 20, 18, 23
TOLERANCE = 1e-4
"""Greatest difference of a probability between a graph and raymask."""
RANDOM_IMAGES, REAL_IMAGES = 3, 5
MOST_ROWS = 30

Floats = npt.NDArray[np.float32]


@dataclass(eq=False)
class Bundle:
    """What is written, while it is."""

    root: Path
    formats: tuple[str, ...]
    opset: int
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    """Paths of the graphs by `MEMBER/PART`, or `ensemble`, and format."""
    timm: dict[str, dict[str, Any]] = field(default_factory=dict)
    """How timm makes the model of each of its checkpoints."""
    left_out: list[str] = field(default_factory=list)
    """Sentences on what could not be exported."""
    differences: dict[str, float] = field(default_factory=dict)
    """Greatest difference of a probability from raymask's by file."""


def export(
    folder: str | Path,
    out: str | Path,
    models: str = FOLDS,
    members: Sequence[str] = (),
    formats: str = "both",
    opset: int = OPSET,
    display: Display | None = None,
) -> Path:
    """Writes a finished run as graphs, checkpoints and a bundle, and checks each against raymask.

    Args:
        folder: directory of the run.
        out: a new folder; it is there once all is written and checked.
        models: `folds` for all replicas; `all`, `soup` or `greedy-soup` for one model a member, where they were made.
        members: names of members whose models are exported alone, without the vote (default: everything).
        formats: `onnx`, `torch` or `both`.
        opset: ONNX operators' version.
        display: what is said of it.

    Returns:
        The folder.

    Raises:
        InputError: the run is not finished, lacks such models or members, `out` is not empty, or packages are missing.
        RunError: a model cannot be exported, or its graph says something else than raymask.
    """
    run, target, shown = Run(Path(folder).expanduser().absolute()), Path(out).expanduser().absolute(), display or Display()
    _check_asked(target, formats, opset)
    chosen = _chosen(read_panel(run.root, models), members)
    with replacing(target) as draft:
        bundle = Bundle(draft, FORMATS[formats], opset)
        draft.mkdir()
        if members:
            bundle.left_out.append("The vote is not part of this export, which holds some members alone.")
        else:
            _write_run(run, draft, chosen)
        panel = chosen if members else read_panel(draft, models)
        specs = specs_of(panel.models)
        predictor = _exact_predictor(panel, specs)
        images = _images(run, read_json(run.ensemble)["members"], specs)
        singly = _said(predictor, even(["original"]), images.pixels)
        _write_models(bundle, predictor, images, singly, shown)
        if not members:
            _write_ensemble(bundle, panel, predictor, images)
        _write_timm(bundle, panel.models, predictor, images, singly)
        told = _told(bundle, panel, specs, None if members else models)
        write_json(draft / "preprocessing.json", told)
        write_json(draft / "check.json", _checked(bundle, images))
        write_text(draft / "README.md", model_card(run, load_run_config(run), told))
    _say(bundle, target, shown)
    return target


def _check_asked(out: Path, formats: str, opset: int) -> None:
    if formats not in FORMATS:
        raise InputError(f"there is no format '{formats}'; it may be {one_of(FORMATS, formats)}.")
    if not LEAST_OPSET <= opset <= MOST_OPSET:
        raise InputError(f"ONNX opset {opset} cannot be written; it may be {LEAST_OPSET} to {MOST_OPSET}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"'{out}' is there already; give a new folder.")
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacking and "onnx" in FORMATS[formats]:
        raise InputError(
            f"export to ONNX needs {', '.join(lacking)}: pip install raymask[export], or export with --format torch alone."
        )


def _chosen(panel: Panel, members: Sequence[str]) -> Panel:
    """The panel with the models of some members alone."""
    known = list(panel.rounds[0])
    for name in members:
        if name not in known:
            raise InputError(f"there is no member '{name}'; it may be {one_of(known, name)}.")
    kept = [models[name] for models in panel.rounds for name in (members or known)]
    return Panel(
        panel.vote,
        panel.space,
        panel.prior,
        {name: folder for name, folder in panel.models.items() if name in kept},
        tuple({name: models[name] for name in (members or known)} for models in panel.rounds),
    )


def _write_run(run: Run, out: Path, panel: Panel) -> None:
    """The vote, the config and the models as a run directory has them."""
    for name, folder in panel.models.items():
        (out / "members" / name).mkdir(parents=True)
        for file in ("model.safetensors", "meta.json"):
            shutil.copyfile(folder / file, out / "members" / name / file)
    save_run_config(Run(out), load_run_config(run))
    write_json(Run(out).ensemble, {**read_json(run.ensemble), "members": {name: {"member": name} for name in panel.rounds[0]}})


def _exact_predictor(panel: Panel, specs: Sequence[InputSpec]) -> Predictor:
    """Raymask's own predictor on the CPU in float32, whatever the models' recipes say."""
    predictor = Predictor(panel.models, panel.vote.views, specs, None)
    predictor.device = torch.device("cpu")
    predictor.models = [model.cpu() for model in predictor.models]
    predictor.amp = [nullcontext for _ in predictor.models]
    return predictor


def _said(predictor: Predictor, views: ViewPlan, pixels: Sequence[Any]) -> dict[str, ByHead]:
    """(n, C) by head of every model under other views; of float pixels, which views do not round."""
    before, predictor.views = predictor.views, views
    try:
        return dict(zip(predictor.names, predictor(pixels), strict=True))
    finally:
        predictor.views = before


@dataclass(frozen=True, eq=False)
class Images:
    """What graphs are checked on."""

    pixels: list[Floats]
    """(n, H, W, 3) from 0 to 255 for each spec."""
    real: int
    """How many of them are photos of the run; the others are random."""

    def tensors(self) -> list[Tensor]:
        """(n, 3, H, W) float32 for each spec."""
        return [torch.from_numpy(of_spec).permute(0, 3, 1, 2).contiguous() for of_spec in self.pixels]


def _images(run: Run, members: Mapping[str, Mapping[str, str]], specs: Sequence[InputSpec]) -> Images:
    """A few random images, and some of the run's own where they can still be read."""
    rng = np.random.default_rng(0)
    read = [[rng.integers(0, 256, (spec.height, spec.width, 3), dtype=np.uint8) for spec in specs] for _ in range(RANDOM_IMAGES)]
    homes = [run, *(Run(Path(where["run"])) for where in members.values() if "run" in where)]
    manifest = next((home.manifest for home in homes if home.manifest.is_file()), None)
    if manifest:
        paths = pd.read_parquet(manifest, columns=["path"])["path"].tolist()
        some = [paths[place] for place in np.linspace(0, len(paths) - 1, REAL_IMAGES).astype(int)] if paths else []
        found = [decode_file(path, specs) for path in dict.fromkeys(some) if Path(path).is_file()]
        read += [pixels for problem, pixels in found if not problem]
    stacked = [np.stack([pixels[place] for pixels in read]).astype(np.float32) for place in range(len(specs))]
    return Images(stacked, len(read) - RANDOM_IMAGES)


@dataclass(eq=False)
class _Mould:
    """Programs of one architecture, which compute with the weights that `graph` has at the time."""

    graph: ModelGraph
    program: ExportedProgram
    onnx: ONNXProgram | None


def _write_models(bundle: Bundle, predictor: Predictor, images: Images, singly: Mapping[str, ByHead], display: Display) -> None:
    """The graphs of all models, checked; those of one architecture are traced once."""
    moulds: dict[str, _Mould] = {}
    spec_of = {place: spec for spec, groups in predictor.groups.items() for places in groups.values() for place in places}
    with display.counting("export", "models") as count:
        for place, (name, model) in enumerate(zip(predictor.names, predictor.models, strict=True)):
            pixels = images.tensors()[spec_of[place]]
            state = ModelGraph(model).state_dict()
            shapes = [(key, tuple(tensor.shape)) for key, tensor in state.items()]
            key = repr((type(model.backbone), str(model.backbone), model.statistics, model.classes, shapes, pixels.shape))
            with _exporting(name):
                if key not in moulds:
                    moulds[key] = _mould(ModelGraph(copy.deepcopy(model)).eval(), pixels, model, bundle)
                moulds[key].graph.load_state_dict(state)
                _save(bundle, name, f"models/{name}", moulds[key].program, moulds[key].onnx)
            expected = {output: singly[name][head] for head, output in output_names(model.classes).items()}
            _check(bundle, name, {"pixels": pixels}, expected)
            count(place + 1, len(predictor.names))


def _mould(graph: ModelGraph, pixels: Tensor, model: Classifier, bundle: Bundle) -> _Mould:
    program = torch.export.export(graph, (pixels[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    onnx = None
    if "onnx" in bundle.formats:
        onnx = _to_onnx(program, ["pixels"], list(output_names(model.classes).values()), bundle.opset)
    return _Mould(graph, program, onnx)


def _to_onnx(program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str], opset: int) -> ONNXProgram:
    """An ONNX program that is not optimised yet, so that it still holds each weight as it is."""
    onnx = torch.onnx.export(
        program,
        (),
        input_names=list(inputs),
        output_names=list(outputs),
        opset_version=opset,
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    assert onnx is not None
    onnx.rename_axes({str(onnx.model.graph.inputs[0].shape[0]): "batch"})  # type: ignore[index]
    return onnx


@contextmanager
def _exporting(what: str) -> Iterator[None]:
    """Without the exporters' chatter, and with one sentence for what they raise, which may be anything.

    Raises:
        RunError: the exporters failed.
    """
    loggers = {name: logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")}
    before = {name: logger.level for name, logger in loggers.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers.values():
                logger.setLevel(logging.ERROR)
            yield
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise RunError(f"'{what}' cannot be exported ({type(error).__name__}: {said}).") from error
    finally:
        for name, logger in loggers.items():
            logger.setLevel(before[name])


def _save(bundle: Bundle, name: str, stem: str, program: ExportedProgram, onnx: ONNXProgram | None) -> None:
    """Writes the graphs of a model or of the ensemble."""
    file = bundle.root / stem
    file.parent.mkdir(parents=True, exist_ok=True)
    bundle.files[name] = {kind: f"{stem}{SUFFIXES[kind]}" for kind in bundle.formats}
    if "torch" in bundle.formats:
        torch.export.save(program, bundle.root / bundle.files[name]["torch"])
    if onnx:
        own = copy.copy(onnx)
        own.model = onnx.model.clone()  # optimising folds weights into others, which the next replica's must not inherit
        own.optimize()
        own.save(bundle.root / bundle.files[name]["onnx"])


def _write_ensemble(bundle: Bundle, panel: Panel, predictor: Predictor, images: Images) -> None:
    """The graph of everything, checked against raymask's own vote; or why there is none."""
    rule = panel.vote.fitted.candidate.rule
    if rule not in COMBINE:
        bundle.left_out.append(
            f"The rule '{rule}' has no graph, so the vote must be counted by raymask (raymask.load); the members' graphs give "
            "what it counts."
        )
        return
    names = input_names(specs_of(panel.models))
    try:
        with _exporting("ensemble"):
            graph = EnsembleGraph(panel, predictor).eval()
            batch = torch.export.Dim("batch")
            examples = tuple(pixels[:2] for pixels in images.tensors())
            program = torch.export.export(graph, examples, dynamic_shapes={"pixels": tuple({0: batch} for _ in examples)})
            onnx = _to_onnx(program, names, ["joint", "labels"], bundle.opset) if "onnx" in bundle.formats else None
            _save(bundle, "ensemble", "ensemble", program, onnx)
    except RunError as error:
        bundle.left_out.append(f"The vote must be counted by raymask (raymask.load): {error}")
        return
    joint = panel.count(_said(predictor, panel.vote.views, images.pixels))
    _check(bundle, "ensemble", dict(zip(names, images.tensors(), strict=True)), {"joint": joint})


def _check(bundle: Bundle, name: str, inputs: Mapping[str, Tensor], expected: Mapping[str, npt.NDArray[np.floating]]) -> None:
    """Runs the graphs of a model or of the ensemble on all images together and on the first alone.

    Raises:
        RunError: a probability differs from the expected one by more than `TOLERANCE`.
    """
    for kind, file in bundle.files[name].items():
        with _exporting(file):
            run = RUNNERS[kind](bundle.root / file)
            wholly, alone = run(inputs), run({key: pixels[:1] for key, pixels in inputs.items()})
        distances = [
            np.abs(given - expected[key][: len(given)]).max()
            for said in (wholly, alone)
            for key, given in said.items()
            if key in expected
        ]
        bundle.differences[file] = far = float(np.max(distances))
        if not far <= TOLERANCE:
            raise RunError(
                f"the graph of '{name}' ({file}) gives probabilities that differ from raymask's by {far:.1e}, which is more than "
                f"{TOLERANCE:.0e}."
            )


Runner = Callable[[Mapping[str, Tensor]], dict[str, npt.NDArray[Any]]]


def _onnx_runner(file: Path) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(
        zip(names, session.run(None, {name: pixels.numpy() for name, pixels in inputs.items()}), strict=True)
    )


def _torch_runner(file: Path) -> Runner:
    module = torch.export.load(file).module()

    def run(inputs: Mapping[str, Tensor]) -> dict[str, npt.NDArray[Any]]:
        with torch.no_grad():
            return {name: said.numpy() for name, said in module(*inputs.values()).items()}

    return run


RUNNERS: dict[str, Callable[[Path], Runner]] = {"onnx": _onnx_runner, "torch": _torch_runner}


def _write_timm(bundle: Bundle, models: Models, predictor: Predictor, images: Images, singly: Mapping[str, ByHead]) -> None:
    """Each head that is linear on the backbone's features as a checkpoint of timm's own model, proved on the images."""
    specs, built = specs_of(models), dict[Any, nn.Module]()
    for (name, folder), model in zip(models.items(), predictor.models, strict=True):
        recipe, member = recipe_of(folder), name.rpartition("/")[0]
        pixels = model.normalise(images.tensors()[specs.index(input_spec(recipe))])
        state = load_file(folder / "model.safetensors")
        for head, classes in heads_of_model(folder).items():
            key = recipe.backbone, recipe.height_width, len(classes)
            built[key] = built.get(key) or timm_model(recipe, len(classes))
            why = _fill_timm(built[key], state, head, recipe)
            far = 0.0 if why else _distance(built[key], pixels, singly[name][head])
            if why or not far <= TOLERANCE:
                why = why or "timm's model of this name computes something else"
                bundle.left_out.append(f"The head '{head}' of the member '{member}' is no checkpoint of timm: {why}.")
                continue
            file = f"timm/{member}-{folder.name}{f'-{head}' if len(model.classes) > 1 else ''}.safetensors"
            bundle.differences[file] = far
            bundle.timm[file] = {
                "model_name": recipe.backbone,
                "num_classes": len(classes),
                "head": head,
                "classes": classes,
                "image_size": list(recipe.height_width),
                "mean": list(model.statistics[:3]),
                "std": list(model.statistics[3:]),
            }
            (bundle.root / file).parent.mkdir(parents=True, exist_ok=True)
            tensors = {key: tensor.contiguous() for key, tensor in built[key].state_dict().items()}
            save_file(tensors, bundle.root / file, {"model": recipe.backbone, "classes": json.dumps(classes)})
    bundle.left_out = list(dict.fromkeys(bundle.left_out))


def _distance(model: nn.Module, normalised: Tensor, expected: npt.NDArray[np.floating]) -> float:
    with torch.inference_mode():
        return float(np.abs(model(normalised).softmax(dim=1).numpy() - expected).max())


def timm_model(recipe: Recipe, classes: int) -> nn.Module:
    """Timm's own model of a recipe's backbone with random weights, in evaluation mode."""
    try:
        model: nn.Module = timm.create_model(recipe.backbone, num_classes=classes, img_size=recipe.height_width)
    except TypeError:
        model = timm.create_model(recipe.backbone, num_classes=classes)
    return model.eval()


def _fill_timm(model: nn.Module, state: Mapping[str, Tensor], head: str, recipe: Recipe) -> str:
    """Gives timm's model a raymask model's weights; or says why it cannot hold them."""
    classifier = model.get_classifier()  # type: ignore[operator]
    name = next((name for name, module in model.named_modules() if module is classifier), "")
    if recipe.head.hidden:
        return "it has a hidden layer"
    if type(classifier) is not nn.Linear or not name:
        return "timm's model does not end in one linear layer"
    backbone = {key.removeprefix("backbone."): tensor for key, tensor in state.items() if key.startswith("backbone.")}
    weight, bias = linear_head(state, head, recipe)
    try:
        model.load_state_dict({**backbone, f"{name}.weight": weight, f"{name}.bias": bias}, strict=True)
    except RuntimeError:
        return "timm's model of this name has other weights beside it"
    return ""


def linear_head(state: Mapping[str, Tensor], head: str, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """(C, F) weight and (C,) bias of a head without hidden layer, its batch norm, if it has one, being part of them."""
    start = f"heads.{head}-head."
    of_head = {key.removeprefix(start): tensor for key, tensor in state.items() if key.startswith(start)}
    (weight,) = (tensor.double() for key, tensor in of_head.items() if key.endswith(".weight"))
    (bias,) = (tensor.double() for key, tensor in of_head.items() if key.endswith(".bias"))
    if recipe.head.norm:
        weight = weight / (of_head["0.running_var"].double() + nn.BatchNorm1d(1).eps).sqrt()
        bias = bias - weight @ of_head["0.running_mean"].double()
    return weight.float(), bias.float()


def _told(bundle: Bundle, panel: Panel, specs: Sequence[InputSpec], part: str | None) -> dict[str, Any]:
    """What preprocessing.json says."""
    models = {
        name: {
            "files": bundle.files[name],
            "input": input_names(specs)[specs.index(input_spec(recipe_of(folder)))],
            "outputs": {output: heads_of_model(folder)[head] for head, output in output_names(heads_of_model(folder)).items()},
            "head": {output: head for head, output in output_names(heads_of_model(folder)).items()},
        }
        for name, folder in panel.models.items()
    }
    versions = {"raymask": __version__, "torch": torch.__version__, "timm": timm.__version__}
    if "onnx" in bundle.formats:
        import onnx
        import onnxruntime

        versions |= {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    told = preprocessing(panel.vote, panel.space, specs, models, bundle.files.get("ensemble", {}))
    return {
        **told,
        "timm": bundle.timm,
        "left_out": bundle.left_out,
        "part": part,
        "opset": bundle.opset if "onnx" in bundle.formats else None,
        "versions": versions,
    }


def _checked(bundle: Bundle, images: Images) -> dict[str, Any]:
    """What check.json says."""
    return {
        "what": "greatest difference of a probability from raymask's own, both in float32 (mixed precision off) on the CPU",
        "images": {"random": RANDOM_IMAGES, "real": images.real},
        "tolerance": TOLERANCE,
        "differences": bundle.differences,
    }


def _say(bundle: Bundle, out: Path, display: Display) -> None:
    for sentence in bundle.left_out:
        display.warn(sentence)
    rows = [
        [name, *(f"{bundle.differences[file]:.1e}" for file in files.values())]
        for name, files in sorted(bundle.files.items(), key=lambda item: item[0] != "ensemble")
    ]
    if len(rows) > MOST_ROWS:
        rows = [*rows[:MOST_ROWS], [f"… and {len(rows) - MOST_ROWS} more, see check.json", *("" for _ in bundle.formats)]]
    display.line("export", "checked against raymask, both in float32; the greatest differences of a probability:")
    display.table("", ["", *bundle.formats], rows)
    display.line("export", f"{len(bundle.files)} models and {len(bundle.timm)} checkpoints of timm: {out}")
