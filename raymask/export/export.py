"""A finished run as files that need no raymask: ONNX and torch graphs, checkpoints for timm, how to feed them, a model card.

The same folder holds the vote and the weights as a run does, so that `raymask.load` and `raymask predict` take it for one.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch

from raymask.core.console import Display
from raymask.core.errors import InputError, one_of
from raymask.core.paths import absolute, check_writable
from raymask.core.version import __version__
from raymask.data.specs import InputSpec, input_spec
from raymask.export.model_card import input_names, model_card, preprocessing, told_grouping
from raymask.export.programs import write_ensemble, write_models
from raymask.export.record import RANDOM_IMAGES, TOLERANCE, Bundle, Images, read_check_images
from raymask.export.timm_checkpoints import write_checkpoints
from raymask.export.torch_modules import output_names
from raymask.inference.definition import FOLDS, EnsembleDefinition, read_definition
from raymask.inference.predictor import Predictor, specs_of
from raymask.io.atomic import replacing, write_json, write_text
from raymask.models.classifier import read_weights
from raymask.runs.configs import load_run_config, save_run_config
from raymask.runs.directory import Run, read_ensemble
from raymask.runs.folders import ExportFolder, ModelFiles
from raymask.runs.models import read_model
from raymask.runs.outputs import check_output
from raymask.runs.schemas import WrittenMember, write_run_file
from raymask.transforms.tta import even

FORMATS = {"onnx": ("onnx",), "torch": ("torch",), "both": ("onnx", "torch")}
NEEDED = ("onnx", "onnxscript", "onnxruntime")
OPSET, MIN_OPSET, MAX_OPSET = 20, 18, 23
MAX_ROWS = 30


@dataclass(frozen=True)
class GraphFormat:
    """How graphs are written."""

    names: str = "both"
    """`onnx`, `torch` or `both`."""
    opset: int = OPSET
    """ONNX operators' version."""


EVERY_FORMAT = GraphFormat()


def export(
    folder: str | Path,
    out: str | Path,
    models: str = FOLDS,
    members: Sequence[str] = (),
    graphs: GraphFormat = EVERY_FORMAT,
    display: Display | None = None,
    rule: str | None = None,
) -> Path:
    """Writes a finished run as graphs, checkpoints and a bundle, and checks each against raymask.

    Args:
        folder: directory of the run.
        out: a new folder; it is there once all is written and checked.
        models: `folds` for all fold models; `all`, `soup` or `greedy-soup` for one model a member, where they were made.
        members: names of members whose models are exported alone, without the vote (default: everything).
        graphs: the formats that graphs are written in.
        display: what shows progress.
        rule: import path of the rule of your own that the run votes by, if it does; a run's files are not believed there.

    Returns:
        The folder.

    Raises:
        InputError: the run is not finished, lacks such models or members, `out` is not empty, or packages are missing.
        RunError: a model cannot be exported, or its graph says something else than raymask.
    """
    run, target, shown = Run(absolute(folder)), absolute(out), display or Display()
    _check_asked(target, graphs.names, graphs.opset)
    chosen = _chosen(read_definition(run.root, models, rule), members)
    with replacing(target) as draft:
        bundle = Bundle(draft, FORMATS[graphs.names], graphs.opset)
        draft.mkdir()
        definition = chosen if members else _with_run(run, draft, chosen, models, rule)
        images = read_check_images(run, chosen.models, specs_of(chosen.models))
        _write_graphs(bundle, definition, images, members, shown)
        result = _told(bundle, definition, specs_of(definition.models), None if members else models)
        write_json(ExportFolder(draft).preprocessing, result)
        write_text(ExportFolder(draft).card, model_card(run, load_run_config(run), result))
    _say(bundle, target, shown)
    return target


def _with_run(run: Run, draft: Path, chosen: EnsembleDefinition, models: str, rule: str | None) -> EnsembleDefinition:
    """The definition as it is read from the export, which holds the vote and the models as a run directory has them."""
    _write_run(run, draft, chosen)
    return read_definition(draft, models, rule)


