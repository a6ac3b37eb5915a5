"""raymask trains, votes and submits ensembles of image classifiers that share one stream of data, on Ray.

Importing it imports neither Ray nor torch; the names below are loaded when they are first used.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Ray reads this when it is imported: its uv hook would rebuild the whole environment for each worker under `uv run`.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

__version__ = "0.1.0"

_HOME = {
    "InputError": "errors",
    "RunConfig": "config",
    "load_config": "config",
    "recipe_names": "config_files",
    "write_demo": "data.demo",
    "Ensemble": "inference",
    "load": "inference",
    "run": "pipeline",
    "Result": "pipeline",
    "Run": "store",
}

__all__ = [
    "Ensemble",
    "InputError",
    "Result",
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
    from raymask.config import RunConfig, load_config
    from raymask.config_files import recipe_names
    from raymask.data.demo import write_demo
    from raymask.errors import InputError
    from raymask.inference import Ensemble, load
    from raymask.pipeline import Result, run
    from raymask.store import Run


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'raymask' has no attribute '{name}'")
    return getattr(import_module(f"raymask.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
