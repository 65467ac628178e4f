"""Tests of notes on prompts with other programs' syntax or misspelt trigger words, on masks and on duplicate LoRAs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from artifact.artifact import Artifact
from artifact.layers.lora import LoraLayer
from families.family import ModelFamily
from sampler.duplicates import merge_duplicates
from sampler.images.starting_picture import mask_notes
from sampler.prompts.foreign_syntax import prompt_notes
from sampler.request import RequestError, SampleRequest, check_request
from sampler.weights import ScaledArtifact


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a photo of TOK <lora:mydog:0.8>", "<lora:mydog:0.8> is treated as text"),
        ("a photo of TOK <lyco:mydog:1>", "<lyco:mydog:1> is treated as text"),
        ("a photo of TOK, embedding:easynegative", "embedding:easynegative is treated as text"),
        ("a photo of [TOK]", "[TOK] includes its brackets; write TOK without them"),
        ("a photo of {TOK}", "{TOK} includes its brackets; write TOK without them"),
        ("a photo of <tok>", "<tok> includes its brackets; write TOK without them"),
        ("a photo of tok", "tok: did you mean the trigger word TOK?"),
        ("a photo of Tok on the moon", "Tok: did you mean the trigger word TOK?"),
    ],
)
def test_what_is_read_otherwise_than_meant_is_named(prompt: str, said: str) -> None:
    assert any(said in note for note in prompt_notes(prompt, ["TOK"]))


@pytest.mark.parametrize(
    "prompt", ["a photo of TOK", "TOK's house (at night)", "a [red] TOK", "a photo of TOK: took it"]
)
def test_a_right_prompt_has_no_notes(prompt: str) -> None:
    assert prompt_notes(prompt, ["TOK"]) == []


def test_a_longer_trigger_word_is_found_by_similarity() -> None:
    assert "did you mean the trigger word my-robot" in prompt_notes("a photo of my-robbot", ["my-robot"])[0]
    assert prompt_notes("a photo of a house", ["my-robot"]) == []
    assert prompt_notes("a photo of TOK", ["TOK", "TOK2"]) == []  # TOK2 is another trigger word


def request_with(image: tuple[int, int], mask: tuple[int, int], value: int = 255) -> SampleRequest:
    return SampleRequest("a star", image=Image.new("RGB", image), mask=Image.new("L", mask, value))


@pytest.mark.parametrize(("image", "mask"), [((101, 67), (30, 90)), ((64, 64), (64, 32)), ((100, 50), (50, 100))])
def test_a_mask_of_another_shape_is_refused_with_both_sizes(
    base: ModelFamily, image: tuple[int, int], mask: tuple[int, int]
) -> None:
    with pytest.raises(RequestError, match=f"{mask[0]} x {mask[1]} pixels, and image is {image[0]} x {image[1]}"):
        check_request(request_with(image, mask), base)


@pytest.mark.parametrize(("image", "mask"), [((101, 67), (101, 67)), ((128, 64), (64, 32)), ((1001, 667), (100, 67))])
def test_a_mask_of_the_same_shape_is_taken(base: ModelFamily, image: tuple[int, int], mask: tuple[int, int]) -> None:
    check_request(request_with(image, mask), base)


def test_the_shape_counts_after_a_camera_s_rotation(base: ModelFamily, tmp_path: Path) -> None:
    picture = Image.new("RGB", (60, 40))
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture.save(tmp_path / "turned.jpg", exif=exif)
    with Image.open(tmp_path / "turned.jpg") as turned:
        turned.load()
        check_request(replace(request_with((1, 1), (40, 60)), image=turned), base)


def test_a_mask_of_one_value_is_a_warning() -> None:
    black, white = Image.new("L", (64, 64), 0), Image.new("L", (64, 64), 255)
    assert "completely black" in mask_notes(black, (64, 64))[0]
    assert "completely black" in mask_notes(Image.new("L", (64, 64), 100), (64, 64))[0]  # below the threshold
    assert "completely white" in mask_notes(white, (64, 64))[0]
    white.paste(0, (0, 0, 32, 64))
    assert mask_notes(white, (64, 64)) == []


def lora(value: float, word: str = "TOK") -> Artifact:
    layer = LoraLayer(torch.full((2, 4), value), torch.ones(4, 2), alpha=2.0)
    return Artifact({"unet.a": layer}, {"clip_l": torch.ones(1, 4)}, None, {word: ["<s0>"]})


def test_the_same_lora_twice_is_one_at_the_sum_of_the_scales() -> None:
    given = [ScaledArtifact(lora(1), 0.5, "a"), ScaledArtifact(lora(2), 1, "b"), ScaledArtifact(lora(1), 0.25, "copy")]
    merged, notes = merge_duplicates(given)
    assert [(each.name, each.scale) for each in merged] == [("a", 0.75), ("b", 1)]
    assert notes == ["lora: copy is the same LoRA as a: it is used once, at the sum of the scales, 0.5 + 0.25 = 0.75"]


@pytest.mark.parametrize("other", [lora(1.001), lora(1, "HAT"), replace(lora(1), tokens={"clip_l": torch.zeros(1, 4)})])
def test_loras_that_differ_stay_apart(other: Artifact) -> None:
    merged, notes = merge_duplicates([ScaledArtifact(lora(1), 1, "a"), ScaledArtifact(other, 1, "b")])
    assert len(merged) == 2 and notes == []
