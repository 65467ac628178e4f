"""Tests of FLUX.1: prompts, images and scheduler steps are those of diffusers' pipeline; order of loading; messages."""

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from PIL import Image

from families.errors import BaseModelError
from families.family import ModelFamily
from families.loading.pipeline_parts import PipelineParts
from families.noise.flow_matching import FlowMatching
from families.noise.noise_process import Draw
from families.parts.patches import latents_of, patches_of
from families.registry import load_base_model
from sampler.generation import Generation
from sampler.guidance_notes import guidance_notes
from sampler.request import RequestError, SampleRequest, filled
from sampler.sampler import Sampler
from settings.record import ConfigError
from settings.training import TrainingConfig
from tests.tiny_models import opened, write_flux1
from trainer.adapters.peft_adapter import PeftAdapter
from trainer.adapters.targets import denoiser_targets
from trainer.resolution import resolve
from trainer.trigger_notes import trigger_notes

PROMPT = "a red star, by night"
KINDS = ("dev", "schnell")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("flux1")
    return {kind: write_flux1(folder / kind, schnell=kind == "schnell") for kind in KINDS}


@pytest.fixture(scope="module")
def families(folders: dict[str, Path]) -> dict[str, ModelFamily]:
    return {kind: opened(folder) for kind, folder in folders.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_prompts_and_pictures_are_those_of_the_pipeline(
    kind: str, folders: dict[str, Path], families: dict[str, ModelFamily]
) -> None:
    family = families[kind]
    theirs = FluxPipeline.from_pretrained(folders[kind])
    theirs.set_progress_bar_config(disable=True)
    length = {"dev": 512, "schnell": 256}[kind]
    with torch.no_grad():
        embeds, pooled, _ = theirs.encode_prompt(PROMPT, max_sequence_length=length)
    ours = family.encode_prompts([PROMPT])
    assert torch.equal(ours.prompt_embeds, embeds) and ours.pooled_prompt_embeds is not None
    assert torch.equal(ours.pooled_prompt_embeds, pooled)

    options: dict[str, Any] = {"width": 64, "height": 48, "num_inference_steps": 2, "guidance_scale": 3.5}
    drawn = Sampler(family).generate(SampleRequest(PROMPT, seed=3, **options))
    wanted = theirs(PROMPT, generator=[torch.Generator().manual_seed(3)], max_sequence_length=length, **options).images
    assert drawn[0].tobytes() == wanted[0].tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_its_scheduler_by_the_true_velocity_is_the_picture(
    kind: str, families: dict[str, ModelFamily]
) -> None:
    """One step leads from pure noise to the latents at σ = 0. `timesteps_at` returns the scheduler's timesteps."""
    family = families[kind]
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(1, 4, 12, 16, generator=generator) for _ in range(2))
    scheduler = family.pipeline().scheduler
    mu = calculate_shift(6 * 8, 256, 4096, 0.5, 1.15)
    scheduler.set_timesteps(sigmas=[1.0], mu=mu)
    draw = Draw(scheduler.timesteps.float(), noise)
    noised, velocity = family.noise_process.corrupt(latents, draw), family.noise_process.target(latents, draw)
    torch.testing.assert_close(scheduler.step(velocity, scheduler.timesteps[0], noised).prev_sample, latents)

    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=mu)
    ours = family.noise_process.timesteps_at(torch.tensor([1.0, 0.75, 0.5, 0.25]), latents.shape)
    torch.testing.assert_close(ours, scheduler.timesteps)


def test_timesteps_are_shifted_by_the_pictures_own_tokens(families: dict[str, ModelFamily]) -> None:
    process = families["dev"].noise_process
    assert isinstance(process, FlowMatching)
    middle = torch.tensor([0.5])
    sides = ((32, 32), (128, 64), (64, 128), (128, 128))
    small, wide, tall, square = (process.timesteps_at(middle, torch.Size((1, 16, *side))) for side in sides)
    assert small < wide == tall < square
    shift = torch.tensor([1.15]).exp()
    torch.testing.assert_close(square, 1000 * shift / (1 + shift))
    assert families["schnell"].noise_process.timesteps_at(middle, torch.Size((1, 16, 128, 128))) == 500


