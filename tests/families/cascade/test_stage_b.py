"""Tests of Stage B as a base model: its latents, conditions, noise, layers and files, and refused settings."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from diffusers import StableCascadeUNet
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from artifact.artifact import Artifact
from artifact.layers import FullLayer
from artifact.names.components import Place, place_names
from artifact.placement.placing import PlacedArtifacts
from families.cascade.family import Cascade
from families.cascade.stage import CascadeUNet
from families.cascade.stage_b import StageB
from families.conditioning import Conditioning
from families.errors import BaseModelError
from families.family import SizeConditioning, limited_licence
from families.loading.fingerprint import fingerprint
from families.noise.cosine_process import CosineProcess
from families.noise.pyramid_cosine import PyramidCosineProcess
from families.registry import load_base_model
from sampler.request import RequestError
from sampler.sampler import Sampler, SampleRequest
from settings.record import ConfigError
from settings.training import build_config
from tests.families.cascade.test_loading import original_tensors
from tests.tiny_cascade import averaging_stage_a, tiny_stage_b, write_cascade, write_stage_b
from tests.tiny_models import opened
from trainer.adapters.full import FullFineTuning
from trainer.adapters.targets import denoiser_targets
from trainer.distributed.batch_share import Share
from trainer.noise.conditions import VariedCoarseLatents
from trainer.resolution import resolve

SIZE = SizeConditioning((64, 64), (0, 0), (64, 64))
LAYOUTS = {
    "3B": ((320, 640, 1280, 1280), (-1, -1, 20, 20), (2, 6, 28, 6), (3, 3, 2, 2), 1.563e9),
    "700M": ((320, 576, 1152, 1152), (-1, 9, 18, 18), (2, 4, 14, 4), (2, 2, 2, 2), 0.699e9),
}
"""Channels, heads, layers, repeated mappers and parameters of the published models."""
RESIDUAL = ("SDCascadeResBlock", "SDCascadeTimestepBlock")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stage_b(tmp_path_factory.mktemp("stage_b") / "base", averaging_stage_a())


@pytest.fixture(scope="module")
def family(folder: Path) -> StageB:
    loaded = opened(folder)
    assert isinstance(loaded, StageB)
    return loaded


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_the_network_reads_time_text_and_condition_as_diffusers_pipeline_gives_them(
    family: StageB, pictures: Tensor
) -> None:
    """The network enlarges the condition itself. `denoise` does it before, so that all conditions have the same
    shape."""
    noised = torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(1))
    condition = family.training_condition(pictures, 0.7)
    assert condition.image_latents is not None and condition.image_latents.shape == (2, 16, 22, 33)
    prompts = family.encode_prompts(["a red star", "a blue moon"])
    assert prompts.prompt_embeds.shape == (2, 1, 32)
    given = {"timestep_ratio": torch.tensor([0.5, 0.1]), "clip_text_pooled": prompts.prompt_embeds}
    theirs = family.denoiser(noised, effnet=condition.image_latents, **given).sample
    sizes, times = [SIZE, SIZE], torch.tensor([500.0, 100.0])
    torch.testing.assert_close(family.denoise(noised, times, prompts, sizes, condition), theirs)
    nothing = family.denoiser(noised, effnet=torch.zeros(2, 16, 5, 7), **given).sample
    torch.testing.assert_close(family.denoise(noised, times, prompts, sizes), nothing)
    assert (theirs - nothing).norm() > 0.01 * nothing.norm()
    with pytest.raises(ValueError, match="does not support residuals"):
        family.denoise(noised, times, prompts, sizes, Conditioning(residuals=(noised,)))


def test_its_latents_are_stage_as(family: StageB, pictures: Tensor) -> None:
    """Stage A encodes pixels in [0, 1], and the latents are divided by the factor of its configuration."""
    latents = family.encode_image(pictures.float() / 127.5 - 1)
    theirs = family.vae.encode(pictures.float() / 255).latents / family.vae.config.scale_factor
    torch.testing.assert_close(latents, theirs)
    assert latents.shape == (2, 4, 16, 24) == family.latent_shape(latents.shape)
    means = functional.interpolate(functional.avg_pool2d(pictures.float() / 255, 4), scale_factor=4)
    torch.testing.assert_close(family.decode(latents), means * 2 - 1)


def test_a_training_condition_has_whole_latents_and_a_drawn_one_stage_cs(family: StageB, pictures: Tensor) -> None:
    seen: list[Tensor] = []
    handle = family.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for size in (0.5, 0.77, 1.0):
        family.training_condition(pictures, size)
    family.condition(pictures)
    handle.remove()
    assert [tuple(each.shape[-2:]) for each in seen] == [(32, 48), (48, 72), (64, 96), (48, 72)]
    assert set(seen[0].unique().tolist()) <= set((pictures / 255).unique().tolist())  # nearest pixels, not averaged
    assert not set(seen[3].unique().tolist()) <= set((pictures / 255).unique().tolist())


def test_conditions_of_steps_vary_in_size_and_some_are_zeros(family: StageB, pictures: Tensor) -> None:
    many = pictures[:1, :, :32, :32].expand(200, -1, -1, -1)
    processes = Share(0, 1)
    draw = VariedCoarseLatents(family, torch.Generator().manual_seed(0), processes)
    sides, empty = set(), 0
    for _ in range(8):
        condition = draw(many, torch.empty(0), torch.empty(0), family.encode_prompts([""]), [])
        assert condition is not None and condition.image_latents is not None
        sides.add(condition.image_latents.shape[-1])
        empty += int((~condition.image_latents.flatten(1).any(dim=1)).sum())
    assert len(sides) > 3 and min(sides) >= 8 and max(sides) <= 16
    assert 0.07 < empty / 1600 < 0.13


def test_conditions_are_those_of_one_process_in_several(family: StageB, pictures: Tensor) -> None:
    pair = torch.cat([pictures] * 4)

    def drawn(share: Share, own: Tensor) -> Tensor:
        draw = VariedCoarseLatents(family, torch.Generator().manual_seed(3), share)
        condition = draw(own, torch.empty(0), torch.empty(0), family.encode_prompts([""]), [])
        assert condition is not None and condition.image_latents is not None
        return condition.image_latents

    whole = drawn(Share(), pair)
    parts = [drawn(Share(index, 2), pair[4 * index : 4 * index + 4]) for index in (0, 1)]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_pyramid_noise_is_coarse_and_of_variance_one() -> None:
    """With 256 latents per side, the levels have 16, 8, 4, 2 and 1 cells. The plain noise is that of the cosine
    process."""
    latents = torch.zeros(64, 1, 256, 256)
    process = PyramidCosineProcess()
    drawn = process.draw(latents, torch.Generator().manual_seed(0), torch.Generator().manual_seed(1))
    assert drawn.noise.square().mean() == pytest.approx(1.0, abs=0.02)
    variances = [0.75 ** (2 * level) for level in range(4, 9)]
    total = 1 + sum(variances)
    for cells, known in ((16, total), (2, 1 + sum(variances[3:]))):
        means = functional.avg_pool2d(drawn.noise, 256 // cells)
        expected = (known - 1 + cells**2 / 256**2) / total
        if cells == 16:
            assert means.square().mean() == pytest.approx(expected, rel=0.1)
        else:
            assert means.square().mean() > expected
    plain = CosineProcess().draw(latents, torch.Generator().manual_seed(0), torch.Generator().manual_seed(1))
    assert torch.equal(drawn.timesteps, plain.timesteps)
    difference = drawn.noise * math.sqrt(total) - plain.noise
    blocks = difference.unfold(2, 16, 16).unfold(3, 16, 16)
    assert (blocks - blocks[..., :1, :1]).abs().max() < 1e-5  # nothing finer than 16 cells was added


def test_pyramid_noise_of_small_and_oblong_latents_ends_at_one_cell() -> None:
    drawn = PyramidCosineProcess().draw(torch.zeros(4, 4, 4, 24), torch.Generator(), torch.Generator().manual_seed(0))
    assert drawn.noise.shape == (4, 4, 4, 24) and 0.7 < drawn.noise.std() < 1.3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_published_layouts(layout: str, family: StageB) -> None:
    """All layers that a file can name have different names. Sizes must be multiples of 64; the published encoder
    raises this to 128."""
    channels, heads, layers, mappers, parameters = LAYOUTS[layout]
    types = (RESIDUAL, RESIDUAL, *[(*RESIDUAL, "SDCascadeAttnBlock")] * 2)
    with init_empty_weights():
        network = CascadeUNet(
            in_channels=4, out_channels=4, patch_size=2, conditioning_dim=1280, block_out_channels=channels,
            num_attention_heads=heads, down_num_layers_per_block=layers, up_num_layers_per_block=layers[::-1],
            down_blocks_repeat_mappers=(1, 1, 1, 1), up_blocks_repeat_mappers=mappers, block_types_per_layer=types,
            clip_text_pooled_in_channels=1280, effnet_in_channels=16, pixel_mapper_in_channels=3,
            timestep_conditioning_type=("sca",), dropout=(0, 0, 0.1, 0.1), switch_level=None,
        )  # fmt: skip
    assert sum(each.numel() for each in network.parameters()) == pytest.approx(parameters, rel=1e-3)
    tiny, family.denoiser = family.denoiser, network
    try:
        names = [name for place, name in place_names(family).items() if place.component == "denoiser"]
        assert len(names) == len(set(names)) and all(name.startswith("lora_decoder_unet_") for name in names)
        assert family.size_multiple == 64  # 4 pixels, patches of 2, and 3 halvings; the tiny encoder only needs 8
        config = build_config({"base_model": "x", "trigger_word": ""})
        assert len(denoiser_targets(family, config.adapters)) == {"3B": 272, "700M": 144}[layout]
    finally:
        family.denoiser = tiny


def test_a_level_that_may_have_attention_learns_all_but_the_norms(family: StageB) -> None:
    adapter = FullFineTuning(family.denoiser, family.idle_modules)
    left = {name for name, value in family.denoiser.named_parameters() if not value.requires_grad}
    adapter.remove()
    assert left and all(".channelwise.2." in name or name.startswith("pixels_mapper.0.") for name in left)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusers"])
def test_it_may_be_a_single_file(prefix: str, folder: Path, family: StageB, tmp_path: Path) -> None:
    tensors = load_file(folder / "decoder" / "diffusion_pytorch_model.safetensors")
    if prefix != "diffusers":
        tensors = {prefix + name: tensor for name, tensor in original_tensors(tensors).items()}
    file = tmp_path / "stage_b.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    again = load_base_model(str(file), torch.float32, base_config=str(folder)).to(torch.device("cpu"))
    assert isinstance(again, StageB) and fingerprint(again.denoiser) == fingerprint(family.denoiser)
    with pytest.raises(
        BaseModelError, match="only contains the denoiser of a StableCascadeDecoderPipeline.*stable-cascade"
    ):
        load_base_model(str(file), torch.float32)


def test_its_licence_is_said(family: StageB) -> None:
    assert "Non-Commercial" in str(limited_licence(family))


def test_it_draws_nothing_from_a_prompt(family: StageB) -> None:
    with pytest.raises(RequestError, match="base_model: .* reconstructs images and cannot generate from a prompt"):
        Sampler(family).generate(SampleRequest("a star", width=64, height=64))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, 'trigger_word: .* no tokens can be trained; set trigger_word: ""'),
        ({"trigger_word": "", "num_class_images": 2, "class_prompt": "a dog"}, "num_class_images: .* leave it out"),
        ({"trigger_word": "", "evaluate": "true"}, "evaluate: .* leave it out"),
        (
            {"trigger_word": "", "evaluation_samples": 3, "checkpointing_steps": 9},
            "evaluation_samples: .* samples are not scored",
        ),
        ({"adapter": "controlnet", "control": "canny"}, "adapter: controlnet: ControlNets are not supported"),
        (
            {"trigger_word": "", "train_text_encoder": True},
            "train_text_encoder: .* no text encoder that can be trained",
        ),
    ],
)
def test_what_it_cannot_learn_is_refused(settings: dict[str, object], said: str, family: StageB) -> None:
    with pytest.raises(ConfigError, match=said):
        resolve(build_config({"base_model": "tiny", **settings}), family)


def test_a_trained_stage_b_draws_for_stage_c(folder: Path, family: StageB, tmp_path: Path) -> None:
    """On a base of Stage C with the same Stage B, the file of a training of Stage B has the effect of its weights."""
    trained = tiny_stage_b(pixel_mapper_in_channels=3)
    changes = {
        path: FullLayer(trained.get_submodule(path).weight.detach() - module.weight.detach(), None)
        for path, module in family.denoiser.named_modules()
        if path.endswith(("channelwise.0", "attention.to_q", "effnet_mapper.0"))
    }
    names = place_names(family)
    artifact = Artifact({names[Place("denoiser", path)]: layer for path, layer in changes.items()}, {}, None)
    base = write_cascade(tmp_path / "cascade")
    shutil.copytree(folder / "decoder", base / "decoder", dirs_exist_ok=True)
    cascade = opened(base)
    assert isinstance(cascade, Cascade)
    decoder = cascade.pipeline().decoder
    request = SampleRequest("a red star", width=64, height=64, num_inference_steps=2, seed=1)
    before = Sampler(cascade).generate(request)[0].tobytes()
    expected = StableCascadeUNet.from_config(decoder.config)
    expected.load_state_dict(decoder.state_dict())
    for path, layer in changes.items():
        expected.get_submodule(path).weight.data += layer.diff
    placed = PlacedArtifacts(cascade, [artifact])
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(decoder.state_dict()[name], tensor)
    changed = Sampler(cascade).generate(request)[0]
    placed.remove()
    assert np.abs(np.asarray(changed, np.int64) - np.frombuffer(before, np.uint8).reshape(64, 64, 3)).max() > 0
    assert Sampler(cascade).generate(request)[0].tobytes() == before
