"""Starting weights of the members' backbones, fetched once for the whole cluster, and the check of their recipes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray

from raymask.cluster.waiting import wait_for
from raymask.config.members import Member
from raymask.config.recipe import Recipe
from raymask.core.errors import InputError
from raymask.data.features import file_stem
from raymask.io.atomic import replacing, write_json
from raymask.io.checked import DamagedFileError, check_weights, read_json
from raymask.io.hashing import file_digest, text_digest
from raymask.runs.directory import Run

CPUS = 0.5


def check_backbones(recipes: Iterable[Recipe]) -> None:
    """Refuses backbones that timm does not know, and files of weights that are not there; before anything is begun.

    Raises:
        InputError: lists the names nearest to a wrong one.
    """
    from raymask.models.backbones import check_backbone  # with torch, which the driver loads for this alone

    for recipe in recipes:
        check_backbone(recipe.backbone)
        backbone_file(recipe)


def fetch_backbones(members: Sequence[Member], root: Path) -> dict[str, Path]:
    """Files of starting weights by member, for the members that start from any; each is fetched once and kept.

    Every member's backbone is built once, in a worker, so that a wrong recipe is refused before anything is trained; for those
    that start from random weights an empty file remembers that they can be, and another that a recipe's optimizer, frozen stages
    and stochastic depth can be had, where they are not the usual ones.

    Raises:
        InputError: a backbone cannot be built, its weights cannot be had, or its recipe cannot be trained.
    """
    files = _files_of(members, root)
    proofs = {root / proof: member.recipe for member in members if (proof := proof_file(member.recipe))}
    unproven = {proof: (_prove, recipe) for proof, recipe in proofs.items() if not proof.exists()}
    for _, refusal in _done({**_to_fetch(members, files), **unproven}):
        if refusal:
            raise InputError(refusal)
    return {member.name: files[member.name] for member in members if member.recipe.pretrained}


def refused_backbones(members: Sequence[Member], root: Path) -> dict[str, str]:
    """As `fetch_backbones` for members that do without each other: why a backbone cannot be had, by member; the others are kept.

    Raises:
        InputError: a file of weights is not there.
    """
    files = _files_of(members, root)
    refusals = {file: refusal for file, refusal in _done(_to_fetch(members, files)) if refusal}
    return {name: refusals[file] for name, file in files.items() if file in refusals}


def _files_of(members: Sequence[Member], root: Path) -> dict[str, Path]:
    return {member.name: root / backbone_file(member.recipe) for member in members}


Work = Callable[[Recipe, Path], str | None]
"""Writes a file for a recipe, or returns why it cannot."""


def _to_fetch(members: Sequence[Member], files: Mapping[str, Path]) -> dict[Path, tuple[Work, Recipe]]:
    """What is to be done for the files that are not there."""
    return {files[m.name]: (_fetch, m.recipe) for m in members if not _is_whole(files[m.name])}


def _done(wanted: Mapping[Path, tuple[Work, Recipe]]) -> Iterator[tuple[Path, str | None]]:
    """Each file when it is written, and why it cannot be, None where it can."""
    tasks = {ray.remote(num_cpus=CPUS, max_retries=0)(work).remote(recipe, file): file for file, (work, recipe) in wanted.items()}
    waiting = list(tasks)
    while waiting:
        [ended], waiting = wait_for(waiting, {"CPU": CPUS})
        yield tasks[ended], ray.get(ended)


def _is_whole(file: Path) -> bool:
    """Whether a file of weights is there to its end; one that was cut is fetched again."""
    if file.suffix != ".safetensors":
        return file.exists()
    try:
        check_weights(file, None)
    except DamagedFileError:
        return False
    return True


def backbone_file(recipe: Recipe) -> str:
    """Name that changes with everything that decides the weights, or whether the backbone can be built.

    Raises:
        InputError: the weights' file cannot be read.
    """
    height, width = recipe.height_width
    source = f"random timm-{version('timm')}"
    if recipe.weights:
        source = _content(recipe.weights)
    elif recipe.pretrained:
        source = "timm"
    digest = text_digest(recipe.backbone, str(height), str(width), source)[:16]
    return f"{file_stem(recipe.backbone)}-{digest}.{'safetensors' if recipe.pretrained else 'built'}"


def proof_file(recipe: Recipe) -> str | None:
    """Name that changes with what decides whether a model can be trained as a recipe says; None where that is beyond doubt."""
    if _doubtful(recipe) == _doubtful(Recipe()):
        return None
    height, width = recipe.height_width
    versions = [f"{package}-{version(package)}" for package in ("timm", "torch")]
    digest = text_digest(recipe.backbone, str(height), str(width), json.dumps(_doubtful(recipe), sort_keys=True), *versions)[:16]
    return f"{file_stem(recipe.backbone)}-{digest}.checked"


def _doubtful(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe its backbone or this version of timm may not have."""
    optim = recipe.optim.model_dump(mode="json", include={"name", "arguments", "layer_decay"})
    return {**optim, "stages": recipe.freeze.stages, "drop_path": recipe.drop_path, "maps": recipe.head.name == "conv"}


def _content(weights: Path) -> str:
    if not weights.is_file():
        raise InputError(f"recipe.weights: there is no file '{weights}'.")
    try:
        return file_digest(weights)
    except OSError as error:
        raise InputError(f"recipe.weights: '{weights}' cannot be read ({error.strerror}).") from None


def check_starts(run: Run, digests: Mapping[str, str], members: Sequence[Member], option: str = "--name") -> None:
    """Keeps which weights a run's members start from, and refuses others, as when a file was overwritten in between.

    Args:
        run: the run.
        digests: of their weights by member.
        members: those that are to be trained now.
        option: by which the run's folder is given.

    Raises:
        InputError: a member began with other weights.
    """
    known = read_json(run.backbones) if run.backbones.exists() else {}
    for member in members:
        if known.get(member.name, digests.get(member.name)) != digests.get(member.name):
            source = f"'{member.recipe.weights}'" if member.recipe.weights else f"timm's '{member.recipe.backbone}'"
            raise InputError(
                f"'{run.root}' began to train '{member.name}' from other weights than {source} holds now; put those back, give "
                f"this run another {option}, or delete that folder."
            )
    if digests.items() - known.items():
        write_json(run.backbones, {**known, **digests})


def _fetch(recipe: Recipe, file: Path) -> str | None:
    """Writes the file, or returns why it cannot."""
    from raymask.models.pretrained import check_random_backbone, fetch_backbone  # with torch, which the driver never loads

    try:
        if recipe.weights and backbone_file(recipe) != file.name:
            return (
                f"recipe.weights: '{recipe.weights}' is another file on another machine of the cluster, or was just written; "
                "name one that all nodes see."
            )
        if recipe.pretrained:
            with replacing(file) as draft:
                fetch_backbone(recipe, draft)
        else:
            check_random_backbone(recipe)
            with replacing(file) as draft:
                draft.touch()
    except InputError as error:
        return str(error)
    return None


def _prove(recipe: Recipe, file: Path) -> str | None:
    """Writes an empty file if a model can be trained as a recipe says, or returns why it cannot."""
    from raymask.training.checks import check_recipe  # with torch, which the driver never loads

    try:
        check_recipe(recipe)
        with replacing(file) as draft:
            draft.touch()
    except InputError as error:
        return str(error)
    return None