def test_patches_are_packed_as_the_pipeline_packs_them() -> None:
    latents = torch.randn(2, 4, 6, 8)
    packed = FluxPipeline._pack_latents(latents, 2, 4, 6, 8)
    assert torch.equal(patches_of(latents), packed) and torch.equal(latents_of(packed, 6, 8), latents)


def test_training_reads_the_guidance_of_the_data(
    families: dict[str, ModelFamily], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    for family in families.values():
        forward = family.denoiser.forward

        def watched(forward: Any = forward, **values: Any) -> Any:
            asked.append(values)
            return forward(**values)

        monkeypatch.setattr(family.denoiser, "forward", watched)
        family.denoise(torch.zeros(2, 4, 8, 8), torch.tensor([250.0, 750.0]), family.encode_prompts(["a"] * 2), ())
    dev, schnell = asked
    assert dev["guidance"].tolist() == [1.0, 1.0] and schnell["guidance"] is None
    assert dev["timestep"].tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("targets", "count"),
    [("attention", 8 + 2 * 3), ("attention+feed-forward", 8 + 4 + 2 * 5), ("all-linear", 8 + 4 + 2 + 2 * 6)],
)
def test_every_layer_that_is_adapted_learns(targets: str, count: int, families: dict[str, ModelFamily]) -> None:
    family = families["dev"]
    paths = denoiser_targets(family, TrainingConfig(lora_targets=targets))
    assert len(paths) == count and "proj_out" not in paths
    adapter = PeftAdapter(family.denoiser, "lora", 2, 2.0, paths, torch.Generator().manual_seed(0))
    noised = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    family.denoise(noised, torch.tensor([500.0]), family.encode_prompts(["a star"]), ()).square().sum().backward()
    ups = {name: value for name, value in family.denoiser.named_parameters() if "lora_B" in name}
    assert len(ups) == count
    assert [name for name, value in ups.items() if value.grad is None or not value.grad.any()] == []
    adapter.remove()


