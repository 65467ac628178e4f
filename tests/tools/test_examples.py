"""Tests that the shipped example has the files and captions that its tool makes."""

import zipfile

from tests.conftest import EXAMPLE
from tools.make_example import example


def test_the_example_is_the_one_that_is_shipped() -> None:
    with zipfile.ZipFile(EXAMPLE) as archive:
        shipped = {name: archive.read(name) for name in archive.namelist()}
    made = dict(example())
    assert shipped.keys() == made.keys()
    assert all(shipped[name] == made[name] for name in made if name.endswith(".txt"))
