"""Tests of Qwen-Image: prompts, images and scheduler steps are those of diffusers' pipeline; order of loading."""

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, QwenImageImg2ImgPipeline, QwenImagePipeline
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift
from PIL import Image

from families.errors import BaseModelError
from families.family import ModelFamily
from families.loading.pipeline_parts import PipelineParts
from families.noise.noise_process import Draw
from families.qwen_image import IDLE, TEXT_MULTIPLE
from families.registry import load_base_model
from sampler.generation import Generation
from sampler.guidance_notes import guidance_notes
from sampler.request import RequestError, SampleRequest, filled
from sampler.sampler import Sampler
from settings.record import ConfigError
from settings.training import TrainingConfig
from tests.families.test_family_files import warnings_of
from tests.fast_part import slow_but
from tests.tiny_models import opened
from tests.tiny_qwen_image import DEVIATION, MEAN, write_qwen_image
from trainer.adapters.full import FullFineTuning
from trainer.adapters.peft_adapter import PeftAdapter
from trainer.adapters.targets import denoiser_targets
from trainer.resolution import resolve
from trainer.trigger_notes import trigger_notes

PROMPT, UNWANTED = "a red star, by night", "blur"
SIZE: dict[str, Any] = {"width": 64, "height": 48, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen_image(tmp_path_factory.mktemp("qwen_image") / "folder")


@pytest.fixture(scope="module")
def family(folder: Path) -> ModelFamily:
    return opened(folder)


@pytest.fixture(scope="module")
def theirs(folder: Path) -> QwenImagePipeline:
    pipeline = QwenImagePipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("prompt", slow_but([PROMPT], [PROMPT, "", " "]))
def test_a_prompts_features_are_those_of_the_pipeline(
    prompt: str, family: ModelFamily, theirs: QwenImagePipeline
) -> None:
    """They are equal bit for bit. The template's first 34 tokens are left out, its end is included."""
    with torch.no_grad():
        embeds, mask = theirs.encode_prompt(prompt)
    ours = family.encode_prompts([prompt])
    assert torch.equal(ours.prompt_embeds, embeds) and mask is None and bool(ours.mask.all())
    end = f"{prompt}<|im_end|>\n<|im_start|>assistant\n"
    assert ours.length == len(theirs.tokenizer(end).input_ids)


def test_prompts_of_one_batch_are_padded_with_a_mask(family: ModelFamily, theirs: QwenImagePipeline) -> None:
    """Padding is that of the pipeline. Here each prompt is encoded alone, so matrix products can differ in the last
    bit."""
    with torch.no_grad():
        embeds, mask = theirs.encode_prompt([PROMPT, "a"])
    ours = family.encode_prompts([PROMPT, "a"])
    assert torch.equal(ours.mask, mask.bool()) and not bool(ours.mask.all())
    torch.testing.assert_close(ours.prompt_embeds, embeds)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_pictures_are_those_of_the_pipeline(scale: float, family: ModelFamily, theirs: QwenImagePipeline) -> None:
    """There is a negative prompt. At scale 1 there is no second pass, and no warning about it."""
    request = SampleRequest(PROMPT, UNWANTED, seed=3, guidance_scale=scale, **SIZE)
    with warnings_of("diffusers") as warnings:
        (drawn,) = Sampler(family).generate(request)
    assert warnings == []
    negative = {"negative_prompt": UNWANTED} if scale > 1 else {}
    generator = torch.Generator().manual_seed(3)
    (wanted,) = theirs(PROMPT, **negative, true_cfg_scale=scale, generator=[generator], **SIZE).images
    assert drawn.tobytes() == wanted.tobytes()
    (other,) = Sampler(family).generate(replace(request, negative_prompt="a dog, a cat"))
    assert (other.tobytes() == drawn.tobytes()) == (scale == 1)


def test_prompts_of_several_lengths_are_drawn_together(family: ModelFamily) -> None:
    """Each image is the same as if it were generated alone."""
    requests = [SampleRequest(prompt, UNWANTED, guidance_scale=4.0, seed=3, **SIZE) for prompt in (PROMPT, "a")]
    together = Sampler(family).generate_several(requests)
    for request, (drawn,) in zip(requests, together, strict=True):
        (alone,) = Sampler(family).generate(request)
        assert drawn.tobytes() == alone.tobytes()


def test_latents_are_the_pipelines(family: ModelFamily, theirs: QwenImagePipeline) -> None:
    """An image is one frame for the video VAE. Mean and deviation differ by channel."""
    pixels = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    cached = family.encode_image(pixels)
    assert cached.shape == torch.Size((2, 8, 12, 16))
    assert family.latent_shape(cached.shape) == torch.Size((2, 4, 12, 16))
    noise = torch.randn(2, 4, 1, 12, 16, generator=torch.Generator().manual_seed(1))
    ours = family.latents(cached, noise.squeeze(2))
    image_to_image = QwenImageImg2ImgPipeline(**theirs.components)
    wanted = image_to_image._encode_vae_image(pixels.unsqueeze(2), torch.Generator().manual_seed(1))
    assert torch.equal(ours, wanted.squeeze(2))
    mean, deviation = (torch.tensor(values).view(1, 4, 1, 1) for values in (MEAN, DEVIATION))
    plain = family.latents(cached, torch.zeros_like(ours))
    torch.testing.assert_close(plain * deviation + mean, cached[:, :4])
    frames = theirs.vae.decode((ours * deviation + mean).unsqueeze(2), return_dict=False)[0][:, :, 0]
    torch.testing.assert_close(family.decode(ours), frames)


def test_a_step_of_its_scheduler_by_the_true_velocity_is_the_picture(family: ModelFamily) -> None:
    """Each step leads to the next σ, the last one to 0. `timesteps_at` returns the scheduler's timesteps without
    shift_terminal."""
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(1, 4, 12, 16, generator=generator) for _ in range(2))
    scheduler = family.pipeline().scheduler
    mu = calculate_shift(6 * 8, 256, 8192, 0.5, 0.9)
    scheduler.set_timesteps(sigmas=[1.0, 0.5], mu=mu)
    for number, timestep in enumerate(scheduler.timesteps):
        draw = Draw(timestep.float().view(1), noise)
        noised, velocity = family.noise_process.corrupt(latents, draw), family.noise_process.target(latents, draw)
        scheduler.set_begin_index(number)
        scheduler._step_index = None
        stepped = scheduler.step(velocity, timestep, noised).prev_sample
        rest = scheduler.sigmas[number + 1]
        torch.testing.assert_close(stepped, (1 - rest) * latents + rest * noise, atol=1e-6, rtol=1e-5)
    assert rest == 0

    whole = FlowMatchEulerDiscreteScheduler.from_config(scheduler.config, shift_terminal=None)
    whole.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=mu)
    ours = family.noise_process.timesteps_at(torch.tensor([1.0, 0.75, 0.5, 0.25]), latents.shape)
    torch.testing.assert_close(ours, whole.timesteps)


