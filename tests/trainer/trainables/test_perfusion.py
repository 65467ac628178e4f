"""Tests of training with Perfusion: locked keys, edits that follow the token, the size of the file, and settings that
are refused."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from artifact.artifact import Artifact
from artifact.layers import Gate
from artifact.placement.gated import KEYS, VALUES, Words
from artifact.prompt_states import prompt_states
from benchmarks.concepts.lottery import draw_concept
from benchmarks.concepts.measures import likeness
from evaluation.encoders import ClipEncoder
from families.family import ModelFamily
from families.parts.placeholder_tokens import PlaceholderTokens
from job.verification.verify import Probe
from sampler.sampler import Sampler, SampleRequest
from settings.record import ConfigError
from settings.training import build_config
from tests.conftest import EXAMPLE
from tests.tiny_models import load_tiny
from tests.trainer.adapters.test_adapters import adapted, config
from tests.trainer.test_training import CONFIG, placed
from trainer.resolution import resolve
from trainer.tokens.concept_states import TEMPLATES, concept_states
from trainer.tokens.text_moments import text_moments
from trainer.trainables.perfusion import PerfusionPart
from trainer.training import Training

SETTINGS: dict[str, Any] = {"adapter": "perfusion", "rank": 16, "learning_rate": 0.3, "lr_scheduler": "constant"}


def part_of(training: Training) -> PerfusionPart:
    part = training.parts["perfusion"]
    assert isinstance(part, PerfusionPart)
    return part


def effect(base: ModelFamily, kind: str, prompt: str, part: PerfusionPart) -> Tensor:
    """Returns |edited - own| / |own| of the middle layer's outputs, by position: (77,)."""
    path = next(name for name, _ in base.denoiser.named_modules() if "mid_block" in name and name.endswith(kind))
    states, module = prompt_states(base, [prompt])[0], base.denoiser.get_submodule(path)
    found: list[Tensor] = []
    for enabled in (False, True):
        part.set_enabled(enabled)
        found.append(module(states).detach())
    return (found[1] - found[0]).norm(dim=1) / found[0].norm(dim=1)


@pytest.mark.slow
def test_its_gates_its_locked_keys_its_token_and_its_file(
    base: ModelFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEXT_MOMENTS_CACHE", str(tmp_path / "cache"))
    for training in placed(base, CONFIG.model_copy(update=SETTINGS), tmp_path):
        _gates_open_for_the_word_and_for_no_other(part_of(training), base)
        _values_and_token_learn_and_keys_are_locked(training, base)
        training.write(tmp_path / "perfusion.safetensors")
    file = Artifact.read(tmp_path / "perfusion.safetensors")
    assert file.description is not None and file.description.class_words == {"TOK": "figure"}
    assert list(file.triggers) == ["TOK"] and {name[-4:] for name in file.layers} == {"to_v"}
    with adapted(base, config(rank=16)) as parts:
        lora = replace(file, layers=parts.layers())
        lora.write(tmp_path / "lora.safetensors", "fp16", architecture="a", base_model_version="b")
    own, other = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("perfusion", "lora"))
    assert own <= other / 20


def _gates_open_for_the_word_and_for_no_other(part: PerfusionPart, base: ModelFamily) -> None:
    """Values are negated, so that an open gate changes the output. Words before the trigger word are not changed."""
    for values in part.parameters:
        values.data.mul_(-1)
    for prompt, position, least in (("a photo of <s0>", 4, 1.2), ("a blue <s0> on a white background", 3, 0.6)):
        changes = effect(base, VALUES, prompt, part)
        assert changes[position] > least and changes[:position].max() < 0.15
    for prompt in ("a photo of a heart on a blue background", "a blue robot on a white background"):
        assert effect(base, VALUES, prompt, part).max() < 0.4
    for values in part.parameters:
        values.data.mul_(-1)


