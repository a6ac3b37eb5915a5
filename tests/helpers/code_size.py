"""Prints how many functions, files and argument lists of the library are longer than its limits: `python … [FOLDER …]`."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_LINES_OF_FUNCTION, MAX_ARGUMENTS, MAX_LINES_OF_FILE = 50, 7, 350
IMPORTS_LAZILY = "cli.py"

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[Function]:
    yield from (node for node in ast.walk(tree) if isinstance(node, Function))


def arguments_of(function: Function) -> int:
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def over_limits(folder: Path) -> dict[str, list[str]]:
    """What each limit finds below a folder."""
    found: dict[str, list[str]] = {"functions": [], "arguments": [], "files": [], "imports": []}
    for file in sorted(folder.rglob("*.py")):
        text = file.read_text()
        if text.count("\n") > MAX_LINES_OF_FILE:
            found["files"].append(f"{file} {text.count(chr(10))}")
        for function in functions(ast.parse(text)):
            where = f"{file}:{function.lineno} {function.name}"
            if (lines := (function.end_lineno or 0) - function.lineno + 1) > MAX_LINES_OF_FUNCTION:
                found["functions"].append(f"{where} {lines}")
            if file.name != IMPORTS_LAZILY and arguments_of(function) > MAX_ARGUMENTS:
                found["arguments"].append(f"{where} {arguments_of(function)}")
            imports = sum(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(function))
            found["imports"] += [where] * imports if file.name != IMPORTS_LAZILY else []
    return found


def main(folders: list[str]) -> None:
    titles = {
        "functions": f"functions over {MAX_LINES_OF_FUNCTION} lines",
        "arguments": f"functions with more than {MAX_ARGUMENTS} parameters, {IMPORTS_LAZILY} left out",
        "files": f"files over {MAX_LINES_OF_FILE} lines",
        "imports": f"imports inside functions, {IMPORTS_LAZILY} left out",
    }
    for folder in folders:
        print(folder)
        for limit, places in over_limits(Path(folder)).items():
            print(f"  {len(places):>3} {titles[limit]}", *(f"      {place}" for place in dict.fromkeys(places)), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:] or ["raymask"])
