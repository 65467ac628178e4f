"""Tests that the tables of docs/adding-a-family.md are complete, and its code, files and functions exist."""

import re

from families.family import ModelFamily
from families.noise.noise_process import NoiseProcess
from tests.conftest import PROJECT

PAGE = (PROJECT / "docs" / "adding-a-family.md").read_text(encoding="utf-8")


def test_every_member_of_the_interface_is_explained() -> None:
    table = PAGE[PAGE.index("| member") : PAGE.index("## Noise")]
    members = {*ModelFamily.__annotations__, *vars(ModelFamily)}
    missing = {name for name in members if not name.startswith("_") and f"`{name}`" not in table}
    assert missing == set()
    noise = PAGE[PAGE.index("## Noise") : PAGE.index("## An example")]
    assert {name for name in vars(NoiseProcess) if not name.startswith("_") and f"`{name}`" not in noise} == set()


def test_every_file_that_is_named_exists() -> None:
    named = set(re.findall(r"`((?:families|tests)/[\w/]+\.py)`", PAGE))
    assert len(named) > 5 and [name for name in named if not (PROJECT / name).is_file()] == []


def test_the_code_on_the_page_is_the_familys_own() -> None:
    example = PAGE[PAGE.index("## An example") : PAGE.index("## Single files")]
    snippets = re.findall(r"```python\n(.*?)```", example, flags=re.DOTALL)
    code = "".join((PROJECT / "families" / name).read_text(encoding="utf-8") for name in ("flux1.py", "registry.py"))
    assert len(snippets) == 5
    assert [snippet for snippet in snippets if _without_indents(snippet) not in _without_indents(code)] == []


def _without_indents(code: str) -> str:
    return "\n".join(line.strip() for line in code.splitlines())


def test_every_function_that_is_named_for_large_bases_exists() -> None:
    section = PAGE[PAGE.index("## Large bases") : PAGE.index("## Noise")]
    named = {name for name in re.findall(r"`(\w+)`", section) if "_" in name and name in section.split("| note |")[1]}
    code = "".join(path.read_text(encoding="utf-8") for path in (PROJECT / "families").rglob("*.py"))
    assert {"patches_of", "chosen_states"} <= named
    assert {name for name in named if not re.search(rf"\b{name}\b", code)} == set()
