"""Tests that Stable Cascade's prompts, time, images and sampling are those of diffusers and the original code."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableCascadeDecoderPipeline, StableCascadePriorPipeline
from PIL import Image
from torch import Tensor

from families.cascade.family import Cascade
from families.cascade.stage import CascadeUNet
from families.family import ModelFamily, SizeConditioning
from families.parts.compiled_blocks import CompiledBlocks
from families.precision.stored_blocks import Storage, place
from families.precision.stored_linear import StoredLinear
from families.registry import load_base_model
from sampler.sampler import Sampler, SampleRequest
from settings.sections.adapter import AdapterSection
from tests.families.test_family_files import predict
from tests.tiny_cascade import tiny_stage_c, write_cascade
from tests.tiny_models import opened
from trainer.adapters.full import FullFineTuning
from trainer.adapters.peft_adapter import PeftAdapter
from trainer.adapters.targets import denoiser_targets

SIZE = SizeConditioning((64, 64), (0, 0), (64, 64))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cascade(tmp_path_factory.mktemp("cascade") / "base")


@pytest.fixture(scope="module")
def family(folder: Path) -> Cascade:
    loaded = opened(folder)
    assert isinstance(loaded, Cascade)
    return loaded


def their_prior(family: Cascade, folder: Path) -> StableCascadePriorPipeline:
    """Return diffusers' pipeline with diffusers' network and the shifted scheduler."""
    pipeline = StableCascadePriorPipeline.from_pretrained(folder)
    pipeline.scheduler = family.pipeline().scheduler
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def their_decoder(family: Cascade) -> StableCascadeDecoderPipeline:
    ours = family.pipeline()
    pipeline = StableCascadeDecoderPipeline(
        decoder=ours.decoder, tokenizer=ours.tokenizer, text_encoder=ours.text_encoder, vqgan=ours.vqgan,
        scheduler=ours.decoder_scheduler, latent_dim_scale=2 / 3 + 1e-3,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_features_are_those_of_diffusers_own_pipeline(family: Cascade, folder: Path) -> None:
    """Both are computed from text. Without the tokenizer's mask, the states of the padding would be different."""
    theirs = their_prior(family, folder).encode_prompt("cpu", 1, 1, False, prompt="a red star")
    ours = family.encode_prompts(["a red star"])
    torch.testing.assert_close(ours.prompt_embeds, theirs[0])
    assert ours.pooled_prompt_embeds is not None
    torch.testing.assert_close(ours.pooled_prompt_embeds, theirs[1][:, 0])
    ids = family.tokenizers[0](["a red star"], padding="max_length", max_length=77, return_tensors="pt").input_ids
    unmasked = family.text_encoders[0](ids, output_hidden_states=True)
    assert (unmasked.hidden_states[-1] - ours.prompt_embeds).abs().max() > 0.1
    assert (unmasked.last_hidden_state - ours.prompt_embeds).abs().max() > 0.1


@pytest.mark.parametrize(("guidance", "size"), [(4.0, (64, 96)), (1.0, (96, 64))])
def test_pictures_are_those_of_diffusers_pipelines(
    guidance: float, size: tuple[int, int], family: Cascade, folder: Path
) -> None:
    """Stages C, B and A get the same tensors and the same noise. Each of two images has its own generator."""
    height, width = size
    prompts = ["a red star", "a blue moon"]
    prior = their_prior(family, folder)
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    drawn = prior(
        prompts, height=height, width=width, num_inference_steps=3, guidance_scale=guidance, generator=generators,
        negative_prompt=["red", "red"],
    )  # fmt: skip
    theirs = their_decoder(family)(
        drawn.image_embeddings, prompts, num_inference_steps=10, guidance_scale=1.1, generator=generators,
        negative_prompt=["red", "red"],
    ).images  # fmt: skip
    for number, prompt in enumerate(prompts):
        request = SampleRequest(
            prompt, "red", width=width, height=height, num_inference_steps=3, guidance_scale=guidance, seed=5 + number
        )
        (ours,) = Sampler(family).generate(request)
        assert ours.size == (width, height)
        assert np.abs(pixels(ours) - pixels(theirs[number])).max() <= 1
    assert np.abs(pixels(theirs[0]) - pixels(theirs[1])).max() > 8


def pixels(image: Image.Image) -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]]":
    return np.asarray(image, np.int64)


def test_steps_are_counted_over_both_stages(family: Cascade) -> None:
    seen: list[tuple[int, int]] = []
    request = SampleRequest("a star", width=64, height=64, num_inference_steps=2)
    Sampler(family).generate(request, on_step=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 12) for done in range(1, 13)]


def test_guidance_can_be_rescaled(family: Cascade) -> None:
    request = SampleRequest("a star", width=64, height=64, num_inference_steps=2)
    plain, rescaled = (Sampler(family).generate(replace(request, guidance_rescale=phi))[0] for phi in (0.0, 0.7))
    assert plain.tobytes() != rescaled.tobytes()


def test_the_time_is_read_in_fp32(family: Cascade) -> None:
    """In bf16 the sine of 10,000 · t consists mostly of rounding errors, and so would the output."""
    times = torch.tensor([0.123, 0.777])
    exact = family.denoiser.get_timestep_ratio_embedding(times)
    half = CascadeUNet.from_config(family.denoiser.config).to(torch.bfloat16)
    ours = half.get_timestep_ratio_embedding(times).float()
    theirs = tiny_stage_c().get_timestep_ratio_embedding(times.bfloat16()).float()
    assert (ours - exact).norm() < 0.01 * exact.norm() < 0.3 * (theirs - exact).norm()


