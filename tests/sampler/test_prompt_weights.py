"""Tests of weighted words and long prompts: the syntax, the features, and that other prompts are unchanged."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from families.family import ModelFamily, ReadsByClip
from families.parts.placeholder_tokens import PlaceholderTokens
from sampler.prompts.encoding import encode_pair, require_readable
from sampler.prompts.weights import WeightedText, parse_weights
from sampler.request import RequestError
from settings.record import ConfigError
from settings.training import TrainingConfig
from tests.tiny_models import load_tiny
from trainer.resolution import resolve

ROOM = 75


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelFamily:
    """A tiny base with two placeholder tokens."""
    loaded = load_tiny(request.param, tmp_path_factory.mktemp("base") / "m")
    generator = torch.Generator().manual_seed(0)
    widths = [encoder.config.hidden_size for encoder in loaded.text_encoders]
    rows = [torch.randn(2, width, generator=generator) for width in widths]
    PlaceholderTokens(loaded, ["<s0>", "<s1>"], rows)
    return loaded


@torch.inference_mode()
def states(prompt: str, family: ModelFamily, negative: str = " ", clip_skip: int = 0) -> Tensor:
    return encode_pair(prompt, negative, clip_skip, family)[0].prompt_embeds


@torch.inference_mode()
def read(prompt: str, family: ModelFamily) -> Tensor:
    return family.encode_prompts([prompt]).prompt_embeds


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a red star", [("a red star", 1)]),
        ("", [("", 1)]),
        (" ", [(" ", 1)]),
        ("a (red:1.2) star", [("a ", 1), ("red", 1.2), (" star", 1)]),
        ("(a red star : .5)", [("a red star ", 0.5)]),
        ("(red:1.2) (blue:0)", [("red", 1.2), ("blue", 0)]),
        ("(red:1) star", [("red star", 1)]),
        ("(red:1.2) (hat:1.2)", [("red hat", 1.2)]),
        (r"\(red:1.2\) (hat:1)", [("(red:1.2) hat", 1)]),
        ("a (small) star (in 2024), [red], ((big))", [("a (small) star (in 2024), [red], ((big))", 1)]),
        ("a screen (16:9) at (10:30)", [("a screen (16:9) at (10:30)", 1)]),
        ("C++, a well-, x:2, smile :3)", [("C++, a well-, x:2, smile :3)", 1)]),
        (r"fate \(series\)", [(r"fate \(series\)", 1)]),
        (r"\(red:1.2\) star", [("(red:1.2) star", 1)]),
        ("(<s0><s1>:1.3)'s hat", [("<s0><s1>", 1.3), ("'s hat", 1)]),
    ],
)
def test_what_is_syntax(prompt: str, parts: list[tuple[str, float]]) -> None:
    assert parse_weights(prompt) == [WeightedText(text, weight) for text, weight in parts]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("(red:2.5) star", r"must be between 0 and 2. For the text itself write \\\(red:2.5\\\)"),
        ("( :1.2)", "has a weight without words"),
        ("(a (red) star:1.2)", r"cannot parse the weight in “…\(a \(red\) star:1.2\)”"),
        ("(a (red:1.1) star:1.2)", "weights cannot be nested"),
        ("(red:-1)", "cannot parse the weight"),
    ],
)
def test_weights_that_cannot_be_read(prompt: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse_weights(prompt)


@pytest.mark.parametrize("prompt", ["a red star", "a <s0><s1> on (blue)", "", " ", "(16:9)"])
def test_without_weights_nothing_changes(prompt: str, family: ModelFamily) -> None:
    with torch.inference_mode():
        features = family.encode_prompts([prompt])
        ours = encode_pair(prompt, prompt, 0, family)
    for one in ours:
        assert torch.equal(one.prompt_embeds, features.prompt_embeds)
        assert features.pooled_prompt_embeds is None or torch.equal(
            cast(Tensor, one.pooled_prompt_embeds), features.pooled_prompt_embeds
        )


def test_more_weight_moves_words_away_from_the_empty_prompt(family: ModelFamily) -> None:
    plain, empty = read("a <s0><s1> star", family), read(" ", family)
    expected = plain.clone()
    expected[:, 2:4] = empty[:, 2:4] + 1.5 * (plain - empty)[:, 2:4]  # start, "a", then the two tokens
    torch.testing.assert_close(states("a (<s0><s1>:1.5) star", family), expected)


def test_less_weight_mixes_in_the_prompt_without_the_words(family: ModelFamily) -> None:
    without = []
    for number, (tokenizer, encoder) in enumerate(zip(family.tokenizers, family.text_encoders, strict=True)):
        ids = tokenizer("a red star", padding="max_length", return_tensors="pt").input_ids
        mask = torch.ones_like(ids)
        mask[:, 2] = 0
        with torch.inference_mode():
            output = encoder(ids, attention_mask=mask, output_hidden_states=True)
            without.append(cast(ReadsByClip, family).encoder_states(number, output, 0))
    half = (read("a red star", family) + torch.cat(without, dim=-1)) / 2  # tan(π/4) = 1: equal parts
    half[:, 2] = (read(" ", family) + half)[:, 2] / 2  # the word itself also moves towards the empty prompt
    torch.testing.assert_close(states("a (red:0.5) star", family), half)


@pytest.mark.parametrize("words", [ROOM - 1, ROOM])
def test_a_long_prompt_is_read_in_parts_and_no_trigger_is_torn(words: int, family: ModelFamily) -> None:
    """After 74 words, a trigger of two tokens would have one token in each part."""
    long = states("star " * words + "<s0><s1> " + "red " * 20, family)
    expected = [read("star " * words, family), read("<s0><s1> " + "red " * 20, family)]
    torch.testing.assert_close(long, torch.cat(expected, dim=1), rtol=0, atol=1e-5)


def test_the_shorter_prompt_gets_empty_parts(family: ModelFamily) -> None:
    long, empty = "star " * 200, read(" ", family)
    with torch.inference_mode():
        wanted, unwanted = encode_pair(long, "red", 0, family)
        _, none = encode_pair(long, "", 0, family)
    assert wanted.prompt_embeds.shape == unwanted.prompt_embeds.shape == (1, 3 * 77, empty.shape[2])
    torch.testing.assert_close(unwanted.prompt_embeds, torch.cat([read("red", family), empty, empty], dim=1))
    torch.testing.assert_close(none.prompt_embeds, read("", family).repeat(1, 3, 1))
    if wanted.pooled_prompt_embeds is not None:
        first = family.encode_prompts(["star " * ROOM]).pooled_prompt_embeds
        torch.testing.assert_close(wanted.pooled_prompt_embeds, first)


def test_weights_with_clip_skip(family: ModelFamily) -> None:
    early = cast(Any, family).encode_prompts_early(["a red star"], 1).prompt_embeds
    weighted = states("a (red:1.5) star", family, clip_skip=1)
    assert torch.equal(weighted[:, 3:], early[:, 3:]) and not torch.equal(weighted[:, 2], early[:, 2])


def test_a_base_with_t5_reads_neither(tmp_path: Path) -> None:
    sd3 = load_tiny("sd3", tmp_path / "m")
    assert require_readable({"prompt": r"a \(red:1.5\) star"}, {}, sd3) == []
    with pytest.raises(RequestError, match="prompt: sd3 encodes prompts with a language model, which does not"):
        require_readable({"prompt": "a (red:1.5) star"}, {}, sd3)
    with pytest.raises(
        RequestError, match=r"prompt: has 100 tokens; the limit of this base model \(sd3\) is 75: the text after"
    ):
        require_readable({"prompt": "star " * 100}, {}, sd3)
    for prompt in ("TOK " + "star " * 80, "(TOK:1.2)"):
        with pytest.raises(ConfigError, match="validation_prompt: "):
            resolve(TrainingConfig(base_model="sd3", validation_prompt=prompt), sd3)
    with pytest.raises(ConfigError, match="evaluation_prompts, 2: has"):
        resolve(
            TrainingConfig(
                base_model="sd3", evaluate="true", evaluation_prompts=("{trigger}", "{trigger}" + " star" * 80)
            ),
            sd3,
        )
