"""Trigger words of merged files: each is found under one name, and the header lists them all."""

from pathlib import Path

import pytest
import torch

from artifact.artifact import Artifact
from artifact.conversion.files import write_layers
from artifact.errors import ArtifactError
from artifact.layers import LoraLayer
from artifact.merging import onto
from artifact.merging.merge import merge
from artifact.metadata import ArtifactDescription, counted_through, from_header, own_header, words_header
from artifact.safetensors_file import read_header

LAYER = {"lora_unet_mid_block_attentions_0_proj_in": LoraLayer(torch.ones(1, 4), torch.ones(4, 1), 1.0)}
FAMILY = {"ss_base_model_version": "sd_v1"}


def written(path: Path, *words: str, phrase: str = "") -> Path:
    tokens = {"clip_l": torch.rand(len(words), 768)} if words else {}
    header = words_header(counted_through(dict.fromkeys(words, 1)), tokens) | FAMILY
    write_layers(LAYER, header | ({"modelspec.trigger_phrase": phrase} if phrase else {}), path)
    return path


def test_words_that_are_numbered_already(tmp_path: Path) -> None:
    sources = [written(tmp_path / f"{name}.safetensors", "TOK", "TOK2", "TOK3") for name in "ab"]
    merge(sources, [1.0, 1.0], tmp_path / "merged.safetensors")
    merged = Artifact.read(tmp_path / "merged.safetensors")
    assert list(merged.triggers) == ["TOK", "TOK2", "TOK3", "TOK4", "TOK22", "TOK32"]
    assert torch.equal(merged.tokens["clip_l"][3], Artifact.read(sources[1]).tokens["clip_l"][0])


def test_the_header_names_the_words_of_all_files(tmp_path: Path) -> None:
    sources = [
        written(tmp_path / "a.safetensors", phrase="cat"), written(tmp_path / "b.safetensors", "TOK"),
        written(tmp_path / "c.safetensors", phrase="dog"),
    ]  # fmt: skip
    merge(sources, [1.0, 1.0, 1.0], tmp_path / "merged.safetensors")
    assert read_header(tmp_path / "merged.safetensors")["modelspec.trigger_phrase"] == "TOK, cat, dog"


def of_base(path: Path, word: str, base: str, config: dict[str, object]) -> Path:
    fingerprint, triggers = base.rpartition("/")[2], {word: ["<s0>"]}
    description = ArtifactDescription("sd15", base, fingerprint, "epsilon", triggers, 9, config, "d", 0.7, ["a cat"])
    rows = {"clip_l": torch.rand(1, 768)}
    write_layers(LAYER, FAMILY | own_header(description) | words_header(triggers, rows), path)
    return path


def test_the_merged_file_names_the_base_model_of_its_files(tmp_path: Path) -> None:
    config: dict[str, object] = {"vae": "me/vae", "rank": 4, "trigger_word": "CAT", "class_word": "cat"}
    cat = of_base(tmp_path / "cat.safetensors", "CAT", "me/tuned", config)
    ink = of_base(tmp_path / "ink.safetensors", "INK", "me/tuned", {})
    other = of_base(tmp_path / "other.safetensors", "DOG", "me/other", {})
    merge([cat, ink], [1.0, 1.0], tmp_path / "both.safetensors")
    merge([cat, other], [1.0, 1.0], tmp_path / "apart.safetensors")
    merge([cat, written(tmp_path / "foreign.safetensors")], [1.0, 1.0], tmp_path / "unknown.safetensors")
    words = {"CAT": ["<s0>"], "INK": ["<s1>"]}
    assert Artifact.read(tmp_path / "both.safetensors").description == ArtifactDescription(
        "sd15", "me/tuned", "tuned", "epsilon", words, 0, {"vae": "me/vae"}
    )
    for name in ("apart", "unknown"):
        assert Artifact.read(tmp_path / f"{name}.safetensors").description is None


def test_a_file_that_is_given_twice_is_added_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = written(tmp_path / "a.safetensors"), written(tmp_path / "b.safetensors")
    given: list[tuple[list[str], list[float]]] = []
    for name in ("local_base", "open_base"):
        monkeypatch.setattr(onto, name, lambda *_: None)
    monkeypatch.setattr(onto, "write_onto", lambda named, weights, *_: given.append((list(named), weights)))
    onto.merge_onto([one, two], [1.0, 0.5], "base", tmp_path / "out")
    onto.merge_onto([one, one], [1.0, 0.5], "base", tmp_path / "out")
    assert given == [(["a.safetensors", "b.safetensors"], [1.0, 0.5]), ([f"{one} (1)", f"{one} (2)"], [1.0, 0.5])]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([f"w{number}" for number in range(5001)], "lists 5,001 trigger words; the limit is 5,000"),
        (["w" * 201], "a trigger word of 201 characters; the limit is 200"),
    ],
)
def test_words_that_would_keep_the_predictor_busy(words: list[str], reason: str) -> None:
    description = ArtifactDescription("sd15", "a/b", "", "epsilon", {word: [] for word in words}, 1)
    with pytest.raises(ArtifactError, match=reason):
        from_header(own_header(description))
    kept = ArtifactDescription("sd15", "a/b", "", "epsilon", {word[:200]: [] for word in words[:5000]}, 1)
    assert from_header(own_header(kept))[0] == kept
