"""What pydantic finds wrong, as one sentence about the user's keys."""

from __future__ import annotations

import types
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from raymask.core.errors import one_of


def explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """The first mistake of a `ValidationError` as one sentence with its key and what the key may be."""
    first = error.errors()[0]
    keys, owner, annotation = _locate(model, first["loc"])
    key = ".".join([prefix, *keys] if prefix else keys)
    given, kind = first["input"], first["type"]
    if kind in ("extra_forbidden", "model_type") and (new := getattr(owner, "RENAMED", {}).get(keys[-1])):
        return f"'{key}' is '{key.removesuffix(keys[-1])}{new}' now."
    if kind == "extra_forbidden":
        return f"there is no key '{key}'; it may be {one_of(owner.model_fields, keys[-1])}."
    if kind == "value_error":
        message = str(first["ctx"]["error"]).rstrip(".")
        return f"{key}: {message}." if key else f"{message}."
    if kind == "missing":
        return f"'{key}' is missing; it must be given."
    if kind == "literal_error":
        return f"'{key}' is {_shown(given)}; it may be {one_of(map(str, _literals_in(annotation)), str(given))}."
    if get_origin(annotation) in UNIONS:
        return f"'{key}' is {_shown(given)}; it may be {owner.model_fields[keys[-1]].description}."
    if kind == "string_type" and (given is None or isinstance(given, bool)):
        return f"'{key}' is {str(given).lower().replace('none', 'null')}; where that is meant as a text, quote it."
    return f"'{key}' is {_shown(given)}; {MUST_BE.get(kind) or _in_our_words(first['msg'])}."


def _in_our_words(message: str) -> str:
    """Pydantic's `Input should be greater than 0` as `it must be greater than 0`."""
    ours = message.replace("Input should", "it must", 1)
    return ours[0].lower() + ours[1:]


def _shown(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


MAX_SHOWN = 200
UNIONS = (Union, types.UnionType)
MUST_BE = {  # where pydantic's own words are about Python
    "tuple_type": "it must be a list",
    "dict_type": "it must hold keys and values",
    "model_type": "it must hold keys and values",
    "path_type": "it must be a path",
    "string_type": "it must be a text",
    "int_type": "it must be a whole number",
    "int_parsing": "it must be a whole number",
    "int_from_float": "it must be a whole number",
    "float_type": "it must be a number",
    "float_parsing": "it must be a number",
    "finite_number": "it must be a finite number",
    "bool_type": "it must be true or false",
    "bool_parsing": "it must be true or false",
    "string_pattern_mismatch": "it must be letters, digits, '.', '_' and '-', beginning with a letter or a digit",
}


def _locate(model: type[BaseModel], location: Sequence[int | str]) -> tuple[list[str], type[BaseModel], Any]:
    """The keys in a location of pydantic, the model that has the last of them, and that one's annotation.

    Pydantic's location goes on behind the keys: with the tried branch of a union, or with `[key]` for a wrong name in a mapping.
    """
    keys: list[str] = []
    owner, here = model, _bare(model)
    for part in location:
        if get_origin(here) in UNIONS or (part == "[key]" and keys):
            break
        keys.append(str(part))
        if isinstance(here, type) and not get_origin(here) and issubclass(here, BaseModel):
            owner = here
            field = owner.model_fields.get(str(part))
            here = _bare(field.annotation) if field else None
        else:
            inner = get_args(here) or (None,)
            here = _bare(inner[-1] if get_origin(here) is dict else inner[0])
    return keys, owner, here


def _bare(annotation: Any) -> Any:
    """An annotation without `Annotated` and `| None`."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    options = [option for option in get_args(annotation) if option is not type(None)]
    return _bare(options[0]) if get_origin(annotation) in UNIONS and len(options) == 1 else annotation


def _literals_in(annotation: Any) -> Iterable[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) in (Union, types.UnionType, Annotated):
        for argument in get_args(annotation):
            yield from _literals_in(argument)