@pytest.mark.parametrize("word", ["background", "night", "dog."])
def test_the_state_is_that_of_the_word_and_not_of_the_sentence(word: str, base: ModelFamily) -> None:
    """Some sentences contain such a word themselves, after the concept, and some go on with a comma."""

    def count(text: str) -> int:
        return len(base.tokenizers[0](text, add_special_tokens=False).input_ids)

    states = prompt_states(base, [template.format(word) for template in TEMPLATES])
    beginnings = [template.partition("{}")[0].split() for template in TEMPLATES]
    places = [sum(map(count, beginning)) + count(word) for beginning in beginnings]  # position 0 is the start
    rows = [row[place] for row, place in zip(states, places, strict=True)]
    torch.testing.assert_close(concept_states(base, [word])[0][0], torch.stack(rows).mean(0))


def _values_and_token_learn_and_keys_are_locked(training: Training, base: ModelFamily) -> None:
    part, probe = part_of(training), Probe.make(base, "a photo of a star on a red background")
    with training.parts.off():
        untrained = probe.predict(base, {})
    before = {path: outputs.detach().clone() for path, outputs in part._edits.outputs.items()}
    inputs = part._edits.words.inputs.clone()
    list(training.trainer.steps())
    trained = {path for path, outputs in part._edits.outputs.items() if not torch.equal(outputs, before[path])}
    assert trained == {path for path in before if path.endswith(VALUES)}
    probe.predict(base, {})
    words = part._edits.words
    assert not torch.equal(words.inputs, inputs)  # the token has changed, and i* with it
    (own, after), (state, after_class) = (concept_states(base, [word]) for word in ("<s0>", "figure"))
    torch.testing.assert_close(words.inputs, torch.cat([own, after - after_class]))
    opened = torch.sigmoid(torch.tensor(2.5))
    for path, module in base.denoiser.named_modules():
        if path.endswith(KEYS):  # the class word's keys, for any trained token
            wanted = torch.nn.functional.linear(state, module.weight)
            torch.testing.assert_close(module(own), opened * wanted, rtol=1e-3, atol=1e-3)
    with training.parts.off():
        assert torch.equal(probe.predict(base, {}), untrained)


def test_two_words_of_one_run_have_values_of_their_own(
    base: ModelFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEXT_MOMENTS_CACHE", str(tmp_path))
    rows = []
    for encoder, tokenizer in zip(base.text_encoders, base.tokenizers, strict=True):
        known = [tokenizer(word, add_special_tokens=False).input_ids[-1] for word in ("red", "heart")]
        rows.append(encoder.get_input_embeddings().weight.detach()[known])
    tokens = PlaceholderTokens(base, ["<s0>", "<s1>"], rows)
    part = PerfusionPart(base, {"<s0>": "figure", "<s1>": "star"}, text_moments(base))
    try:
        assert {len(layer.parameters[0]) for layer in part.layers().values()} == {4}
        path = next(name for name in part._edits.outputs if "mid_block" in name and name.endswith(VALUES))
        prompts = prompt_states(base, ["a photo of <s0>", "a photo of <s1>", "a photo of figure"])
        for first, states in ((0, prompts[:, 4]), (2, prompts[:, 5:].flatten(0, 1))):  # at the word, and after it
            found = []
            for word in (0, 1):
                before = base.denoiser.get_submodule(path)(states).detach()
                part._edits.outputs[path].data[first + word] += 1
                change = (base.denoiser.get_submodule(path)(states).detach() - before).norm(dim=1)
                found.append(change.unflatten(0, (3, -1)).mean(1))
            moved = torch.stack(found)  # by the word whose values have changed, and by the word of the prompt
            assert moved.diagonal().min() > 4 * torch.stack([moved[0, 1], moved[1, 0], *moved[:, 2]]).max()
    finally:
        part.remove()
        tokens.remove()


def test_moments_are_kept_and_an_unreadable_file_is_computed_again(
    base: ModelFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEXT_MOMENTS_CACHE", str(tmp_path))
    monkeypatch.setattr("trainer.tokens.text_moments.FEWEST", 40)
    monkeypatch.setattr("trainer.tokens.text_moments.PER_DIMENSION", 0)
    first = text_moments(base)
    (file,) = tmp_path.iterdir()
    read: list[Sequence[str]] = []
    monkeypatch.setattr(
        "trainer.tokens.text_moments.prompt_states",
        lambda family, prompts: read.append(prompts) or prompt_states(family, prompts),  # type: ignore[func-returns-value]
    )
    assert torch.equal(text_moments(base), first) and sum(map(len, read)) == 5
    file.write_bytes(b"no file")
    torch.testing.assert_close(text_moments(base), first)
    assert sum(map(len, read)) == 50
    assert torch.linalg.eigvalsh(first).min() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_word": None}, "needs the class_word of TOK, whose keys it uses"),
        ({"num_tokens": 2}, "one token per trigger word"),
        ({"compile": "auto"}, "compile: never"),
        ({"train_text_encoder": True}, "train_text_encoder has no effect with adapter: perfusion"),
        ({"init_weights": EXAMPLE}, "init_weights has no effect with adapter: perfusion"),
        ({"adapter_l1_weight": 0.1}, "adapter_l1_weight has no effect with adapter: perfusion"),
        ({"trigger_word": ""}, "one is empty"),
    ],
)
def test_what_it_cannot_do_is_an_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config({"adapter": "perfusion", "class_word": "figure", **changes})


