"""What a run is: pydantic models, read from a named recipe or a YAML file and `key.path=value` settings.

Every mistake ends in an `InputError` of one sentence that names the key, what it was and what it may be.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from raymask.config.merging import deep_merge
from raymask.config.messages import explain
from raymask.config.yaml_files import RuleOfARun
from raymask.core.errors import InputError, one_of
from raymask.core.paths import absolute
from raymask.core.spelling import canonical, tidy
from raymask.core.tasks import JOINT, MULTI, LabelSpace, Task, check_task_names

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
ColumnName = Annotated[str, Field(min_length=1)]
FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
"""A name that is a folder's or a file's, and no way out of the folder around it."""

ENSEMBLE = "ensemble"
"""Under which the vote's scores stand beside the members'."""


def _path(value: Any) -> Any:
    """A path as text, also one that is written as a number."""
    text = str(value) if isinstance(value, str | Path | int | float) and not isinstance(value, bool) else value
    if isinstance(text, str) and (not text.strip() or "\0" in text):
        raise ValueError("a path must not be " + ("empty" if not text.strip() else "one with a NUL character"))
    return text


PathText = Annotated[str, BeforeValidator(_path)]
"""A local path or a URL."""
LocalPath = Annotated[Path, BeforeValidator(_path)]


class Strict(BaseModel):
    """A model that refuses keys it does not know."""

    # A number where a text is wanted is one that is written as a number, such as a class `007`.
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, coerce_numbers_to_str=True)


def _text_encoding(name: str) -> str:
    try:
        "a".encode(name).decode(name)
    except (LookupError, ValueError):
        raise ValueError(f"there is no encoding '{name}'; it may be utf-8, utf-16, cp949, cp1252 or another") from None
    return name


def _one_character(text: str) -> str:
    separator = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(separator) != 1 or separator in '"\r\n':
        raise ValueError(f"it must be one character, such as ';', or tab, but is '{text}'")
    return separator


class DataConfig(Strict):
    """Where the images and their labels are."""

    kind: Literal["auto", "demo", "competition", "csv", "folders"] = Field(
        "auto", description="layout of the data; `auto` looks at the path"
    )
    path: PathText | None = Field(None, description="training data: a folder, a CSV file or a URL; none for demo")
    test: PathText | None = Field(None, description="test data: a CSV or a folder; found by itself in the competition layout")
    image_column: ColumnName = Field("image", description="column of a CSV that holds the image's path")
    id_column: ColumnName | None = Field(None, description="column of a CSV that holds the image's id (default: its path)")
    group_column: ColumnName | None = Field(None, description="column of a CSV whose rows must share a fold, such as the person")
    image_root: PathText | None = Field(None, description="folder that relative image paths start from (default: the CSV's)")
    test_root: PathText | None = Field(
        None, description="folder that relative paths of a test file start from (default: image_root, or the file's)"
    )
    encoding: Annotated[str, AfterValidator(_text_encoding)] | None = Field(
        None, description="encoding of CSV files (default: utf-8), such as cp949 or utf-16"
    )
    separator: Annotated[str, AfterValidator(_one_character)] | None = Field(
        None, description="what separates the values of CSV files: one character, or `tab` (default: by the file's name)"
    )
    max_missing_test: Share = Field(0.5, description="share of test images that may be missing before the run is refused")
    max_rejected: Share = Field(0.02, description="share of images that may be set aside before the run is refused")
    demo_people: Positive = Field(80, description="people drawn for the demo's training set")
    demo_test_people: Positive = Field(20, description="people drawn for the demo's test set")


class TaskConfig(Strict):
    """One label to predict."""

    column: ColumnName | None = Field(None, description="the label's column (default: the task's name)")
    classes: tuple[Annotated[str, AfterValidator(tidy)], ...] | None = Field(
        None, description="the column's values in order (default: found in it)"
    )
    edges: tuple[float, ...] | None = Field(None, description="cut a number into bands at these edges")
    train_edges: tuple[float, ...] | None = Field(None, description="other edges for the loss alone")
    valid_range: tuple[float, float] | None = Field(None, description="numbers outside are set aside as wrong")

    @model_validator(mode="after")
    def _edges_fit(self) -> Self:
        for key in ("edges", "train_edges"):
            edges = getattr(self, key)
            if edges is not None and (not edges or list(edges) != sorted(set(edges))):
                raise ValueError(f"{key} must rise from left to right, such as [30, 60], but is {list(edges)}")
        if self.train_edges and self.edges and len(self.train_edges) != len(self.edges):
            raise ValueError("train_edges needs edges with as many numbers")
        if self.classes is not None and len(set(map(canonical, self.classes))) < max(2, len(self.classes)):
            raise ValueError(f"classes must be two or more different names, but is {list(self.classes)}")
        if self.classes is not None and "" in self.classes:
            raise ValueError(f"classes must be names that can be read, but is {list(self.classes)}")
        if self.classes and self.edges and len(self.classes) != len(self.edges) + 1:
            raise ValueError(f"{len(self.edges)} edges make {len(self.edges) + 1} classes, not {len(self.classes)}")
        if self.valid_range and self.valid_range[0] >= self.valid_range[1]:
            raise ValueError(f"valid_range must rise, such as [0, 120], but is {list(self.valid_range)}")
        return self


class FoldsConfig(Strict):
    """How people are divided for validation."""

    scheme: Literal["stratified_group", "group", "stratified", "kfold", "holdout"] = "stratified_group"
    k: Annotated[int, Field(ge=2)] = Field(5, description="number of folds; `holdout` validates on one part in k")
    reserve: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.0, description="share of the groups held out from everything, to score the finished ensemble once"
    )


class HeadConfig(Strict):
    """What stands between the backbone's features and the logits of a task."""

    norm: bool = Field(False, description="normalise each feature over the batch first (as for linear probes)")
    hidden: Annotated[int, Field(ge=0)] = Field(0, description="width of one hidden layer; 0 for a linear head")
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Recipe(Strict):
    """How a model is trained."""

    backbone: str = Field("mobilenetv3_small_050", description="any model name of timm")
    pretrained: bool = Field(True, description="start from weights that timm downloads, or from `weights`")
    weights: Annotated[LocalPath, AfterValidator(absolute)] | None = Field(
        None, description="a local weights file, used in place of the download"
    )
    freeze: Literal["none", "backbone"] = Field("none", description="`backbone` trains the heads alone")
    feature_passes: Positive = Field(4, description="augmented passes whose features a frozen backbone's heads learn from")
    image_size: Positive | tuple[Positive, Positive] = Field(224, description="pixels: one side, or [height, width]")
    crop: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="share kept of the largest centred box")
    augment: Annotated[str, Field(coerce_numbers_to_str=False)] | tuple[dict[str, dict[str, Any] | None], ...] = Field(
        "light", description="none, light, medium or heavy; or a list of albumentations transforms"
    )
    epochs: Positive = 10
    batch_size: Annotated[int, Field(ge=2)] = 64
    accumulate: Positive = Field(1, description="batches to a step of the optimizer")
    optimizer: str = Field("adamw", description="any optimizer name of timm")
    lr: Annotated[float, Field(gt=0)] = 1e-3
    backbone_lr_scale: Annotated[float, Field(gt=0)] = Field(1.0, description="the backbone's learning rate over the heads'")
    weight_decay: Annotated[float, Field(ge=0)] = 0.02
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="share of the steps with a rising learning rate")
    clip_grad: Annotated[float, Field(ge=0)] = Field(0.0, description="largest norm of the gradient; 0 for any")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    class_weight_power: Share = Field(0.0, description="weight classes by (1/frequency)^power: 0 not at all, 1 in full")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="decay of averaged weights; 0 for none")
    amp: Literal["auto", "off", "bf16", "fp16"] = Field(
        "auto", description="`auto` is bf16 where the processor has it, else fp16 on a GPU and off on a CPU"
    )
    head: HeadConfig = HeadConfig()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.freeze == "backbone" and not self.pretrained:
            raise ValueError("freeze=backbone needs pretrained=true: a frozen backbone of random weights learns nothing")
        if self.freeze == "backbone" and self.ema:
            raise ValueError("ema averages weights that are fine-tuned; with freeze=backbone set ema to 0")
        if self.weights is not None and not self.pretrained:
            raise ValueError("weights is set but pretrained is false: set pretrained to true, or leave weights out")
        return self

    @property
    def height_width(self) -> tuple[int, int]:
        """Image size in pixels."""
        size = self.image_size
        return size if isinstance(size, tuple) else (size, size)


