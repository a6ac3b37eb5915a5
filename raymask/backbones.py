"""Starting weights of the members' backbones, fetched once for the whole cluster."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import ray

from raymask.config import Member, Recipe
from raymask.errors import InputError
from raymask.store import replacing


def fetch_backbones(members: Sequence[Member], root: Path) -> dict[str, Path]:
    """Files of starting weights by member, for the members that start from any; each is fetched once and kept.

    Every member's backbone is built once, in a worker, so that a wrong recipe is refused before anything is trained; for those
    that start from random weights an empty file remembers that they can be.

    Raises:
        InputError: a backbone cannot be built, or its weights cannot be had.
    """
    files = {member.name: root / backbone_file(member.recipe) for member in members}
    recipes = {files[member.name]: member.recipe for member in members}
    wanted = {file: recipe for file, recipe in recipes.items() if not file.exists()}
    tasks = [ray.remote(num_cpus=0.5, max_retries=0)(_fetch).remote(recipe, file) for file, recipe in wanted.items()]
    for refusal in ray.get(tasks):
        if refusal:
            raise InputError(refusal)
    return {member.name: files[member.name] for member in members if member.recipe.pretrained}


def backbone_file(recipe: Recipe) -> str:
    """Name that changes with everything that decides the weights, or whether the backbone can be built."""
    height, width = recipe.height_width
    source = f"random timm-{version('timm')}"
    if recipe.weights:
        status = recipe.weights.stat() if recipe.weights.exists() else None
        source = f"{recipe.weights.absolute()} {status.st_size} {status.st_mtime}" if status else str(recipe.weights)
    elif recipe.pretrained:
        source = "timm"
    digest = hashlib.sha256(f"{recipe.backbone} {height} {width} {source}".encode()).hexdigest()[:10]
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '-', recipe.backbone)}-{digest}.{'safetensors' if recipe.pretrained else 'built'}"


def _fetch(recipe: Recipe, file: Path) -> str | None:
    """Writes the file, or returns why it cannot."""
    from raymask.models import build_classifier, fetch_backbone

    try:
        if recipe.pretrained:
            with replacing(file) as draft:
                fetch_backbone(recipe, draft)
        else:
            build_classifier(recipe, {"any": 2})
            with replacing(file) as draft:
                draft.touch()
    except InputError as error:
        return str(error)
    return None
