"""What stands beside exported graphs for those who have no raymask: how to feed them, and the model card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raymask.config.schema import ENSEMBLE, RunConfig, resolve_members
from raymask.config.tasks import label_space
from raymask.config.yaml_files import dump_yaml
from raymask.core.columns import label_column, predicted_column
from raymask.core.tasks import JOINT, LabelSpace
from raymask.data.specs import InputSpec
from raymask.inference.definition import FOLDS
from raymask.metrics.scores import class_counts
from raymask.runs.directory import Run, read_ensemble
from raymask.runs.schemas import Ensemble
from raymask.runs.tables import read_ensemble_predictions, read_manifest
from raymask.voting.grouping import Grouping
from raymask.voting.rules import rule_in_words
from raymask.voting.thresholds import ADJUSTMENTS
from raymask.voting.vote import Vote

OPENED = "Decode the file to 8-bit RGB, upright by its EXIF orientation."
SHARE = "Cut out the centred box of the aspect width:height that covers `crop` of the largest such box (1 is the largest itself)."
SIDE = (
    "Cut out the centred box of the aspect width:height whose shorter side has `crop` pixels, or the largest such box where the "
    "image is smaller; a `crop` up to 1 is the share of the largest such box."
)
RESIZED = "Resize it to height × width: by area where it shrinks (OpenCV's INTER_AREA), else linear (INTER_LINEAR)."
GIVEN = "Give it as float32 from 0 to 255, (N, 3, height, width); do not normalise, since the graphs do."
SEEN = (
    "Where an input has `prepare`, width and height of the steps above are those that stand there; then cut out the centre of "
    "height × width."
)
PRIVATE = ("runs", "cache", "data", "compute", "teacher")
"""Parts of a config that say where and on what it ran, which a card need not tell."""


def input_names(specs: Sequence[InputSpec]) -> list[str]:
    """What the ensemble's graph calls its inputs: `pixels_HxW`, numbered where two specs are of one size."""
    sizes = [f"pixels_{height}x{width}" for height, width in (spec.size for spec in specs)]
    return [name if sizes.count(name) == 1 else f"{name}_{sizes[:index].count(name)}" for index, name in enumerate(sizes)]


def preprocessing(
    vote: Vote, space: LabelSpace, specs: Sequence[InputSpec], models: Mapping[str, Any], ensemble: Mapping[str, str]
) -> dict[str, Any]:
    """All that feeding the graphs, and reading what they say, takes.

    Args:
        vote: the vote.
        space: the label space.
        specs: how images are prepared, each way once.
        models: by `MEMBER/PART` the files, the input and the outputs of each model's graph.
        ensemble: files of the whole ensemble's graph by format; empty where there is none.
    """
    inputs = {name: _told_of_input(spec) for name, spec in zip(input_names(specs), specs, strict=True)}
    joint = []
    for label, name in enumerate(space.joint_classes):
        parts = space.split(np.array([label]))
        joint.append({"label": label, "name": name, **{task: space.classes(task)[int(of[0])] for task, of in parts.items()}})
    whole = {
        "files": ensemble,
        "inputs": list(inputs),
        "outputs": {"joint": "probabilities of the joint labels", "labels": "the most probable joint label"},
    }
    return {
        "steps": steps(specs),
        "channels": "RGB",
        "range": [0, 255],
        "normalisation": "inside the graphs",
        "inputs": inputs,
        "classes": {task: space.classes(task) for task in space.names},
        "joint": joint,
        "models": {
            name: {**result, "note": f"the one input of its graph is called `pixels`, prepared as `{result['input']}`"}
            for name, result in models.items()
        },
        "ensemble": whole if ensemble else None,
        "vote": {
            "views": list(vote.views.names),
            "view_weights": list(vote.views.weights),
            "merge": vote.views.merge,
            "rule": vote.fitted.candidate.rule,
            "level": vote.fitted.candidate.level,
            "adjust": vote.fitted.candidate.adjust,
            "in_words": vote_in_words(vote),
        },
    }


def steps(specs: Sequence[InputSpec]) -> list[str]:
    """From a file to what the graphs take, a sentence a step."""
    cut = SIDE if any(spec.crop > 1 for spec in specs) else SHARE
    return [OPENED, cut, RESIZED, *([SEEN] if any(spec.window for spec in specs) else []), GIVEN]