def _columns_as_tasks(value: Any) -> Any:
    """A list of columns stands for a task of each."""
    return {name: {} for name in value} if isinstance(value, list | tuple) else value


class MemberConfig(Strict):
    """Who has a vote: a task (or `multi`, or `joint`) with a recipe, once for each seed."""

    task: str = Field(description="a task's name; `multi` for one backbone with all heads; `joint` for one joint head")
    name: FolderName | None = None
    seeds: Positive = Field(1, description="copies that differ in their seed")
    recipe: dict[str, Any] = Field(default_factory=dict, description="what differs from the run's recipe")


def believed(rule: Any) -> Any:
    """A rule as it is, unless it is code that a run's config names."""
    if isinstance(rule, RuleOfARun):
        raise ValueError(unbelieved(rule, rule.file))
    return rule


def unbelieved(rule: str, file: Path) -> str:
    """Why the import path of a rule is not followed from a run's file."""
    return (
        f"'{file}' names the rule '{rule}', which is code of its own, and a run's files do not choose which code runs; if it is "
        f"yours, give it: --set vote.rule={rule}, --rule {rule} where there is no --set for it, in Python rule='{rule}'"
    )


class VoteConfig(Strict):
    """How members are combined; what is `auto` is decided on out-of-fold predictions."""

    metric: str = Field("joint.f1", description="what is to be great: a task, `joint` or `mean` (over tasks), and f1 or accuracy")
    rule: Annotated[str, BeforeValidator(believed)] = Field(
        "auto", description="auto, a rule's name, or the import path of your own, such as my.votes:rule"
    )
    level: Literal["auto", "joint", "task"] = Field("auto", description="whether joint classes are voted on, or each task alone")
    adjust: Literal["auto", "none", "prior", "thresholds"] = Field("auto", description="what is done to the result by class")
    calibrate: Literal["none", "temperature", "vector"] = Field("temperature", description="how members are calibrated first")
    weights: dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        None, description="fixed weights by member, in place of a rule"
    )
    views: Literal["auto", "all"] | tuple[str, ...] = Field("auto", description="which of the run's `views` count")
    merge: Literal["auto", "mean", "geometric", "max"] = Field("auto", description="how views are merged")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.weights is not None and self.rule not in ("auto", "weighted"):
            raise ValueError(f"weights fix the rule to 'weighted', but rule is '{self.rule}': leave one of them out")
        if self.weights is not None and self.level == "joint":
            raise ValueError("weights are those of members, task by task, so that level cannot be joint")
        return self


