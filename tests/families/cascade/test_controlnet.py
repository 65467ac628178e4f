"""Tests of ControlNets of Stage C: their residuals, initialisation, inputs, files, and sampling with guidance."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from diffusers import ControlNetModel
from diffusers.configuration_utils import FrozenDict
from diffusers.models.unets.unet_stable_cascade import SDCascadeResBlock
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from artifact.controlnet.files import read_controlnet, write_controlnet
from artifact.controlnet.names import opens_in_comfyui
from artifact.errors import ArtifactError
from artifact.metadata import ArtifactDescription
from families.cascade.controlnet import CascadeControlNet
from families.cascade.efficient_net import EfficientNetEncoder
from families.cascade.family import Cascade
from families.cascade.stage import CascadeUNet
from families.controls.control import ControlForm, controllable, usual_blocks
from families.family import PromptFeatures, SizeConditioning
from job.controlnet.recipes import controlnet_recipes
from job.report.recipe import Trained
from sampler.request import Control, SampleRequest
from sampler.sampler import Sampler
from tests.tiny_cascade import tiny_encoder, tiny_stage_c, write_cascade
from tests.tiny_models import opened

GUIDE = (0, 4, 8, 12, 51, 55, 59, 63)
SIDE = 64
SIZES = [SizeConditioning((SIDE, SIDE), (0, 0), (SIDE, SIDE))] * 2
ALL = (0, 1, 2, 3)
"""Numbers of the tiny Stage C's blocks: one block on each level, down and up."""


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Cascade:
    loaded = opened(write_cascade(tmp_path_factory.mktemp("cascade") / "base"))
    assert isinstance(loaded, Cascade)
    return loaded


Given = tuple[Tensor, Tensor, PromptFeatures, list[SizeConditioning]]


def given(family: Cascade) -> Given:
    noised = torch.randn((2, 16, 24, 24), generator=torch.Generator().manual_seed(0))
    return noised, torch.tensor([300.0, 800.0]), family.encode_prompts(["a red star", ""]), SIZES


def pictures() -> Tensor:
    return torch.rand((2, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1))


def predicted(family: Cascade, controlnet: Any) -> Tensor:
    if controlnet is None:
        return family.denoise(*given(family))
    return family.denoise(*given(family), family.control_residuals(controlnet, pictures(), *given(family)))


def moved(controlnet: CascadeControlNet) -> CascadeControlNet:
    """Replace the zeros of its projections by random values."""
    with torch.no_grad():
        for projection in controlnet.projections:
            last: Any = cast(nn.Sequential, projection)[2]
            last.weight.normal_(std=0.3, generator=torch.Generator().manual_seed(2))
    return controlnet


def description(**config: Any) -> ArtifactDescription:
    said = {"control": "canny", "resolution": SIDE} | config
    return ArtifactDescription("cascade", "tiny", "", "epsilon", {}, 1, said)


def test_the_usual_blocks_are_the_guides() -> None:
    assert usual_blocks(64) == GUIDE and usual_blocks(32) == (0, 4, 8, 12, 19, 23, 27, 31)
    assert usual_blocks(4) == (0, 3) and usual_blocks(0) == ()