def _told_of_input(spec: InputSpec) -> dict[str, Any]:
    height, width = spec.size
    prepare = {"prepare": {"height": spec.height, "width": spec.width}} if spec.window else {}
    return {"height": height, "width": width, "crop": spec.crop, **prepare, "type": "float32", "layout": "NCHW"}


def vote_in_words(vote: Vote) -> str:
    """One paragraph about how the members' predictions become one."""
    candidate, views = vote.fitted.candidate, vote.views
    seen = f"under the view {views.names[0]}"
    if len(views.names) > 1:
        seen = f"under {len(views.names)} views ({views}), whose predictions are merged by {views.merge}"
    where = "for the joint label" if candidate.level == JOINT else "task by task"
    adjusted = "" if candidate.adjust == "none" else f", {ADJUSTMENTS.get(candidate.adjust).words}"
    return (
        f"Each model sees an image {seen}. Its probabilities are calibrated. The members then vote {where} by "
        f"{rule_in_words(candidate.rule)}{adjusted}. A last temperature calibrates the result, and the votes of all "
        "rounds (one model a member each) are averaged. Graphs compute in float32. Raymask does so by the "
        "recipe's `amp: off`, and else in bf16 or fp16 where the processor has it, so that where classes are near each other "
        "some labels differ."
    )


def told_grouping(grouping: Grouping, space: LabelSpace) -> dict[str, Any] | None:
    """What is to be done with the graphs' answers where images come with groups; None where each is voted on alone.

    Args:
        grouping: which tasks are voted over all images of a group, and how.
        space: the label space.
    """
    if not grouping.tasks:
        return None
    others = [axis for axis, name in enumerate(space.names, start=1) if name not in grouping.tasks]
    table = f"np.asarray(joint, dtype=float).reshape(-1, {', '.join(map(str, space.shape))})"
    own = f"np.maximum(table.sum(axis={(*others,)}, keepdims=True), 1e-30)" if others else "np.maximum(table, 1e-30)"
    pooled = {"mean": "own.mean(axis=0)", "geometric": "np.exp(np.log(np.maximum(own, 1e-7)).mean(axis=0))"}[grouping.pool]
    return {
        "tasks": list(grouping.tasks),
        "pool": grouping.pool,
        "why": f"graphs answer each image alone; {' and '.join(grouping.tasks)} never differ within a group of the training "
        "images, such as a person, so that several images of one group are better voted on together",
        "code": [
            f"table = {table}  # `joint` of all images of one group that could be read",
            f"own = {own}  # each image's probabilities of {' and '.join(grouping.tasks)}",
            f"pooled = {pooled}",
            "joint = (table / own * pooled / pooled.sum()).reshape(len(table), -1)",
        ],
    }


def model_card(run: Run, config: RunConfig, result: Mapping[str, Any]) -> str:
    """The README of an export, with the front matter that the Hugging Face Hub reads.

    Args:
        run: the run that was exported, with ensemble.json; its out-of-fold predictions are read where they are there.
        config: its config.
        result: the export's preprocessing.json.
    """
    space, written = label_space(config.tasks), read_ensemble(run, "vote", "members", "prior")
    front = {
        "library_name": "raymask",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "ensemble", "raymask", "timm", *(["onnx"] if result["opset"] else [])],
        "metrics": ["f1", "accuracy"],
    }
    sections = {
        "What it predicts": _classes(space, written),
        "Members and vote": _members(config, written, result),
        "Scores": _scores(written) + _by_class(run, space),
        "Data": _data(written, config),
        "How to use": _usage(result),
        "Limits": _limits(written),
        "Training": _training(config),
    }
    body = "\n\n".join(f"## {title}\n\n{text.strip()}" for title, text in sections.items())
    return f"---\n{dump_yaml(front)}---\n\n# {config.name}\n\n{body}\n"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    shown = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(map(plain, row)) + " |\n" for row in shown)


def plain(text: object) -> str:
    """A text that may be a stranger's, so that Markdown shows it on one line as it is: no link, picture or HTML."""
    return MARKS.sub(r"\\\g<0>", " ".join(str(text).split())).replace("<", "&lt;")


