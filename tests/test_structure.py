"""Tests of the structure that CONTRIBUTING.md requires: small functions, files and folders, and typed arguments."""

import ast
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import PROJECT

LONGEST_FUNCTION = 60
LONGEST_FILE = 300
FILES_IN_A_FOLDER = 15
ENTRY_POINTS = {"train.py", "predict.py"}
"""Functions in these files may be longer: they declare one argument for each Cog input, with its description."""


def _python_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=PROJECT, capture_output=True, text=True, check=True)
    return [Path(line) for line in listed.stdout.splitlines() if (PROJECT / line).exists()]


def _functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse((PROJECT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.arg]:
    arguments = function.args
    yield from (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    yield from (each for each in (arguments.vararg, arguments.kwarg) if each is not None)


def test_no_function_is_longer_than_a_screen() -> None:
    long = [
        f"{path}:{function.lineno} {function.name}"
        for path in _python_files()
        if path.name not in ENTRY_POINTS and path.parts[0] != "tests"
        for function in _functions(path)
        if (function.end_lineno or 0) - function.lineno + 1 > LONGEST_FUNCTION
    ]
    assert not long


def test_no_file_is_longer_than_300_lines() -> None:
    code = [path for path in _python_files() if path.parts[0] != "tests"]
    long = [str(path) for path in code if len((PROJECT / path).read_text(encoding="utf-8").splitlines()) > LONGEST_FILE]
    assert not long


def test_no_folder_holds_more_than_15_files() -> None:
    counts = Counter(path.parent for path in _python_files())
    assert {str(folder): count for folder, count in counts.items() if count > FILES_IN_A_FOLDER} == {}


def test_every_argument_is_typed() -> None:
    untyped = [
        f"{path}:{function.lineno} {function.name}({argument.arg})"
        for path in _python_files()
        for function in _functions(path)
        for argument in _arguments(function)
        if argument.annotation is None and argument.arg not in ("self", "cls", "metacls")
    ]
    assert not untyped


def test_the_folders_of_tests_are_named_after_the_packages() -> None:
    packages = {path.parts[0] for path in _python_files() if len(path.parts) > 1 and path.parts[0] != "tests"}
    tested = {path.parts[1] for path in _python_files() if path.parts[0] == "tests" and len(path.parts) > 2}
    assert tested - {"learning", "docs"} <= packages