def test_the_denoiser_gets_the_clamped_time_and_no_picture(family: Cascade) -> None:
    noised = torch.randn(2, 16, 24, 24, generator=torch.Generator().manual_seed(0))
    prompts = family.encode_prompts(["a red star", "a blue moon"])
    assert prompts.pooled_prompt_embeds is not None
    end = math.cos(0.008 / 1.008 * math.pi / 2)  # the original code: the t at which its ᾱ is 0.0001
    last = math.acos(0.01 * end) * 2 / math.pi * 1.008 - 0.008
    expected = family.denoiser(
        noised, torch.tensor([last, 0.5]), clip_text_pooled=prompts.pooled_prompt_embeds[:, None],
        clip_text=prompts.prompt_embeds, clip_img=torch.zeros(2, 1, 16),
    ).sample  # fmt: skip
    ours = family.denoise(noised, torch.tensor([1000.0, 500.0]), prompts, [SIZE, SIZE])
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)


def test_every_layer_that_is_adapted_learns(family: Cascade) -> None:
    targets = AdapterSection(lora_targets="attention+feed-forward+convolutions")
    adapter = PeftAdapter(
        family.denoiser, "lora", 2, 2.0, denoiser_targets(family, targets), torch.Generator().manual_seed(0)
    )
    noised = torch.randn(1, 16, 24, 24, generator=torch.Generator().manual_seed(0))
    prediction = family.denoise(noised, torch.tensor([500.0]), family.encode_prompts(["a star"]), [SIZE])
    prediction.square().sum().backward()
    ups = {name: value.grad for name, value in family.denoiser.named_parameters() if "lora_B" in name}
    adapter.remove()
    assert {name.split(".lora_B")[0].rpartition("base_model.model.")[2] for name in ups} >= {
        "down_blocks.0.2.attention.to_q", "up_blocks.1.0.channelwise.4", "down_blocks.1.2.kv_mapper.1",
        "down_downscalers.1.1.blocks.0", "up_upscalers.0.1.blocks.1", "embedding.1", "clf.1",
    }  # fmt: skip
    assert [name for name, gradient in ups.items() if gradient is None or not gradient.any()] == []


def test_full_fine_tuning_leaves_what_no_file_can_name(family: Cascade) -> None:
    """The global response norms and the mapper of image embeddings are not trained."""
    adapter = FullFineTuning(family.denoiser, family.idle_modules)
    learning = {name for name, value in family.denoiser.named_parameters() if value.requires_grad}
    left = {name for name, _ in family.denoiser.named_parameters()} - learning
    adapter.remove()
    norms = {f"{way}_blocks.{level}.0.channelwise.2" for way in ("down", "up") for level in (0, 1)}
    kinds = {(f"{path}.gamma", f"{path}.beta") for path in norms} | {("clip_img_mapper.weight", "clip_img_mapper.bias")}
    assert left == {name for pair in kinds for name in pair}


@pytest.mark.slow
def test_its_blocks_may_be_stored_in_fewer_bits_and_compiled(folder: Path, family: Cascade) -> None:
    """diffusers' class does not list its repeated blocks."""
    whole, stored = predict(family), load_base_model(str(folder), torch.float32)
    place(stored, Storage("int8"), torch.device("cpu"))
    assert sum(isinstance(module, StoredLinear) for module in stored.denoiser.modules()) == 4 * (2 + 3 + 5)
    assert 0 < (predict(stored) - whole).norm() < 0.02 * whole.norm()
    blocks = CompiledBlocks(family.denoiser, backend="eager")
    with blocks.in_use():
        torch.testing.assert_close(predict(family), whole)


def test_a_picture_is_read_at_three_quarters_and_normalised(family: Cascade) -> None:
    """The encoder's first layer reads images normalised by ImageNet's statistics, with a side of 48 instead of 64."""
    seen: list[Tensor] = []
    handle = family.vae.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    grey = family.encode_image(torch.zeros(1, 3, 64, 128))
    handle.remove()
    assert grey.shape == (1, 16, 24, 48) == family.latent_shape(grey.shape)
    assert seen[0].shape == (1, 3, 48, 96)
    means = (0.5 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(seen[0].mean((0, 2, 3)), means)
    assert torch.equal(family.latents(grey, torch.randn(grey.shape)), grey)


def test_decoding_gives_pixels_of_the_pictures_size(family: Cascade) -> None:
    latents = family.encode_image(torch.zeros(2, 3, 64, 96))
    decoded = family.decode(latents)
    assert decoded.shape == (2, 3, 64, 96) and decoded.min() >= -1 and decoded.max() <= 1
    assert torch.equal(decoded, family.decode(latents))


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_half_precision_draws_nearly_the_same(dtype: torch.dtype, folder: Path, family: ModelFamily) -> None:
    half = load_base_model(str(folder), dtype).to(torch.device("cpu"))
    request = SampleRequest("a red star", width=64, height=64, num_inference_steps=4, seed=1)
    ours, whole = (pixels(Sampler(each).generate(request)[0]) for each in (half, family))
    assert np.abs(ours - whole).mean() < 12 < np.abs(whole - whole.mean()).mean() * 4
