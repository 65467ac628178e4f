"""Tests of single files that only contain a transformer, with the other parts from base_config. Files and parts that
do not match are refused before weights are loaded."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from safetensors.torch import load_file, save_file

from families.errors import BaseModelError
from families.family import ModelFamily
from families.loading.fingerprint import fingerprint
from families.loading.flux_names import flux1_tensors
from families.registry import load_base_model
from tests.families.loading.flux_files import write_flux_file
from tests.families.test_family_files import predict
from tests.tiny_models import opened, write_flux1, write_flux2, write_sd3, write_sdxl


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flux1(tmp_path_factory.mktemp("flux1") / "folder")


@pytest.fixture(scope="module")
def family(folder: Path) -> ModelFamily:
    return opened(folder)


def without_transformer(folder: Path, target: Path) -> Path:
    """Copy the folder without the transformer's weights: the parts that base_config needs."""
    shutil.copytree(folder, target)
    for file in (target / "transformer").glob("*.safetensors"):
        file.unlink()
    return target


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", "", "diffusers"])
def test_a_transformer_alone_is_the_base_in_its_folder(
    prefix: str, folder: Path, family: ModelFamily, tmp_path: Path
) -> None:
    parts = without_transformer(folder, tmp_path / "parts")
    file = tmp_path / "flux.safetensors"
    if prefix == "diffusers":
        shutil.copy(folder / "transformer" / "diffusion_pytorch_model.safetensors", file)
    else:
        write_flux_file(family.denoiser, file, prefix)
    again = load_base_model(str(file), torch.float32, base_config=str(parts)).to(torch.device("cpu"))
    assert fingerprint(again.denoiser) == fingerprint(family.denoiser)
    torch.testing.assert_close(predict(again), predict(family))  # memory-mapped tensors have another alignment


def test_the_other_tensors_of_a_whole_file_are_passed_over(folder: Path, family: ModelFamily, tmp_path: Path) -> None:
    """Some single files also contain text encoders and a VAE, which are ignored."""
    file = write_flux_file(family.denoiser, tmp_path / "flux.safetensors")
    others = {"vae.decoder.conv_in.weight": torch.ones(2), "text_encoders.clip_l.logit_scale": torch.ones(1)}
    save_file(load_file(file) | others, file)
    again = load_base_model(str(file), torch.float32, base_config=str(folder)).to(torch.device("cpu"))
    torch.testing.assert_close(predict(again), predict(family))  # memory-mapped tensors have another alignment


def test_the_names_are_those_that_diffusers_knows() -> None:
    """diffusers' converter only supports the full width. The joined tensors have the full number of rows, and one
    column."""
    width = 3072
    rows = {"img_attn.qkv": 3 * width, "txt_attn.qkv": 3 * width, "linear1": 7 * width}
    layers = {
        "double_blocks.0": ("img_mod.lin", "txt_mod.lin", "img_attn.qkv", "txt_attn.qkv", "img_attn.proj",
                            "txt_attn.proj", "img_mlp.0", "img_mlp.2", "txt_mlp.0", "txt_mlp.2"),
        "single_blocks.0": ("modulation.lin", "linear1", "linear2"),
        "": ("img_in", "txt_in", "time_in.in_layer", "time_in.out_layer", "vector_in.in_layer", "vector_in.out_layer",
             "guidance_in.in_layer", "guidance_in.out_layer", "final_layer.linear", "final_layer.adaLN_modulation.1"),
    }  # fmt: skip
    tensors = {
        f"{block}.{layer}.{kind}".removeprefix("."): torch.randn(rows.get(layer, 4), 1)
        for block, names in layers.items() for layer in names for kind in ("weight", "bias")
    }  # fmt: skip
    tensors |= {
        f"{block}norm.{part}_norm.scale": torch.randn(4)
        for block in ("double_blocks.0.img_attn.", "double_blocks.0.txt_attn.", "single_blocks.0.")
        for part in ("query", "key")
    }
    ours, theirs = flux1_tensors(tensors), convert_flux_transformer_checkpoint_to_diffusers(dict(tensors))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "", "diffusers"])
