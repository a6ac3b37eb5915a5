"""The config that a run directory holds: written, read again, and not believed where it names code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from raymask.config.loading import dump_config, load_config, validate
from raymask.config.schema import RunConfig, resolve_members
from raymask.config.yaml_files import RuleOfARun, read_recipe
from raymask.core.errors import InputError
from raymask.io.atomic import write_text
from raymask.io.checked import damaged, read_text
from raymask.runs.directory import Run

END_OF_CONFIG = "..."
"""YAML's own end of a document, by which a run's config is known to be whole."""


def load_run_config(run: Run) -> RunConfig:
    """The config that a run directory holds, to be looked at; see `settled_config` for one to act by.

    Raises:
        InputError: the directory holds no run, or its config cannot be read.
    """
    _check_whole(run)
    try:
        values = read_recipe(str(run.config))
    except InputError as error:
        raise damaged(run.config, str(error).rstrip(".")) from None
    if isinstance(values.get("vote"), dict) and isinstance(values["vote"].get("rule"), RuleOfARun):
        values["vote"]["rule"] = str(values["vote"]["rule"])
    return _checked(run, values)


def settled_config(run: Run, settings: Iterable[str] = (), overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """The config that a run directory holds, with the caller's overrides and `key.path=value` settings, to act by.

    Raises:
        InputError: as `load_run_config`; or the config names a voting rule of one's own, and the caller does not.
    """
    load_run_config(run)
    return load_config(run.config, settings, overrides)


def _check_whole(run: Run) -> None:
    if not run.config.exists():
        raise InputError(f"'{run.root}' holds no run: it has no {run.config.name}.")
    lines = read_text(run.config).rstrip().splitlines()
    if lines[-1:] != [END_OF_CONFIG]:
        raise damaged(
            run.config,
            f"its last line is not '{END_OF_CONFIG}', so that its end may be missing; to a config that is whole, as in runs of "
            "raymask 0.1, add that line",
        )
    if any(line.startswith("base:") for line in lines):
        raise damaged(run.config, "it has a `base`, which no run's config has")


def _checked(run: Run, values: Mapping[str, Any]) -> RunConfig:
    """A config in which all that an opened run knows is there."""
    try:
        config = validate(values)
        resolve_members(config)
    except InputError as error:
        raise damaged(run.config, str(error).rstrip(".")) from None
    tasks = [task for task in config.tasks.values() if task is not None]
    if not tasks or any(task.classes is None for task in tasks):
        raise damaged(run.config, "it does not say which classes its tasks have")
    return config


def save_run_config(run: Run, config: RunConfig) -> None:
    """Writes the resolved config."""
    write_text(run.config, f"{dump_config(config)}{END_OF_CONFIG}\n")