def test_residuals_are_added_where_the_original_adds_them() -> None:
    """A residual is scaled with aligned corners, and added before its block and before the skip connection is joined.
    This is compared with hooks on diffusers' network of 64 residual blocks, whose modules are listed in the order of
    execution."""
    theirs = tiny_stage_c(
        down_num_layers_per_block=(8, 24), up_num_layers_per_block=(24, 8), block_out_channels=(8, 8),
        num_attention_heads=(1, 1), conditioning_dim=8,
    )  # fmt: skip
    ours = CascadeUNet.from_config(theirs.config).eval()
    ours.load_state_dict(theirs.state_dict())
    assert len(ours.residual_blocks) == 64
    controlnet = moved(CascadeControlNet.beside(tiny_encoder((1, 1, 1)), ControlForm(1, GUIDE), [8] * 8))
    blocks = [module for module in theirs.modules() if isinstance(module, SDCascadeResBlock)]
    generator = torch.Generator().manual_seed(3)
    given = {
        "sample": torch.randn(2, 16, 6, 6, generator=generator), "timestep_ratio": torch.tensor([0.3, 0.8]),
        "clip_text_pooled": torch.randn(2, 1, 32, generator=generator), "clip_img": torch.zeros(2, 1, 16),
        "clip_text": torch.randn(2, 77, 32, generator=generator),
    }  # fmt: skip
    with torch.no_grad():
        residuals = controlnet(pictures()[:, :, :16, :16])
        assert residuals[0].shape == (2, 8, 5, 5)  # with one channel, the first layer has no padding
        bare, steered = ours(**given).sample, ours(**given, residuals=dict(zip(GUIDE, residuals, strict=True))).sample
        assert torch.equal(bare, theirs(**given).sample)
        for number, residual in zip(GUIDE, residuals, strict=True):
            added = functional.interpolate(residual, (6, 6), mode="bilinear", align_corners=True)
            blocks[number].register_forward_pre_hook(lambda _, args, add=added: (args[0] + add, *args[1:]))
        assert torch.equal(steered, theirs(**given).sample)
        assert torch.equal(ours(**given).sample, bare)
    assert (steered - bare).abs().max() > 0.01


def test_a_new_one_changes_no_bit_and_learns_from_its_ends(family: Cascade) -> None:
    base = {name: value.clone() for name, value in family.denoiser.state_dict().items()}
    controlnet = family.new_controlnet()
    bare = predicted(family, None)
    start = predicted(family, controlnet)
    assert torch.equal(start, bare)
    statistics = {name: value.clone() for name, value in controlnet.named_buffers()}
    learned = []
    for _ in range(2):
        controlnet.zero_grad()
        (predicted(family, controlnet) - 1).square().mean().backward()
        gradients = {name: each.grad for name, each in controlnet.named_parameters()}
        learned.append({name for name, each in gradients.items() if each is not None and each.any()})
        torch.optim.SGD(controlnet.parameters(), lr=1.0).step()
    assert learned[0] == {"projections.0.2.weight", "projections.1.2.weight"}
    assert learned[1] == {name for name, _ in controlnet.named_parameters()}
    assert not torch.equal(predicted(family, controlnet), bare)
    assert all(torch.equal(value, statistics[name]) for name, value in controlnet.named_buffers())
    assert all(torch.equal(value, base[name]) for name, value in family.denoiser.state_dict().items())


def test_gradient_checkpointing_changes_no_gradient(family: Cascade) -> None:
    def gradients(checkpointed: bool) -> list[Tensor]:
        torch.manual_seed(0)
        controlnet = moved(family.new_controlnet(ControlForm(4, ALL)))
        models = (family.denoiser, controlnet)
        for model in models if checkpointed else ():
            model.enable_gradient_checkpointing()
        predicted(family, controlnet).square().mean().backward()
        family.denoiser.disable_gradient_checkpointing()
        return [each.grad for each in controlnet.parameters() if each.grad is not None]

    plain, checkpointed = gradients(False), gradients(True)
    assert len(plain) == len(checkpointed) and all(map(torch.equal, plain, checkpointed))


def test_in_bf16_it_learns_nearly_the_same(family: Cascade) -> None:
    """It runs under autocast, with its weights in fp32 and the base's in bf16, as in training on a GPU."""
    controlnet = moved(family.new_controlnet(ControlForm(1, ALL)))
    half = copy.deepcopy(family.denoiser)
    nn.Module.to(half, torch.bfloat16)

    def learned() -> tuple[Tensor, Tensor]:
        controlnet.zero_grad()
        prediction = predicted(family, controlnet)
        prediction.square().mean().backward()
        return prediction.detach(), torch.cat(
            [each.grad.flatten() for each in controlnet.parameters() if each.grad is not None]
        )

    exact, family.denoiser = learned(), half
    try:
        with torch.autocast("cpu", torch.bfloat16):
            rounded = learned()
    finally:
        family.denoiser = family.pipeline().prior
    for one, other in zip(rounded, exact, strict=True):
        assert 0 < (one - other).norm() < 0.15 * other.norm()


