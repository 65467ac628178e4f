"""Tests of single files that only contain a Z-Image transformer."""

import shutil
from pathlib import Path

import pytest
import torch

from families.errors import BaseModelError
from families.loading.fingerprint import fingerprint
from families.registry import load_base_model
from tests.families.loading.test_transformer_files import without_transformer
from tests.families.test_family_files import predict
from tests.families.z_image.z_image_file import write_z_image_file
from tests.tiny_models import opened, write_flux1, write_z_image

SLOW_ONES = [pytest.param(prefix, marks=pytest.mark.slow) for prefix in ("", "diffusers")]


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", *SLOW_ONES])
def test_a_transformer_alone_is_the_base_in_its_folder(prefix: str, tmp_path: Path) -> None:
    """Whether the base is Turbo is read from base_config."""
    folder = write_z_image(tmp_path / "folder", turbo=True)
    family, file = opened(folder), tmp_path / "z_image.safetensors"
    if prefix == "diffusers":
        shutil.copy(folder / "transformer" / "diffusion_pytorch_model.safetensors", file)
    else:
        write_z_image_file(family.denoiser, file, prefix)
    parts = without_transformer(folder, tmp_path / "parts")
    again = load_base_model(str(file), torch.float32, base_config=str(parts)).to(torch.device("cpu"))
    assert fingerprint(again.denoiser) == fingerprint(family.denoiser) and again.training_notes
    torch.testing.assert_close(predict(again), predict(family))  # memory-mapped tensors have another alignment


def test_its_parts_must_be_named_and_its_own(tmp_path: Path) -> None:
    file = write_z_image_file(opened(write_z_image(tmp_path / "folder")).denoiser, tmp_path / "z_image.safetensors")
    with pytest.raises(BaseModelError, match="only contains the denoiser of a ZImagePipeline.*Tongyi-MAI/Z-Image"):
        load_base_model(str(file), torch.float32)
    other = write_flux1(tmp_path / "flux1")
    with pytest.raises(BaseModelError, match="is the configuration of a FluxPipeline, but .* is a ZImagePipeline"):
        load_base_model(str(file), torch.float32, base_config=str(other))
