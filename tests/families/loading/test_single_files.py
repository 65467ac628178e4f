"""Tests of base models in a single file, which are recognised by their tensors and loaded without network access."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from families.errors import BaseModelError
from families.family import ModelFamily, SizeConditioning
from families.loading.fingerprint import fingerprint
from families.loading.sources import EMBEDDED_BASE_FOLDER
from families.registry import load_base_model
from tests.families.loading.single_files import write_single_file
from tests.tiny_models import TINY_MODELS, write_sd2_v, write_sd3, write_sd15, write_sdxl


def configuration_of(folder: Path, target: Path) -> Path:
    """Copy the folder without its weights: all that `base_config` needs."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))
    return target


def prediction(family: ModelFamily) -> torch.Tensor:
    noised = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    size = SizeConditioning((64, 64), (0, 0), (64, 64))
    with torch.no_grad():
        return family.denoise(noised, torch.tensor([500]), family.encode_prompts(["a red star"]), [size])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd15", "sd2-v", "sdxl", "sd3"])
def test_a_single_file_is_the_base_in_its_folder(kind: str, tmp_path: Path) -> None:
    folder = TINY_MODELS[kind](tmp_path / "folder")
    family = load_base_model(str(folder), torch.float32)
    file = write_single_file(family, tmp_path / "base.safetensors")
    config = configuration_of(folder, tmp_path / "configuration")
    again = load_base_model(str(file), torch.float32, base_config=str(config))
    assert again.name == family.name and fingerprint(again.denoiser) == fingerprint(family.denoiser)
    assert again.noise_process.prediction_type == family.noise_process.prediction_type
    torch.testing.assert_close(prediction(again), prediction(family))
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(again.encode_image(pixels), family.encode_image(pixels))


def test_sd3_without_t5(tmp_path: Path) -> None:
    folder = write_sd3(tmp_path / "folder", t5=False, medium_35=True)
    family = load_base_model(str(folder), torch.float32)
    file = write_single_file(family, tmp_path / "base.safetensors")
    config = configuration_of(write_sd3(tmp_path / "with", t5=True, medium_35=True), tmp_path / "configuration")
    again = load_base_model(str(file), torch.float32, base_config=str(config))
    assert again.pipeline().text_encoder_3 is None
    torch.testing.assert_close(prediction(again), prediction(family))


def test_a_file_says_by_empty_tensors_what_it_predicts(tmp_path: Path) -> None:
    folder = write_sdxl(tmp_path / "folder")
    family = load_base_model(str(folder), torch.float32)
    file = write_single_file(family, tmp_path / "base.safetensors", marks=("v_pred", "ztsnr"))
    process = load_base_model(str(file), torch.float32, base_config=str(folder)).noise_process
    assert process.prediction_type == "v_prediction" and process.zero_terminal_snr


def test_sd2_does_not_say_what_it_predicts(tmp_path: Path) -> None:
    family = load_base_model(str(write_sd2_v(tmp_path / "folder")), torch.float32)
    file = write_single_file(family, tmp_path / "base.safetensors")
    with pytest.raises(BaseModelError, match="is an SD2 checkpoint, .* set prediction_type to v_prediction"):
        load_base_model(str(file), torch.float32)


def test_base_config_is_for_single_files(tmp_path: Path) -> None:
    folder = str(write_sd15(tmp_path / "folder"))
    with pytest.raises(BaseModelError, match="base_config: .* leave base_config out"):
        load_base_model(folder, torch.float32, base_config=folder)


def test_a_configuration_of_another_architecture(tmp_path: Path) -> None:
    family = load_base_model(str(write_sd15(tmp_path / "folder")), torch.float32)
    file = write_single_file(family, tmp_path / "base.safetensors")
    other = write_sdxl(tmp_path / "sdxl")
    with pytest.raises(
        BaseModelError, match="base_config: .* is the configuration of a StableDiffusionXLPipeline, but"
    ):
        load_base_model(str(file), torch.float32, base_config=str(other))


