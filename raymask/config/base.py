"""What all models of the config share: they refuse unknown keys, and the types of their values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
ColumnName = Annotated[str, Field(min_length=1)]
FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
"""A name that is a folder's or a file's, and no way out of the folder around it."""


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