def test_a_transformer_of_flux2_alone(prefix: str, tmp_path: Path) -> None:
    folder = write_flux2(tmp_path / "folder", distilled=True)
    family, file = opened(folder), tmp_path / "flux.safetensors"
    if prefix == "diffusers":
        shutil.copy(folder / "transformer" / "diffusion_pytorch_model.safetensors", file)
    else:
        write_flux_file(family.denoiser, file, prefix)
    parts = without_transformer(folder, tmp_path / "parts")
    again = load_base_model(str(file), torch.float32, base_config=str(parts)).to(torch.device("cpu"))
    assert fingerprint(again.denoiser) == fingerprint(family.denoiser) and again.training_notes
    torch.testing.assert_close(predict(again), predict(family))
    with pytest.raises(BaseModelError, match="only contains the denoiser of a Flux2KleinPipeline.*FLUX.2-klein-base"):
        load_base_model(str(file), torch.float32)
    other = write_flux1(tmp_path / "flux1")
    with pytest.raises(BaseModelError, match="is the configuration of a FluxPipeline, but .* is a Flux2KleinPipeline"):
        load_base_model(str(file), torch.float32, base_config=str(other))


def test_its_parts_must_be_named(family: ModelFamily, tmp_path: Path) -> None:
    file = write_flux_file(family.denoiser, tmp_path / "flux.safetensors")
    with pytest.raises(BaseModelError, match="base_config: .* only contains the denoiser of a FluxPipeline.*FLUX.1"):
        load_base_model(str(file), torch.float32)


def test_parts_of_another_family(family: ModelFamily, tmp_path: Path) -> None:
    file = write_flux_file(family.denoiser, tmp_path / "flux.safetensors")
    other = write_sdxl(tmp_path / "sdxl")
    with pytest.raises(
        BaseModelError, match="is the configuration of a StableDiffusionXLPipeline, but .* is a FluxPipeline"
    ):
        load_base_model(str(file), torch.float32, base_config=str(other))


def test_a_configuration_of_another_transformer(folder: Path, family: ModelFamily, tmp_path: Path) -> None:
    """The file is of FLUX.1 dev and the configuration of schnell, with which its guidance embedding would be lost."""
    file = write_flux_file(family.denoiser, tmp_path / "flux.safetensors")
    other = write_flux1(tmp_path / "schnell", schnell=True)
    with pytest.raises(BaseModelError, match=r"does not describe the transformer of .*: time_text_embed.guidance_emb"):
        load_base_model(str(file), torch.float32, base_config=str(other)).to(torch.device("cpu"))


def changed(folder: Path, target: Path, part: str, **values: object) -> Path:
    """Copy the folder, and change values in the configuration of a part."""
    shutil.copytree(folder, target)
    file = target / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return target


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("vae", {"latent_channels": 8}, "in_channels is 16, but the VAE's latent_channels times the patch area is 32"),
        ("text_encoder", {"hidden_size": 64}, "pooled_projection_dim is 32, but CLIP's hidden_size is 64"),
        ("text_encoder_2", {"d_model": 64}, "joint_attention_dim is 96, but T5's d_model is 64"),
        ("transformer", {"in_channels": 96}, "in_channels is 96"),
    ],
)
def test_parts_that_do_not_fit(
    part: str, values: dict[str, object], message: str, folder: Path, tmp_path: Path
) -> None:
    """The configurations are sufficient to find the mismatch: the copy's weights are unreadable."""
    copy = changed(folder, tmp_path / "copy", part, **values)
    for file in copy.rglob("*.safetensors"):
        file.write_bytes(b"unreadable")
    with pytest.raises(BaseModelError, match=f"base_model: the components of .* do not match: .*{message}"):
        load_base_model(str(copy), torch.float32)


@pytest.mark.parametrize("part", ["vae", "text_encoder", "text_encoder_2", "transformer"])
def test_parts_without_weights(part: str, folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    for file in (copy / part).glob("*.safetensors"):
        file.unlink()
    with pytest.raises(BaseModelError, match=f"base_model: .* has no weights of its {part}"):
        load_base_model(str(copy), torch.float32)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([None, None], r"has no vae \(AutoencoderKL\), which this family needs"),
        (
            ["diffusers", "AutoencoderKLQwenImage"],
            "the vae of .* is a AutoencoderKLQwenImage, but this model family needs a AutoencoderKL",
        ),
    ],
)
def test_an_index_without_a_part_or_with_another(
    entry: list[str | None], message: str, folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"vae": entry}))
    with pytest.raises(BaseModelError, match=message):
        load_base_model(str(copy), torch.float32)


def test_a_vae_of_another_family_in_the_parts(folder: Path, family: ModelFamily, tmp_path: Path) -> None:
    file = write_flux_file(family.denoiser, tmp_path / "flux.safetensors")
    copy = without_transformer(folder, tmp_path / "parts")
    shutil.rmtree(copy / "vae")
    shutil.copytree(write_sd3(tmp_path / "sd3", t5=False) / "vae", copy / "vae")
    config = copy / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"latent_channels": 16}))
    with pytest.raises(BaseModelError, match="base_config: the components of .* do not match"):
        load_base_model(str(file), torch.float32, base_config=str(copy))