def test_it_starts_as_the_bases_own_encoder(family: Cascade) -> None:
    """The first layer has the encoder's weights for colours, their first column for brightness, zeros for a mask."""
    own = family.new_controlnet(ControlForm(3))
    first, *given = (
        network.state_dict()["backbone.0.0.weight"]
        for network in (family.vae, own, *(family.new_controlnet(ControlForm(channels)) for channels in (1, 4)))
    )
    assert torch.equal(given[0], first) and torch.equal(given[1], first[:, :1])
    assert torch.equal(given[2][:, :3], first) and not given[2][:, 3:].any()
    smaller = functional.interpolate(pictures(), (48, 48), mode="bilinear", antialias=True)
    torch.testing.assert_close(own.features(pictures()), family.vae.backbone(smaller))


def test_what_its_first_layer_reads(family: Cascade) -> None:
    """Erased pixels are black for a ControlNet that reads brightness, and white for one that reads a mask."""
    picture = torch.full((1, 3, SIDE, SIDE), 0.5)
    picture[:, :, :, :32] = -1.0
    seen: list[Tensor] = []
    for channels in (1, 4):
        controlnet = family.new_controlnet(ControlForm(channels))
        controlnet.backbone[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        controlnet(picture)
    bright, masked = (each[0] for each in seen)
    assert bright.shape == (1, 48, 48) and masked.shape == (4, 48, 48)
    assert bright[0, 10, 2] == 0 and bright[0, 10, 40] == pytest.approx(0.5)
    assert masked[:, 10, 2].tolist() == [1.0] * 4
    assert masked[:, 10, 40].tolist() == pytest.approx([0.5] * 3 + [0.0])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_file_is_read_back_by_the_originals_names(precision: str, family: Cascade, tmp_path: Path) -> None:
    controlnet, path = moved(family.new_controlnet(ControlForm(1, (1, 2)))), tmp_path / "control.safetensors"
    write_controlnet(controlnet, path, description(controlnet_blocks=[1, 2]), precision, architecture="a")
    tensors = load_file(path)
    assert {"backbone.0.0.weight", "backbone.1.0.block.0.0.weight", "projections.1.2.weight"} <= tensors.keys()
    assert tensors["backbone.0.1.running_var"].dtype == torch.float32 and tensors["backbone.0.0.weight"].shape[1] == 1
    read = read_controlnet(path, family)
    assert list(read.config.blocks) == [1, 2] and read.config.channels == 1
    exact = precision == "fp32"
    for name, value in controlnet.state_dict().items():
        torch.testing.assert_close(read.state_dict()[name], value, rtol=0 if exact else 1e-3, atol=0 if exact else 1e-4)
    with torch.no_grad():
        difference = (predicted(family, read) - predicted(family, controlnet)).norm()
        assert difference <= (0 if exact else 1e-2 * predicted(family, controlnet).norm())


def test_a_file_of_the_original_has_the_usual_blocks(family: Cascade, tmp_path: Path) -> None:
    """The original's files do not have our header."""
    path = tmp_path / "inpainting.safetensors"
    save_file(moved(family.new_controlnet(ControlForm(4))).state_dict(), path)
    read = read_controlnet(path, family)
    assert read.config.channels == 4 and tuple(read.config.blocks) == (0, 3)


@pytest.mark.parametrize(
    ("config", "change", "said"),
    [
        ({"controlnet_blocks": [0, 4]}, {}, "blocks that the base model does not have"),
        ({"controlnet_blocks": "0"}, {}, "blocks that the base model does not have"),
        ({"controlnet_blocks": [0]}, {}, "unknown tensors, such as projections.1"),
        ({}, {"backbone.0.0.weight": torch.zeros(4, 2, 3, 3)}, "a different shape, such as backbone.0.0.weight"),
        ({}, {"projections.0.2.weight": torch.full((32, 16, 1, 1), float("nan"))}, "not finite"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    config: dict[str, Any], change: dict[str, Tensor], said: str, family: Cascade, tmp_path: Path
) -> None:
    path = tmp_path / "control.safetensors"
    write_controlnet(family.new_controlnet(), path, description(**config), "fp32", architecture="a")
    if change:
        save_file(load_file(path) | change, path)
    with pytest.raises(ArtifactError, match=said):
        read_controlnet(path, family)


def test_pictures_follow_the_condition_with_and_without_guidance(family: Cascade) -> None:
    """At scale 0 the images are those of the base bit for bit. With guidance, both prompts get the same residuals."""
    controlnet = moved(family.new_controlnet(ControlForm(3, ALL))).eval()
    edges = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8))
    for guidance in (1.0, 4.0):
        plain = SampleRequest("a star", width=SIDE, height=SIDE, num_inference_steps=2, guidance_scale=guidance)
        bare, off, steered = (
            Sampler(family).generate(replace(plain, control=control))[0].tobytes()
            for control in (None, Control(controlnet, edges, 0.0), Control(controlnet, edges))
        )
        assert off == bare != steered
    assert controllable(family) is family


def test_the_guides_has_the_parameters_of_the_original() -> None:
    """These are the parameters of EfficientNetV2-S with one input channel, and of eight pairs of 1 × 1 convolutions
    with 1280 and 2048 channels."""
    with init_empty_weights():
        config = EfficientNetEncoder().config
        made = CascadeControlNet(config.stages, config.stem, config.features, 1, GUIDE, [2048] * 8)
    heads = 8 * (1280 * 1280 + 1280 * 2048)
    assert sum(each.numel() for each in made.parameters()) == 20_177_488 - 2 * 9 * 24 + heads == 54_255_776
    assert made.state_dict()["projections.7.2.weight"].shape == (2048, 1280, 1, 1)


@pytest.mark.parametrize(
    ("bottleneck", "channels", "blocks", "millions"),
    [("large", 16, GUIDE, 203), ("simple", 512, tuple(range(64)), 103)],
)
def test_the_other_modes_have_the_parameters_of_the_original(
    bottleneck: str, channels: int, blocks: tuple[int, ...], millions: int
) -> None:
    """The numbers are counted from the original's layers. ComfyUI recognises the mode large by its tensor names."""
    with init_empty_weights():
        config = EfficientNetEncoder().config
        widths = [2048] * len(blocks)
        made = CascadeControlNet(config.stages, config.stem, config.features, channels, blocks, widths, bottleneck)
    shapes = {name: tuple(each.shape) for name, each in made.state_dict().items()}
    if bottleneck == "large":
        narrow = 2 * (2 * 1024 + 9 * 1024**2 + 1024)
        backbone = 17 * 16384 + 1024 * 16385 + 8 * narrow + 1280 * 1025
        heads = 8 * (1280**2 + 1280 * 2048)
        assert shapes["backbone.10.blocks.0.weight"] == (1024,) and shapes["backbone.11.weight"] == (1280, 1024, 1, 1)
        assert shapes["backbone.0.weight"] == (16384, 16, 1, 1)
    else:
        backbone, heads = 2 * 9 * 512 * 2048 + 2048 + 512, 64 * (512**2 + 512 * 2048)
        assert shapes["backbone.0.weight"] == (2048, 512, 3, 3) and shapes["backbone.2.weight"] == (512, 2048, 3, 3)
    count = sum(each.numel() for each in made.parameters())
    assert count == backbone + heads and round(count / 1e6) == millions


def test_the_large_one_reads_latents_of_half_the_sides(family: Cascade, tmp_path: Path) -> None:
    controlnet = moved(family.new_controlnet(ControlForm(bottleneck="large")))
    read = controlnet.condition(pictures(), family.vae, (24, 24))
    smaller = functional.interpolate(pictures(), (48, 48), mode="bilinear", antialias=True)[:, :, ::2, ::2]
    expected = family.vae(smaller).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(read, expected)
    assert read.shape == (2, 16, 24, 24) and not read.requires_grad  # as Stage C's latents
    path = tmp_path / "super_resolution.safetensors"
    save_file(controlnet.state_dict(), path)  # without a header, as the original's
    back = read_controlnet(path, family)
    assert back.config.bottleneck == "large" and back.config.channels == 16
    assert torch.equal(predicted(family, back), predicted(family, controlnet))
    assert not torch.equal(predicted(family, back), predicted(family, None))
    small = SampleRequest("a star", width=SIDE, height=SIDE, num_inference_steps=2)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8))
    bare, off, steered = (
        Sampler(family).generate(replace(small, control=control))[0].tobytes()
        for control in (None, Control(back, photo, 0.0), Control(back, photo))
    )
    assert off == bare != steered


