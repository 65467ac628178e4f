"""Tests of words in captions that are trained without a trigger word: new ones, and known ones that match a regular
expression."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from artifact.placement.placing import PlacedArtifacts
from families.family import ModelFamily, SizeConditioning
from families.parts.placeholder_tokens import expand_triggers
from job.resume import resumed_config
from preprocess.dataset import PreparedDataset
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from tests.tiny_models import SIDE, load_tiny
from trainer.building import build_training
from trainer.data.latent_cache import CachedExample, CachedView
from trainer.resolution import resolve
from trainer.training import Training

CAPTION = "a photo of [fernando] on a star"
WORDS = [{"word": "[fernando]", "start": "^dog</w>"}, {"word": "^(ring|star)</w>$"}]
SETTINGS = {
    "base_model": "tiny", "trigger_word": "", "max_train_steps": 2, "train_batch_size": 1, "rank": 2,
    "resolution": SIDE,
    "learning_rate": 1e-2, "token_learning_rate": 1e-2, "lr_warmup_steps": 0, "caption_dropout": 0.0, "seed": 0,
    "mask_floor": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> ModelFamily:
    return load_tiny("cascade", tmp_path_factory.mktemp("words") / "base")


def training_of(family: ModelFamily, **settings: object) -> Training:
    size = SizeConditioning((SIDE, SIDE), (0, 0), (SIDE, SIDE))
    latents = family.encode_image(torch.zeros(1, 3, SIDE, SIDE))[0]
    example = CachedExample((CachedView(latents, None, size),), CAPTION, "", (SIDE, SIDE), 1, 1.0)
    config = resolve(build_config({**SETTINGS, **settings}), family)
    return build_training(config, family, PreparedDataset(Path(), (), (), ()), [example], Accelerator(cpu=True))


def test_new_and_known_words_are_trained_and_all_others_stay_bit_for_bit(family: ModelFamily) -> None:
    table = family.text_encoders[0].get_input_embeddings().weight.detach().clone()
    vocabulary = family.tokenizers[0].get_vocab()
    dog, ring, star = (table[vocabulary[f"{word}</w>"]] for word in ("dog", "ring", "star"))
    before = family.encode_prompts(["a star", "a dog"]).prompt_embeds
    training = training_of(family, train_tokens=WORDS)
    assert training.triggers == {"[fernando]": ["<s0>"], "ring": ["<s1>"], "star": ["<s2>"]}
    (first,) = training.tokens.rows()
    assert torch.cosine_similarity(first[0], dog, dim=0) > 0.99
    assert torch.equal(first[1], ring) and torch.equal(first[2], star)
    list(training.trainer.steps())
    (last,) = training.tokens.rows()
    assert [torch.equal(*pair) for pair in zip(first, last, strict=True)] == [False, True, False]
    assert torch.equal(family.text_encoders[0].get_input_embeddings().weight[: len(table)], table)
    artifact = training.artifact()
    training.remove()
    assert torch.equal(family.text_encoders[0].get_input_embeddings().weight, table)

    placed = PlacedArtifacts(family, [artifact])
    prompts = [expand_triggers(prompt, placed.triggers) for prompt in ("a star", "a dog")]
    after = family.encode_prompts(prompts).prompt_embeds
    placed.remove()
    assert not torch.equal(after[0], before[0]) and torch.equal(after[1], before[1])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"train_tokens": [{"word": "^qqqqq"}]}, "train_tokens: .* matches no word .* for a new word, write"),
        ({"train_tokens": [{"word": "[a]", "start": "^qqqqq"}]}, "train_tokens: '.qqqqq' matches no entry"),
        ({"train_tokens": [{"word": "^star"}, {"word": "star"}]}, "train_tokens: star matches two entries"),
        ({"train_tokens": [{"word": "."}]}, "train_tokens: .* words match, .* narrow the expressions"),
        ({"train_tokens": [{"word": "^a", "start": "^b"}]}, "start has no effect for .a"),
        ({"train_tokens": WORDS, "trigger_word": "TOK"}, "train_tokens needs unchanged captions, .* set trigger_word"),
        ({"train_tokens": WORDS, "token_init": "random"}, "token_init .* no effect with train_tokens"),
        ({"train_tokens": WORDS, "loss_type": "dco"}, "loss_type: dco does not support train_tokens"),
        ({"train_tokens": WORDS, "adapter": "controlnet", "control": "canny"}, "controlnet"),
    ],
)
def test_words_that_cannot_be_trained_are_refused(settings: dict[str, object], said: str, family: ModelFamily) -> None:
    with pytest.raises(ConfigError, match=said):
        resolve(build_config({**SETTINGS, **settings}), family)


def test_a_resumed_run_trains_them_further(family: ModelFamily) -> None:
    training = training_of(family, train_tokens=WORDS)
    training.remove()
    saved = training.config.model_dump(mode="json")
    resumed = resolve(resumed_config(build_config(saved), TrainingConfig()), family)
    assert resumed.token_learning_rate == training.config.token_learning_rate == 1e-2
