"""From a config to a run that is ready: paths resolved, data read, the directory proved to be that of the same run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from raymask.config.data import DataConfig
from raymask.config.label_checks import check_labels
from raymask.config.loading import differences
from raymask.config.members import Member
from raymask.config.ordered import check_ordinal
from raymask.config.schema import RunConfig, TeacherConfig, resolve_members
from raymask.core.columns import FOLD_NAME
from raymask.core.console import Display
from raymask.core.errors import InputError, one_of, shortened
from raymask.core.paths import absolute, check_writable
from raymask.core.tasks import LabelSpace
from raymask.data import sources
from raymask.data.demo.dataset import write_demo
from raymask.data.duplicates import copies_joined
from raymask.data.folds import replica_folds
from raymask.data.given_folds import given_folds
from raymask.data.kinds import check_keys, resolve_kind
from raymask.data.subset import sampled_source, sampled_test
from raymask.data.test_sets import TestSet, check_missing, read_test
from raymask.io import files
from raymask.runs.configs import load_run_config, save_run_config, settled_config
from raymask.runs.digests import with_digests
from raymask.runs.directory import ReplicaId, Run, cache_root, demo_folder
from raymask.runs.identity import check_source, keep_source
from raymask.runs.outputs import check_output
from raymask.runs.tables import read_folds
from raymask.transforms.augment import check_augment
from raymask.transforms.tta import expand_views
from raymask.workflows.context import RunContext, run_context
from raymask.workflows.group_vote import check_group_tasks
from raymask.workflows.teacher import Teacher, check_teacher, open_teacher


def resolve(config: RunConfig) -> RunConfig:
    """A config in which every path, the kind of data and the views are what they stand for, in any working directory.

    Raises:
        InputError: nothing of a known kind lies at `data.path`, or a key has no effect with it.
    """
    data = absolute_paths(config.data)
    resolved = {
        "runs": absolute(config.runs),
        "views": expand_views(config.views),
        "data": data.model_copy(update={"kind": resolve_kind(data)}),
    }
    if config.teacher:
        resolved["teacher"] = config.teacher.model_copy(update={"run": absolute(config.teacher.run)})
    config = config.model_copy(update=resolved)
    check_keys(config.data)
    return config


def absolute_paths(data: DataConfig) -> DataConfig:
    """The data's paths so that they hold in any working directory."""
    given = {key: value for key in ("path", "test", "image_root", "test_root") if (value := getattr(data, key))}
    return data.model_copy(update={key: files.absolute(value) for key, value in given.items()})


@dataclass(frozen=True)
class PreparedRun:
    """A run whose data are read and whose config is whole."""

    context: RunContext
    space: LabelSpace
    members: list[Member]
    source: sources.Source
    test: TestSet | None
    teacher: Teacher | None = None

    @property
    def run(self) -> Run:
        """The run's directory."""
        return self.context.run

    @property
    def config(self) -> RunConfig:
        """The whole config."""
        return self.context.config


@dataclass(frozen=True)
class LabelledData:
    """What a config's data are, before any run is touched."""

    config: RunConfig
    """With the classes that the data hold."""
    data: DataConfig
    """Where they are, those of the demo being drawn."""
    source: sources.Source
    members: list[Member]
    remarks: list[str]
    named_groups: pd.Series
    """(N,) group of each image as the data have it, before images of one content are put in one."""


def read_labelled(config: RunConfig, display: Display) -> LabelledData:
    """Reads the training images of a resolved config, and completes and checks it by the classes that they hold.

    Raises:
        InputError: the data or the config are wrong.
    """
    data = drawn_data(config, display)
    source = sources.read_source(config.model_copy(update={"data": data}))
    if config.folds.column:
        config = config.model_copy(update={"folds": config.folds.model_copy(update={"k": source.images[FOLD_NAME].nunique()})})
    source = sampled_source(source, data.share, config.folds, config.seed)
    named_groups = source.images["group"]
    images, copies = copies_joined(identified(source.images, config, display))
    source = replace(source, images=images)
    if config.folds.column:
        given_folds(images, config.folds.column)  # which refuses wrong ones, before images are prepared
    config = config.model_copy(update={"tasks": source.task_configs})
    members = resolve_members(config)
    unused = check_members(members, source)
    check_group_tasks(config.vote, source.images, source.space)
    return LabelledData(config, data, source, members, [*filter(None, source.remarks), *copies, *unused], named_groups)