def test_a_file_for_other_vectors_of_faces_is_refused(family: Cascade, tmp_path: Path) -> None:
    """The original's ControlNet of the mode simple, with all blocks, reads embeddings of ArcFace."""
    path = tmp_path / "identity.safetensors"
    save_file(family.new_controlnet(ControlForm(512, ALL, "simple")).state_dict(), path)
    with pytest.raises(
        ArtifactError, match="identity.safetensors: .* expects face embeddings with 512 values .* has 128"
    ):
        read_controlnet(path, family)


def test_a_file_without_a_header_may_have_all_blocks(family: Cascade, tmp_path: Path) -> None:
    path = tmp_path / "control.safetensors"
    save_file(family.new_controlnet(ControlForm(1, ALL)).state_dict(), path)
    assert tuple(read_controlnet(path, family).config.blocks) == ALL


def test_the_report_names_the_tools_that_open_it() -> None:
    """diffusers, A1111 and Forge have no class for ControlNets of Stage C."""
    trained = Trained("base", "StableCascadePriorPipeline", (), "controlnet", (), "a star")
    assert [recipe.tool for recipe in controlnet_recipes(trained)] == ["Cog", "ComfyUI"]
    (ours,) = controlnet_recipes(replace(trained, control="faces", controlnet_in_comfyui=False))
    assert ours.tool == "Cog" and "the photograph whose faces are detected" in ours.note
    others = controlnet_recipes(replace(trained, pipeline="StableDiffusionXLPipeline"))
    assert [recipe.tool for recipe in others] == ["Cog", "ComfyUI", "A1111, Forge", "diffusers"]
    tiny = controlnet_recipes(replace(trained, pipeline="StableDiffusionXLPipeline", controlnet_in_comfyui=False))
    assert [recipe.tool for recipe in tiny] == ["Cog", "diffusers"]