def _write_graphs(
    bundle: Bundle, definition: EnsembleDefinition, images: Images, members: Sequence[str], display: Display
) -> None:
    """Writes graphs and checkpoints of the models, and of the vote where all members are exported, each checked on images."""
    if members:
        bundle.left_out.append("The vote is not part of this export, which holds some members alone.")
    predictor = Predictor(definition.models, definition.vote.views, specs_of(definition.models), exact=True)
    singly = predictor.probabilities(images.pixels, even(["original"]))
    write_models(bundle, predictor, images, singly, display)
    if not members:
        write_ensemble(bundle, definition, predictor, images)
    write_checkpoints(bundle, definition.models, predictor, images, singly)
    write_json(ExportFolder(bundle.root).check, _checked(bundle, images))


def _check_asked(out: Path, formats: str, opset: int) -> None:
    if formats not in FORMATS:
        raise InputError(f"there is no format '{formats}'; it may be {one_of(FORMATS, formats)}.")
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise InputError(f"ONNX opset {opset} cannot be written; it may be {MIN_OPSET} to {MAX_OPSET}.")
    check_output(out, "--out")
    check_writable(out, "--out")
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacking and "onnx" in FORMATS[formats]:
        raise InputError(
            f"export to ONNX needs {', '.join(lacking)}: pip install raymask[export], or export with --format torch alone."
        )


def _chosen(definition: EnsembleDefinition, members: Sequence[str]) -> EnsembleDefinition:
    """The definition with the models of some members alone."""
    known = list(definition.rounds[0])
    for name in members:
        if name not in known:
            raise InputError(f"there is no member '{name}'; it may be {one_of(known, name)}.")
    kept = [models[name] for models in definition.rounds for name in (members or known)]
    return EnsembleDefinition(
        definition.vote,
        definition.space,
        definition.prior,
        {name: folder for name, folder in definition.models.items() if name in kept},
        tuple({name: models[name] for name in (members or known)} for models in definition.rounds),
        definition.grouping,
    )


def _write_run(run: Run, out: Path, definition: EnsembleDefinition) -> None:
    """The vote, the config and the models as a run directory has them."""
    for name, folder in definition.models.items():
        copy = ModelFiles(Run(out).folder_of(name))
        copy.root.mkdir(parents=True)
        meta = read_model(folder)
        read_weights(meta.weights, meta.sha256)  # so that what is damaged is told of by its own name
        shutil.copyfile(meta.weights, copy.weights)
        shutil.copyfile(meta.files.meta, copy.meta)
    save_run_config(Run(out), load_run_config(run))
    members = {name: WrittenMember(member=name) for name in definition.rounds[0]}
    write_run_file(Run(out).ensemble, read_ensemble(run).model_copy(update={"members": members}))


def _told(bundle: Bundle, definition: EnsembleDefinition, specs: Sequence[InputSpec], part: str | None) -> dict[str, Any]:
    """What preprocessing.json says."""
    inputs, models = dict(zip(specs, input_names(specs), strict=True)), {}
    for name, folder in definition.models.items():
        told_of_model = read_model(folder)
        classes = told_of_model.classes
        outputs = {output: head for head, output in output_names(classes).items()}
        models[name] = {
            "files": bundle.files[name],
            "input": inputs[input_spec(told_of_model.recipe)],
            "outputs": {output: classes[head] for output, head in outputs.items()},
            "head": outputs,
        }
    versions = {"raymask": __version__, "torch": torch.__version__, "timm": timm.__version__}
    if "onnx" in bundle.formats:
        import onnx
        import onnxruntime

        versions |= {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    result = preprocessing(definition.vote, definition.space, specs, models, bundle.files.get("ensemble", {}))
    by_group = told_grouping(definition.grouping, definition.space) if result["ensemble"] else None
    return {
        **result,
        "vote": {**result["vote"], "by_group": by_group},
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
    if len(rows) > MAX_ROWS:
        rows = [*rows[:MAX_ROWS], [f"… and {len(rows) - MAX_ROWS} more, see check.json", *("" for _ in bundle.formats)]]
    display.line("export", "checked against raymask, both in float32; the greatest differences of a probability:")
    display.table("", ["", *bundle.formats], rows)
    display.line("export", f"{len(bundle.files)} models and {len(bundle.timm)} checkpoints of timm: {out}")
