"""Tests of the tokenizers that count tokens: of folders and hub models, with one or two of them, or alone."""

from pathlib import Path

import huggingface_hub
import pytest

from preprocess.captions.token_counts import token_counter
from preprocess.errors import DatasetError
from tests.preprocess.captioners.tiny_captioners import word_tokenizer


@pytest.mark.parametrize("layout", [["tokenizer"], ["tokenizer", "tokenizer_2"], [""]])
@pytest.mark.parametrize("on_hub", [False, True])
def test_the_tokenizers_that_a_model_has_count(
    layout: list[str], on_hub: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository, commit = tmp_path / "models--owner--base", "a" * 40
    model = repository / "snapshots" / commit
    for name in layout:
        word_tokenizer(starts_with="<s>" if name == "tokenizer_2" else "").save_pretrained(model / name)
        absent = (
            repository / ".no_exist" / commit / name / "config.json"
        )  # the hub has answered that it has no such file
        absent.parent.mkdir(parents=True)
        absent.touch()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    count = token_counter("owner/base" if on_hub else str(model))
    assert count("a red picture") == (4 if "tokenizer_2" in layout else 3)


def test_a_tokenizer_that_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DatasetError, match=r"^tokenizer owner/missing: cannot be loaded[^\n]*Check the name"):
        token_counter("owner/missing")
