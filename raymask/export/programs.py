"""Models and the vote traced, written as ONNX and torch.export files, and each run against raymask."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raymask.core.console import Display
from raymask.core.errors import RunError
from raymask.core.types import ByHead
from raymask.export.model_card import input_names
from raymask.export.record import TOLERANCE, Bundle, Images
from raymask.export.torch_modules import EnsembleGraph, ModelGraph, output_names
from raymask.inference.definition import EnsembleDefinition
from raymask.inference.predictor import Predictor, specs_of
from raymask.io.checked import within
from raymask.models.classifier import Classifier
from raymask.voting.rules import RULES

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.onnx import ONNXProgram


SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}


@dataclass(eq=False)
class _Mould:
    """Programs of one architecture, which compute with the weights that `graph` has at the time."""

    graph: ModelGraph
    program: ExportedProgram
    onnx: ONNXProgram | None


def write_models(bundle: Bundle, predictor: Predictor, images: Images, singly: Mapping[str, ByHead], display: Display) -> None:
    """The graphs of all models, checked; those of one architecture are traced once."""
    moulds: dict[str, _Mould] = {}
    spec_of = {index: spec for spec, groups in predictor.groups.items() for places in groups.values() for index in places}
    with display.counting("export", "models") as count:
        for index, (name, model) in enumerate(zip(predictor.names, predictor.models, strict=True)):
            pixels = images.tensors()[spec_of[index]]
            state = ModelGraph(model).state_dict()
            shapes = [(key, tuple(tensor.shape)) for key, tensor in state.items()]
            heads = model.classes, model.scales, str(model.decoders)
            key = repr((type(model.backbone), str(model.backbone), model.statistics, heads, shapes, pixels.shape))
            with _exporting(name):
                if key not in moulds:
                    moulds[key] = _mould(ModelGraph(copy.deepcopy(model)).eval(), pixels, model, bundle)
                moulds[key].graph.load_state_dict(state)
                _save(bundle, name, f"models/{name}", moulds[key].program, moulds[key].onnx)
            expected = {output: singly[name][head] for head, output in output_names(model.classes).items()}
            _check(bundle, name, {"pixels": pixels}, expected)
            count(index + 1, len(predictor.names))


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
        message = " ".join(str(error).split())[:200]
        raise RunError(f"'{what}' cannot be exported ({type(error).__name__}: {message}).") from error
    finally:
        for name, logger in loggers.items():
            logger.setLevel(before[name])


def _save(bundle: Bundle, name: str, stem: str, program: ExportedProgram, onnx: ONNXProgram | None) -> None:
    """Writes the graphs of a model or of the ensemble."""
    file = within(bundle.root, *stem.split("/"))
    file.parent.mkdir(parents=True, exist_ok=True)
    bundle.files[name] = {kind: f"{stem}{SUFFIXES[kind]}" for kind in bundle.formats}
    if "torch" in bundle.formats:
        torch.export.save(program, bundle.root / bundle.files[name]["torch"])
    if onnx:
        own = copy.copy(onnx)
        own.model = onnx.model.clone()  # optimising folds weights into others, which the next fold model's must not inherit
        own.optimize()
        own.save(bundle.root / bundle.files[name]["onnx"])


def write_ensemble(bundle: Bundle, definition: EnsembleDefinition, predictor: Predictor, images: Images) -> None:
    """The graph of everything, checked against raymask's own vote; or why there is none."""
    rule = definition.vote.fitted.candidate.rule
    if rule not in RULES.names or not RULES.get(rule).exportable:
        bundle.left_out.append(
            f"The rule '{rule}' has no graph, so the vote must be counted by raymask (raymask.load); the members' graphs give "
            "what it counts."
        )
        return
    names = input_names(specs_of(definition.models))
    try:
        with _exporting("ensemble"):
            batch = torch.export.Dim("batch")
            examples = tuple(pixels[:2] for pixels in images.tensors())
            graph = EnsembleGraph(definition, predictor, examples)  # whose models are in evaluation mode
            program = torch.export.export(graph, examples, dynamic_shapes={"pixels": tuple({0: batch} for _ in examples)})
            onnx = _to_onnx(program, names, ["joint", "labels"], bundle.opset) if "onnx" in bundle.formats else None
            _save(bundle, "ensemble", "ensemble", program, onnx)
    except RunError as error:
        bundle.left_out.append(f"The vote must be counted by raymask (raymask.load): {error}")
        return
    joint = definition.count(predictor.probabilities(images.pixels))
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
            for probabilities in (wholly, alone)
            for key, given in probabilities.items()
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
            return {name: probabilities.numpy() for name, probabilities in module(*inputs.values()).items()}

    return run


RUNNERS: dict[str, Callable[[Path], Runner]] = {"onnx": _onnx_runner, "torch": _torch_runner}
