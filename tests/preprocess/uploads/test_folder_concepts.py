"""Tests of the warning for several folders without concepts in the configuration, and of the YAML that it proposes."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from preprocess.uploads.folder_concepts import folder_warning
from preprocess.uploads.intake import FoundFile
from settings.preparation import DataConfig
from settings.record import build_settings


def warnings(names: Sequence[str], **settings: object) -> list[str]:
    files = [FoundFile(Path("/data") / name, name, Path("/data")) for name in names]
    return list(folder_warning(files, build_settings(DataConfig, settings)))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["anna/1.png", "ben/1.png"], {"anna": "ANNA", "ben": "BEN"}),
        (["x/anna/1.png", "x/ben/1.png", "x/carl/2/3.png"], {"anna": "ANNA", "ben": "BEN", "carl": "CARL"}),
        (["10_TOK dog/1.png", "5_ohwx cat/1.png"], {"10_TOK dog": "TOK", "5_ohwx cat": "OHWX"}),
        (["my dog/1.png", "my cat/1.png", "it's/1.png"], {"my dog": "MY", "my cat": "MY2", "it's": "IT"}),
    ],
)
def test_the_configuration_that_is_proposed_is_valid(names: Sequence[str], expected: dict[str, str]) -> None:
    (line,) = warnings(names)
    assert f"the images of {len(expected)} folders are trained as one concept, TOK" in line
    match = re.search(r"concepts: \[.*\]$", line)
    assert match is not None
    config = build_settings(DataConfig, yaml.safe_load(match.group()))
    assert {concept.folder: concept.trigger_word for concept in config.concepts} == expected


@pytest.mark.parametrize(
    "names", [["1.png", "2.png"], ["x/1.png", "x/2.png"], ["1.png", "x/2.png"], ["a/b/1.png", "a/b/2.png"], []]
)
def test_images_of_one_folder_are_one_concept(names: Sequence[str]) -> None:
    assert warnings(names) == []


def test_concepts_in_the_configuration_are_meant() -> None:
    concepts = [{"trigger_word": "ANN", "folder": "anna"}, {"trigger_word": "B", "folder": "ben"}]
    assert warnings(["anna/1.png", "ben/1.png"], concepts=concepts) == []