MARKS = re.compile(r"[\\`|\[\]]")


def _classes(space: LabelSpace, written: Ensemble) -> str:
    prior = np.asarray(written.prior)[None]
    rows = [
        [task.name, name, f"{share:.1%}"]
        for task in space.tasks
        for name, share in zip(task.classes, space.marginal(prior, task.name)[0], strict=True)
    ]
    joint = f"\nTogether they make a joint label of {space.joint_size} classes, which `preprocessing.json` lists.\n"
    return (
        f"Labels of an image: {plain(', '.join(space.names))}.\n\n{table(['task', 'class', 'share in training'], rows)}"
        f"{joint if len(space.names) > 1 else ''}"
    )


def _members(config: RunConfig, written: Ensemble, result: Mapping[str, Any]) -> str:
    by_name = {member.name: member for member in resolve_members(config)}
    rows = []
    for name in written.members:
        models = [model for model in result["models"] if model.rpartition("/")[0] == name]
        if not models:
            continue
        known = by_name.get(name)
        what = [known.task, known.recipe.backbone, "×".join(map(str, known.recipe.height_width))] if known else ["", "", ""]
        scores = written.oof.get(name, {})
        rows.append([name, *what, len(models), ", ".join(f"{target} {score['f1']:.3f}" for target, score in scores.items())])
    left_out = "".join(f"\n- {plain(sentence)}" for sentence in result["left_out"])
    heads = ["member", "predicts", "backbone", "image size", "models", "macro-F1 out of fold"]
    return f"{table(heads, rows)}\n{result['vote']['in_words']}\n{left_out}"


def _scores(written: Ensemble) -> str:
    rows = []
    if written.estimate:
        rows.append([f"{written.metric}, expected on new people", str(written.estimate)])
    if (by_group := written.by_group) and by_group.tasks and by_group.estimate:
        tasks = f"with {' and '.join(by_group.tasks)} voted over all images of a group"
        rows.append([f"{written.metric}, expected on new people, {tasks}", str(by_group.estimate)])
    if reserve := written.reserve:
        images = f"{reserve.images} images of {reserve.groups} groups held out from everything"
        rows.append([f"{written.metric} on {images}", str(reserve)])
        if reserve.grouped:
            rows.append([f"{written.metric} there, voted by group", str(reserve.grouped)])
    for target, score in written.oof.get(ENSEMBLE, {}).items():
        rows.append([f"{target}, out of fold", f"macro-F1 {score['f1']:.4f}, accuracy {score['accuracy']:.4f}"])
    return (
        f"{table(['score', '(95% interval)'], rows)}\nOut of fold: each image is predicted by models that never saw its group, "
        "by a vote that was fitted on other groups. What choosing among many votes flatters is taken off the expected score. "
        f"{plain(written.estimate_of)}\n"
    )


def _by_class(run: Run, space: LabelSpace) -> str:
    """F1 of each class out of fold, where the run still holds its predictions."""
    if not (run.oof_ensemble.is_file() and run.manifest.is_file()):
        return ""
    predicted, true = (list(map(named, space.names)) for named in (predicted_column, label_column))
    predictions = read_ensemble_predictions(run.oof_ensemble, space)[["image_id", *predicted]]
    truth = read_manifest(run, space)[["image_id", *true]]
    both = predictions.merge(truth, on="image_id")
    rows = []
    for task in space.tasks:
        labels, guessed = (both[column(task.name)].to_numpy(np.int64) for column in (label_column, predicted_column))
        counts = class_counts(labels, guessed, len(task.classes))
        by_class = zip(task.classes, counts.true, counts.f1, strict=True)
        rows += [[task.name, name, images, f"{f1:.3f}"] for name, images, f1 in by_class]
    return f"\n{table(['task', 'class', 'images', 'F1 out of fold'], rows)}"


def _data(written: Ensemble, config: RunConfig) -> str:
    size = "Images"
    if written.images:
        size = f"{written.images} labelled images of {written.groups} groups (such as people)"
        if any(member.folds for member in config.members):
            size = f"The vote was decided on {size}, which all members had predicted; the images of all folds were"
    return f"{size}, divided by {config.folds.k} folds, {config.folds.how}; none of them is in this folder."