@pytest.mark.parametrize(
    ("changes", "opens"),
    [
        ({}, True),
        ({"bottleneck": "large"}, True),
        ({"bottleneck": "simple"}, False),  # for faces
        ({"blocks": (0, 4, 8, 12, 19, 23, 27, 31)}, False),  # for the smaller Stage C
        ({"blocks": (0, 4, 8)}, False),
        ({"widths": (1536,) * 8}, False),
    ],
)
def test_comfyui_opens_those_of_the_form_that_it_takes_for_granted(changes: dict[str, Any], opens: bool) -> None:
    usual = {"blocks": (0, 4, 8, 12, 51, 55, 59, 63), "widths": (2048,) * 8, "bottleneck": "effnet"}
    controlnet = CascadeControlNet.__new__(CascadeControlNet)
    controlnet._internal_dict = FrozenDict(usual | changes)
    assert opens_in_comfyui(controlnet) is opens


def test_comfyui_recognises_the_sizes_of_real_bases_only(family: Cascade) -> None:
    assert not opens_in_comfyui(family.new_controlnet(ControlForm()))
    assert not opens_in_comfyui(
        ControlNetModel(block_out_channels=(32, 64), down_block_types=("DownBlock2D",) * 2, norm_num_groups=8)
    )
    with torch.device("meta"):
        assert opens_in_comfyui(ControlNetModel())  # SD1.5