def check_members(members: Sequence[Member], source: sources.Source) -> list[str]:
    """Refuses members whose recipes do not fit a run's labels; returns remarks on what of them is not used.

    Raises:
        InputError: so it is.
    """
    unused = check_ordinal(members, source.space, sources.number_scales(source))
    check_labels(members, source.space)
    for member in members:
        check_augment(member.recipe.augment, *member.recipe.prepared_height_width, member.recipe.height_width)
    return unused


def prepare_run(context: RunContext, with_test: bool = True) -> PreparedRun:
    """Reads the data and completes the config by the classes that they hold; writes nothing into the run's directory.

    Args:
        context: of a resolved config.
        with_test: whether the run's test set is read too.

    Raises:
        InputError: the data or config are wrong, or the directory holds a run of another config or other data.
    """
    run, display = context.run, context.display
    if not run.config.exists():
        check_output(run.root, context.option, begun=())
    labelled = read_labelled(context.config, display)
    config, source = labelled.config, labelled.source
    test, remarks = read_test_set(config, labelled.data, display) if with_test else (None, [])
    _refuse_other_config(run, config, context.option)
    if run.config.exists():
        check_source(run, source.images, source.space, context.option)
    teacher = open_teacher(run, config, source, _unlabelled(config.teacher, display)) if config.teacher else None
    if teacher:
        check_teacher(run, teacher)
    _describe(source, test, [*labelled.remarks, *remarks], display)
    return PreparedRun(replace(context, config=config), source.space, labelled.members, source, test, teacher)


def record_run(prepared: PreparedRun) -> None:
    """Writes the config and what the images are into the run's directory."""
    prepared.run.root.mkdir(parents=True, exist_ok=True)
    save_run_config(prepared.run, prepared.config)
    keep_source(prepared.run, prepared.source.images)


def _describe(source: sources.Source, test: TestSet | None, remarks: Iterable[str], display: Display) -> None:
    people = source.images["group"].nunique()
    groups = f" of {people} groups" if people < len(source.images) else ""
    classes = " × ".join(f"{name} {size}" for name, size in zip(source.space.names, source.space.shape, strict=True))
    test_images = f"; {len(test.images)} test images" if test else ""
    display.line("data", f"{len(source.images)} images{groups}, {classes} = {source.space.joint_size} classes{test_images}")
    for line in sources.class_counts(source):
        display.line("data", line)
    for remark in remarks:
        display.warn(remark)


def identified(images: pd.DataFrame, config: RunConfig, display: Display) -> pd.DataFrame:
    """A table of images with the digests of their files, which are read where they are not known."""
    with suppress(OSError):  # what cannot be written is said where it is needed
        cache_root(config).mkdir(parents=True, exist_ok=True)
    with display.counting("data", "files read to know them again") as count:
        return with_digests(images, config, count)


def read_test_set(config: RunConfig, data: DataConfig, display: Display) -> tuple[TestSet | None, list[str]]:
    """The test images of a run with the digests of their files, None where it has none; and remarks on them.

    Raises:
        InputError: they cannot be read, or too many are missing.
    """
    test = read_test(data)
    if test is None:
        return None, []
    missing = check_missing(test, data.max_missing_test, "data.test_root")
    test = sampled_test(test, data.share, config.seed)
    return replace(test, images=identified(test.images, config, display)), [*filter(None, [*test.remarks, missing])]