class TeacherConfig(Strict):
    """An earlier run that this one learns from."""

    run: LocalPath = Field(description="directory of the teacher's run")
    truth: Share = Field(1.0, description="weight of the true label; the teacher's out-of-fold probabilities have the rest")
    unlabelled: Literal["none", "hard", "soft"] = Field(
        "none", description="whether the teacher's test images join: by the class it elects, or by its probabilities"
    )
    precision: Share = Field(0.95, description="share of right labels that its surest unlabelled images must have; 0 takes all")

    @model_validator(mode="after")
    def _teaches(self) -> Self:
        if self.truth == 1 and self.unlabelled == "none":
            raise ValueError("with truth 1 and unlabelled none there is nothing to learn from it: set one of them")
        return self


class ComputeConfig(Strict):
    """What the run may use."""

    cpus: Positive | None = Field(None, description="CPUs of a Ray that this run starts (default: all)")
    gpus: Annotated[int, Field(ge=0)] | None = Field(
        None, description="GPUs that this run uses, of a Ray that it starts or demanded of a cluster (default: all)"
    )
    packs_per_gpu: Positive = Field(1, description="packs that share one GPU")
    cpu_packs: Positive | None = Field(None, description="packs side by side without GPUs (default: one a CPU)")
    replicas_per_pack: Positive = Field(16, description="most replicas in one pack; lower it when a GPU's memory is short")
    retries: Annotated[int, Field(ge=0)] = Field(2, description="times a pack is begun again when its process or node dies")
    wait_minutes: Annotated[float, Field(gt=0)] = Field(
        30, description="minutes that machines are waited for which a cluster starts, or has lost"
    )
    stream_memory_mb: Positive = Field(256, description="batches a pack may have waiting in the object store")


