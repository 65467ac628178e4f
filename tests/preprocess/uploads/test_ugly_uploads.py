"""Tests of the table of ugly uploads: each is accepted with a stated result, or refused with a stated message."""

from pathlib import Path

import pytest
from PIL import Image

from preprocess.errors import DatasetError
from preprocess.prepare import BaseRequirements, prepare
from settings.preparation import DataConfig
from settings.record import build_settings
from tests.preprocess.uploads.ugly_uploads import CASES
from tests.preprocess.uploads.ugly_uploads.case import Case, pack

OPTIONS = {"resolution": 128, "captioner": "none"}


def words(text: str) -> int:
    """Count tokens in place of a tokenizer: one per word, and two for start and end."""
    return len(text.split()) + 2


def test_there_are_sixty_cases_at_least() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 60


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_the_upload(case: Case, tmp_path: Path) -> None:
    source = pack(case, tmp_path)
    config = build_settings(DataConfig, OPTIONS | dict(case.options))
    base = BaseRequirements(8, words)
    if case.kept == 0:
        with pytest.raises(DatasetError) as error:
            prepare([source], config, tmp_path / "dataset", base)
        assert case.says in str(error.value)
        return
    dataset = prepare([source], config, tmp_path / "dataset", base)
    said = [*dataset.all_warnings, *(item.reason for item in dataset.rejected)]
    assert len(dataset.examples) == case.kept, said
    assert any(case.says in line for line in said) or not case.says, said
    if case.captions:
        assert tuple(example.caption for example in dataset.examples) == case.captions
    if case.sizes:
        assert tuple(example.bucket for example in dataset.examples) == case.sizes
    if case.silent:
        usual = ("have no caption", "are trained as one concept")
        assert [line for line in said if not any(words in line for words in usual)] == []
    for example in dataset.examples:
        with Image.open(dataset.folder / example.views[0].file) as image:
            assert (image.mode, image.size) == ("RGB", example.bucket)
