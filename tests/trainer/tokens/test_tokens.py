"""Tests of new words: initial values of their rows, norms of the rows in training, and words that the base model
already knows."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional

from artifact.artifact import Artifact
from evaluation.encoders import ClipEncoder
from families.family import ModelFamily
from families.parts.placeholder_tokens import expand_triggers
from sampler.sampler import Sampler
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from tests.trainer.test_training import CONFIG, placed
from trainer.resolution import resolve
from trainer.tokens.concept_tokens import add_tokens
from trainer.tokens.from_images import image_tower
from trainer.tokens.initialization import token_starts


def config_with(**settings: object) -> TrainingConfig:
    return build_config({"base_model": "mini-sdxl", **settings})


def started(base: ModelFamily, count: int = 2, **settings: object) -> list[torch.Tensor]:
    """Returns the initial rows (n, d) of each text encoder."""
    generator = torch.Generator().manual_seed(0)
    config = config_with(**settings)
    starts = token_starts(config.tokens, config.all_concepts, base)
    tokens = add_tokens(base, starts, dict.fromkeys(starts, count), generator)
    try:
        return tokens.rows()
    finally:
        tokens.remove()


def words(base: ModelFamily, *names: str) -> list[torch.Tensor]:
    """Returns the rows (n, d) of these words in each text encoder's vocabulary."""
    ids = [base.tokenizers[0].get_vocab()[f"{name}</w>"] for name in names]
    return [encoder.get_input_embeddings().weight[ids] for encoder in base.text_encoders]


def cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    return torch.cosine_similarity(first, second, dim=0).item()


def test_tokens_start_as_the_class_word_in_every_encoder(base: ModelFamily) -> None:
    for rows, (word,) in zip(started(base, class_word="figure"), words(base, "figure"), strict=True):
        assert all(cosine(row, word) > 0.99 for row in rows)
        assert not torch.equal(rows[0], rows[1])  # equal rows would stay equal


def test_several_words_start_one_token_each_and_cycle(base: ModelFamily) -> None:
    rows_of = started(base, 3, class_word="figure", token_init_words="red star")
    for rows, (red, star) in zip(rows_of, words(base, "red", "star"), strict=True):
        assert [cosine(row, word) > 0.99 for row, word in zip(rows, (red, star, red), strict=True)] == [True] * 3


def test_a_pattern_starts_at_the_mean_of_what_it_finds_as_long_as_a_word(base: ModelFamily) -> None:
    rows_of = started(base, token_init="vocabulary", token_init_pattern="^(red|blue|green)</w>")
    for index, (rows, found) in enumerate(zip(rows_of, words(base, "red", "blue", "green"), strict=True)):
        assert all(cosine(row, found.mean(dim=0)) > 0.99 for row in rows)
        usual = base.text_encoders[index].get_input_embeddings().weight.norm(dim=1).mean()
        assert rows.norm(dim=1).tolist() == pytest.approx([usual.item()] * 2, rel=0.02)


@pytest.mark.parametrize("settings", [{}, {"class_word": "figure", "token_init": "random"}])
def test_random_rows_are_as_long_as_words(settings: dict[str, object], base: ModelFamily) -> None:
    for index, rows in enumerate(started(base, 8, **settings)):
        usual = base.text_encoders[index].get_input_embeddings().weight.norm(dim=1).mean().item()
        assert rows.norm(dim=1).mean().item() == pytest.approx(usual, rel=0.35)


def test_concepts_start_each_as_its_own_class_word(base: ModelFamily) -> None:
    concepts = [{"trigger_word": "AAA", "class_word": "star"}, {"trigger_word": "BBB", "class_word": "ring"}]
    for rows, (star, ring) in zip(started(base, concepts=concepts), words(base, "star", "ring"), strict=True):
        near = [cosine(row, word) > 0.99 for row, word in zip(rows, (star, star, ring, ring), strict=True)]
        assert near == [True] * 4


def test_a_known_word_starts_as_it_is_and_the_base_keeps_its_own(base: ModelFamily, tmp_path: Path) -> None:
    config = CONFIG.model_copy(
        update={"trigger_word": "star", "class_word": None, "train_existing_tokens": True, "caption_dropout": 0.0}
    )
    prompt, tables = "a red star", words(base, "star")
    before = base.encode_prompts([prompt])
    for training in placed(base, config, tmp_path):
        triggers = training.triggers
        assert triggers == {"star": ["<s0>"]}
        same = base.encode_prompts([expand_triggers(prompt, triggers)])
        torch.testing.assert_close(same.prompt_embeds, before.prompt_embeds, atol=1e-6, rtol=0)
        list(training.trainer.steps())
        trained = base.encode_prompts([expand_triggers(prompt, triggers)])
        assert (trained.prompt_embeds - before.prompt_embeds).abs().max() > 1e-3
        training.write(tmp_path / "weights.safetensors")
    assert all(torch.equal(*pair) for pair in zip(words(base, "star"), tables, strict=True))
    assert torch.equal(base.encode_prompts([prompt]).prompt_embeds, before.prompt_embeds)
    sampler = Sampler(base)
    sampler.load(Artifact.read(tmp_path / "weights.safetensors"))
    try:
        loaded = base.encode_prompts([expand_triggers(prompt, sampler.triggers)])
        torch.testing.assert_close(loaded.prompt_embeds, trained.prompt_embeds, atol=1e-5, rtol=0)
    finally:
        sampler.unload()