def _usage(result: Mapping[str, Any]) -> str:
    examples = [
        _with_onnxruntime(result),
        "`preprocessing.json` says in full how to feed the graphs, and `check.json` how near they are to raymask.",
    ]
    if by_group := result["vote"].get("by_group"):
        code = "\n".join(["import numpy as np", "", *by_group["code"]])
        examples.append(f"Where images come with groups: {by_group['why']}.\n\n```python\n{code}\n```")
    if result["part"]:
        part = "" if result["part"] == FOLDS else f', "{result["part"]}"'
        code = f'import raymask\n\nprint(raymask.load("."{part}).predict(["photo.jpg"]))\n'
        examples.append(f"With raymask, in this folder:\n\n```python\n{code}```")
    if result["timm"]:
        file, example = next(iter(result["timm"].items()))
        code = f'timm.create_model("{example["model_name"]}", num_classes={example["num_classes"]}, checkpoint_path="{file}")'
        examples.append(f"One model with timm, which takes images that are normalised:\n\n```python\n{code}\n```")
    return "\n\n".join(filter(None, examples))


def _with_onnxruntime(result: Mapping[str, Any]) -> str:
    """Code for the ensemble's graph, where it is there and takes one input."""
    files = (result["ensemble"] or {}).get("files", {})
    if "onnx" not in files or len(result["inputs"]) > 1:
        return ""
    name, spec = next(iter(result["inputs"].items()))
    crop, (height, width) = spec["crop"], (spec.get("prepare", spec)[side] for side in ("height", "width"))
    scale = f"min(image.shape[0] / {height}, image.shape[1] / {width})"
    scale = f"{scale} * {crop}" if crop <= 1 else f"min({scale}, {crop:g} / {min(height, width)})"
    top, left = (height - spec["height"]) // 2, (width - spec["width"]) // 2
    window = f"image = image[{top} : {top + spec['height']}, {left} : {left + spec['width']}]\n" if "prepare" in spec else ""
    return (
        "With onnxruntime:\n\n```python\nimport cv2, numpy as np, onnxruntime\n\n"
        'image = cv2.cvtColor(cv2.imread("photo.jpg"), cv2.COLOR_BGR2RGB)  # upright\n'
        f"scale = {scale}\n"
        f"h, w = round({height} * scale), round({width} * scale)\n"
        "top, left = (image.shape[0] - h) // 2, (image.shape[1] - w) // 2\n"
        f"how = cv2.INTER_AREA if h > {height} else cv2.INTER_LINEAR\n"
        f"image = cv2.resize(image[top : top + h, left : left + w], ({width}, {height}), interpolation=how)\n"
        f"{window}pixels = image.transpose(2, 0, 1)[None].astype(np.float32)\n"
        f'joint, labels = onnxruntime.InferenceSession("{files["onnx"]}").run(None, {{"{name}": pixels}})\n```'
    )


def _limits(written: Ensemble) -> str:
    groups = f"The {written.groups} groups" if written.groups else "The groups"
    return (
        "- It was scored on images of the same source as its training images alone: not on other cameras, countries, lighting, "
        "resolutions or years, and not on images that show none of its classes; to those it gives some class nevertheless.\n"
        f"- {groups} that it was trained on may be recognised better than strangers; score it on others.\n"
        "- Scores differ by class, mostly to the harm of rare ones. Where images show people, scores by other traits, such as "
        "skin tone or origin, were not measured, and labels such as age or gender are what annotators saw, not what is so.\n"
        "- Probabilities are calibrated on the training source; where classes have other frequencies they are off.\n"
    )


def _training(config: RunConfig) -> str:
    values = config.model_dump(mode="json")
    shown = {key: value for key, value in values.items() if key not in PRIVATE}
    shown["recipe"] = {key: value for key, value in shown.get("recipe", {}).items() if key != "weights"}
    text = dump_yaml(shown)
    fence = max(["```", *(ticks + "`" for ticks in re.findall("`+", text))], key=len)
    return f"<details><summary>config</summary>\n\n{fence}yaml\n{text}{fence}\n\n</details>\n"