def _unlabelled(teacher: TeacherConfig, display: Display) -> pd.DataFrame | None:
    """The test images of a teacher: image_id, path, size, stamp and digest; None where they are not to join."""
    if teacher.unlabelled == "none":
        return None
    root = teacher.run
    config = load_run_config(Run(root)).model_copy(update={"runs": root.parent, "name": root.name})
    test, remarks = read_test_set(config, drawn_data(config, display), display)
    if test is None:
        raise InputError(
            f"teacher.unlabelled is '{teacher.unlabelled}', but '{root}' has no test images (data.test); give it some, or set "
            "teacher.unlabelled to none."
        )
    for remark in remarks:
        display.warn(remark)
    return test.images


def drawn_data(config: RunConfig, display: Display) -> DataConfig:
    """Where the data are, those of the demo being drawn first."""
    if config.data.kind != "demo":
        return config.data
    people, test_people = config.data.demo_people, config.data.demo_test_people
    folder = demo_folder(config)
    if not folder.exists():
        display.line("data", f"drawing the photos of {people} + {test_people} people")
    return config.data.model_copy(update={"path": str(write_demo(folder, people=people, test_people=test_people))})


def _refuse_other_config(run: Run, config: RunConfig, option: str) -> None:
    if not run.config.exists():
        return
    if changed := differences(load_run_config(run), config):
        more = f" (and {len(changed) - 1} more differences)" if len(changed) > 1 else ""
        raise InputError(
            f"'{run.root}' holds another run: {changed[0]}{more}; give this one another {option}, or delete that folder."
        )


@contextmanager
def finished_run(folder: Path, rule: str | None, display: Display, settings: Sequence[str] = ()) -> Iterator[PreparedRun]:
    """A run that a command adds models to, wherever its directory lies now.

    Args:
        folder: directory of the run.
        rule: import path of the rule of your own that the run votes by, if it does; a run's files are not believed there.
        display: what shows progress.
        settings: `key.path=value`, in place of what the run's config says.

    Raises:
        InputError: the directory holds no run, cannot be written into, or the data are others than the run's.
        RunError: a part of the command failed in Ray.
    """
    root = absolute(folder)
    config = resolve(config_where_it_lies(root, rule, settings))
    check_writable(root, "run, such as a copy of it")
    with run_context(Run(root), config, display) as context:
        yield prepare_run(context)


def config_where_it_lies(root: Path, rule: str | None, settings: Sequence[str] = ()) -> RunConfig:
    """The config of a run whose directory may have been moved, with the rule and the settings of the caller's own."""
    config = settled_config(Run(root), settings, {"vote": {"rule": rule}} if rule else None)
    return config.model_copy(update={"runs": root.parent, "name": root.name})


def member_named(members: Sequence[Member], name: str | None) -> Member:
    """The member of a recipe that has this name; the first without one.

    Raises:
        InputError: there is no such member.
    """
    by_name = {member.name: member for member in members}
    if name is not None and name not in by_name:
        raise InputError(f"--member: the recipe has no member '{name}'; it may be {one_of(by_name, name)}.")
    return members[0] if name is None else by_name[name]


def named_members(prepared: PreparedRun, names: Sequence[str]) -> list[Member]:
    """The run's members of these names, all of them without any.

    Raises:
        InputError: there is no such member.
    """
    known = [member.name for member in prepared.members]
    for name in names:
        if name not in known:
            raise InputError(f"--member: the run has no member '{name}'; it may be {one_of(known, name)}.")
    return [member for member in prepared.members if not names or member.name in names]


def check_trained(run: Run, members: Sequence[Member]) -> None:
    """Refuses a run whose folds these members are not trained for.

    Raises:
        InputError: names what is not there.
    """
    folds = replica_folds(read_folds(run)) if run.manifest.exists() else [0]
    if missing := unfinished(run, [ReplicaId(member.name, fold) for member in members for fold in member.folds_of(folds)]):
        raise missing


def unfinished(run: Run, fold_models: Sequence[ReplicaId]) -> InputError | None:
    """What a run that lacks some of these models is refused with; None if it has them all."""
    missing = [str(model) for model in fold_models if not run.finished(model)]
    if not missing:
        return None
    return InputError(
        f"'{run.root}' is not trained to its end (there is no {shortened(missing, 3)}); finish it first by "
        f"`raymask train --recipe {run.config}`."
    )
