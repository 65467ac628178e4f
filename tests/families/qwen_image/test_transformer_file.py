"""Tests of single files that only contain Qwen-Image's transformer, as used in ComfyUI, and of mismatching parts."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from families.errors import BaseModelError
from families.family import ModelFamily
from families.loading.fingerprint import fingerprint
from families.registry import load_base_model
from tests.families.loading.test_transformer_files import changed, without_transformer
from tests.families.test_family_files import predict
from tests.tiny_models import opened, write_flux1
from tests.tiny_qwen_image import write_qwen_image

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen_image(tmp_path_factory.mktemp("qwen_image") / "folder")


@pytest.fixture(scope="module")
def family(folder: Path) -> ModelFamily:
    return opened(folder)


def transformer_file(folder: Path, path: Path, prefix: str = "", dtype: torch.dtype = torch.float32) -> Path:
    """Write the transformer as a single file. ComfyUI's names of these layers are those of diffusers."""
    tensors = load_file(folder / "transformer" / WEIGHTS)
    save_file({f"{prefix}{name}": tensor.to(dtype) for name, tensor in tensors.items()}, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
def test_a_transformer_alone_is_the_base_in_its_folder(
    prefix: str, folder: Path, family: ModelFamily, tmp_path: Path
) -> None:
    file = transformer_file(folder, tmp_path / "qwen.safetensors", prefix)
    parts = without_transformer(folder, tmp_path / "parts")
    again = load_base_model(str(file), torch.float32, base_config=str(parts)).to(torch.device("cpu"))
    assert again.name == "qwen_image" and fingerprint(again.denoiser) == fingerprint(family.denoiser)
    torch.testing.assert_close(predict(again), predict(family))  # memory-mapped tensors have another alignment


def test_fp8_without_scales_is_read(folder: Path, family: ModelFamily, tmp_path: Path) -> None:
    """ComfyUI's qwen_image_fp8_e4m3fn.safetensors has this format."""
    file = transformer_file(folder, tmp_path / "qwen.safetensors", dtype=torch.float8_e4m3fn)
    again = load_base_model(str(file), torch.float32, base_config=str(folder)).to(torch.device("cpu"))
    assert (predict(again) - predict(family)).norm() < 0.2 * predict(family).norm()
    rounded = family.denoiser.proj_out.weight.to(torch.float8_e4m3fn).float()
    assert torch.equal(again.denoiser.proj_out.weight, rounded)


def test_its_parts_must_be_named_and_of_its_family(folder: Path, tmp_path: Path) -> None:
    file = str(transformer_file(folder, tmp_path / "qwen.safetensors"))
    with pytest.raises(BaseModelError, match=r"only contains the denoiser of a QwenImagePipeline.*Qwen/Qwen-Image"):
        load_base_model(file, torch.float32)
    with pytest.raises(BaseModelError, match="is the configuration of a FluxPipeline, but .* is a QwenImagePipeline"):
        load_base_model(file, torch.float32, base_config=str(write_flux1(tmp_path / "flux")))
    other = write_qwen_image(tmp_path / "other", num_layers=1)
    with pytest.raises(BaseModelError, match=r"does not describe the transformer of .*: transformer_blocks.1.attn"):
        load_base_model(file, torch.float32, base_config=str(other)).to(torch.device("cpu"))


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("vae", {"z_dim": 8}, "in_channels is 16, but the VAE's z_dim times the patch area is 32"),
        (
            "transformer",
            {"joint_attention_dim": 64},
            "joint_attention_dim is 64, but the text encoder's hidden_size is 32",
        ),
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


@pytest.mark.parametrize("part", ["vae", "text_encoder", "transformer"])
def test_parts_without_weights(part: str, folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    for file in (copy / part).glob("*.safetensors"):
        file.unlink()
    with pytest.raises(BaseModelError, match=f"base_model: .* has no weights of its {part}"):
        load_base_model(str(copy), torch.float32)


def test_a_vae_of_another_family(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"vae": ["diffusers", "AutoencoderKL"]}))
    with pytest.raises(
        BaseModelError, match="the vae of .* is a AutoencoderKL, but this model family needs a AutoencoderKLQwenImage"
    ):
        load_base_model(str(copy), torch.float32)


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("QwenImageEditPlusPipeline", "is an image-editing model"),
        ("QwenImageLayeredPipeline", "is a model that splits images into layers"),
        ("QwenImage21Pipeline", "is a QwenImage21Pipeline; supported are"),
    ],
)
def test_its_relatives_are_refused(pipeline: str, message: str, folder: Path, tmp_path: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"_class_name": pipeline}))
    with pytest.raises(BaseModelError, match=message):
        load_base_model(str(tmp_path), torch.float32)