class RunConfig(Strict):
    """Everything that decides a run."""

    name: FolderName = "run"
    runs: LocalPath = Field(Path("runs"), description="folder of all runs; on a cluster one that every node sees")
    cache: LocalPath | None = Field(None, description="folder of prepared images (default: RUNS/.cache)")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: DataConfig = DataConfig()
    tasks: Annotated[dict[str, TaskConfig | None], BeforeValidator(_columns_as_tasks)] = Field(
        {}, description="the labels by name; refines those of the competition layout, where null drops one"
    )
    folds: FoldsConfig = FoldsConfig()
    recipe: Recipe = Recipe()
    members: tuple[MemberConfig, ...] = Field((), description="default: one specialist for each task")
    views: tuple[str, ...] = Field(
        ("original", "hflip"), description="test-time augmentations that are predicted: views, or sets such as five_crop"
    )
    vote: VoteConfig = VoteConfig()
    compute: ComputeConfig = ComputeConfig()
    teacher: TeacherConfig | None = Field(None, description="an earlier run that this one learns from")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        check_task_names(self.tasks)
        for member in self.members:
            member_recipe(self, member)
        return self


class Member(Strict):
    """A member with everything resolved: one name, one seed, one whole recipe."""

    name: str
    task: str
    seed: int
    recipe: Recipe


def member_recipe(config: RunConfig, member: MemberConfig) -> Recipe:
    """The run's recipe with a member's differences merged in."""
    merged = deep_merge(config.recipe.model_dump(exclude_unset=False), member.recipe)
    try:
        return Recipe.model_validate(merged)
    except ValidationError as error:
        raise InputError(f"members: '{member.name or member.task}': {explain(error, Recipe, 'recipe')}") from None


def resolve_members(config: RunConfig) -> list[Member]:
    """The members of a run whose tasks are known, one for each seed, with different names.

    Raises:
        InputError: a member's task is none of the run's, or two members have one name.
    """
    task_names = [name for name, task in config.tasks.items() if task is not None]
    chosen = config.members or tuple(MemberConfig(task=name) for name in task_names)
    members: list[Member] = []
    for member in chosen:
        if member.task not in [*task_names, MULTI, JOINT]:
            raise InputError(f"members: task is '{member.task}'; it may be {one_of([*task_names, MULTI, JOINT], member.task)}.")
        name = member.name or member.task
        for copy in range(member.seeds):
            suffix = f"-s{copy}" if member.seeds > 1 else ""
            members.append(
                Member(name=name + suffix, task=member.task, seed=config.seed + copy, recipe=member_recipe(config, member))
            )
    whole = any(member.task in (MULTI, JOINT) for member in members)
    for task in () if whole else task_names:
        if task not in {member.task for member in members}:
            raise InputError(
                f"members: none predicts the task '{task}', so there is no joint label to vote on; add a member for it, or "
                f"drop the task with tasks.{task}=null."
            )
    names = [member.name for member in members]
    if ENSEMBLE in names:
        raise InputError(f"members: '{ENSEMBLE}' is the name of their vote; give that member another `name`.")
    by_folder: dict[str, str] = {}
    for name in names:
        other = by_folder.setdefault(name.casefold(), name)
        if names.count(name) > 1:
            raise InputError(f"members: two have the name '{name}'; give one of them another `name`.")
        if other != name:
            raise InputError(
                f"members: '{other}' and '{name}' differ in case alone, and would share a folder where that counts for nothing; "
                "give one of them another `name`."
            )
    return members


def label_space(tasks: Mapping[str, TaskConfig | None]) -> LabelSpace:
    """The label space of task configs whose classes are known, without the dropped tasks."""
    space = []
    for name, task in tasks.items():
        if task is None:
            continue
        assert task.classes is not None
        space.append(Task(name, task.column or name, task.classes, task.edges or (), task.train_edges or ()))
    return LabelSpace(tuple(space))
