"""Tests that docs/architecture.svg is up to date, and that the imports that it shows form no cycle."""

import ast

from tests.conftest import PROJECT
from tools.architecture_picture import COLUMNS, PICTURE, direct_imports, draw, read_imports, rows


def test_the_committed_picture_is_current() -> None:
    assert PICTURE.read_text(encoding="utf-8") == draw(), "run python -m tools.architecture_picture"


def test_it_shows_every_package_that_the_import_rules_know() -> None:
    text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    known = ast.literal_eval(text.partition("root_packages = ")[2].partition("\n")[0])
    assert set(COLUMNS) == {*known, "train", "predict"} - {"tools"}


def test_a_package_stands_above_all_that_it_imports() -> None:
    imports = {"a": frozenset("bc"), "b": frozenset("c"), "c": frozenset()}
    assert rows(imports) == [["a"], ["b"], ["c"]]
    assert direct_imports(imports) == [("a", "b"), ("b", "c")]  # a → c follows from these two


def test_imports_inside_functions_count() -> None:
    assert "service" in read_imports()["train"]