@pytest.mark.slow
def test_tokens_start_as_what_the_images_show(base: ModelFamily, tmp_path: Path) -> None:
    """A prompt with the new tokens is more similar to the images than one with any of the words. Rows are the same for
    a seed, and about as long as those of words. The first encoder's rows are those of token_init: words."""
    likeness, rows = {}, {}
    for name, init in (("words", "words"), ("images", "images"), ("again", "images")):
        config = CONFIG.model_copy(update={"token_init": init})
        for training in placed(base, config, tmp_path / name):
            encoder, tokenizer = base.text_encoders[1], base.tokenizers[1]
            prompts = [f"a photo of {word}" for word in ("<s0><s1>", "star", "ring", "figure", "heart", "square")]
            batch = tokenizer(prompts, padding="max_length", return_tensors="pt")
            texts = functional.normalize(encoder(batch.input_ids).text_embeds.detach(), dim=-1)
            pictures = [Image.open(training.dataset.folder / each.views[0].file) for each in training.dataset.examples]
            likeness[name] = (texts @ ClipEncoder().embed(pictures).T).mean(dim=1)
            rows[name] = training.tokens.rows()
    assert likeness["images"][0] > likeness["images"][1:].max() and likeness["images"][0] > likeness["words"][0] + 0.1
    assert all(torch.equal(*pair) for pair in zip(rows["images"], rows["again"], strict=True))
    assert torch.equal(rows["words"][0], rows["images"][0])
    usual = base.text_encoders[1].get_input_embeddings().weight.norm(dim=1).mean()
    assert 0.5 < rows["images"][1].norm(dim=1).mean() / usual < 2


def test_a_base_without_an_image_tower_says_so() -> None:
    config = build_config({"base_model": "stabilityai/stable-diffusion-xl-base-1.0", "token_init": "images"})
    with pytest.raises(ConfigError, match="has none; set token_init: words"):
        image_tower(config.base_model)


@pytest.mark.parametrize(("power", "expected"), [(0.0, 3.0), (0.5, 3.0**0.5), (1.0, 1.0)])
def test_retraction_draws_rows_to_the_usual_length(
    power: float, expected: float, base: ModelFamily, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(
        update={"token_retraction": power, "token_learning_rate": 1e-9, "lr_warmup_steps": 0, "max_train_steps": 1}
    )
    for training in placed(base, config, tmp_path):
        usual = [table.norm(dim=1).mean() for table in training.tokens.placeholders.vocabularies]
        with torch.no_grad():
            for row, length in zip(training.tokens.parameters, usual, strict=True):
                row.mul_(3 * length / row.norm(dim=1, keepdim=True))
        list(training.trainer.steps())
        for trained, length in zip(training.tokens.rows(), usual, strict=True):
            assert (trained.norm(dim=1) / length).tolist() == pytest.approx([expected] * 2, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"token_init": "vocabulary"}, "needs a token_init_pattern"),
        ({"token_init_pattern": "^dog"}, "has no effect without token_init: vocabulary"),
        ({"token_init": "vocabulary", "token_init_pattern": "("}, "is not a regular expression"),
        ({"token_init": "random", "token_init_words": "dog"}, "has no effect with token_init: random"),
        ({"train_existing_tokens": True, "token_init": "random"}, "have no effect with train_existing_tokens"),
        ({"train_existing_tokens": True, "num_tokens": 3}, "leave it out"),
        ({"train_existing_tokens": True, "token_learning_rate": 0}, "train_existing_tokens has no effect"),
        ({"token_retraction": 0.1, "token_optimizer": "prodigy"}, "use token_norm_weight"),
        ({"token_retraction": 0.1, "token_learning_rate": 0}, "token_retraction has no effect"),
    ],
)
def test_contradictions_name_the_remedy(settings: Mapping[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"token_init": "vocabulary", "token_init_pattern": "^zebra</w>"}, "'\\^zebra</w>' matches no entry"),
        ({"token_init": "words"}, "TOK has no class_word; set it, or token_init_words"),
        (
            {"train_existing_tokens": True},
            "'TOK' is not a word of the base model's vocabulary; .* another trigger_word",
        ),
    ],
)
def test_what_the_vocabulary_lacks_is_an_error_before_training(
    settings: Mapping[str, object], message: str, base: ModelFamily
) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(config_with(**settings), base)