def test_a_configuration_of_another_size(tmp_path: Path) -> None:
    family = load_base_model(str(write_sdxl(tmp_path / "folder")), torch.float32)
    file = write_single_file(family, tmp_path / "base.safetensors")
    with pytest.raises(
        BaseModelError, match="Check that base_config, .*mini-sdxl, is the configuration of this architecture"
    ):
        load_base_model(str(file), torch.float32, base_config=str(EMBEDDED_BASE_FOLDER))


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    family = load_base_model(str(write_sdxl(tmp_path / "folder")), torch.float32)
    file = write_single_file(family, tmp_path / "base.safetensors")
    with pytest.raises(BaseModelError, match="base_config: './nowhere' is neither a folder"):
        load_base_model(str(file), torch.float32, base_config="./nowhere")


FLUX = "model.diffusion_model."
FIRST = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        ({"lora_unet_x.lora_down.weight": (2, 3)}, "is a LoRA, not a base"),
        ({"transformer.x.lora_A.weight": (2, 3)}, "is a LoRA, not a base"),
        ({"clip_l": (2, 768), "clip_g": (2, 1280)}, "is a textual inversion embedding"),
        ({"emb_params": (2, 768)}, "is a textual inversion embedding"),
        ({"edm_mean": (1, 4, 1, 1)}, "is a model with EDM's noise"),
        ({"edm_vpred.sigma_max": (1,)}, "is a model with EDM's noise"),
        ({"control_model.time_embed.0.weight": (2, 3)}, "is a ControlNet"),
        ({"double_stream_modulation_img.lin.weight": (2,)}, "only contains the denoiser of a Flux2KleinPipeline"),
        ({"model.diffusion_model.distilled_guidance_layer.in_proj.bias": (2,)}, "is a Chroma model"),
        ({"txt_norm.weight": (2,), "__index_timestep_zero__": ()}, "is a Qwen-Image-Edit model. Train on the text-to-"),
        ({"txt_norm.weight": (2,), "time_text_embed.addition_t_embedding.weight": (2, 2)}, "is a Qwen-Image-Layered"),
        ({"model.diffusion_model.txt_in.text_norm.weight": (2,)}, "is a Qwen-Image 2.1 model, a family that is not"),
        ({"transformer_blocks.0.attn.to_q.weight_scale": (), "txt_norm.weight": (2,)}, "weights quantised to 8 or"),
        ({f"{FLUX}double_blocks.0.img_attn.qkv.scale_weight": ()}, "weights quantised to 8 or 4 bits"),
        ({f"{FLUX}double_blocks.0.img_attn.qkv.weight.absmax": (2,)}, "weights quantised to 8 or 4 bits"),
        ({"double_blocks.0.img_attn.norm.key_norm.scale": (2,)}, "is not an SD1.5, .*, Qwen-Image or Z-Image"),
        ({FIRST: (8, 9, 3, 3)}, "is an inpainting model: its UNet has 9 input channels"),
        ({FIRST: (8, 8, 3, 3)}, "is an image-editing model"),
        ({FIRST: (8, 4, 3, 3), "conditioner.embedders.0.model.ln_final.weight": (2,)}, "is SDXL's refiner"),
        ({FIRST: (8, 4, 3, 3)}, r"is incomplete: it has no tensors named first_stage_model\."),
        ({"conv_in.weight": (8, 4, 3, 3)}, "the denoiser alone is not sufficient"),
        ({}, r"names such as \(no tensors\)"),
    ],
)
def test_what_is_no_base_is_named(tensors: dict[str, tuple[int, ...]], what: str, tmp_path: Path) -> None:
    file = tmp_path / "file.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, file)
    with pytest.raises(BaseModelError, match=what):
        load_base_model(str(file), torch.float32)


def test_a_file_without_its_text_encoder_never_gets_another_ones(tmp_path: Path) -> None:
    """diffusers would load a missing part from the folder of the configuration if that contains weights."""
    folder = write_sd15(tmp_path / "folder")
    file = write_single_file(load_base_model(str(folder), torch.float32), tmp_path / "base.safetensors")
    kept = {name: tensor for name, tensor in load_file(file).items() if not name.startswith("cond_stage_model.")}
    save_file(kept, file)
    with pytest.raises(BaseModelError, match="no tensors named cond_stage_model"):
        load_base_model(str(file), torch.float32, base_config=str(folder))
