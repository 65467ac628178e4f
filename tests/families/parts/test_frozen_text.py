"""Tests of the cache of prompt features in memory and on disk: each prompt is encoded once, and memory is limited."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from families.features import PromptFeatures, TextStream
from families.parts import frozen_text
from families.parts.frozen_text import FrozenText, ReadPrompts

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip Python's garbage collection, which takes a second in a large process."""
    monkeypatch.setattr(frozen_text, "_free", lambda: None)


class Encoder:
    """Records the prompts that it encodes. Their features have one position more than the prompt has characters, and
    all optional parts."""

    def __init__(self) -> None:
        self.loads = 0
        self.read: list[str] = []

    def load(self) -> ReadPrompts:
        self.loads += 1
        return self._read

    def _read(self, prompts: Sequence[str]) -> PromptFeatures:
        (prompt,) = prompts
        self.read.append(prompt)
        values = torch.full((1, len(prompt) + 1, 2), float(sum(prompt.encode())), dtype=torch.bfloat16)
        mask = torch.arange(len(prompt) + 1)[None] > 0
        further = {"glyphs": TextStream(values, mask), "t5": TextStream(values.float() / 3)}
        return PromptFeatures(values, values[:, 0] + 1, mask, further)


def same(one: PromptFeatures, other: PromptFeatures) -> bool:
    assert one.prompt_mask is not None and other.prompt_mask is not None and one.further.keys() == other.further.keys()
    pairs = [*zip(one.tensors, other.tensors, strict=True), (one.prompt_mask, other.prompt_mask)]
    masks = [(one.further[name].mask, other.further[name].mask) for name in one.further]
    assert all((a is None) == (b is None) for a, b in masks)
    pairs += [(a, b) for a, b in masks if a is not None and b is not None]
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def test_a_restart_reads_every_part_from_disk(tmp_path: Path) -> None:
    first, second = Encoder(), Encoder()
    before, after = FrozenText(first.load), FrozenText(second.load)
    for text in (before, after):
        text.keep_in(tmp_path / "prompts")
    prompts = ["a dog", "", "ein Hund \U0001f415", "../a\x00b"]
    before.read_ahead(prompts)
    after.read_ahead(prompts)
    assert (first.loads, second.loads) == (1, 0) and len(list((tmp_path / "prompts").iterdir())) == 4
    for prompt in prompts:
        assert same(before.features([prompt], CPU), after.features([prompt], CPU))
    after.features(["a dog", "a cat"], CPU)
    assert second.read == ["a cat"] and second.loads == 1


def test_an_unfinished_file_is_none(tmp_path: Path) -> None:
    encoder = Encoder()
    text = FrozenText(encoder.load)
    text.keep_in(tmp_path)
    text.read_ahead(["a dog"])
    (whole,) = tmp_path.iterdir()
    whole.rename(whole.with_suffix(".1.tmp"))
    again = FrozenText(encoder.load)
    again.keep_in(tmp_path)
    again.read_ahead(["a dog"])
    assert encoder.read == ["a dog", "a dog"]


@pytest.mark.parametrize("on_disk", [True, False])
def test_memory_holds_the_last_prompts(on_disk: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen_text, "IN_MEMORY", 2)
    encoder = Encoder()
    text = FrozenText(encoder.load)
    if on_disk:
        text.keep_in(tmp_path)
    for prompt in ("a", "b", "c"):
        text.features([prompt], CPU)
    whole = text.features(["a", "b", "c", "a"], CPU)  # more prompts than are kept in memory
    assert len(whole) == 4 and len(text._kept) == 2
    assert encoder.read == (["a", "b", "c"] if on_disk else ["a", "b", "c", "a"])


def test_what_is_read_ahead_without_a_folder_is_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen_text, "IN_MEMORY", 2)
    encoder = Encoder()
    text = FrozenText(encoder.load)
    text.read_ahead(["a", "b", "c", "a"])
    text.features(["c", "b", "a"], CPU)
    assert encoder.read == ["a", "b", "c"] and encoder.loads == 1
