"""Tests that docs/adding-an-adapter.md matches the code: its example is the source file, its tables are complete, and
the files that it names exist."""

import re
from dataclasses import fields

from tests.conftest import PROJECT
from trainer.adapters.kind import AdapterKind
from trainer.trainables.part import Part

PAGE = (PROJECT / "docs" / "adding-an-adapter.md").read_text(encoding="utf-8")


def test_the_example_is_the_code() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert blocks == [(PROJECT / "trainer" / "adapters" / "oft.py").read_text(encoding="utf-8")]


def test_every_field_and_member_is_explained() -> None:
    members = [name for name in vars(Part) if not name.startswith("_")]
    named = [field.name for field in fields(AdapterKind)] + members
    assert len(members) == 6 and [name for name in named if f"| `{name}` |" not in PAGE] == []


def test_every_file_that_is_named_exists() -> None:
    paths = set(re.findall(r"`((?:trainer|artifact|settings|tests)/[\w/]+(?:\.py|/))`", PAGE))
    assert len(paths) > 8 and [path for path in paths if not (PROJECT / path).exists()] == []
