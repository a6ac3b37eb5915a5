"""raymask trains, votes and submits ensembles of image classifiers that share one stream of data, on Ray.

Importing it imports neither Ray nor torch; the names below are loaded when they are first used.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from raymask.core.version import __version__

# Ray reads this when it is imported: its uv hook would rebuild the whole environment for each worker under `uv run`.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

_HOME = {
    "InputError": "core.errors",
    "RunConfig": "config.schema",
    "load_config": "config.loading",
    "recipe_names": "config.yaml_files",
    "write_demo": "data.demo.dataset",
    "Ensemble": "inference.ensemble",
    "load": "inference.ensemble",
    "run": "workflows.train",
    "Result": "workflows.context",
    "Run": "runs.directory",
    "Rule": "voting.rules",
    "Evidence": "voting.evidence",
}

__all__ = [
    "Ensemble",
    "Evidence",
    "InputError",
    "Result",
    "Rule",
    "Run",
    "RunConfig",
    "__version__",
    "load",
    "load_config",
    "recipe_names",
    "run",
    "write_demo",
]

if TYPE_CHECKING:
    from raymask.config.loading import load_config
    from raymask.config.schema import RunConfig
    from raymask.config.yaml_files import recipe_names
    from raymask.core.errors import InputError
    from raymask.data.demo.dataset import write_demo
    from raymask.inference.ensemble import Ensemble, load
    from raymask.runs.directory import Run
    from raymask.voting.evidence import Evidence
    from raymask.voting.rules import Rule
    from raymask.workflows.context import Result
    from raymask.workflows.train import run


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'raymask' has no attribute '{name}'")
    return getattr(import_module(f"raymask.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