def test_a_base_without_cross_attention_is_refused(tmp_path: Path) -> None:
    config = build_config({"adapter": "perfusion", "class_word": "figure"})
    with pytest.raises(ConfigError, match=r"has none; choose SD1\.5, SD2 or SDXL"):
        resolve(config, load_tiny("sd3", tmp_path))


@pytest.mark.parametrize("kind", ["sd15", "sd2-v"])
def test_it_goes_onto_every_family_with_cross_attention(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEXT_MOMENTS_CACHE", str(tmp_path / "cache"))
    family = load_tiny(kind, tmp_path / "base")
    config = build_config({**CONFIG.model_dump(exclude_unset=True), **SETTINGS, "resolution": 64, "max_train_steps": 1})
    for training in placed(family, config, tmp_path):
        list(training.trainer.steps())
        training.write(tmp_path / "a.safetensors")
    file = Artifact.read(tmp_path / "a.safetensors")
    assert {layer.kind for layer in file.layers.values()} == {"perfusion"}


@pytest.mark.slow
def test_a_hundred_steps_come_nearer_to_the_pictures_and_keep_the_prompt(
    base: ModelFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEXT_MOMENTS_CACHE", str(tmp_path / "cache"))
    concept = draw_concept(0)
    settings = {**SETTINGS, "trigger_word": "TOK", "base_model": "mini-sdxl", "class_word": concept.class_word,
                "max_train_steps": 100, "train_batch_size": 8, "caption_dropout": 0.0, "token_learning_rate": 2e-2,
                "loss_weighting": "debiased", "max_grad_norm": 10.0, "token_norm_weight": 0.01}  # fmt: skip
    sampler, pictures = Sampler(base), ClipEncoder().embed(concept.pictures)

    def likeness_of(triggers: dict[str, list[str]]) -> float:
        request = SampleRequest(
            "a photo of TOK on a blue background", num_outputs=6, num_inference_steps=10, guidance_scale=4.0, seed=0
        )
        drawn = sampler.generate(request, triggers)
        return likeness(ClipEncoder().embed(drawn), pictures)

    before = likeness_of({"TOK": ["figure"]})
    for training in placed(base, build_config(settings), tmp_path, concept.write_zip(tmp_path / "data.zip", "TOK")):
        list(training.trainer.steps())
        after = likeness_of(training.triggers)
    print(before, after)
    assert after > before


def test_an_edit_in_a_step_with_autocast_is_that_of_sampling() -> None:
    states, inputs, outputs = (
        torch.randn(rows, 8, generator=torch.Generator().manual_seed(rows)) for rows in (5, 2, 2)
    )
    words = Words.of([Gate(inputs, inputs * 3, inputs, 0.75, 0.1)], [1.0])
    sampled = words.change(states[None], inputs, outputs)
    with torch.autocast("cpu", torch.bfloat16):
        trained = words.change(states[None], inputs, outputs)
    assert trained.dtype == torch.float32 and torch.equal(trained, sampled)
