"""`key.path=value` settings: read, and entered into a config."""

from __future__ import annotations

import re
from typing import Any

import yaml

from raymask.config.yaml_files import Loader, guarded, read_yaml
from raymask.core.errors import InputError

QUOTED = r"\"[^\"]*\"|'[^']*'"
SETTING = re.compile(rf"(?P<path>\s*(?:{QUOTED}|[^=.\"'\s])(?:{QUOTED}|[^=])*?)=(?P<value>.*)", re.DOTALL)
KEY = re.compile(r"(?:^|(?<=\.))(?:[\"']([^\"']*)[\"']|([^.]*))(?=\.|$)")


def apply_setting(values: dict[str, Any], setting: str) -> None:
    """Merges one `key.path=value` into nested values; list items go by number, and a key with dots or `=` in quotes."""
    matched = SETTING.fullmatch(setting)
    path = matched["path"].strip() if matched else ""
    *parents, last = [quoted or plain for quoted, plain in KEY.findall(path)]
    if not matched or not all([*parents, last]):
        raise InputError(f"--set takes key.path=value, but got '{setting}'.")
    value = read_setting(matched["value"].strip(), path)
    target: Any = values
    for key in parents:
        target = _enter(target, key, path)
    if isinstance(target, list):
        target[_item(target, last, path)] = value
    else:
        target[last] = value


def read_setting(text: str, path: str) -> Any:
    """The value of a setting: YAML's flow style, without comments. What neither opens a quote nor a list or mapping is one word.

    So a path with ` #` or `: ` in it is whole.
    """
    refusal = f"--set {path}: the value '{text}' cannot be read; quote it"
    try:
        if not text.startswith(("'", '"', "[", "{")):
            return guarded(lambda: _plain(text), text, "it")
        value: Any = read_yaml(text, "it")
        *_, root, _, _ = yaml.parse(text, Loader=Loader)
        rest = text[root.end_mark.index :] if root.end_mark else ""
    except InputError as error:
        why = str(error).partition(": ")[2] or ("' #' begins a comment." if " #" in text else "")
        raise InputError(f"{refusal} ({why.rstrip('.')})." if why else f"{refusal}.") from None
    if rest.strip():  # a comment, which nobody means on a command line
        raise InputError(f"{refusal}.")
    return value


def _plain(text: str) -> Any:
    """What one word without quotes is by the core schema: null, true or false, a number, or a text."""
    loader = Loader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))
    return loader.construct_document(yaml.ScalarNode(tag, text))


def _enter(target: Any, key: str, path: str) -> Any:
    if isinstance(target, list):
        index = _item(target, key, path)
        if not isinstance(target[index], dict):
            raise InputError(f"--set {path}: '{key}' holds the plain value {target[index]!r}, nothing lies below it.")
        return target[index]
    if target.get(key) is None:
        target[key] = {}
    if not isinstance(target[key], (dict, list)):
        raise InputError(f"--set {path}: '{key}' holds the plain value {target[key]!r}, nothing lies below it.")
    return target[key]


def _item(target: list[Any], key: str, path: str) -> int:
    if not target:
        raise InputError(f"--set {path}: '{key}' is to be the number of an item, but the list is empty.")
    if not key.isdecimal() or int(key) >= len(target):
        raise InputError(f"--set {path}: '{key}' must be the number of an item, from 0 to {len(target) - 1}.")
    return int(key)
