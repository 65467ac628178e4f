"""The prompt cache encodes no prompt unnecessarily, and does not change the features."""

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch

from families.family import ModelFamily, PromptFeatures
from tests.job.test_resume import CONFIG as RESUME_CONFIG
from tests.job.test_resume import Prepared, prepared, tensors, trainings  # noqa: F401 (a fixture)
from trainer.checkpoints.training_state import capture, restore
from trainer.data import prompt_cache
from trainer.data.prompt_cache import PromptCache

CONFIG = RESUME_CONFIG.model_copy(update={"ema_decay": 0.0, "lr_warmup_steps": 0, "caption_dropout": 0.0})


class Counted:
    """The family's prompt encoder, with a list of the prompts that it encoded."""

    def __init__(self, base: ModelFamily) -> None:
        self.base, self.read = base, [""][:0]

    def __call__(self, prompts: Sequence[str]) -> PromptFeatures:
        self.read += prompts
        return self.base.encode_prompts(prompts)


def test_a_repeated_prompt_is_read_once_with_the_same_gradient(base: ModelFamily, prepared: Prepared) -> None:  # noqa: F811
    for training in trainings(base, CONFIG, prepared):
        (names,) = training.triggers.values()
        prompts = ["a red star", f"a photo of {''.join(names)}", "a red star", f"a photo of {''.join(names)}", ""]
        encode = Counted(base)
        cache = PromptCache(encode, training.trainer.trainables)
        gradients = []
        for read in (cache, base.encode_prompts):
            features = read(prompts)
            assert features.prompt_embeds.shape[0] == 5 and features.pooled_prompt_embeds is not None
            weights = torch.randn(features.prompt_embeds.shape, generator=torch.Generator().manual_seed(0))
            ((features.prompt_embeds * weights).sum() + features.pooled_prompt_embeds.square().sum()).backward()
            gradients.append([each.grad.clone() for each in training.tokens.parameters if each.grad is not None])
            for each in training.tokens.parameters:
                each.grad = None
        assert encode.read == list(dict.fromkeys(prompts)) and not cache.frozen
        assert gradients[0] and all(bool(gradient.any()) for gradient in gradients[0])
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("update", "frozen"),
    [({"token_learning_rate": 0.0}, [True] * 5), ({"tokens_until": 0.6}, [False] * 3 + [True] * 2), ({}, [False] * 5)],
)
def test_features_are_kept_only_when_nothing_changes_them(
    update: dict[str, float], frozen: list[bool], base: ModelFamily, prepared: Prepared  # noqa: F811
) -> None:  # fmt: skip
    for training in trainings(base, CONFIG.model_copy(update=update), prepared):
        encode = Counted(base)
        cache = PromptCache(encode, training.trainer.trainables)
        training.trainer.encode_prompts = cache
        seen = [cache.frozen]
        for _ in training.trainer.steps():
            seen.append(cache.frozen)
        assert seen[:5] == frozen
        if frozen[0]:
            assert len(encode.read) == len(set(encode.read))
        cache(["a red star"])
        reads = len(encode.read)
        cache(["a red star", "a red star"])
        assert len(encode.read) == reads + (0 if cache.frozen else 1)


def test_large_features_leave_the_device_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_cache, "MOST_BYTES", 2 * 40)
    read: list[str] = []

    def encode(prompts: Sequence[str]) -> PromptFeatures:
        read.extend(prompts)
        return PromptFeatures(torch.zeros(1, 5, 2))  # 40 bytes

    cache = PromptCache(encode, [])
    for prompt in ("a", "b", "b", "c", "a"):
        cache([prompt])
    assert read == ["a", "b", "c", "a"] and len(cache._kept) == 2
    assert len(cache(["a", "b", "c"])) == 3  # more prompts than the cache can store


def test_kept_features_are_those_that_are_read(base: ModelFamily, prepared: Prepared) -> None:  # noqa: F811
    """Cached features are close to those of the encoder. A run that is resumed in the last phase is the same bit for
    bit."""
    config = CONFIG.model_copy(update={"tokens_until": 0.4})
    for training in trainings(base, config, prepared):
        for step in training.trainer.steps():
            if step.number == 3:
                state = capture(training)
                state = {**state, "trainables": {
                    name: {**each, "parameters": [parameter.clone() for parameter in each["parameters"]],
                           "optimizer": [{key: value.clone() if isinstance(value, torch.Tensor) else value
                                          for key, value in memory.items()} for memory in each["optimizer"]]}
                    for name, each in state["trainables"].items()}}  # fmt: skip
        expected = list(tensors(capture(training)))
        prompts = ["a red star", "a photo of <s0><s1>"]
        kept, read = training.trainer.encode_prompts(prompts), base.encode_prompts(prompts)
        torch.testing.assert_close(kept.prompt_embeds, read.prompt_embeds.detach(), rtol=1e-4, atol=1e-5)
    for training in trainings(base, config, prepared):
        restore(training, state)
        list(training.trainer.steps())
        assert all(torch.equal(*pair) for pair in zip(tensors(capture(training)), expected, strict=True))


def test_features_from_before_a_run_was_lengthened_are_dropped(base: ModelFamily) -> None:
    """A time limit may end the tokens' part of the run early, and then lengthen the run again."""
    tokens = SimpleNamespace(name="tokens", finished=True)
    encode = Counted(base)
    cache = PromptCache(encode, [tokens])  # type: ignore[list-item]
    cache(["a red star"])
    tokens.finished = False
    cache(["a blue star"])
    tokens.finished = True
    cache(["a red star"])
    assert encode.read == ["a red star", "a blue star", "a red star"]