def test_text_encoders_are_gone_before_the_transformer_comes(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Peak memory is then that of the larger part. Opening the base loads neither of them."""
    events: list[str] = []
    load, denoiser = PipelineParts.load, PipelineParts.denoiser

    def watched_load(self: Any, part: str, model: Any) -> Any:
        loaded = load(self, part, model)
        if part.startswith("text_encoder"):
            events.append(part)
            weakref.finalize(loaded, events.append, f"{part} freed")
        return loaded

    def watched_denoiser(self: Any, *values: Any) -> Any:
        events.append("transformer")
        return denoiser(self, *values)

    monkeypatch.setattr(PipelineParts, "load", watched_load)
    monkeypatch.setattr(PipelineParts, "denoiser", watched_denoiser)
    generation = Generation(say=lambda line: None)
    request = SampleRequest(PROMPT, num_inference_steps=1)
    generation.generate(request, [], str(folders["dev"]))
    freed = {"text_encoder freed", "text_encoder_2 freed"}
    assert events[:2] == ["text_encoder", "text_encoder_2"] and set(events[2:4]) == freed
    assert events[4:] == ["transformer"]
    generation.generate(request, [], str(folders["dev"]))
    assert len(events) == 5  # the prompt is not encoded again


def test_what_a_distilled_base_does_not_read_is_said(families: dict[str, ModelFamily]) -> None:
    def notes(kind: str, **values: Any) -> list[str]:
        asked = SampleRequest(PROMPT, **values)
        return list(guidance_notes(asked, filled(asked, families[kind]), families[kind]))

    left_open = {"left_open": ("guidance_scale", "num_inference_steps")}
    assert notes("dev") == notes("dev", **left_open) == notes("schnell", **left_open) == []
    for kind in KINDS:
        (note,) = notes(kind, negative_prompt="blur", **left_open)
        assert "warning: negative_prompt has no effect: this base model (flux1) is guidance-distilled" in note
    (note,) = notes("schnell", guidance_scale=3.0)
    assert "warning: guidance_scale has no effect" in note
    with pytest.raises(RequestError, match="guidance_rescale: .*FluxPipeline does not support it"):
        Sampler(families["dev"]).generate(SampleRequest(PROMPT, guidance_rescale=0.5, num_inference_steps=1))


@pytest.mark.parametrize(("kind", "own"), [("dev", (3.5, 28)), ("schnell", (0.0, 4))])
def test_its_own_guidance_and_steps(kind: str, own: tuple[float, int], families: dict[str, ModelFamily]) -> None:
    family = families[kind]
    found = resolve(TrainingConfig(base_model="flux"), family)
    assert (found.guidance_scale, found.num_inference_steps, found.num_tokens) == (*own, 0)
    request = filled(SampleRequest(PROMPT, left_open=("guidance_scale", "num_inference_steps")), family)
    assert (request.guidance_scale, request.num_inference_steps) == own
    given = filled(SampleRequest(PROMPT, num_inference_steps=9, left_open=("guidance_scale",)), family)
    assert (given.guidance_scale, given.num_inference_steps) == (own[0], 9)
    assert bool(family.training_notes) == (kind == "schnell")


def test_pictures_are_changed_and_repainted(families: dict[str, ModelFamily]) -> None:
    sampler, red = Sampler(families["dev"]), Image.new("RGB", (64, 64), (200, 30, 30))
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    request: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.5, "image": red}
    (changed,) = sampler.generate(SampleRequest(PROMPT, **request))
    (repainted,) = sampler.generate(SampleRequest(PROMPT, mask=mask, **request))
    kept, drawn = repainted.crop((32, 0, 64, 64)), repainted.crop((0, 0, 32, 64))
    assert kept.tobytes() == red.crop((32, 0, 64, 64)).tobytes()
    assert drawn.tobytes() != red.crop((0, 0, 32, 64)).tobytes() and changed.tobytes() != red.tobytes()


def test_long_and_weighted_prompts_are_errors(families: dict[str, ModelFamily]) -> None:
    for kind, length in (("dev", 512), ("schnell", 256)):
        sampler = Sampler(families[kind])
        with pytest.raises(
            RequestError, match=f"prompt: has {length + 1} tokens; the limit of this base model .flux1. is {length}"
        ):
            sampler.generate(SampleRequest("a" * length, num_inference_steps=1))
    with pytest.raises(
        RequestError, match="flux1 encodes prompts with a language model, which does not support weights"
    ):
        Sampler(families["dev"]).generate(SampleRequest("a (star:1.3)", num_inference_steps=1))


def test_what_it_has_no_use_for(folders: dict[str, Path], families: dict[str, ModelFamily]) -> None:
    folder = str(folders["dev"])
    with pytest.raises(BaseModelError, match="prediction_type: .* leave it out"):
        load_base_model(folder, torch.float32, prediction_type="epsilon")
    with pytest.raises(BaseModelError, match="zero_terminal_snr: .* leave it out"):
        load_base_model(folder, torch.float32, zero_terminal_snr=True)
    with pytest.raises(ConfigError, match="num_tokens: 2: .* flux1 are encoded by a frozen model without new tokens"):
        resolve(TrainingConfig(base_model=folder, num_tokens=2), families["dev"])


def test_a_trigger_in_many_pieces_is_said(families: dict[str, ModelFamily]) -> None:
    def notes(word: str) -> Sequence[str]:
        return list(trigger_notes(TrainingConfig(trigger_word=word).preparation, families["dev"]))

    assert notes("ab") == []
    (note,) = notes("xqzvwy")
    assert (
        "trigger_word: 'xqzvwy' is a plain word for this base model (flux1), and its tokenizer splits it into 6" in note
    )
