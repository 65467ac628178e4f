"""Tests that files, modules, settings, and names of other trainers in the documents exist."""

import re
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from settings.concepts import ConceptConfig
from settings.other_names import ELSEWHERE, NAMES
from settings.training import TrainingConfig
from tests.conftest import PROJECT

FOLDERS = {path.name for path in PROJECT.iterdir() if path.is_dir()}
MADE_BY_A_RUN = {"outputs", "dataset", "samples", "checkpoints", "images", "previews", "latents"}
CODE = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)+/?|[\w-]+\.(?:py|yaml|toml|sh)")
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")
MODULE = re.compile(r"python -m ([\w.]+)")
LINE = 120
BY_BENCHMARKS = {"methods.md", "time-to-quality.md", "versus-diffusers.md"}
NOT_OURS = {"pip", "pytest", "venv", "cog.server.http"}


def documents() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=PROJECT, capture_output=True, text=True, check=True)
    return [PROJECT / line for line in listed.stdout.splitlines() if line != "CHANGELOG.md"]


def named_paths(text: str) -> Iterator[str]:
    """Yields the paths of files in a text that begin with a folder of the repository."""
    for found in PATH.findall(text):
        if found.partition("/")[0] in FOLDERS - MADE_BY_A_RUN and "/" in found and Path(found).suffix != "":
            yield found


def long_lines(text: str) -> list[int]:
    """Returns the numbers of the lines of prose that are too long."""
    found, code = [], False
    for number, line in enumerate(text.splitlines(), 1):
        code ^= line.lstrip().startswith("```")
        if len(line) > LINE and not code and not line.startswith(("|", "    ")):
            found.append(number)
    return found


def rows(document: str) -> list[list[str]]:
    """Returns the cells of all table rows except headers and rules."""
    lines = (PROJECT / "docs" / document).read_text(encoding="utf-8").splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    rules = [index for index, cells in enumerate(table) if set("".join(cells)) <= set("- ")]
    return [cells for index, cells in enumerate(table) if index not in rules and index + 1 not in rules]


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_every_file_that_is_named_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    missing = [path for path in named_paths(text) if not (PROJECT / path).exists()]
    links = [link for link in LINK.findall(text) if "://" not in link and not (document.parent / link).exists()]
    assert missing + links == []


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_every_module_that_is_run_exists(document: Path) -> None:
    named = {name.rstrip(".") for name in MODULE.findall(document.read_text(encoding="utf-8"))} - NOT_OURS
    assert [name for name in named if find_spec(name) is None] == []


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_prose_has_lines_of_at_most_120_characters(document: Path) -> None:
    """Tables, code, and pages that benchmarks write are exempt."""
    if document.name not in BY_BENCHMARKS:
        assert long_lines(document.read_text(encoding="utf-8")) == []


def test_a_long_line_would_be_found() -> None:
    long, fence = "x" * 121, "```"
    text = f"{long}\n| {long}\n{fence}\n{long}\n{fence}\n    {long}\n- {long}\n{long[:120]}"
    assert long_lines(text) == [1, 7]


def test_a_missing_file_would_be_found() -> None:
    text = "see `trainer/run.py`, `outputs/a.txt`, (tests/no_such_test.py) and `owner/name.safetensors`"
    assert list(named_paths(text)) == ["trainer/run.py", "tests/no_such_test.py"]


def test_each_change_needs_three_files_at_most() -> None:
    changes = [cells for cells in rows("architecture.md") if re.match(r"an? ", cells[0])]
    assert len(changes) == 10
    for name, files, _ in changes:
        named = [code for code in CODE.findall(files) if code.endswith(".py")]
        assert 1 <= len(named) <= 3, name


def test_the_path_of_a_zip_names_its_files() -> None:
    steps = [cells for cells in rows("architecture.md") if cells[0].isdecimal()]
    assert len(steps) == 13
    for number, _, files in steps:
        assert all((PROJECT / code).is_file() for code in CODE.findall(files)), number


def test_names_of_other_trainers_lead_to_ours() -> None:
    """The table must agree with the command's answers to these names."""
    fields = {*TrainingConfig.model_fields, *ConceptConfig.model_fields}
    checked = 0
    for here, _, *others in rows("coming-from.md"):
        ours = CODE.findall(here)
        own_names = {code.partition(":")[0] for code in ours if code[0] != "-" and re.fullmatch(r"\w+(: \w+)?", code)}
        assert own_names <= fields, here
        for name in (code for cell in others for code in CODE.findall(cell)):
            known = {ours_there for ours_there, theirs in NAMES.items() if name in theirs}
            wanted = {code.lstrip("-") for code in ours} | own_names
            same_setting = {each.partition(":")[0] for each in known} & {each.partition(":")[0] for each in wanted}
            assert same_setting or name in wanted or name in ELSEWHERE, (here, name)
            checked += 1
    assert checked > 100