def test_timesteps_are_shifted_by_the_pictures_own_tokens(family: ModelFamily) -> None:
    """The shift is exp(μ), with μ from 0.5 at 256 tokens to 0.9 at 8192, as in the scheduler's configuration."""
    middle = torch.tensor([0.5])
    for side, mu in (((32, 32), 0.5), ((128, 256), 0.9), ((256, 128), 0.9)):
        shift = torch.tensor([mu]).exp()
        found = family.noise_process.timesteps_at(middle, torch.Size((1, 16, *side)))
        torch.testing.assert_close(found, 1000 * shift / (1 + shift))


def test_what_the_transformer_gets(family: ModelFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets σ, the text's mask, and the size in patches. Text is padded to a multiple of TEXT_MULTIPLE, so that it
    has few lengths; the padding does not change the prediction."""
    asked: dict[str, Any] = {}
    forward = family.denoiser.forward

    def watched(**values: Any) -> Any:
        asked.update(values)
        return forward(**values)

    noised, timesteps = torch.randn(2, 4, 12, 16), torch.tensor([250.0, 750.0])
    prompts = family.encode_prompts([PROMPT, "a"])
    monkeypatch.setattr(family.denoiser, "forward", watched)
    found = family.denoise(noised, timesteps, prompts, ())
    assert asked["timestep"].tolist() == [0.25, 0.75] and asked["img_shapes"] == [[(1, 6, 8)]] * 2
    assert asked["encoder_hidden_states"].shape[1] == TEXT_MULTIPLE
    assert asked["encoder_hidden_states_mask"].sum(dim=1).tolist() == [len(row) for row in prompts.unpadded()]
    packed = QwenImagePipeline._pack_latents(noised.unsqueeze(1), 2, 4, 12, 16)
    assert torch.equal(asked["hidden_states"], packed)
    alone = family.denoise(noised[1:], timesteps[1:], family.encode_prompts(["a"]), ())
    torch.testing.assert_close(found[1:], alone)


ADAPTED = {
    "attention": {"lora_targets": "attention"},
    "feed-forward": {"lora_targets": "attention+feed-forward"},
    "all": {"lora_target_regex": ".*"},
}


@pytest.mark.parametrize(("targets", "count"), [("attention", 16 - 2), ("feed-forward", 24 - 4), ("all", 24 - 4 + 10)])
def test_every_layer_that_is_adapted_learns(targets: str, count: int, family: ModelFamily) -> None:
    """`all` selects all linear layers, including the two modulations of each block, and the six layers outside of the
    blocks."""
    paths = denoiser_targets(family, TrainingConfig(**ADAPTED[targets]))
    assert len(paths) == count and not any(path in family.idle_modules for path in paths)
    adapter = PeftAdapter(family.denoiser, "lora", 2, 2.0, paths, torch.Generator().manual_seed(0))
    predict_with_gradients(family)
    ups = {name: value for name, value in family.denoiser.named_parameters() if "lora_B" in name}
    assert len(ups) == count
    assert [name for name, value in ups.items() if not learns(value)] == []
    adapter.remove()


def predict_with_gradients(family: ModelFamily) -> None:
    noised = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    prediction = family.denoise(noised, torch.tensor([500.0]), family.encode_prompts(["a star"]), ())
    prediction.square().sum().backward()


def test_idle_layers_are_just_those_without_a_gradient(folder: Path) -> None:
    family = opened(folder)
    family.denoiser.requires_grad_(True)
    predict_with_gradients(family)
    without = {name.rpartition(".")[0] for name, value in family.denoiser.named_parameters() if not learns(value)}
    assert without == set(family.idle_modules) and len(without) == len(IDLE)
    family.denoiser.requires_grad_(False)
    trained = FullFineTuning(family.denoiser, family.idle_modules)
    predict_with_gradients(family)
    assert all(learns(parameter) for parameter in trained.parameters)


def learns(parameter: torch.Tensor) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())


def test_the_text_encoder_is_gone_before_the_transformer_comes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    load, denoiser = PipelineParts.load, PipelineParts.denoiser

    def watched_load(self: Any, part: str, model: Any) -> Any:
        loaded = load(self, part, model)
        if part == "text_encoder":
            events.append(part)
            weakref.finalize(loaded, events.append, "freed")
        return loaded

    def watched_denoiser(self: Any, *values: Any) -> Any:
        events.append("transformer")
        return denoiser(self, *values)

    monkeypatch.setattr(PipelineParts, "load", watched_load)
    monkeypatch.setattr(PipelineParts, "denoiser", watched_denoiser)
    generation = Generation(say=lambda line: None)
    request = SampleRequest(PROMPT, width=64, height=64, num_inference_steps=2)
    generation.generate(request, [], str(folder))
    assert events == ["text_encoder", "freed", "transformer"]
    generation.generate(request, [], str(folder))
    assert len(events) == 3  # the prompt is not encoded again


def test_its_own_guidance_and_steps(family: ModelFamily) -> None:
    found = resolve(TrainingConfig(base_model="qwen"), family)
    assert (found.guidance_scale, found.num_inference_steps, found.num_tokens) == (4.0, 50, 0)
    asked = SampleRequest(PROMPT, UNWANTED, left_open=("guidance_scale", "num_inference_steps"))
    request = filled(asked, family)
    assert (request.guidance_scale, request.num_inference_steps) == (4.0, 50)
    assert list(guidance_notes(asked, request, family)) == []
    assert family.defaults.resolution is None and not family.training_notes


def test_pictures_are_changed_and_repainted(family: ModelFamily) -> None:
    sampler, red = Sampler(family), Image.new("RGB", (64, 64), (200, 30, 30))
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    request: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 4.0, "image": red, "num_outputs": 2}
    changed = sampler.generate(SampleRequest(PROMPT, UNWANTED, **request))
    repainted = sampler.generate(SampleRequest(PROMPT, UNWANTED, mask=mask, **request))
    for new, half in zip(changed, repainted, strict=True):
        kept, drawn = half.crop((32, 0, 64, 64)), half.crop((0, 0, 32, 64))
        assert kept.tobytes() == red.crop((32, 0, 64, 64)).tobytes()
        assert drawn.tobytes() != red.crop((0, 0, 32, 64)).tobytes() and new.tobytes() != red.tobytes()
    assert changed[0].tobytes() != changed[1].tobytes()


def test_what_is_refused(folder: Path, family: ModelFamily) -> None:
    sampler = Sampler(family)
    with pytest.raises(
        RequestError, match=r"prompt: has 1029 tokens; the limit of this base model .qwen_image. is 1024"
    ):
        sampler.generate(SampleRequest("a" * 1024, num_inference_steps=2))
    with pytest.raises(RequestError, match="qwen_image encodes prompts with a language model, which does not"):
        sampler.generate(SampleRequest("a (star:1.3)", num_inference_steps=2))
    with pytest.raises(RequestError, match=r"guidance_rescale: .*QwenImagePipeline does not support it"):
        sampler.generate(SampleRequest(PROMPT, guidance_rescale=0.5, num_inference_steps=2))
    with pytest.raises(RequestError, match="num_inference_steps: 1 is too few for this base model, whose schedule"):
        sampler.generate(SampleRequest(PROMPT, num_inference_steps=1))  # diffusers would divide by zero: black images
    with pytest.raises(BaseModelError, match=r"prediction_type: .* leave it out"):
        load_base_model(str(folder), torch.float32, prediction_type="epsilon")
    with pytest.raises(ConfigError, match=r"num_tokens: 2: .* qwen_image are encoded by a frozen model"):
        resolve(TrainingConfig(base_model=str(folder), num_tokens=2), family)


def test_the_longest_prompt_is_drawn_whole(family: ModelFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default limit of diffusers' pipeline is half of this length."""
    asked: list[int] = []
    forward = family.denoiser.forward

    def watched(**values: Any) -> Any:
        asked.append(values["encoder_hidden_states"].shape[1])
        return forward(**values)

    monkeypatch.setattr(family.denoiser, "forward", watched)
    prompt = "a" * (1024 - family.encode_prompts([""]).length)
    Sampler(family).generate(SampleRequest(prompt, width=16, height=16, num_inference_steps=2, guidance_scale=1.0))
    assert asked == [1024, 1024]


def test_a_trigger_in_many_pieces_is_said(family: ModelFamily) -> None:
    def notes(word: str) -> Iterator[str]:
        return trigger_notes(TrainingConfig(trigger_word=word).preparation, family)

    assert list(notes("ab")) == []
    (note,) = notes("xqzvwy")
    assert "its tokenizer splits it into 6" in note
